"""What people look at: the page at `/`, and what it shows at /view: JSON, or server-sent events for
who asks for those (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Everything comes from memory. A document is made once for all who may see the same, at most once a
second. Nobody has a queue of them: who is slow misses some, and who takes nothing for a while is
cut off. The first has the whole history, the others its last seconds, so that one that was missed
leaves no gap.
"""

import asyncio
import json
import logging
import socket
from pathlib import Path
from typing import NamedTuple, cast

from probe.api.clients import http_date
from probe.api.html import as_html
from probe.api.replies import is_local
from probe.api.requests import Reply, Request, line
from probe.api.status import Sources
from probe.api.view.document import view
from probe.api.view.history import LATELY
from probe.sidecar.past import SECONDS

logger = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")

EVENTS = "text/event-stream"

TAKEN = 16 * 1024
"""Bytes that the kernel takes from us for a viewer at once (it doubles that). By itself it takes a
whole document, and keeps it for who takes nothing, even after we have closed.
"""


class LiveLimits(NamedTuple):
    """What those who look, all of them together, can hold of us."""

    viewers: int = 32
    """At once. Any is ended sooner where it is in the way of who asks a question: see `Crowd`."""
    period: float = 1.0
    """Seconds from one document to the next..."""
    targets: int = 20
    """...of so many targets; of more it is as much longer..."""
    longest: float = 4.0
    """...up to so many seconds: after 5 the page says that what it shows is old."""
    patience: float = 5.0
    """Seconds that a viewer may take to make room for the next document."""


class Live:
    """Answers who looks, and sends on what changes. Made in any thread, and used in the loop."""

    def __init__(self, sources: Sources, limits: LiveLimits = LiveLimits()) -> None:  # noqa: B008
        self._sources = sources
        self._limits = limits
        self._page = as_html(PAGE.read_bytes())
        self._viewers: dict[Viewer, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._made: dict[tuple[bool, int], tuple[int, bytes]] = {}
        """The last document for each audience, with a history of so many seconds; and its turn."""

    def answer(self, request: Request, peer: str) -> Reply | asyncio.Protocol:
        """Answer a client at the address `peer`."""
        if request.path == b"/":
            return self._page
        local = is_local(request, peer)
        if request.method == b"HEAD":
            return self._whole(local=local)
        if len(self._viewers) >= self._limits.viewers:
            return line(503, f"{self._limits.viewers} clients look at it already")
        return Viewer(self, local=local, once=EVENTS not in request.value(b"accept").decode())

    def close(self) -> None:
        """End those who look."""
        for viewer in tuple(self._viewers):
            viewer.transport.close()
        if self._timer is not None:
            self._timer.cancel()

    # --- what viewers call

    def begin(self, viewer: "Viewer") -> None:
        """Send it what is to be seen, and go on sending until it has gone, or had it once."""
        if viewer.once:
            viewer.transport.write(self._whole(local=viewer.local).whole(http_date()))
            viewer.transport.close()  # once it has taken that
        else:
            first = self._event(SECONDS, local=viewer.local)
            viewer.transport.write(Reply(200, b"", EVENTS).endless(http_date()) + first)
        self._viewers[viewer] = None
        if self._timer is None:
            self._wake_later()

    def forget(self, viewer: "Viewer") -> None:
        """It has gone."""
        self._viewers.pop(viewer, None)

    # --- one turn after another

    @property
    def _period(self) -> float:
        targets = len(self._sources.board.entries)
        longer = max(targets / self._limits.targets, 1.0)
        return min(self._limits.period * longer, self._limits.longest)

    def _wake_later(self) -> None:
        loop, period = asyncio.get_running_loop(), self._period
        self._timer = loop.call_at((loop.time() // period + 1) * period, self._send)

    def _send(self) -> None:
        """Send the document of this turn to everyone who has room for it."""
        self._timer = None
        try:
            for viewer in tuple(self._viewers):
                self._send_to(viewer)
        except Exception:
            logger.exception("what is looked at could not be shown")
            self.close()
        if self._viewers:
            self._wake_later()

    def _send_to(self, viewer: "Viewer") -> None:
        if viewer.full_since is None:
            if not viewer.once:
                viewer.transport.write(self._event(LATELY, local=viewer.local))
        elif asyncio.get_running_loop().time() - viewer.full_since >= self._limits.patience:
            viewer.transport.abort()
        if self._sources.board.shutting_down:
            viewer.transport.close()

    def _whole(self, *, local: bool) -> Reply:
        return Reply(200, self._document(SECONDS, local=local) + b"\n", "application/json")

    def _event(self, seconds: int, *, local: bool) -> bytes:
        return b"event: view\ndata: " + self._document(seconds, local=local) + b"\n\n"

    def _document(self, seconds: int, *, local: bool) -> bytes:
        turn = round(asyncio.get_running_loop().time() / self._period)
        made, document = self._made.get((local, seconds), (None, b""))
        if made != turn:
            shown = view(self._sources, local=local, seconds=seconds)
            document = json.dumps(shown, separators=(",", ":")).encode()
            self._made[local, seconds] = turn, document
        return document


class Viewer(asyncio.Protocol):
    """A client that is sent documents until it goes; `once`: one, as JSON."""

    transport: asyncio.Transport

    def __init__(self, live: Live, *, local: bool, once: bool) -> None:
        self._live = live
        self.local = local
        self.once = once
        self.full_since: float | None = None
        """Since when it has taken too little of what it was sent; None: it has room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TAKEN)
        self._live.begin(self)

    def pause_writing(self) -> None:
        self.full_since = asyncio.get_running_loop().time()

    def resume_writing(self) -> None:
        self.full_since = None

    def connection_lost(self, error: Exception | None) -> None:
        self._live.forget(self)
