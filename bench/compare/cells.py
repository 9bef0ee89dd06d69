"""One prober beside one server through one fault, and many of these at once."""

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench.compare.probers import PROBERS
from bench.compare.servers import PORT, SERVERS, Running
from probe.kernel import KernelView, open_view
from tests.conftest import fresh_namespace

SETTLE = 120.0
"""Seconds within which the prober says that all is well, before the fault."""
RECOVER = 30.0
"""Seconds that it is given to say so again after it."""


class Place(NamedTuple):
    """Which cell this is."""

    server: str
    fault: str
    prober: str
    run: int


class Cell(NamedTuple):
    """What was measured in it; seconds from the fault's beginning or end, None for never."""

    server: str
    fault: str
    prober: str
    run: int
    error: str = ""
    """Why there are no figures."""
    found: float | None = None
    reason: str = ""
    """Of the first verdict that something is wrong."""
    recovered: float | None = None
    false_alarms: int = 0
    """Before the fault, when nothing was wrong."""
    queue: tuple[tuple[float, int], ...] = ()
    """When how many were queued, whenever that changed."""
    limit: int | None = None
    """Of the accept queue, as the kernel tells it."""
    cpu: float | None = None
    """CPU seconds of the prober during the fault; None where it is our own code."""
    seconds: float = 0.0
    """How long the fault lasted."""


class Verdicts:
    """What a prober says, and when that changed."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, str]] = []
        self.well = threading.Event()

    def say(self, reason: str) -> None:
        """Note a verdict; a further reason for the same one is not a change."""
        if not self.changes or bool(self.changes[-1][1]) != bool(reason):
            self.changes.append((time.monotonic(), reason))
        (self.well.clear if reason else self.well.set)()

    def first_bad(self, since: float, until: float) -> tuple[float, str] | None:
        """The first verdict that something is wrong, of those between."""
        changes = list(self.changes)
        return next(((at, why) for at, why in changes if why and since <= at < until), None)


def measure(
    place: Place,
    seconds: float,
    together: Callable[[], object],
    enough: Callable[[bool], bool] = lambda found: False,
) -> Cell:
    """Measure one cell; the fault lasts so long, or until `enough`, given whether it is found.

    `together` is called twice, when the server listens and when all is well, and returns when it is
    so in the other cells: what starts is not to slow down what is measured.
    """
    left = 2

    def wait() -> None:
        nonlocal left
        left -= 1
        together()

    try:
        with (
            fresh_namespace(),
            tempfile.TemporaryDirectory(prefix="compare-") as directory,
            closing(open_view()) as view,
            closing(Running(SERVERS[place.server], Path(directory), view)) as running,
        ):
            wait()
            return _through_the_fault(place, running, view, seconds, wait, enough)
    except Exception as error:  # noqa: BLE001 - a cell without figures is told as such
        return Cell(*place, error=f"{type(error).__name__}: {error}"[:300])
    finally:
        for _ in range(left):
            together()


def _through_the_fault(
    place: Place,
    running: Running,
    view: KernelView,
    seconds: float,
    together: Callable[[], object],
    enough: Callable[[bool], bool],
) -> Cell:
    verdicts = Verdicts()
    with PROBERS[place.prober].watch(running, verdicts.say) as cpu:
        if not verdicts.well.wait(SETTLE):
            last = verdicts.changes[-1][1] if verdicts.changes else "it says nothing"
            return Cell(*place, error=f"not well before the fault: {last}")
        together()
        time.sleep(random.uniform(0, 1))
        verdicts.well.wait(SETTLE)  # after a false alarm
        false_alarms = sum(bool(why) for _, why in verdicts.changes[1:])
        before = cpu() if cpu else 0.0
        bringing = time.monotonic()
        with running.server.faults[place.fault](running):
            begun = time.monotonic()
            queue, limit = _watch_queue(
                view, begun, seconds, lambda: enough(not verdicts.well.is_set())
            )
            taken = cpu() - before if cpu else None
            ending = time.monotonic()
        healed = time.monotonic()
        bad = verdicts.first_bad(bringing, ending)
        recovered = None
        if bad is not None and verdicts.well.wait(RECOVER):
            recovered = max(verdicts.changes[-1][0] - healed, 0.0)
    return Cell(
        *place,
        found=bad and max(bad[0] - begun, 0.0),
        reason=bad[1] if bad else "",
        recovered=recovered,
        false_alarms=false_alarms,
        queue=tuple(queue),
        limit=limit,
        cpu=taken,
        seconds=ending - begun,
    )


def _watch_queue(
    view: KernelView, begun: float, seconds: float, enough: Callable[[], bool]
) -> tuple[list[tuple[float, int]], int | None]:
    """How long the accept queue was, once a second for so long or till `enough`, and its limit."""
    queue: list[tuple[float, int]] = []
    limit = None
    for second in range(round(seconds) + 1):
        time.sleep(max(begun + min(second, seconds) - time.monotonic(), 0))
        listeners = view.listeners(PORT)
        length = sum(listener.length for listener in listeners)
        if not queue or queue[-1][1] != length:
            queue.append((round(time.monotonic() - begun, 1), length))
        for listener in listeners:
            limit = listener.limit
        if enough():
            break
    return queue, limit


def rounds(
    blocks: Sequence[tuple[str, str, int]],
    probers: Sequence[str],
    seconds: float,
    at_once: int,
) -> Iterable[list[Cell]]:
    """Measure the blocks (server, fault, run), `at_once` at a time; give what each round brought.

    All of a round begin their fault together, so that no server starts while another is measured.
    """
    count = -(-len(blocks) // at_once)
    for number in range(count):
        places = [
            Place(server, fault, prober, run)
            for server, fault, run in blocks[number::count]
            for prober in probers
            if PROBERS[prober].fits(SERVERS[server])
        ]
        gate, stopped = threading.Barrier(len(places)), threading.Event()

        def one(place: Place, gate: threading.Barrier, stopped: threading.Event) -> Cell:
            return measure(place, seconds, gate.wait, lambda _: stopped.is_set())

        with ThreadPoolExecutor(len(places)) as threads:
            waiting = [threads.submit(one, place, gate, stopped) for place in places]
            try:
                yield [cell.result() for cell in waiting]
            except KeyboardInterrupt:  # each cell ends what it has started
                stopped.set()
                gate.abort()
                raise
