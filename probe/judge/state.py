"""What the judge remembers of a target between two observations."""

from __future__ import annotations

from probe.imports.typing_lite import NamedTuple
from probe.model import RoundTrip, Verdict, Work


class Watch(NamedTuple):
    """One listener under watch, told by its cookie; times on the clock of the observations."""

    cookie: int
    length: int
    limit: int | None
    accepted: bool = False
    """It has been seen to accept, ever."""
    high_since: float | None = None
    """Since when every sample found it at `saturated_at` or above."""
    low_since: float | None = None
    """Since when every sample found it below `recovered_below`."""
    saturated: bool = False
    waiting_since: float | None = None
    """Since when its queue was neither empty nor shorter than before, which may be full and moving.
    """
    stalled_for: float = 0.0
    """Seconds, in one piece, for which it is proven that something was queued and nothing accepted.
    """
    stalled_until: float = 0.0
    """Up to when `stalled_for` is counted."""


class State(NamedTuple):
    """All that the judge remembers of one target between two observations."""

    verdict: Verdict
    remembered: frozenset[int] = frozenset()
    """Cookies of listeners that an earlier life of ours saw accept."""
    at: float | None = None
    watches: tuple[Watch, ...] = ()
    watched_since: float | None = None
    """When the present listener, or the first of the present group, was first seen."""
    sampled_at: float | None = None
    accepts: int | None = None
    accepts_at: float = 0.0
    head: tuple[int, ...] = ()
    head_at: float = 0.0
    """When the head was last seen, as `accepts_at` is for the accepts."""
    absent: int = 0
    """Samples in a row that found no listener."""
    absent_since: float | None = None
    absence: str = ""
    """What was seen instead."""
    unasked: bool = False
    """No round trip is ever made."""
    begun_with: int | None = None
    """Where it is not: how many accepted connections there were when the present listener was new.
    """
    failures: int = 0
    successes: int = 0
    failing_since: float | None = None
    round_trip: RoundTrip | None = None
    """The last one that told something about the present listener."""
    proven: bool = False
    """The round trip works: proven by a good one, until enough in a row fail. Where nothing is ever
    asked: somebody listens."""
    started: bool = False
    accepted_at: float | None = None
    """The latest moment since which something is known to have been accepted."""
    work: Work | None = None
    """What the last walk of this stall has seen of what a restart would cost."""
    work_at: float = 0.0
    places: Work | None = None
    """The last walk since which no listener of the port can have accepted: a measure for the next.
    """
    broken_at: float | None = None
    """When a listener of the port may last have accepted."""
    freed_at: float | None = None
    """When a place was first seen that had become free since then, and was not taken."""
    at_work: int = 0
    """Requests that were worked on before it was."""


def later(*moments: float | None) -> float | None:
    """The latest of some moments, None where none is known."""
    return max((at for at in moments if at is not None), default=None)
