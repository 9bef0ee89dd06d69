"""HAProxy's agent-check: a line for each connection, of all targets or of the one that it names.

HAProxy connects, sends what `agent-send` says, and reads words up to the end of a line (its
configuration manual, "agent-check"): `up` or `down` for the health of the server, `ready` or
`drain` for what may be sent to it, a percentage for its weight. What it was told of one of them
stays so until it is told otherwise, so an answer that is good says all three. What follows a # is
shown on its page of statistics, but only beside `up` or `down`.
"""

import asyncio
from contextlib import suppress
from typing import cast

from probe.api.answers import NoTarget, ask, meant
from probe.api.questions import Asked, Question
from probe.api.server import listen
from probe.model import Reason
from probe.sidecar.board import Board, Entry

PATIENCE = 0.25
"""Seconds for which the name of a target is waited for: HAProxy sends it with the handshake, and
once more after 0.2 s at the latest if it is lost."""

LINGER = 1.0
"""Seconds for a client to close once it has its line."""

NAME = 256
"""Bytes of what a client may say."""

CLIENTS = 128
"""At once. Who is cut off changes nothing at HAProxy: that the agent is not reached is no news."""

LINE = 256
"""Characters of a line."""

STEADY = 5.0
"""Seconds over which a queue's saturation is averaged: a weight is not to follow each burst."""


def line(board: Board, target: str | None) -> str:
    """Say in HAProxy's words how ready all targets are, or one of them."""
    asked = Asked(Question.READY, target)
    try:
        answer, entries = ask(board, asked), meant(board, asked)
    except NoTarget as error:
        # A word that HAProxy does not know changes nothing, and is shown.
        return "error:" + "_".join(str(error).replace(",", " ").split())
    if answer.ok:
        now = board.clock()
        fullest = max((saturation(entry, now) for entry in entries), default=0.0)
        return f"up ready {weight(fullest)}%"
    stalled = any(fault.reason is Reason.ACCEPT_QUEUE_STALLED for fault in answer.faults)
    words = "down" if stalled else "up drain"
    return f"{words} #{answer.line.removeprefix('not ready: ')}"[:LINE]


def weight(saturation: float) -> int:
    """Percent; 1 at least, since none would be a drain."""
    return max(1, round(100 * (1 - saturation)))


def saturation(entry: Entry, now: float) -> float:
    """That of a target's fullest listener, on the average of the last seconds, 1 at most; 0 where
    it is not known.
    """
    seen = [
        min(1.0, max((one.saturation or 0.0 for one in observation.sample.listeners), default=0.0))
        for observation in entry.history
        if observation.sample and not observation.sample.error and observation.at > now - STEADY
    ]
    return sum(seen) / len(seen) if seen else 0.0


class Agent:
    """The line on a port of its own. `addresses` are what it is bound to."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.accepts = 0
        """How many connections were accepted so far."""
        self.clients: set[_Client] = set()
        self.addresses: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []

    async def start(self, host: str, port: int) -> None:
        """Answer at `host`:`port`, as `Server.start` does. Raises OSError with one line."""
        loop = asyncio.get_running_loop()
        for listening in listen(host, port, "--agent-listen"):
            self.addresses.append(listening.getsockname()[:2])
            server = await loop.create_server(
                lambda: _Client(self), sock=listening, backlog=CLIENTS
            )
            self._servers.append(server)

    async def close(self) -> None:
        """Take no more connections, and cut off those there are."""
        for server in self._servers:
            server.close()
        for client in tuple(self.clients):
            client.cut()


class _Client(asyncio.Protocol):
    """One connection: it may say a name, is told a line, and closes."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._heard = b""
        self._told = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._agent.accepts += 1
        if len(self._agent.clients) >= CLIENTS:
            self._transport.abort()
            return
        self._agent.clients.add(self)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._tell)

    def data_received(self, data: bytes) -> None:
        if self._told:
            return
        self._heard = (self._heard + data)[:NAME]
        if b"\n" in self._heard or len(self._heard) == NAME:
            self._tell()

    def eof_received(self) -> bool:
        if not self._told:
            self._tell()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._agent.clients.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def cut(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _tell(self) -> None:
        if self._transport is None or self._timer is None:
            return
        self._told = True
        name = self._heard.partition(b"\n")[0].decode("utf-8", "replace").strip()
        self._transport.write(line(self._agent.board, name or None).encode() + b"\n")
        # Closing while something lies unread would reset the connection, and the line with it.
        with suppress(OSError):  # It has its line, and has gone.
            self._transport.write_eof()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(LINGER, self.cut)
