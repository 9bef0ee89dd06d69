"""Ten minutes of a target as lists, and what they come to. Pure."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import Any, TypeVar

from probe.model import Condition
from probe.sidecar.past import CONDITIONS, SECONDS, STAGES, UNSEEN, Columns, Past

POINTS = 6000
"""Points of all histories together; of more targets than ten, a point is more than a second."""

LATELY = 10
"""Seconds over which a rate is told, and that a document has of what is told anew each time."""

LETTERS = {
    None: " ",
    Condition.UNKNOWN: "u",
    Condition.HEALTHY: "h",
    Condition.SUSPECT: "s",
    Condition.UNHEALTHY: "x",
}
"""What stands for a condition; a blank: nothing was observed."""

Column = TypeVar("Column", bytes, "array[int]", "array[float]")


def step_for(targets: int) -> int:
    """Seconds that a point stands for, where there are so many targets."""
    return max(ceil(targets * SECONDS / POINTS), 1)


def history(past: Past, reach: int, now: float, step: int, seconds: int) -> dict[str, Any]:
    """The last so many seconds, the oldest first: lists of one length, but for the stages, which
    stand by the number of their point. A number stays a point's from one document to the next.

    Of a second without an observation it is told what was last seen, if that is no longer ago than
    `reach` seconds: between two samples nothing else is known. `now` is on the clock of the past.
    """
    seconds = max(seconds, 2 * step)  # Or the last but one would be told before it was over.
    columns = _filled(past.columns(seconds + step + reach), reach)
    if step > 1:
        columns = _together(columns, step)
    columns = _last(columns, ceil(seconds / step))
    count = len(columns.conditions)
    last = columns.first + count - 1
    return {
        "step": step,
        "last": last if count else 0,
        "seconds_ago": round(max(now - (last + 1) * step, 0.0), 1) if count else None,
        "condition": "".join(LETTERS[CONDITIONS[condition]] for condition in columns.conditions),
        "queue": _counts(columns.lengths),
        "limit": _counts(columns.limits),
        "accept_delay": _durations(columns.delays),
        "own_connection_queued": _durations(columns.waits),
        "round_trip": _durations(columns.totals),
        "accepts": _counts(columns.accepts),
        "drops": _counts(columns.drops),
        "stage": {
            str(number): STAGES[stage]
            for number, stage in enumerate(columns.stages, columns.first)
            if stage
        },
    }


def _filled(columns: Columns, reach: int) -> Columns:
    if 0 not in columns.conditions:
        return columns
    conditions = bytearray(columns.conditions)
    lengths, limits = columns.lengths[:], columns.limits[:]
    seen = None
    for at, condition in enumerate(columns.conditions):
        if condition:
            seen = at
        elif seen is not None and at - seen <= reach:
            conditions[at], lengths[at], limits[at] = conditions[seen], lengths[seen], limits[seen]
    return columns._replace(conditions=bytes(conditions), lengths=lengths, limits=limits)


def _together(columns: Columns, step: int) -> Columns:
    """Several seconds as one: the worst of them, and the sum of what is counted."""
    number, offset = divmod(columns.first, step)

    def each(column: Column, merge: Callable[[Column], Any]) -> list[Any]:
        starts = range(-offset, len(column), step)
        return [merge(column[max(start, 0) : start + step]) for start in starts]

    return Columns(
        number,
        bytes(each(columns.conditions, max)),
        bytes(each(columns.stages, max)),
        array("i", each(columns.lengths, max)),
        array("i", each(columns.limits, max)),
        array("i", each(columns.accepts, _sum)),
        array("i", each(columns.drops, _sum)),
        array("f", each(columns.delays, _longest)),
        array("f", each(columns.totals, _longest)),
        array("f", each(columns.waits, _longest)),
    )


def _last(columns: Columns, points: int) -> Columns:
    more = max(len(columns.conditions) - points, 0)
    rest: tuple[Any, ...] = columns[1:]
    return Columns(columns.first + more, *(column[more:] for column in rest))


def _told(durations: Iterable[float]) -> list[float]:
    return [duration for duration in durations if duration == duration]  # which NaN is not


def spread(durations: "array[float]") -> dict[str, Any]:
    """What durations come to, in seconds; percentiles by the nearest rank."""
    told = _told(durations)
    ranked = sorted(told)

    def rank(share: float) -> float | None:
        return round(ranked[ceil(share * len(ranked)) - 1], 6) if ranked else None

    return {
        "last": round(told[-1], 6) if told else None,
        "p50": rank(0.5),
        "p90": rank(0.9),
        "p99": rank(0.99),
        "max": rank(1.0),
        "count": len(told),
    }


def rate(counts: "array[int]") -> float | None:
    """How many a second, lately; None: nothing was counted."""
    lately = counts[-LATELY:]
    counted = total(lately)
    return None if counted is None else round(counted / len(lately), 2)


def total(counts: "array[int]") -> int | None:
    """How many; None: nothing was counted."""
    counted = _sum(counts)
    return None if counted == UNSEEN else counted


def _sum(counts: Sequence[int]) -> int:
    seen = [count for count in counts if count != UNSEEN]
    return sum(seen) if seen else UNSEEN


def _longest(durations: Sequence[float]) -> float:
    told = _told(durations)
    return max(told) if told else float("nan")


def _counts(column: "array[int]") -> list[int | None]:
    return [None if count == UNSEEN else count for count in column]


def _durations(column: "array[float]") -> list[float | None]:
    return [round(duration, 6) if duration == duration else None for duration in column]
