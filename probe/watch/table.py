"""A line for each target: what fits into the width, the most telling columns first. Pure."""

from collections.abc import Callable
from typing import NamedTuple

from probe.model import WORST_FIRST, Condition, Outcome
from probe.watch import cells
from probe.watch.document import Document, History, Queue, WatchedTarget
from probe.watch.past import minutes, strip
from probe.watch.style import (
    BOLD,
    COLOURS,
    DIM,
    PLAIN,
    RED,
    YELLOW,
    Appearance,
    duration,
    number,
)

GAP = "  "

BAR = (5, 20)
"""Cells of a queue's bar, at least and at most."""

STRIP = (20, 60)
"""The same of the conditions of the last ten minutes."""

NAME = (6, 24)

WORTH = (
    *(("trip",), ("drops",), ("p99",), ("p50",), ("accepts",), ("bar",)),
    ("trip p50", "trip p99"),
)
"""Which columns are there first where there is no room for all."""

WORTH_A_COLOUR = 0.9
"""Of its limit: a queue that may soon be saturated, by the default threshold."""


class Column(NamedTuple):
    title: str
    width: int
    text: Callable[[WatchedTarget], str]
    right: bool = True
    code: Callable[[WatchedTarget], str] = lambda _: PLAIN


def ordered(document: Document) -> tuple[WatchedTarget, ...]:
    """The targets as they are shown: what is wrong comes first."""
    return tuple(
        sorted(document.targets, key=lambda target: WORST_FIRST.index(target.verdict.condition))
    )


def per_target(document: Document) -> bool:
    """Whether accepts can be told of one target: those of ports are counted together."""
    shared = [target for target in document.targets if target.accepts_of == "namespace"]
    return len(shared) < 2


def together(document: Document) -> str:
    """The accepts of all ports, where no line of a target can tell them."""
    if per_target(document):
        return ""
    rate = next(
        (t.accepts_per_second for t in document.targets if t.accepts_of == "namespace"), None
    )
    return "" if rate is None else f"{number(rate)} accepts a second, of all ports together"


class Table:
    """The columns that fit, for these targets in this width."""

    def __init__(self, document: Document, seconds: float, width: int, look: Appearance) -> None:
        """`seconds`: what of the history is shown."""
        self._look = look
        self._seconds = seconds
        self._width = width
        least, most = NAME
        longest = max((cells.width(target.name) for target in document.targets), default=0)
        self._name = min(max(longest, least), max(most if width >= 100 else width // 4, least))
        self._columns = self._fitting(per_target(document))

    def _fitting(self, own_accepts: bool) -> list[Column]:
        """In the order in which they are shown; which of them are is told by their worth."""
        state = Column("STATE", 9, lambda t: t.verdict.condition, right=False, code=_colour)
        figure = Column("QUEUE", 7, queued, right=True, code=_pressure)
        others = {
            "accepts": Column("ACC/S", 5, lambda t: _accepts(t, together=not own_accepts)),
            "p50": Column("DELAY", 6, lambda t: duration(t.accept_delay.p50)),
            "p99": Column("P99", 6, lambda t: duration(t.accept_delay.p99)),
            "drops": Column("DROPS", 5, lambda t: number(t.drops.last_10_minutes), code=_dropped),
            "trip": Column("ROUND TRIP", 12, trip, code=_failed),
            "trip p50": Column("P50", 6, lambda t: duration(t.round_trip.p50)),
            "trip p99": Column("P99", 6, lambda t: duration(t.round_trip.p99)),
        }
        free = self._width - 2 - self._name - _cost(state) - _cost(figure)
        chosen: set[str] = set()
        for names in WORTH:
            cost = sum(BAR[0] + 1 if name == "bar" else _cost(others[name]) for name in names)
            if ("accepts" not in names or own_accepts) and cost <= free:
                chosen.update(names)
                free -= cost
        past = min(free - len(GAP), STRIP[1]) if free - len(GAP) >= STRIP[0] else 0
        free -= past + len(GAP) if past else 0
        self._strip = past
        self._bar = min(BAR[0] + free, BAR[1]) if "bar" in chosen else 0
        return [state, figure, *(column for name, column in others.items() if name in chosen)]

    def heading(self) -> str:
        titles = [cells.left("TARGET", self._name, ""), *map(self._title, self._columns)]
        if self._strip:
            titles.append(minutes(self._seconds))
        return self._look.paint("  " + GAP.join(titles).rstrip(), BOLD)

    def _title(self, column: Column) -> str:
        if column.title == "QUEUE" and self._bar:
            return cells.left("QUEUE", self._bar + 1 + column.width, "")
        place = cells.right if column.right else cells.left
        return place(column.title, column.width, "")

    def row(self, target: WatchedTarget, history: History, *, chosen: bool) -> str:
        """One target in one line."""
        look = self._look
        name = self._named(target)
        parts = [look.paint(name, BOLD) if chosen else name]
        for column in self._columns:
            place = cells.right if column.right else cells.left
            part = look.paint(
                place(column.text(target), column.width, look.ellipsis), column.code(target)
            )
            if column.title == "QUEUE" and self._bar:
                part = f"{self._drawn(target.queue)} {part}"
            parts.append(part)
        if self._strip:
            parts.append(strip(history, self._seconds, self._strip, look))
        return ("> " if chosen else "  ") + GAP.join(parts)

    def _named(self, target: WatchedTarget) -> str:
        """The name in its column; of a long one, as the path of a socket is, the end."""
        shown = cells.printable(target.name)
        if cells.width(shown) > self._name:
            shown = self._look.ellipsis + shown[-(self._name - len(self._look.ellipsis)) :]
        return cells.left(shown, self._name, "")

    def _drawn(self, queue: Queue | None) -> str:
        taken, free = self._look.blocks
        if queue is None or queue.length is None or queue.limit is None:
            return " " * self._bar
        share = queue.length / max(queue.limit, 1)
        count = min(round(share * self._bar), self._bar)
        if queue.length and not count:
            count = 1  # that somebody waits is to be seen
        code = RED if share >= WORTH_A_COLOUR else PLAIN
        return self._look.paint(taken * count, code) + self._look.paint(
            free * (self._bar - count), DIM
        )


def _cost(column: Column) -> int:
    return len(GAP) + column.width


def _colour(target: WatchedTarget) -> str:
    return COLOURS[target.verdict.condition]


def _pressure(target: WatchedTarget) -> str:
    return RED if target.queue and target.queue.full else PLAIN


def _dropped(target: WatchedTarget) -> str:
    return YELLOW if target.drops.last_10_minutes else PLAIN


def _failed(target: WatchedTarget) -> str:
    queued_long = target.own_connection_queued_seconds is not None
    return RED if queued_long or target.round_trip.outcome is Outcome.FAILED else PLAIN


def queued(target: WatchedTarget) -> str:
    """The fullest queue: how many of how many."""
    queue = target.queue
    if queue is None or queue.length is None:
        return "-"
    limit = "?" if queue.limit is None else number(queue.limit)
    return f"{number(queue.length)}/{limit}"


def _accepts(target: WatchedTarget, *, together: bool) -> str:
    return (
        "" if together and target.accepts_of == "namespace" else number(target.accepts_per_second)
    )


def trip(target: WatchedTarget) -> str:
    """How the last round trip went: its time, or where it hangs."""
    if target.own_connection_queued_seconds is not None:
        return f"queued {duration(target.own_connection_queued_seconds)}"
    exchanged = target.round_trip
    if exchanged.outcome is Outcome.FAILED and target.last_failure and target.last_failure.stage:
        return target.last_failure.stage
    if exchanged.outcome in (Outcome.FAILED, Outcome.UNKNOWN):
        return exchanged.outcome
    return duration(exchanged.last)


def why(target: WatchedTarget, known: str = "") -> str:
    """What is to be said beside the figures, unless it is `known`; "" where all is well."""
    verdict = target.verdict
    parts = []
    if verdict.condition is not Condition.HEALTHY and verdict.message != known:
        parts.append(verdict.message.removeprefix(f"{target.name} "))
    if target.unknown:
        parts.append(f"the last sample told nothing: {target.unknown}")
    parts += [f"kept live: {verdict.kept_live}"] if verdict.kept_live else []
    parts += [f"kept in service: {target.kept_ready}"] if target.kept_ready else []
    if target.discovered and parts:
        parts.append("discovered: it decides nothing")
    return "; ".join(filter(None, parts))
