"""The view document as records: what a sidecar tells of itself once a second. Pure.

It may come from another version, or from somebody else altogether: `read` takes what it knows, and
complains of what it needs and does not find.
"""

from typing import Any, NamedTuple

from probe.evidence.records.report import typed
from probe.model import Condition, Outcome, Stage


class Moment(NamedTuple):
    """When something was: on the wall, in UTC, and seconds before the document was made."""

    at: str = ""
    seconds_ago: float = 0.0

    @property
    def time(self) -> str:
        """Of the day, in UTC: `14:01:58`."""
        return self.at.partition("T")[2][:8]


class Durations(NamedTuple):
    """Seconds, over the last ten minutes; None while there were none."""

    last: float | None = None
    p50: float | None = None
    p99: float | None = None


class Exchanged(NamedTuple):
    """The same of round trips, with what came of the last one."""

    last: float | None = None
    p50: float | None = None
    p99: float | None = None
    outcome: Outcome | None = None


class Queue(NamedTuple):
    """The fullest accept queue of a target; None: not known."""

    length: int | None = None
    limit: int | None = None
    full: bool = False


class Drops(NamedTuple):
    last_10_minutes: int | None = None


class FailedTrip(NamedTuple):
    stage: Stage | None = None


class Judged(NamedTuple):
    condition: Condition
    message: str = ""
    since: Moment = Moment()
    kept_live: str | None = None


class History(NamedTuple):
    """Points of `step` seconds, the oldest first; `last` is the running number of the last one.

    `condition` has a letter for each: h, s, x (unhealthy), u, or a space where nothing was seen.
    """

    step: float = 1.0
    last: int = 0
    condition: str = ""
    queue: tuple[int | None, ...] = ()
    accept_delay: tuple[float | None, ...] = ()


class WatchedTarget(NamedTuple):
    """What is told of one target."""

    name: str
    verdict: Judged
    port: int | None = None
    socket: str | None = None
    host: str = ""
    ready: bool = False
    live: bool = True
    discovered: bool = False
    kept_ready: str | None = None
    unknown: str | None = None
    listeners: int = 0
    queue: Queue | None = None
    """None: nothing listens, or that is not known."""
    own_connection_queued_seconds: float | None = None
    accepts_per_second: float | None = None
    accepts_of: str = "namespace"
    drops: Drops = Drops()
    accept_delay: Durations = Durations()
    round_trip: Exchanged = Exchanged()
    last_failure: FailedTrip | None = None
    history: History = History()


class Expected(NamedTuple):
    """What happens next, if nothing changes; `in_seconds` is None where no time can be told."""

    text: str
    in_seconds: float | None = None
    target: str | None = None
    """None: of all of them."""


class Changed(NamedTuple):
    """A transition of a target, or what happened to the sidecar itself (`target` is "")."""

    when: Moment
    target: str
    after: str
    text: str = ""
    before: str = ""
    ready: bool | None = None
    live: bool | None = None


class FoundEvidence(NamedTuple):
    """What the evidence of the present incident comes to."""

    id: str
    text: str


class SidecarItself(NamedTuple):
    cannot_see: tuple[str, ...] = ()


class Document(NamedTuple):
    """Everything that is shown. `condition` is that of the worst target that decides."""

    version: str
    at: str
    started_at: Moment
    condition: Condition
    ready: bool
    live: bool
    headline: str
    targets: tuple[WatchedTarget, ...]
    reason: str = ""
    since: Moment = Moment()
    found: FoundEvidence | None = None
    view: str = ""
    next: tuple[Expected, ...] = ()
    transitions: tuple[Changed, ...] = ()
    sidecar: SidecarItself = SidecarItself()


def read(told: Any) -> Document:
    """Raises ValueError, TypeError or KeyError for what is no such document."""
    return typed(Document, told)
