"""Events on our own pod: what `kubectl describe pod` and `kubectl events` show of an incident.

The API's rules for events.k8s.io/v1 (kubernetes, pkg/apis/core/validation/events.go): eventTime,
action, reason, reportingController and reportingInstance are required; the note ends at 1,024
bytes; once written, only the series may change, and its count starts at 2. So the note keeps the
figures of the first sight, and what comes after raises the count.
"""

import asyncio
import logging
import random
from collections import Counter, OrderedDict, deque
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from probe.kubernetes.client import ApiError, Client, Trouble, Troubles, path
from probe.kubernetes.identity import Identity
from probe.model import Condition, Reason, Transition

log = logging.getLogger(__name__)

CONTROLLER = "accept-probe"
QUEUE = 100
"""Events that wait for the API server; what comes on top is dropped and counted."""
GIVE_UP = 3600.0
"""Seconds after which an Event is not worth writing: the API server keeps them no longer."""
REMEMBERED = 100
"""Incidents whose Events can still be counted up."""
LONGEST_NOTE = 1024

REASONS = {
    Reason.ACCEPT_QUEUE_STALLED: "AcceptQueueStalled",
    Reason.ACCEPT_QUEUE_SATURATED: "AcceptQueueSaturated",
    Reason.ROUND_TRIP_FAILED: "RoundTripFailed",
}
"""A listener that has gone is no Event: every rollout closes some, and kubelet tells the rest."""


class Note(NamedTuple):
    """What one Event says. Notes with the same key are one Event, counted up."""

    key: tuple[str, ...]
    reason: str
    action: str
    text: str
    at: float
    """On the wall clock, for people."""
    warning: bool = True


class Pace(NamedTuple):
    """How long to wait before asking again, in seconds: doubled each time, up to the most."""

    first: float = 1.0
    most: float = 60.0

    def delay(self, attempt: int, error: ApiError) -> float:
        """The server's own wish comes first; the jitter keeps a thousand sidecars apart."""
        if error.retry_after is not None:
            return error.retry_after
        longest = min(self.first * 2.0 ** min(attempt, 30), self.most)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Journal:
    """What transitions and evidence have to say to an operator, and what they have not.

    A suspicion is not worth an Event, nor is an application that starts or ends, and neither is
    the evidence of it. An incident ends when the target is healthy: it may have been restarted
    in between.
    """

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        """When the trouble of a target began that an Event has told of."""
        self._evidence: dict[str, Note] = {}
        """By target, the evidence of what may yet become worth an Event."""

    def tell(self, transition: Transition, at: float) -> tuple[Note, ...]:
        """Return what there is to say of a transition."""
        after = transition.after
        name = after.target
        if after.condition is Condition.HEALTHY:
            self._evidence.pop(name, None)
            since = self._since.pop(name, None)
            if since is None:
                return ()
            text = f"{after.message}; recovered {transition.at - since:.0f} s after the first sign"
            key = name, f"{since}", "Recovered"
            return (Note(key, "Recovered", "ReturnToService", text, at, warning=False),)
        if after.condition is not Condition.UNHEALTHY or after.reason not in REASONS:
            return ()
        incident = transition.at if after.incident is None else after.incident
        self._since.setdefault(name, incident)
        reason = REASONS[after.reason]
        key = name, f"{incident}", reason
        note = Note(key, reason, "TakeOutOfService", after.message, at)
        evidence = self._evidence.pop(name, None)
        return (note, evidence) if evidence else (note,)

    def saved(self, target: str, finding: str, where: str, at: float) -> tuple[Note, ...]:
        """Return what there is to say of saved evidence; or keep it until there is."""
        text = f"{finding} (evidence: {where})"
        note = Note((target, where), "EvidenceSaved", "SaveEvidence", text, at, warning=False)
        if target in self._since:
            return (note,)
        self._evidence[target] = note
        return ()


def micro_time(at: float) -> str:
    """Seconds since the epoch as the API's MicroTime."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class EventWriter:
    """A bounded queue, and one task that empties it at the API server's pace."""

    def __init__(
        self, client: Client, identity: Identity, troubles: Troubles, pace: Pace | None = None
    ) -> None:
        self._client = client
        self._identity = identity
        self._troubles = troubles
        self._pace = pace or Pace()
        self._queue: deque[Note] = deque()
        self._filled = asyncio.Event()
        self._series: OrderedDict[tuple[str, ...], tuple[str, int]] = OrderedDict()
        self.written: Counter[str] = Counter()
        """By reason."""
        self.dropped = 0

    def offer(self, note: Note) -> None:
        """Take a note, or drop it when too many wait. Never blocks."""
        if len(self._queue) >= QUEUE:
            self.dropped += 1
            return
        self._queue.append(note)
        self._filled.set()

    async def run(self) -> NoReturn:
        """Write what is offered, one by one, until cancelled."""
        while True:
            await self._filled.wait()
            while self._queue:
                # It keeps its place in the queue until it is written: the bound holds for it too.
                await self._deliver(self._queue[0])
                self._queue.popleft()
            self._filled.clear()

    async def _deliver(self, note: Note) -> None:
        attempt = 0
        deadline = asyncio.get_running_loop().time() + GIVE_UP
        while True:
            try:
                await self._write(note)
            except ApiError as error:
                self._troubles.refused("events", error)
                delay = self._pace.delay(attempt, error)
                if not error.passing or asyncio.get_running_loop().time() + delay > deadline:
                    self.dropped += 1
                    return
                attempt += 1
                await asyncio.sleep(delay)
            else:
                self._troubles.succeeded("events")
                self.written[note.reason] += 1
                return

    async def _write(self, note: Note) -> None:
        """Count the Event of this incident up where there is one, else create it."""
        where = "apis", "events.k8s.io", "v1", "namespaces", self._identity.namespace, "events"
        if note.key in self._series:
            name, count = self._series[note.key]
            series = {"count": count + 1, "lastObservedTime": micro_time(note.at)}
            try:
                await self._client.request("PATCH", path(*where, name), {"series": series})
            except ApiError as error:
                if error.trouble is not Trouble.NOT_FOUND:
                    raise
                del self._series[note.key]  # it outlived its time to live: the next is a new one
            else:
                self._remember(note.key, name, count + 1)
                return
        event = event_of(note, self._identity)
        name = event["metadata"]["name"]
        try:
            await self._client.request("POST", path(*where), event)
        except ApiError as error:
            # The name is ours alone: it is there already when an earlier answer was lost.
            if error.trouble is not Trouble.CONFLICT:
                raise
        self._remember(note.key, name, 1)

    def _remember(self, key: tuple[str, ...], name: str, count: int) -> None:
        self._series[key] = name, count
        self._series.move_to_end(key)
        while len(self._series) > REMEMBERED:
            self._series.popitem(last=False)


def event_of(note: Note, identity: Identity) -> dict[str, Any]:
    """The Event as the API server takes it; the same note makes the same name."""
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{identity.pod[:200]}.{note.reason.lower()}.{int(note.at * 1e6):x}",
            "namespace": identity.namespace,
        },
        "eventTime": micro_time(note.at),
        "type": "Warning" if note.warning else "Normal",
        "reason": note.reason,
        "action": note.action,
        "note": note.text.encode(errors="replace")[:LONGEST_NOTE].decode(errors="ignore"),
        "reportingController": CONTROLLER,
        "reportingInstance": identity.pod[:128],
        "regarding": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": identity.namespace,
            "name": identity.pod,
            "uid": identity.uid,
        },
    }
