"""Ten minutes of a target as lists, and what they come to. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import ceil
from typing import Any

from probe.api.status import About, Now
from probe.model import Condition
from probe.sidecar.board import Entry
from probe.sidecar.past import CONDITIONS, SECONDS, Point

POINTS = 6000
"""Points of all histories together; of more targets than ten, a point is more than a second."""

LATELY = 10
"""Points over which a rate is told."""

LETTERS = {
    None: " ",
    Condition.UNKNOWN: "u",
    Condition.HEALTHY: "h",
    Condition.SUSPECT: "s",
    Condition.UNHEALTHY: "x",
}
"""What stands for a condition; a blank: nothing was observed."""


def step_for(targets: int) -> int:
    """Seconds that a point stands for, where there are so many targets."""
    return max(ceil(targets * SECONDS / POINTS), 1)


def history(entry: Entry, about: About, now: Now, step: int, seconds: int) -> dict[str, Any]:
    """The last so many seconds, the oldest first: lists of one length, but for the stages, which
    stand by the number of their point. A number stays a point's from one document to the next.
    """
    reach = ceil(2 * about.policy.interval)
    filled = _filled(entry.past.points(), reach)
    points = [
        _together(number, tuple(group))
        for number, group in groupby(filled, key=lambda point: point.second // step)
    ][-ceil(seconds / step) :]
    last = points[-1].second if points else 0
    return {
        "step": step,
        "last": last,
        "seconds_ago": round(max(now.monotonic - (last + 1) * step, 0.0), 1) if points else None,
        "condition": "".join(LETTERS[point.condition] for point in points),
        "queue": [point.length for point in points],
        "limit": [point.limit for point in points],
        "accept_delay": [_rounded(point.accept_delay) for point in points],
        "round_trip": [_rounded(point.round_trip) for point in points],
        "accepts": [point.accepts for point in points],
        "drops": [point.drops for point in points],
        "stage": {str(point.second): point.stage for point in points if point.stage},
    }


def _filled(points: Iterable[Point], reach: int) -> Iterator[Point]:
    """The points, where one without an observation tells what was last seen, if that is no longer
    ago than `reach` seconds: between two samples nothing else is known.
    """
    last: Point | None = None
    for point in points:
        if point.condition is not None:
            last = point
            yield point
        elif last is not None and point.second - last.second <= reach:
            yield point._replace(condition=last.condition, length=last.length, limit=last.limit)
        else:
            yield point


def _together(number: int, points: Sequence[Point]) -> Point:
    """Several seconds as one: the worst of them, and the sum of what is counted."""
    if len(points) == 1:
        return points[0]._replace(second=number)
    conditions = [point.condition for point in points]
    longest = max(points, key=lambda point: -1 if point.length is None else point.length)
    return Point(
        second=number,
        condition=max(conditions, key=CONDITIONS.index),
        length=longest.length,
        limit=longest.limit,
        accepts=total(point.accepts for point in points),
        drops=total(point.drops for point in points),
        accept_delay=_longest(point.accept_delay for point in points),
        round_trip=_longest(point.round_trip for point in points),
        stage=next((point.stage for point in reversed(points) if point.stage), None),
    )


def spread(durations: Iterable[float | None]) -> dict[str, Any]:
    """What durations come to, in seconds; percentiles by the nearest rank."""
    told = [duration for duration in durations if duration is not None]
    ranked = sorted(told)

    def rank(share: float) -> float | None:
        return _rounded(ranked[ceil(share * len(ranked)) - 1]) if ranked else None

    return {
        "last": _rounded(told[-1]) if told else None,
        "p50": rank(0.5),
        "p90": rank(0.9),
        "p99": rank(0.99),
        "max": rank(1.0),
        "count": len(told),
    }


def rate(counts: Sequence[int | None]) -> float | None:
    """How many a second, lately; None: nothing was counted."""
    seen = [count for count in counts[-LATELY:] if count is not None]
    return round(sum(seen) / len(counts[-LATELY:]), 2) if seen else None


def total(counts: Iterable[int | None]) -> int | None:
    """How many; None: nothing was counted."""
    seen = [count for count in counts if count is not None]
    return sum(seen) if seen else None


def _longest(durations: Iterable[float | None]) -> float | None:
    return max((duration for duration in durations if duration is not None), default=None)


def _rounded(duration: float | None) -> float | None:
    return None if duration is None else round(duration, 6)
