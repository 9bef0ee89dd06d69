"""Ten minutes of one target, a point a second, in 30 bytes each. No I/O."""

from array import array
from math import nan
from typing import Any, NamedTuple

from probe.model import Condition, Listener, Observation, Outcome, Stage, Verdict

SECONDS = 600

CONDITIONS = (None, Condition.UNKNOWN, Condition.HEALTHY, Condition.SUSPECT, Condition.UNHEALTHY)
"""By the byte that stands for each; of several in a second, the last of these is kept."""

STAGES = (None, *Stage)

UNSEEN = -1


class Columns(NamedTuple):
    """So many seconds of a past, the oldest first. Of several observations in one: the longest
    queue, with its limit, and the longest durations. Counts are UNSEEN and durations NaN where
    nothing was seen, or nothing happened. Durations: seconds.
    """

    first: int
    """The first second, on the clock of the observations."""
    conditions: bytes
    """Of CONDITIONS."""
    stages: bytes
    """Of STAGES: of a round trip that failed."""
    lengths: "array[int]"
    limits: "array[int]"
    accepts: "array[int]"
    """Connections accepted since the second before: see `Sample.accepts`."""
    drops: "array[int]"
    delays: "array[float]"
    """The accept delay."""
    totals: "array[float]"
    """Of a good round trip, the whole."""
    waits: "array[float]"
    """For how long our own connection was seen in the queue, and still is."""


class Past:
    """Written by the board with each observation; read back as columns."""

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
        *("_delays", "_totals", "_waits", "_counted", "_dropped", "_own_queued_for"),
    )

    def __init__(self) -> None:
        self.first = self.last = UNSEEN
        """The seconds of the first and the last point, whether the first is still kept or not."""
        self.drops: int | None = None
        """Connections dropped by every listener there has been; None where only /proc could be
        read, which does not tell."""
        self._conditions, self._stages = (array("B", [0]) * SECONDS for _ in range(2))
        self._lengths, self._limits, self._accepts, self._drops = (
            array("i", [UNSEEN]) * SECONDS for _ in range(4)
        )
        self._delays, self._totals, self._waits = (array("f", [nan]) * SECONDS for _ in range(3))
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
            _raise(self._waits, at, observation.own_queued_for)

    def columns(self, seconds: int = SECONDS) -> Columns:
        """The last so many seconds, or as many as there have been."""
        kept = min(seconds, SECONDS, self.last - self.first + 1) if self.last != UNSEEN else 0

        def ordered(column: "array[Any]") -> "array[Any]":
            turn = (self.last + 1) % SECONDS
            return (column[turn:] + column[:turn])[SECONDS - kept :]

        return Columns(
            self.last - kept + 1,
            bytes(ordered(self._conditions)),
            bytes(ordered(self._stages)),
            ordered(self._lengths),
            ordered(self._limits),
            ordered(self._accepts),
            ordered(self._drops),
            ordered(self._delays),
            ordered(self._totals),
            ordered(self._waits),
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
            self._delays[at] = self._totals[at] = self._waits[at] = nan
        self.last = second
        return second % SECONDS

    def _count_drops(self, at: int, listeners: tuple[Listener, ...]) -> None:
        """Add what each listener dropped since it was last seen; a new one began at 0. When those
        dropped that the first look found is not known: they are of no second.
        """
        now = {one.cookie: one.drops for one in listeners if one.drops is not None}
        if now:
            more = sum(
                max(0, drops - self._dropped.get(cookie, 0)) for cookie, drops in now.items()
            )
            if self.drops is not None:
                _add(self._drops, at, more)
            self.drops = (self.drops or 0) + more
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
