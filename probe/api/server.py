"""The board over HTTP. Every answer comes from memory: no request makes us ask the kernel or the
application, so that no client can make us slow, and no fault of theirs makes us silent.

What clients can hold of us, and take from each other, is bounded by `clients`.
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
from typing import Any, cast

from probe.api.answers import NoTarget, ask, checks, document, hold_document, text
from probe.api.clients import RECEIVED, WAITING_OUTSIDE, Conversation, Crowd, Limits
from probe.api.metrics import CONTENT_TYPE, Metrics
from probe.api.questions import PATHS, Asked, UnclearQuestion, read_question
from probe.api.requests import SERVER, Reply, Request
from probe.api.status import About, Evidence, nothing_tried, status
from probe.display import host_port
from probe.imports.aiohttp_lean import web
from probe.model import EvidenceSent
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
"""Not the rest of 127.0.0.0/8: a service mesh hands on what comes from outside from there, Istio
from 127.0.0.6."""

HANDED_ON = ("Forwarded", "Via", "X-Forwarded-For")

LOCAL_NAME = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)

FITS = {
    "*/*": (1, 1),
    "application/*": (2, 0),
    "text/*": (0, 2),
    "application/json": (3, 0),
    "text/plain": (0, 3),
}
"""How closely a media range fits JSON and plain text; 0: not at all."""

RANGES = re.compile(rf"(?:^|,)\s*({'|'.join(map(re.escape, FITS))})\s*(?:;([^,]*))?(?=,|$)")
"""The media ranges of an Accept header that matter here; others cost next to nothing."""


# --- what is answered


def make_app(
    board: Board,
    about: About,
    metrics: Metrics,
    *,
    evidence: Evidence = nothing_tried,
    sent: Callable[[], EvidenceSent] | None = None,
    extra_routes: Iterable[web.AbstractRouteDef] = (),
) -> web.Application:
    """Return the application: the three questions, /status, /metrics, and `extra_routes`."""
    app = web.Application(middlewares=[_refuse_improper])
    app.on_response_prepare.append(_add_headers)

    async def answer(request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", ()))
        url = request.rel_url
        answered = answer_path(board, url.raw_path, url.raw_query_string, accept)
        return _nothing_here() if answered is None else _reply(answered)

    for path in (path for paths in PATHS.values() for path in paths):
        app.add_routes([web.get(path, answer), web.get(f"{path}/{{target:.+}}", answer)])

    async def show_status(request: web.Request) -> web.Response:
        # The self-test names processes, which is for who may enter the pod.
        shown = evidence if is_local(request) else nothing_tried
        return reply_json(200, status(board, about, metrics.loop_lag, shown, sent))

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


def answer_path(board: Board, path: str, query: str, accept: str) -> Reply | None:
    """Answer what a path and its query ask; None where that is none of the three questions."""
    try:
        asked = read_question(path, query)
    except UnclearQuestion as error:
        return Reply(400, f"400: {error}\n".encode())
    return None if asked is None else answer_question(board, asked, accept)


def answer_question(board: Board, asked: Asked, accept: str) -> Reply:
    """Answer as text, or as JSON where a client prefers that."""
    try:
        answer = ask(board, asked)
    except NoTarget as error:
        return Reply(404, f"404: {error}\n".encode())
    degraded = bool(answer.warnings)
    code = (asked.warn if degraded else 200) if answer.ok else 503
    if prefers_json(accept):
        shown = _json(code, document(answer, checks(board, asked), hold_document(board)))
    else:
        details = checks(board, asked) if asked.verbose else ()
        shown = Reply(code, text(answer, details, warn=asked.warn != 200).encode())
    return shown._replace(degraded=degraded)


def answering_at_once(board: Board) -> Callable[[Request], Reply | None]:
    """Return what answers the three questions without aiohttp, in the words that it would use."""

    def at_once(request: Request) -> Reply | None:
        if request.method not in (b"GET", b"HEAD"):
            return None
        accept = request.value(b"accept").decode()
        return answer_path(board, request.path.decode(), request.query.decode(), accept)

    return at_once


def _taking_turns(handler: Handler, turns: asyncio.Lock) -> Handler:
    """For pages that take a millisecond rather than a tenth of it: one to a turn of the loop."""

    async def in_turn(request: web.Request) -> web.StreamResponse:
        async with turns:
            await asyncio.sleep(0)
        return await handler(request)

    return in_turn


def prefers_json(accept: str) -> bool:
    """Tell whether an Accept header prefers JSON to plain text; on a tie, plain text it is."""
    json_best = text_best = (0, 0.0)  # how closely a range fits, and the quality it gives
    for media, parameters in RANGES.findall(accept.lower()):
        quality = 1.0
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _number(value)
        json_fit, text_fit = FITS[media]
        if json_fit > json_best[0]:
            json_best = (json_fit, quality)
        if text_fit > text_best[0]:
            text_best = (text_fit, quality)
    return _preference(json_best) > _preference(text_best)


def _preference(best: tuple[int, float]) -> tuple[float, int]:
    fit, quality = best
    return (quality, fit) if quality else (0.0, 0)


def _number(quality: str) -> float:
    try:
        return min(max(float(quality), 0.0), 1.0)
    except ValueError:
        return 0.0


# --- how it is answered


def headers(content_type: str) -> dict[str, str]:
    return Reply(200, b"", content_type).headers


def reply(code: int, body: bytes, content_type: str) -> web.Response:
    return _reply(Reply(code, body, content_type))


def reply_text(code: int, body: str) -> web.Response:
    return _reply(Reply(code, body.rstrip("\n").encode() + b"\n"))


def reply_json(code: int, body: dict[str, Any]) -> web.Response:
    return _reply(_json(code, body))


def _json(code: int, body: dict[str, Any]) -> Reply:
    return Reply(code, json.dumps(body).encode() + b"\n", "application/json")


def _reply(answer: Reply) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)


@web.middleware
async def _refuse_improper(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reply, and say so to the conversation that asks, which then goes on."""
    try:
        refused = _refuse(request)
        response = await handler(request) if refused is None else refused
    except ConnectionError:
        raise  # The client has gone, which is its affair.
    except Exception as error:
        logger.exception("%s %s failed", request.method, request.path, exc_info=error)
        response = reply_text(500, "500: a defect of the sidecar; its log has more")
        response.force_close()
    await response.prepare(request)
    await response.write_eof()
    if request.transport is not None:
        conversation = request.transport.get_protocol()
        if isinstance(conversation, Conversation):
            conversation.answered(keep=bool(response.keep_alive))
    return response


def _refuse(request: web.Request) -> web.Response | None:
    """Refuse what no page here takes, each with a line that says what would be taken."""
    refusal = request.match_info.http_exception
    if refusal is None:
        return None
    if isinstance(refusal, web.HTTPMethodNotAllowed):
        response = reply_text(405, f"405: {request.path} takes GET and HEAD")
        response.headers["Allow"] = refusal.headers["Allow"]
        return response
    return _nothing_here()


def _nothing_here() -> web.Response:
    pages = ", ".join(page for paths in PATHS.values() for page in paths[:1])
    return reply_text(404, f"404: nothing here; there are {pages}, /status and /metrics")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


# --- where it is answered


class Server:
    """An application on its sockets. `addresses` are what it is bound to."""

    def __init__(
        self,
        app: web.Application,
        at_once: Callable[[Request], Reply | None],
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """`at_once` answers what it can before `app` is asked."""
        # A request comes whole: what is left to time is how long a client rests between two.
        self._runner = web.AppRunner(
            app, shutdown_timeout=1.0, access_log=None, keepalive_timeout=limits.patience
        )
        self._at_once = at_once
        self._limits = limits
        self._crowd: Crowd | None = None
        self._sockets: list[socket.socket] = []
        self.addresses: list[tuple[str, int]] = []

    async def start(self, host: str, port: int) -> None:
        """Answer at `host`:`port`; at every address of both families where host is empty.

        Raises OSError with one line that says why it cannot, and what would help.
        """
        self._sockets = listen(host, port)
        await self._runner.setup()
        for one in self._sockets:
            one.setblocking(False)
            # Inherited by each connection: who does not take an answer is cut off by the kernel.
            patience = round(self._limits.patience * 1000)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
            one.listen(WAITING_OUTSIDE)
            self.addresses.append(one.getsockname()[:2])
        handler = cast("web.Server", self._runner.server)  # setup() made it
        self._crowd = Crowd(self._limits, handler, self._at_once)
        self._crowd.admit(self._sockets)

    @property
    def accepts(self) -> int:
        """How many connections were accepted so far."""
        return 0 if self._crowd is None else self._crowd.accepts

    async def close(self) -> None:
        """Take no more connections, and end those there are: at once, but for a request that is
        being answered, which has a second.
        """
        if self._crowd is not None:
            await self._crowd.close()
        for one in self._sockets:
            one.close()
        await self._runner.cleanup()


def listen(host: str, port: int, flag: str = "--listen") -> list[socket.socket]:
    """Return listening sockets: one for all of both families where `host` is empty, else one for
    each of its addresses. Raises OSError with one line, which names the `flag` that says where.
    """
    try:
        return _listen_at(host, port) if host else [_listen_everywhere(port)]
    except OSError as error:
        raise OSError(
            f"cannot listen on {host_port(host, port)}: {_advice(error, flag)}"
        ) from error


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


def _advice(error: OSError, flag: str) -> str:
    if isinstance(error, socket.gaierror):
        return "the name does not resolve"
    match error.errno:
        case errno.EADDRINUSE:
            return f"the address is already in use; choose another with {flag}"
        case errno.EADDRNOTAVAIL:
            return "this host has no such address"
        case errno.EAFNOSUPPORT:
            return "the kernel has no such address family"
        case errno.EACCES:
            first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
            return f"permission denied; ports below {first} take CAP_NET_BIND_SERVICE"
        case _:
            return os.strerror(error.errno or 0).lower()
