"""Ten minutes of a target, a point a second."""

import sys
from collections.abc import Iterable
from math import isnan
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.model import (
    Condition,
    Observation,
    Outcome,
    Phases,
    RoundTrip,
    Sample,
    Stage,
    Verdict,
)
from probe.sidecar.past import CONDITIONS, SECONDS, STAGES, UNSEEN, Past
from tests.api.service import LISTENER, failed_trip, good_trip, healthy, seen, stalled


class Point(NamedTuple):
    """One second, with None for what was not seen."""

    second: int
    condition: Condition | None
    stage: Stage | None
    length: int | None
    limit: int | None
    accepts: int | None
    drops: int | None
    accept_delay: float | None
    round_trip: float | None
    waited: float | None


def points(past: Past) -> list[Point]:
    columns = past.columns()

    def told(column: Iterable[float]) -> list[Any]:
        return [None if value == UNSEEN or isnan(value) else value for value in column]

    states = zip(
        (CONDITIONS[condition] for condition in columns.conditions),
        (STAGES[stage] for stage in columns.stages),
        *map(told, (columns.lengths, columns.limits, columns.accepts, columns.drops)),
        *map(told, (columns.delays, columns.totals, columns.waits)),
        strict=True,
    )
    return [Point(second, *state) for second, state in enumerate(states, columns.first)]


def test_of_a_second_the_worst_is_kept() -> None:
    past = Past()
    past.add(seen(5.0, LISTENER._replace(length=5)), stalled())
    past.add(seen(5.5, LISTENER._replace(length=2)), healthy())
    past.add(good_trip(5.6), healthy())
    slow = good_trip(5.7)
    assert slow.round_trip
    past.add(
        slow._replace(round_trip=slow.round_trip._replace(phases=Phases(accept=0.5, total=1.5))),
        healthy(),
    )
    [point] = [one for one in points(past) if one.condition]
    assert point.second == 5
    assert point.condition is Condition.UNHEALTHY
    assert (point.length, point.limit) == (5, 5)
    assert (point.accept_delay, point.round_trip) == (0.5, 1.5)


def test_what_was_not_seen_is_not_there() -> None:
    past = Past()
    assert points(past) == []
    past.add(Observation(3.0, Sample(error="denied")), Verdict("8080"))
    past.add(Observation(3.5, round_trip=RoundTrip(3.0, Outcome.UNKNOWN)), Verdict("8080"))
    assert points(past)[-1] == Point(3, Condition.UNKNOWN, *[None] * 8)
    assert past.drops is None


def test_a_round_trip_that_fails_leaves_its_stage_and_no_duration() -> None:
    past = Past()
    past.add(failed_trip(1.0, Stage.UNREAD), healthy())
    assert points(past)[-1].stage is Stage.UNREAD
    assert points(past)[-1].round_trip is None


def test_an_accept_that_came_late_has_its_delay() -> None:
    past = Past()
    past.add(seen(1.0)._replace(own_queued_for=7.5), stalled())
    past.add(Observation(2.0, Sample((LISTENER,)), accepted=True), healthy())
    assert points(past)[0].waited == 7.5
    assert points(past)[-1].accept_delay == 7.5
    assert points(past)[-1].waited is None


def test_accepts_and_drops_are_told_by_the_second() -> None:
    past = Past()
    for at, accepts, drops in ((1.0, 100, 7), (2.0, 103, 7), (2.5, 102, 9), (3.0, 105, 9)):
        listener = LISTENER._replace(drops=drops)
        past.add(Observation(at, Sample((listener,), accepts)), healthy())
    assert [(one.accepts, one.drops) for one in points(past)[-3:]] == [(None, None), (3, 2), (2, 0)]
    assert past.drops == 9
    # A new listener begins at 0.
    past.add(seen(4.0, LISTENER._replace(cookie=0x20, drops=1)), healthy())
    assert past.drops == 10


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=30).map(sorted))
def test_ten_minutes_are_kept_and_no_more(moments: list[float]) -> None:
    past = Past()
    for at in moments:
        past.add(seen(at), healthy())
    told = points(past)
    assert [one.second for one in told] == list(range(told[0].second, int(moments[-1]) + 1))
    assert len(told) <= SECONDS
    observed = {int(at) for at in moments if int(at) >= told[0].second}
    assert {one.second for one in told if one.condition} == observed


def test_time_that_runs_backwards_by_a_moment_is_the_last() -> None:
    past = Past()
    past.add(seen(10.2), healthy())
    past.add(failed_trip(9.9), healthy())
    assert points(past)[-1].second == 10
    assert points(past)[-1].stage is Stage.UNANSWERED


@pytest.mark.parametrize("observations", [1, 5 * SECONDS])
def test_it_takes_19_kilobytes_whatever_happened(observations: int) -> None:
    past = Past()
    for at in range(observations):
        past.add(seen(float(at)), healthy())
    held = (getattr(past, name) for name in Past.__slots__)
    assert sum(map(sys.getsizeof, held)) < 19_500
