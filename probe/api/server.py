"""The board over HTTP. Every answer comes from memory: no request makes us ask the kernel or the
application, so that no client can make us slow, and no fault of theirs makes us silent.

What a client can hold of us is bounded (`Limits`), and so is what it can take from others: each
request gets a turn of the event loop, the pages that take longer get one turn between them. The
monitor runs between the turns, whatever the flood.
"""

import asyncio
import errno
import json
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

from probe.api.metrics import CONTENT_TYPE, Metrics
from probe.api.status import (
    About,
    Evidence,
    Question,
    ask,
    checks,
    document,
    nothing_tried,
    status,
    text,
)
from probe.imports.aiohttp_lean import web
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATHS = {
    Question.READY: ("/ready", "/readyz"),
    Question.LIVE: ("/live", "/livez", "/healthz"),
    Question.STARTED: ("/started", "/startupz"),
}

SERVER = "accept-probe"
"""The Server header: no versions, here or of what we are made of."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
"""Not the rest of 127.0.0.0/8: a service mesh hands on what comes from outside from there, Istio
from 127.0.0.6."""

HANDED_ON = ("Forwarded", "Via", "X-Forwarded-For")

LOCAL_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)


class Limits(NamedTuple):
    """What one client, and all of them together, can hold of us."""

    connections: int = 512
    """At once. For one more, the connection that has been silent the longest is closed: a flood
    of idle connections must not keep kubelet out."""
    patience: float = 10.0
    """Seconds for a client to say its request, to say the next one, or to take its answer."""
    request: int = 32 * 1024
    """Bytes from one answered request to the next, headers and all."""


# --- what is answered


def make_app(
    board: Board,
    about: About,
    metrics: Metrics,
    *,
    evidence: Evidence = nothing_tried,
    extra_routes: Iterable[web.AbstractRouteDef] = (),
) -> web.Application:
    """Return the application: the three questions, /status, /metrics, and `extra_routes`."""
    app = web.Application(middlewares=[_proper])
    app.on_response_prepare.append(_sign)
    for question, paths in PATHS.items():
        app.add_routes(web.get(path, _answering(board, question)) for path in paths)

    async def show_status(request: web.Request) -> web.Response:
        # The self-test names processes, which is for who may enter the pod.
        shown = evidence if is_local(request) else nothing_tried
        return reply_json(200, status(board, about, metrics.loop_lag, shown))

    async def show_metrics(request: web.Request) -> web.Response:
        return reply(200, metrics.render(), CONTENT_TYPE)

    turns = asyncio.Lock()
    app.router.add_get("/status", _taking_turns(show_status, turns))
    app.router.add_get("/metrics", _taking_turns(show_metrics, turns))
    app.add_routes(extra_routes)
    return app


def loopback_only(handler: Handler) -> Handler:
    """Serve `handler` to clients in this network namespace alone: what shows peers, threads or
    stacks is for who may enter the pod. `kubectl port-forward` enters it, and comes from 127.0.0.1.

    The peer's address decides; no header can stand in for it. Headers can only make it worse: a
    request that a proxy beside us says it handed on is not local, nor is one from a web page that
    reaches the forwarded port through a name of its own (DNS rebinding).
    """

    async def guarded(request: web.Request) -> web.StreamResponse:
        if not is_local(request):
            return reply_text(
                403,
                f"403: {request.path} is for clients on the loopback address of this pod; "
                "from elsewhere: kubectl port-forward POD LOCAL_PORT:PORT",
            )
        return await handler(request)

    return guarded


def is_local(request: web.Request) -> bool:
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return (
        peer is not None
        and peer[0] in LOOPBACK
        and not any(header in request.headers for header in HANDED_ON)
        and LOCAL_NAME.fullmatch(request.headers.get("Host", "localhost")) is not None
    )


def _answering(board: Board, question: Question) -> Handler:
    async def answer_question(request: web.Request) -> web.Response:
        # A client may send a thousand requests in one piece: others want their turn in between.
        await asyncio.sleep(0)
        answer = ask(board, question)
        code = 200 if answer.ok else 503
        if prefers_json(",".join(request.headers.getall("Accept", ()))):
            return reply_json(code, document(answer, checks(board, question)))
        verbose = "verbose" in request.query
        return reply_text(code, text(answer, checks(board, question) if verbose else ()))

    return answer_question


def _taking_turns(handler: Handler, turns: asyncio.Lock) -> Handler:
    """For pages that take a millisecond rather than a tenth of it: one to a turn of the loop."""

    async def in_turn(request: web.Request) -> web.StreamResponse:
        async with turns:
            await asyncio.sleep(0)
        return await handler(request)

    return in_turn


def prefers_json(accept: str) -> bool:
    """Tell whether an Accept header prefers JSON to plain text; on a tie, plain text it is."""
    accept = accept.lower()
    if "application/" not in accept:
        return False
    return _quality(accept, "application/json") > _quality(accept, "text/plain")


def _quality(accept: str, wanted: str) -> tuple[float, int]:
    """Return the quality given to a media type, and how closely the range that gives it fits."""
    fits = {"*/*": 1, f"{wanted.partition('/')[0]}/*": 2, wanted: 3}
    best = (0.0, 0)
    for item in accept.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        fit = fits.get(media, 0)
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value)
        if fit > best[1]:
            best = (quality, fit)
    return best if best[0] else (0.0, 0)


def _number(quality: str) -> float:
    try:
        return min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return 0.0


# --- how it is answered


def headers(content_type: str) -> dict[str, str]:
    return {
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Server": SERVER,
    }


def reply(code: int, body: bytes, content_type: str) -> web.Response:
    return web.Response(status=code, body=body, headers=headers(content_type))


def reply_text(code: int, body: str) -> web.Response:
    return reply(code, body.rstrip("\n").encode() + b"\n", "text/plain; charset=utf-8")


def reply_json(code: int, body: dict[str, Any]) -> web.Response:
    return reply(code, json.dumps(body).encode() + b"\n", "application/json")


@web.middleware
async def _proper(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what no page here takes, each with a line that says what would be taken."""
    if isinstance(request.protocol, Connection):
        request.protocol.has_asked()
    refusal = request.match_info.http_exception
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        response = reply_text(405, f"405: {request.path} takes GET and HEAD")
        response.headers["Allow"] = refusal.headers["Allow"]
    elif refusal is not None:
        pages = ", ".join(page for paths in PATHS.values() for page in paths[:1])
        response = reply_text(404, f"404: nothing here; there are {pages}, /status and /metrics")
    elif request.body_exists:
        response = reply_text(413, f"413: {request.path} takes no body")
    else:
        return await handler(request)
    if request.body_exists:
        response.force_close()
    return response


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


class Connection(web.RequestHandler):
    """One client. aiohttp reads and answers; this bounds what the client can hold of us."""

    __slots__ = ("_crowd", "_deadline", "_heard", "_limits")

    def __init__(self, server: web.Server, crowd: dict["Connection", None], limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.patience,
            lingering_time=1.0,
            logger=logger,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
        )
        self._crowd = crowd
        """The present connections, the one that has been silent the longest first."""
        self._limits = limits
        self._heard = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._crowd) >= self._limits.connections:
            next(iter(self._crowd)).cut()
        self._crowd[self] = None
        # aiohttp bounds the time until the next request, its older releases not until the first.
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limits.patience, self.cut)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._crowd.pop(self, None)
        self._calm_down()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._heard += len(data)
        if self._heard > self._limits.request:
            self.cut()
        else:
            super().data_received(data)

    def has_asked(self) -> None:
        """Take note that a whole request has come: patience and measure begin anew."""
        self._heard = 0
        self._calm_down()
        if self in self._crowd:
            del self._crowd[self]
            self._crowd[self] = None

    def cut(self) -> None:
        """Close at once, whatever was still to be said."""
        self._crowd.pop(self, None)
        self._calm_down()
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read in one line, and keep it out of the log: what clients
        send is their affair. What went wrong here is logged.
        """
        if status >= 500:
            logger.error("%s %s failed", request.method, request.path, exc_info=exc)
            response = reply_text(status, f"{status}: a defect of the sidecar; its log has more")
        else:
            response = reply_text(status, f"{status}: not a request that can be read, or too long")
        response.force_close()
        return response

    def _calm_down(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


# --- where it is answered


class Listening(socket.socket):
    """A listening socket that counts what was accepted from it."""

    accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        accepted = super().accept()
        self.accepts += 1
        return accepted


class Server:
    """An application on its sockets. `addresses` are what it is bound to."""

    def __init__(self, app: web.Application, limits: Limits = Limits()) -> None:  # noqa: B008
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)
        self._limits = limits
        self._crowd: dict[Connection, None] = {}
        self._sockets: list[Listening] = []
        self._listening: list[asyncio.Server] = []
        self.addresses: list[tuple[str, int]] = []

    async def start(self, host: str, port: int) -> None:
        """Answer at `host`:`port`; at every address of both families where host is empty.

        Raises OSError with one line that says why it can't, and what would help.
        """
        self._sockets = [Listening(fileno=one.detach()) for one in listen(host, port)]
        await self._runner.setup()
        server = cast("web.Server", self._runner.server)  # setup() made it
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            # Inherited by each connection: who does not take an answer is cut off by the kernel.
            patience = round(self._limits.patience * 1000)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            self._listening.append(
                await loop.create_server(
                    lambda: Connection(server, self._crowd, self._limits),
                    sock=one,
                    backlog=self._limits.connections,
                )
            )
            self.addresses.append(one.getsockname()[:2])

    @property
    def accepts(self) -> int:
        """How many connections were accepted so far."""
        return sum(one.accepts for one in self._sockets)

    async def close(self) -> None:
        """Take no more connections, and end those there are: at once, but for a request that is
        being answered, which has a second.
        """
        for server in self._listening:
            server.close()
        await self._runner.cleanup()


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets: one for all of both families where `host` is empty, else one for
    each of its addresses. Raises OSError with one line.
    """
    try:
        return _listen_at(host, port) if host else [_listen_everywhere(port)]
    except OSError as error:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        raise OSError(f"cannot listen on {where}: {_advice(error)}") from error


def _listen_at(host: str, port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, *_, address in dict.fromkeys(
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ):
        try:
            sockets.append(socket.create_server(address, family=family))
        except OSError as error:
            # Pods without IPv6 have localhost at ::1 in their /etc/hosts all the same.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                for one in sockets:
                    one.close()
                raise
            missing = error
    if missing and not sockets:
        raise missing
    return sockets


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _advice(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is already in use; choose another with --listen"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address"
        case errno.EAFNOSUPPORT:
            return "the kernel has no such address family"
        case errno.EACCES:
            first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
            return f"permission denied; ports below {first} take CAP_NET_BIND_SERVICE"
        case _:
            return os.strerror(error.errno or 0).lower()
