"""What the accept queues of a port did over an audit: stuck, draining, empty, or not to be told."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from probe.evidence.records import QueueAxis
from probe.kernel import CannotTell, KernelView
from probe.model import Connection, Listener

WILDCARDS = frozenset({"0.0.0.0", "::"})


class Reading(NamedTuple):
    """The lengths of the accept queues at one moment, by the listener's inode."""

    at: float
    lengths: dict[int, int]


class Queues:
    """The accept queues of a port during an audit.

    Lengths are read with every sample, the queued connections themselves (a walk through the
    node's whole table) only twice, and only where something is queued. Raises CannotTell when the
    listeners cannot be listed to begin with; what fails later makes the queue unknown.
    """

    def __init__(self, view: KernelView, port: int) -> None:
        self._view = view
        self._port = port
        self.listeners = view.listeners(port)
        self.closed: set[int] = set()
        """Inodes of the listeners that are gone since."""
        self._error = ""
        self._readings = [self._reading(self.listeners)]
        self._first = self._queued()
        self._last: tuple[Connection, ...] = ()

    def read(self) -> None:
        """The lengths once more."""
        try:
            listeners = self._view.listeners(self._port)
        except CannotTell as why:
            self._error = str(why)
            return
        cookies = {one.inode: one.cookie for one in listeners}
        self.closed |= {one.inode for one in self.listeners if cookies.get(one.inode) != one.cookie}
        self._readings.append(self._reading(listeners))

    def finish(self) -> None:
        """The last look at the queued connections, with a reading of the lengths on each side."""
        self.read()
        self._last = self._queued()
        self.read()

    def axis(self, listener: Listener) -> tuple[QueueAxis, str]:
        """What the queue did, and the figures that show it."""
        rows = [row.cookie for row in self._first if _may_hold(listener, row)]
        rivals = [
            other.inode
            for other in self.listeners
            if other.inode != listener.inode
            and any(_may_hold(other, row) and _may_hold(listener, row) for row in self._first)
        ]
        return queue_axis(
            lengths=[reading.lengths.get(listener.inode, 0) for reading in self._readings],
            seconds=self._readings[-1].at - self._readings[0].at,
            first=rows,
            last={row.cookie for row in self._last if _may_hold(listener, row)},
            rivals=[self._readings[-2].lengths.get(inode, 0) for inode in rivals],
            error=self._error,
        )

    def _reading(self, listeners: tuple[Listener, ...]) -> Reading:
        return Reading(time.monotonic(), {one.inode: one.length for one in listeners})

    def _queued(self) -> tuple[Connection, ...]:
        if not any(self._readings[-1].lengths.values()):
            return ()
        try:
            return self._view.queued(self._port)
        except CannotTell as why:
            self._error = str(why)
            return ()


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
    first: Sequence[int],
    last: set[int],
    rivals: Sequence[int] = (),
    error: str = "",
) -> tuple[QueueAxis, str]:
    """What one queue did, from its lengths and from the cookies that were queued first and last.

    `lengths` begin before `first` was taken and end after `last`, with two readings at least in
    between; `first` is in the queue's order. `rivals` are the lengths, just before `last`, of the
    other listeners that the same connections could be queued at (SO_REUSEPORT): which member has
    which connection is not told.

    What this rests on: the queue is first in, first out; its length falls only when something is
    taken out; a connection that its client resets stays in the length and has no row.
    """
    span = f"in {seconds:.1f} s"
    if falls := [(before, after) for before, after in pairwise(lengths) if after < before]:
        return QueueAxis.DRAINING, f"its length fell from {falls[0][0]} to {falls[0][1]} {span}"
    if not any(lengths):
        return QueueAxis.EMPTY, f"empty in all {len(lengths)} readings {span}"
    if error:
        return QueueAxis.UNKNOWN, f"the queued connections cannot be told apart: {error}"
    if not lengths[0]:
        return QueueAxis.UNKNOWN, f"it was empty at first and has {lengths[-1]} now"
    if not first:
        return QueueAxis.UNKNOWN, f"{lengths[-1]} queued, of which none has a row: all were reset"
    stuck = f"{lengths[-1]} queued, none accepted {span}"
    gone = sum(cookie not in last for cookie in first)
    if rivals:
        # At least so many of the first are in this queue still; lengths[1] bounds how many it had.
        if len(first) - gone - sum(rivals) >= min(lengths[1], len(first)):
            return QueueAxis.STUCK, stuck
        return QueueAxis.UNKNOWN, f"{gone} left the queues of this port; from which, is not told"
    reset = (lengths[-1] - len(last)) - (lengths[0] - len(first))
    if gone > reset:
        return QueueAxis.DRAINING, f"{gone - reset} taken out {span}"
    if first[0] in last:
        return QueueAxis.STUCK, stuck + (f" ({gone} reset by their clients)" if gone else "")
    return QueueAxis.UNKNOWN, f"{gone} left the table: accepted, or reset by their clients"
