"""Ten minutes of one target, a point a second, in 26 bytes each. No I/O."""

from array import array
from collections.abc import Iterator
from math import isnan, nan
from typing import NamedTuple

from probe.model import Condition, Listener, Observation, Outcome, Stage, Verdict

SECONDS = 600

CONDITIONS = (None, Condition.UNKNOWN, Condition.HEALTHY, Condition.SUSPECT, Condition.UNHEALTHY)
"""By the byte that stands for each; of several in a second, the last of these is kept."""

STAGES = (None, *Stage)

UNSEEN = -1


class Point(NamedTuple):
    """One second. Of several observations in it: the longest queue, with its limit, and the longest
    durations. None: not seen, or it did not happen. Durations: seconds.
    """

    second: int
    """On the clock of the observations."""
    condition: Condition | None
    length: int | None
    limit: int | None
    accepts: int | None
    """Connections accepted since the point before: see `Sample.accepts`."""
    drops: int | None
    accept_delay: float | None
    round_trip: float | None
    """Of a good one, the whole."""
    stage: Stage | None
    """Of one that failed."""


class Past:
    """Written by the board with each observation; read back as points."""

    __slots__ = (
        *(
            "first",
            "last",
            "drops",
            "_conditions",
            "_stages",
            "_lengths",
            "_limits",
            "_accepts",
            "_drops",
        ),
        *("_delays", "_totals", "_counted", "_dropped", "_own_queued_for"),
    )

    def __init__(self) -> None:
        self.first = self.last = UNSEEN
        """The seconds of the first and the last point, whether the first is still kept or not."""
        self.drops: int | None = None
        """Connections dropped by every listener there has been; None where only /proc could be
        read, which does not tell."""
        self._conditions = bytearray(SECONDS)
        self._stages = bytearray(SECONDS)
        self._lengths, self._limits, self._accepts, self._drops = (
            array("i", [UNSEEN]) * SECONDS for _ in range(4)
        )
        self._delays, self._totals = (array("f", [nan]) * SECONDS for _ in range(2))
        self._counted: int | None = None
        """The highest count of accepts so far."""
        self._dropped: dict[int, int] = {}
        """By cookie, what each listener had dropped when it was last seen."""
        self._own_queued_for: float | None = None

    def add(self, observation: Observation, verdict: Verdict) -> None:
        """Take one observation, and what was thought after it."""
        at = self._turn_to(int(observation.at))
        condition = CONDITIONS.index(verdict.condition)
        self._conditions[at] = max(self._conditions[at], condition)
        sample = observation.sample
        if sample is not None and not sample.error:
            if sample.listeners:
                worst = most_saturated(sample.listeners)
                if worst.length >= self._lengths[at]:
                    self._lengths[at] = worst.length
                    self._limits[at] = UNSEEN if worst.limit is None else worst.limit
            self._count_drops(at, sample.listeners)
            self._count_accepts(at, sample.accepts)
        trip = observation.round_trip
        if trip is not None and trip.outcome is not Outcome.UNKNOWN:
            self._stages[at] = max(self._stages[at], STAGES.index(trip.stage))
            _raise(self._delays, at, trip.phases.accept)
            if trip.outcome is Outcome.OK:
                _raise(self._totals, at, trip.phases.total)
        if observation.accepted:
            # Its round trip had ended without an accept delay: too late for that, but not for us.
            _raise(self._delays, at, self._own_queued_for)
        if sample is not None:
            self._own_queued_for = observation.own_queued_for

    def points(self) -> Iterator[Point]:
        """The last ten minutes, oldest first; a second in which nothing was observed is empty."""
        if self.last == UNSEEN:
            return
        for second in range(max(self.last - SECONDS + 1, self.first), self.last + 1):
            at = second % SECONDS
            yield Point(
                second,
                CONDITIONS[self._conditions[at]],
                _seen(self._lengths[at]),
                _seen(self._limits[at]),
                _seen(self._accepts[at]),
                _seen(self._drops[at]),
                _told(self._delays[at]),
                _told(self._totals[at]),
                STAGES[self._stages[at]],
            )

    def _turn_to(self, second: int) -> int:
        """The place of a second, of which nothing is known yet if it is a new one. Time that runs
        backwards, as that of a round trip can by a moment, is taken for the last.
        """
        if self.last == UNSEEN:
            self.first, self.last = second, second - 1
        second = max(second, self.last)
        for new in range(max(self.last + 1, second - SECONDS + 1), second + 1):
            at = new % SECONDS
            self._conditions[at] = self._stages[at] = 0
            for counts in (self._lengths, self._limits, self._accepts, self._drops):
                counts[at] = UNSEEN
            self._delays[at] = self._totals[at] = nan
        self.last = second
        return second % SECONDS

    def _count_drops(self, at: int, listeners: tuple[Listener, ...]) -> None:
        """Add what each listener dropped since it was last seen; a new one began at 0."""
        now = {one.cookie: one.drops for one in listeners if one.drops is not None}
        if now:
            more = sum(
                max(0, drops - self._dropped.get(cookie, 0)) for cookie, drops in now.items()
            )
            self.drops = (self.drops or 0) + more
            _add(self._drops, at, more)
        self._dropped = now

    def _count_accepts(self, at: int, accepts: int | None) -> None:
        """Follow the highest count seen: it may be a little less for a moment."""
        if accepts is None:
            return
        if self._counted is not None:
            _add(self._accepts, at, max(0, accepts - self._counted))
        self._counted = max(accepts, self._counted or accepts)


def most_saturated(listeners: tuple[Listener, ...]) -> Listener:
    """The one that decides."""
    return max(listeners, key=lambda one: (one.saturation or 0.0, one.length))


def _raise(durations: "array[float]", at: int, seconds: float | None) -> None:
    if seconds is not None and not durations[at] >= seconds:
        durations[at] = seconds


def _add(counts: "array[int]", at: int, more: int) -> None:
    counts[at] = max(counts[at], 0) + more


def _seen(count: int) -> int | None:
    return None if count == UNSEEN else count


def _told(duration: float) -> float | None:
    return None if isnan(duration) else duration
