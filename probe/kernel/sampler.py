"""Samples of the listeners of this network namespace, with the count of accepts beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from probe.imports.socket_lite import AF_INET, AF_INET6, inet_pton
from probe.imports.typing_lite import NamedTuple
from probe.kernel import CannotTell, Crowded, KernelView
from probe.kernel.hosts import reached
from probe.kernel.procfs import Counters
from probe.model import Accepted, Connection, Listener, Sample, Work

ATTEMPTS = 3
"""Dumps of the queues before giving up on a count of accepts that belongs to them."""

MANY = 1000
"""Listeners of the namespace at most that every sample reads, at 3 us each. Where there are more,
it reads those of its port alone, which the kernel picks, and the accepts are not counted.
"""

RETRY = 60.0
"""Seconds from then until it is seen whether there still are so many."""

CLOSE_WAIT = 8
MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with in an AF_INET6 row (RFC 4291, 2.5.5.2)."""

FOLLOWED = 64
"""Connections at the head of a queue that are looked up in every sample, at 15 us each. A broader
head, as thousands of requests a second make it, is seen again by the next walk alone."""


class ListenTable(NamedTuple):
    """What one dump of LISTEN sockets has found: listeners, and the accepts that belong to them."""

    at: float
    listeners: dict[int, list[Listener]]
    """By port; every one of the namespace's, or of the port that was asked for."""
    accepts: int | None
    absence: str = ""
    """See `Sample.absence`."""


class Sampler:
    """Samples for any port, from one view of the kernel.

    The count of accepts (see `Sample.accepts`) takes every listener of the namespace, so the whole
    LISTEN table is dumped; its size does not depend on the number of connections. Up to MANY: what
    an application opens must not become our load.
    """

    def __init__(
        self,
        view: KernelView,
        counters: Counters | None,
        timed: Callable[[float], None] | None = None,
        own_accepts: Callable[[], int] = lambda: 0,
        uncounted: Callable[[str], None] = lambda why: None,
    ) -> None:
        """`timed` is told how many seconds each sample took. `own_accepts` tells how many of the
        accepts were ours, so that who asks us often does not hide that nothing else is accepted.
        `uncounted` is told once why they are not counted from now on, and "" when they are again.
        """
        self.view = view
        self._counters = counters
        self._timed = timed
        self._own_accepts = own_accepts
        self._uncounted = uncounted
        self._crowded_at: float | None = None
        """When more than MANY listeners were seen last, on time.monotonic()."""
        self._whole: ListenTable | None = None
        """The last dump, if it has every listener."""

    def sample(self, port: int, hosts: tuple[str, ...] = ()) -> Sample:
        """Sample once: the listeners of the port that these addresses reach, or at all of them.

        What could not be seen is in the sample's `error`; nothing is raised.
        """
        return self.share(port, hosts, now=0.0, since=float("inf"))[1]

    def share(
        self, port: int, hosts: tuple[str, ...], *, now: float, since: float
    ) -> tuple[float, Sample]:
        """The same for one of several targets, and when it was seen: `now`, or whenever after
        `since` another one's sample has read every listener, this one's with them.

        Seconds on a clock of the caller's. A sample is always of one moment: its lengths and its
        accepts were read together.
        """
        try:
            dump = self._recent(port, now, since)
        except CannotTell as error:
            return now, Sample(error=str(error))
        listeners = reached(hosts, dump.listeners.get(port, ()))
        return dump.at, Sample(listeners, dump.accepts, absence="" if listeners else dump.absence)

    @property
    def last_seen(self) -> tuple[Listener, ...] | None:
        """Every listener of the namespace in the last dump, if it had all. No kernel call."""
        if self._whole is None:
            return None
        return tuple(one for listeners in self._whole.listeners.values() for one in listeners)

    def every(self, *, now: float, since: float) -> dict[int, list[Listener]]:
        """Every listener of the namespace, by port: of the sample that the targets share. Raises
        CannotTell, as where there are more than MANY.
        """
        return self._recent(None, now, since).listeners

    def _recent(self, port: int | None, now: float, since: float) -> ListenTable:
        dump = self._whole
        if dump is None or dump.at <= since:
            begun = time.perf_counter()
            dump = self._dump(port, now)
            if self._timed is not None:
                self._timed(time.perf_counter() - begun)
        return dump

    def _dump(self, port: int | None, now: float) -> ListenTable:
        self._whole = None
        if (self._counters is None and port is not None) or not self._may_count():
            return self._dump_port(port, now)
        try:
            listeners, accepts = self._count()
        except Crowded as crowded:
            if self._crowded_at is None:
                self._uncounted(f"accepts are not counted: {crowded}")
            self._crowded_at = time.monotonic()
            return self._dump_port(port, now)
        if self._crowded_at is not None:
            self._crowded_at = None
            self._uncounted("")
        self._whole = dumped(now, listeners, accepts)
        return self._whole

    def _dump_port(self, port: int | None, now: float) -> ListenTable:
        if port is None:
            raise Crowded(MANY)
        return dumped(now, self.view.listeners(port))

    def _may_count(self) -> bool:
        return self._crowded_at is None or time.monotonic() - self._crowded_at >= RETRY

    def _count(self) -> tuple[tuple[Listener, ...], int | None]:
        """Every listener, and the accepts that belong to them; raises Crowded."""
        before = self._figure(Counters.passive_opens)
        for _ in range(ATTEMPTS):
            listeners = self.view.listeners(most=MANY)
            after = self._figure(Counters.passive_opens)
            if before == after:
                break
            before = after  # A connection arrived meanwhile: again.
        else:
            after = None
        if after is None:
            return listeners, None
        queued = sum(listener.length for listener in listeners)
        return listeners, after - queued - self._own_accepts()

    def _figure(self, read: Callable[[Counters], int]) -> int | None:
        if self._counters is None:
            return None
        try:
            return read(self._counters)
        except CannotTell:
            return None

    def work(
        self,
        port: int,
        hosts: tuple[str, ...],
        own: Iterable[tuple[str, int]],
        within: float,
        unread: int = 0,
    ) -> Work:
        """What a restart would cut off of the work that came by a port, to these hosts or to any.

        One walk of the connection table, for a thread of its own. `own` are the client's ends of
        our own connections, which are not counted; one without a host was never made. `within`:
        seconds, see `Work.served`. `unread`: bytes of a request that may lie unread while it is
        worked on. Raises CannotTell.
        """
        ours = {(binary(host.partition("%")[0]), port) for host, port in own if host}
        our_ports = {port for _, port in ours}
        accepted = served = working = 0
        last: float | None = None
        cookie = 0
        resets = self._figure(Counters.resets)
        for row in self.view.accepted(port, hosts):
            if row.cookie == cookie:
                continue  # The table changed while the kernel looked for where it had stopped.
            cookie = row.cookie
            if row.remote_port in our_ports and (
                (plain(row.family, row.remote), row.remote_port) in ours
            ):
                continue
            accepted += 1
            if row.sent and not row.retransmits:
                served += row.sent_ago <= within
                last = row.sent_ago if last is None else min(last, row.sent_ago)
            working += is_worked_on(row, unread)
        if resets != self._figure(Counters.resets):
            resets = None  # Whether of a connection that was counted, nobody knows.
        return Work(accepted, served, last, working, resets)


def dumped(at: float, listeners: Iterable[Listener], accepts: int | None = None) -> ListenTable:
    by_port: dict[int, list[Listener]] = {}
    for listener in listeners:
        by_port.setdefault(listener.port, []).append(listener)
    return ListenTable(at, by_port, accepts)


def is_worked_on(row: Accepted, unread: int = 0) -> bool:
    """Whether data of a client has been read, but for so many bytes, and was not answered yet.

    More unread data is work for nobody: so lies the connection on which an acceptor died. A FIN
    counts as a byte in rqueue and in what was received, and whoever works on a request does not
    read it: many a client shuts its side down when all is said, or gives up and is worked for all
    the same.
    Ages come in ticks of 1 to 10 ms; of an answer in the same tick as the question, neither is the
    later.
    """
    fin = row.state == CLOSE_WAIT
    answered = row.sent and row.sent_ago <= row.received_ago
    read = row.rqueue <= fin + unread and max(row.rqueue, fin) < row.received
    return read and not answered


def binary(host: str) -> bytes:
    """A numeric address, IPv4 as IPv4."""
    family = AF_INET6 if ":" in host else AF_INET
    return plain(family, inet_pton(family, host))


def plain(family: int, address: bytes) -> bytes:
    """The same of a row, which gives 16 bytes whatever the family."""
    if family == AF_INET:
        return address[:4]
    return address[12:] if address.startswith(MAPPED) else address


class Head:
    """The head of a port's accept queue, followed by exact lookups from one sample to the next.

    Those at the head are the queued connections of which one is the head: their ages do not tell
    them apart. The queue is first in, first out, so while all of them stay, nothing was accepted.
    Once one has left, something was accepted if there is another head: a connection that was
    reset would still be in the queue, and hide the head (see `KernelView.head`).
    """

    def __init__(self, view: KernelView, port: int, *, presumed: bool = False) -> None:
        """`presumed`: be content with the oldest connections that are to be seen."""
        self._view = view
        self._port = port
        self._presumed = presumed
        self._connections: tuple[Connection, ...] = ()
        self._cookies: tuple[int, ...] = ()
        self._fresh = False
        """The last walk has seen it, and nobody has heard of that yet."""

    def verify(self) -> tuple[int, ...]:
        """Return the cookies of the head, if it is known and all of it is still queued."""
        fresh, self._fresh = self._fresh, False
        if len(self._connections) > FOLLOWED:
            return self._cookies if fresh else ()
        try:
            if not all(self._is_queued(one) for one in self._connections):
                self._connections = self._cookies = ()
        except CannotTell:
            return ()
        return self._cookies

    def find(self, hosts: tuple[str, ...] = ()) -> None:
        """Find the head, or see whether all of it is still there, if it cannot be looked up: that
        of the listeners of the port that these addresses reach, or of all.

        Walks the connection table of the node (12 to 64 ms of CPU): only on suspicion, and in a
        thread where there is something else to do. The view walks on a socket of its own.
        """
        try:
            if self._connections:
                queued = {one.cookie for one in self._view.queued(self._port, hosts)}
                if queued.issuperset(self._cookies):
                    self._fresh = True
                    return
            self._connections = self._view.head(self._port, hosts, presumed=self._presumed)
        except CannotTell:
            self._connections = ()
        self._cookies = tuple(one.cookie for one in self._connections)
        self._fresh = True

    def _is_queued(self, connection: Connection) -> bool:
        seen = self._view.lookup(connection.remote, connection.local)
        return seen is not None and seen.queued and seen.cookie == connection.cookie
