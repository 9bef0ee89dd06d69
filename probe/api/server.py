"""Where the sidecar answers: its sockets, who is let in at them, and who has the answers."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from probe.api.clients import RECEIVED, WAITING_OUTSIDE, Answers, Crowd, Limits
from probe.api.replies import VIEWS
from probe.api.requests import Reply, Request
from probe.display import host_port

if TYPE_CHECKING:
    from probe.api.view.live import Live
    from probe.imports.aiohttp_lean import web

Made = TypeVar("Made")


class Server:
    """An application on its sockets. `addresses` are what it is bound to."""

    def __init__(
        self,
        answers: Answers,
        pages: Callable[[], "web.AppRunner"],
        views: Callable[[], "Live"],
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        """`pages` and `views` make what serves the rest: in a thread, and when the first asks."""
        self._answers = answers
        self._pages = pages
        self._views = views
        self._runner: web.AppRunner | None = None
        self._live: Live | None = None
        self._loading = asyncio.Lock()
        self._limits = limits
        self._crowd: Crowd | None = None
        self._sockets: list[socket.socket] = []
        self.addresses: list[tuple[str, int]] = []

    async def start(self, host: str, port: int) -> None:
        """Answer at `host`:`port`; at every address of both families where host is empty.

        Raises OSError with one line that says why it cannot, and what would help.
        """
        self._sockets = listen(host, port)
        for one in self._sockets:
            one.setblocking(False)
            # Inherited by each connection: who does not take an answer is cut off by the kernel.
            patience = round(self._limits.patience * 1000)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
            one.listen(WAITING_OUTSIDE)
            self.addresses.append(one.getsockname()[:2])
        self._crowd = Crowd(self._limits, self._answers, self._handler)
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
        if self._live is not None:
            self._live.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handler(self, request: Request, peer: str) -> Reply | asyncio.Protocol:
        """Return what is said to who asks for a page, or what serves it."""
        async with self._loading:
            if request.path.decode() in VIEWS:
                if self._live is None:
                    self._live = await _made(self._views)
                return self._live.answer(request, peer)
            if self._runner is None:
                runner = await _made(self._pages)
                await runner.setup()
                self._runner = runner
        return cast("web.Server", self._runner.server)()  # setup() made it


async def _made(make: Callable[[], Made]) -> Made:
    try:
        return await asyncio.get_running_loop().run_in_executor(None, make)
    except OSError:  # There is no thread for it.
        return make()


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
