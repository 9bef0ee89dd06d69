"""One look at the listeners of this network namespace, with the count of accepts beside it."""

import time
from collections.abc import Callable

from probe.kernel import CannotTell, KernelView
from probe.kernel.procfs import Counters
from probe.model import Connection, Listener, Sample

ATTEMPTS = 3
"""Looks at the queues before giving up on a count of accepts that belongs to them."""


class Sampler:
    """Samples for any port, from one view of the kernel.

    The count of accepts (see `Sample.accepts`) takes every listener of the namespace, so the whole
    LISTEN table is dumped; its size does not depend on the number of connections.
    """

    def __init__(
        self,
        view: KernelView,
        counters: Counters | None,
        timed: Callable[[float], None] | None = None,
    ) -> None:
        """`timed` is told how many seconds each sample took."""
        self.view = view
        self._counters = counters
        self._timed = timed

    def sample(self, port: int) -> Sample:
        """Look once. What could not be seen is in the sample's `error`; nothing is raised."""
        begun = time.perf_counter()
        try:
            listeners, accepts = self._look()
        except CannotTell as error:
            return Sample(error=str(error))
        if self._timed is not None:
            self._timed(time.perf_counter() - begun)
        return Sample(tuple(one for one in listeners if one.port == port), accepts)

    def _look(self) -> tuple[tuple[Listener, ...], int | None]:
        before = self._passive_opens()
        for _ in range(ATTEMPTS):
            listeners = self.view.listeners()
            after = self._passive_opens()
            if before == after:
                break
            before = after  # A connection arrived while we looked: look again.
        else:
            after = None
        if after is None:
            return listeners, None
        return listeners, after - sum(listener.length for listener in listeners)

    def _passive_opens(self) -> int | None:
        if self._counters is None:
            return None
        try:
            return self._counters.read().passive_opens
        except CannotTell:
            return None


def oldest_queued(open_view: Callable[[], KernelView], port: int) -> Connection | None:
    """Return the head of the port's accept queue, the one that has been queued longest.

    Walks the connection table (12 to 64 ms of CPU): run it in a thread, and only on suspicion.
    It opens a view of its own, since requests on a shared socket must not interleave.
    """
    view = open_view()
    try:
        queued = view.queued(port)
    except CannotTell:
        return None
    finally:
        view.close()
    return queued[0] if queued else None
