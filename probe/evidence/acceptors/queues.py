"""What the accept queues of a port did over an audit: stuck, draining, empty, or not to be told."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from probe.evidence.records.audit import QueueTrend
from probe.kernel import CannotTell, KernelView
from probe.kernel.hosts import reached
from probe.model import Connection, Listener

WILDCARDS = frozenset({"0.0.0.0", "::"})


TRIES = 3
"""How often the queued connections are listed anew because the length changed meanwhile."""


class QueueSample(NamedTuple):
    """The cookies of the queued connections, the oldest first, and the length on either side."""

    rows: tuple[int, ...] = ()
    before: int = 0
    after: int = 0

    @property
    def ghosts(self) -> tuple[int, int]:
        """How many were queued without a row, reset by their clients: at least and at most."""
        return max(self.before - len(self.rows), 0), max(self.after - len(self.rows), 0)


class Lengths(NamedTuple):
    """The lengths of the accept queues at one moment, by the listener's inode."""

    at: float
    lengths: dict[int, int]


class Listing(NamedTuple):
    """What was queued at the port, and the readings on either side."""

    before: Lengths
    rows: tuple[Connection, ...]
    after: Lengths


class Queues:
    """The accept queues of a port during an audit.

    Lengths are read with every sample, the queued connections themselves (a walk through the
    node's whole table) at the beginning and at the end, and only where something is queued. Raises
    CannotTell when the listeners cannot be listed to begin with; what fails later makes the queue
    unknown.
    """

    def __init__(self, view: KernelView, port: int, hosts: tuple[str, ...] = ()) -> None:
        """Of all listeners of the port, or of those alone that `hosts` reach."""
        self._view = view
        self._port = port
        self._hosts = hosts
        self._error = ""
        self.listeners = reached(hosts, view.listeners(port))
        self.closed: set[int] = set()
        """Inodes of the listeners that are gone since."""
        self._readings = [_reading(self.listeners)]
        self._first = self._last = self._list()

    def read(self) -> None:
        """The lengths once more."""
        try:
            listeners = reached(self._hosts, self._view.listeners(self._port))
        except CannotTell as why:
            self._error = str(why)
            return
        cookies = {one.inode: one.cookie for one in listeners}
        self.closed |= {one.inode for one in self.listeners if cookies.get(one.inode) != one.cookie}
        self._readings.append(_reading(listeners))

    def finish(self) -> None:
        """The last look."""
        self.read()
        self._last = self._list()

    def axis(self, listener: Listener) -> tuple[QueueTrend, str]:
        """What the queue did, and the figures that show it."""
        rivals = [
            other.inode
            for other in self.listeners
            if other.inode != listener.inode
            and any(_may_hold(other, row) and _may_hold(listener, row) for row in self._first.rows)
        ]
        return queue_axis(
            lengths=[reading.lengths.get(listener.inode, 0) for reading in self._readings],
            seconds=self._last.before.at - self._first.after.at,
            first=_look(self._first, listener),
            last=_look(self._last, listener),
            rivals=[self._last.before.lengths.get(inode, 0) for inode in rivals],
            error=self._error,
        )

    def head_queued_for(self, listener: Listener) -> float | None:
        """How long the oldest in its queue has waited, in seconds; None where that is not told.

        One that was reset has no row, so the head may have waited even longer.
        """
        rows = [row for row in self._last.rows if _may_hold(listener, row)]
        others = [other for other in self.listeners if other.inode != listener.inode]
        if any(_may_hold(other, row) for other in others for row in rows):
            return None
        ages = (row.last_data_sent for row in rows if row.last_data_sent is not None)
        return max(ages, default=None)

    def _list(self) -> Listing:
        """What is queued; again where the length changed meanwhile, which blurs the picture."""
        rows: tuple[Connection, ...] = ()
        for _ in range(TRIES):
            before = self._readings[-1]
            if any(before.lengths.values()):
                try:
                    rows = self._view.queued(self._port, self._hosts)
                except CannotTell as why:
                    self._error = str(why)
                self.read()
            after = self._readings[-1]
            if before.lengths == after.lengths:
                break
        return Listing(before, rows, after)


def _reading(listeners: tuple[Listener, ...]) -> Lengths:
    return Lengths(time.monotonic(), {one.inode: one.length for one in listeners})


def _look(listing: Listing, listener: Listener) -> QueueSample:
    return QueueSample(
        rows=tuple(row.cookie for row in listing.rows if _may_hold(listener, row)),
        before=listing.before.lengths.get(listener.inode, 0),
        after=listing.after.lengths.get(listener.inode, 0),
    )


def _may_hold(listener: Listener, row: Connection) -> bool:
    """Whether a queued connection can be in this listener's queue, as far as addresses tell.

    The child of an AF_INET6 listener is AF_INET6, whatever its client spoke.
    """
    bound, _, _ = listener.address.partition("%")
    local, _, _ = row.local[0].partition("%")
    return listener.family == row.family and (bound in WILDCARDS or bound == local)


def queue_axis(
    lengths: Sequence[int],
    seconds: float,
    first: QueueSample,
    last: QueueSample,
    rivals: Sequence[int] = (),
    error: str = "",
) -> tuple[QueueTrend, str]:
    """What one queue did, from its lengths, and what was queued first and last.

    What is said holds for the `seconds` from the reading after `first` to that before `last`.
    `rivals` are the lengths, just before `last`, of the other listeners that the same connections
    could be queued at (SO_REUSEPORT): which member has which connection is not told.

    What this rests on: the queue is first in, first out; its length falls only when something is
    taken out; a connection that its client resets stays in the length and has no row. What it
    cannot see: one that had been reset is taken out, another comes and is reset, all between two
    readings.
    """
    span = f"in {seconds:.1f} s"
    now = f"{lengths[-1]} queued"
    if fallen := sum(max(before - after, 0) for before, after in pairwise(lengths)):
        return QueueTrend.DRAINING, f"{fallen} or more taken out {span}, {now}"
    if not any(lengths):
        return QueueTrend.EMPTY, f"empty in all {len(lengths)} readings {span}"
    if error:
        return QueueTrend.UNKNOWN, f"{now}, which cannot be told apart: {error}"
    if not lengths[0]:
        return QueueTrend.UNKNOWN, f"empty at first, {now} after {seconds:.1f} s"
    if not first.rows:
        return QueueTrend.UNKNOWN, f"{now}, all reset by their clients and not to be told apart"
    ended = set(last.rows)
    gone = sum(cookie not in ended for cookie in first.rows)
    if rivals:
        # So many of the first at least are in this queue still, of so many at most that it had.
        if len(first.rows) - gone - sum(rivals) >= min(first.after, len(first.rows)):
            return QueueTrend.STUCK, f"{now}, none accepted {span}"
        return QueueTrend.UNKNOWN, f"{gone} left the queues of this port; which queue, is not told"
    (first_least, first_most), (last_least, last_most) = first.ghosts, last.ghosts
    if (taken := gone - (last_most - first_least)) > 0:
        return QueueTrend.DRAINING, f"{taken} or more taken out {span}, {now}"
    if first.rows[0] in ended and gone <= last_least - first_most:
        reset = f" ({gone} reset by their clients)" if gone else ""
        return QueueTrend.STUCK, f"{now}, none accepted {span}{reset}"
    return QueueTrend.UNKNOWN, f"{now}; {gone} of the first left it, accepted or reset"
