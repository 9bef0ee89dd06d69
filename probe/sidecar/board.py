"""The latest verdict on every target, a bounded history, and who hears of changes. No I/O."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from probe.judge import State
from probe.model import (
    Hold,
    Listener,
    Observation,
    Reason,
    RoundTrip,
    Sample,
    Target,
    Transition,
    Verdict,
)
from probe.sidecar.past import Past

HISTORY = 120
"""Observations kept for each target: two minutes at the default interval."""

FAILURES = 20
"""Failed round trips kept beside them, so that later good ones do not push them out."""

TRANSITIONS = 50

EVIDENCE = 20
"""Incidents of a target whose ids are kept, as many as are in the store by default."""

Observer = Callable[[str, Observation], None]
Subscriber = Callable[[Transition], None]
Gate = Callable[[Verdict], bool]
ReadyGate = Callable[[Verdict], str]
HoldHearer = Callable[[Hold | None, Hold | None], None]


logger = logging.getLogger(__name__)


def _tell(subscriber: Callable[..., None], *news: object) -> None:
    """A subscriber that fails must not take the monitor, and with it the verdict, along."""
    try:
        subscriber(*news)
    except Exception:
        logger.exception("a subscriber of the board failed")


class Recorded(NamedTuple):
    """A transition with the time on the wall, for people."""

    wall: float
    transition: Transition


class SavedEvidence(NamedTuple):
    """An incident that was saved at a moment of the board's clock: its id, and in a line what was
    found, which names processes and threads.
    """

    at: float
    id: str
    finding: str


class Entry:
    """What is known of one target. Written by the board alone, read by everyone."""

    def __init__(self, target: Target, verdict: Verdict) -> None:
        self.target = target
        self.verdict = verdict
        self.sample: Sample | None = None
        """The last sample that told something."""
        self.unknown = ""
        """Why the very last sample could not tell; empty when it could."""
        self.round_trip: RoundTrip | None = None
        self.own_queued_for: float | None = None
        self.samples = 0
        self.unknowns = 0
        self.state: State | None = None
        """What the judge remembers beside the verdict; None: no observation came yet."""
        self.past = Past()
        self.history: deque[Observation] = deque(maxlen=HISTORY)
        self.failures: deque[RoundTrip] = deque(maxlen=FAILURES)
        self.transitions: deque[Recorded] = deque(maxlen=TRANSITIONS)
        self.evidence: deque[SavedEvidence] = deque(maxlen=EVIDENCE)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return self.sample.listeners if self.sample else ()


class Board:
    """Verdicts in, answers out: `ready`, `live` and `started` are read from memory."""

    def __init__(
        self,
        targets: Iterable[Target],
        *,
        discovered_decide: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`discovered_decide`: the stall of a listener that was found makes the pod not ready."""
        self._discovered_decide = discovered_decide
        self.clock = clock
        self.wall = wall
        self.shutting_down = False
        self.leaving = False
        """The pod is being deleted, or the sidecar alone is to end: what changes is no incident."""
        self.accepts_unknown = ""
        """Why the accepts of the namespace are not counted; "" while they are."""
        self.entries: dict[str, Entry] = {}
        self._observers: list[Observer] = []
        self._subscribers: list[Subscriber] = []
        self._gates: list[Gate] = []
        self._ready_gates: list[ReadyGate] = []
        self._hold: Hold | None = None
        self._hold_hearers: list[HoldHearer] = []
        self._coming: list[Callable[[Target], None]] = []
        self._going: list[Callable[[str], None]] = []
        for target in targets:
            self.add(target)

    def add(self, target: Target) -> None:
        """From now on there is a verdict on this target too."""
        verdict = Verdict(target.name, since=self.clock())
        self.entries[target.name] = Entry(target, verdict)
        for coming in self._coming:
            _tell(coming, target)

    def forget(self, name: str) -> None:
        """From now on there is no such target."""
        for going in self._going:
            _tell(going, name)
        del self.entries[name]

    def on_coming(self, coming: Callable[[Target], None]) -> None:
        """Call `coming(target)` for every target there is, and for each that is added."""
        self._coming.append(coming)
        for entry in self.entries.values():
            coming(entry.target)

    def on_going(self, going: Callable[[str], None]) -> None:
        """Call `going(name)` before a target is forgotten."""
        self._going.append(going)

    def observe(self, observer: Observer) -> None:
        """Call `observer(target, observation)` after each observation."""
        self._observers.append(observer)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber(transition)` after each transition, but of what is leaving."""
        self._subscribers.append(subscriber)

    def gate_live(self, gate: Gate) -> None:
        """Keep a target live while `gate(verdict)` is true: its evidence is still being saved."""
        self._gates.append(gate)

    def gate_ready(self, gate: ReadyGate) -> None:
        """Keep a target in service whose verdict is not ready while `gate(verdict)` says why."""
        self._ready_gates.append(gate)

    def hear_of_holds(self, hearer: HoldHearer) -> None:
        """Call `hearer(before, after)` when a hold begins, changes or ends; None: there is none."""
        self._hold_hearers.append(hearer)

    def publish(
        self,
        name: str,
        observation: Observation,
        verdict: Verdict,
        transition: Transition | None,
        state: State | None = None,
    ) -> None:
        """Take one step of the judge; the only way in."""
        entry = self.entries[name]
        entry.verdict = verdict
        entry.state = state
        entry.own_queued_for = observation.own_queued_for
        entry.history.append(observation)
        entry.past.add(observation, verdict)
        if observation.sample is not None:
            entry.samples += 1
            entry.unknown = observation.sample.error
            if observation.sample.error:
                entry.unknowns += 1
            else:
                entry.sample = observation.sample
        if observation.round_trip is not None:
            entry.round_trip = observation.round_trip
            if observation.round_trip.stage is not None:
                entry.failures.append(observation.round_trip)
        for observer in self._observers:
            _tell(observer, name, observation)
        if transition is not None:
            entry.transitions.append(Recorded(self.wall(), transition))
            for subscriber in () if self.leaving else self._subscribers:
                _tell(subscriber, transition)

    def evidence_saved(self, name: str, identity: str, finding: str) -> None:
        """Take note of an incident that was saved."""
        if name in self.entries:  # It may have been forgotten meanwhile.
            saved = SavedEvidence(self.clock(), identity, finding)
            self.entries[name].evidence.append(saved)

    def leave(self) -> None:
        """From now on nobody is told of transitions: applications that end close their listeners,
        drop connections and answer no more.
        """
        self.leaving = True

    def hold(self, hold: Hold | None) -> None:
        """Keep every target live until the hold is over, in place of any other; None: no longer."""
        before, self._hold = self._hold, hold
        if before != hold:
            for hearer in self._hold_hearers:
                _tell(hearer, before, hold)

    @property
    def held(self) -> Hold | None:
        """The hold that lasts at this moment."""
        hold = self._hold
        return hold if hold is not None and self.clock() < hold.until else None

    def is_given_up(self, entry: Entry) -> bool:
        """Whether a restart would help, and nobody wants to see the target as it is first."""
        return not entry.verdict.live and self.held is None

    def shut_down(self) -> None:
        """From now on nothing is ready: the pod is about to go."""
        self.leave()
        self.shutting_down = True

    def is_ready(self, entry: Entry) -> bool:
        return self.may_serve(entry) and not self.shutting_down

    def may_serve(self, entry: Entry) -> bool:
        """Whether the target is ready, or has to do: shutting down is the sidecar's own affair."""
        held = self.held
        return entry.verdict.ready or (held is not None and held.ready) or bool(self.kept(entry))

    def kept(self, entry: Entry) -> str:
        """Why a target is in service although its verdict is not ready; "" where that is not so."""
        if entry.verdict.ready:
            return ""
        return next(filter(None, (gate(entry.verdict) for gate in self._ready_gates)), "")

    def is_live(self, entry: Entry) -> bool:
        verdict = entry.verdict
        return verdict.live or self.held is not None or any(gate(verdict) for gate in self._gates)

    @property
    def deciding(self) -> list[Entry]:
        """Those on which the pod depends: the targets that were asked for, and of the others, if
        they are to decide, any that has stalled.
        """
        return [entry for entry in self.entries.values() if self._decides(entry)]

    def _decides(self, entry: Entry) -> bool:
        if not entry.target.discovered:
            return True
        verdict = entry.verdict
        stalled = verdict.reason is Reason.ACCEPT_QUEUE_STALLED and not verdict.ready
        return self._discovered_decide and stalled

    @property
    def ready(self) -> bool:
        return not self.shutting_down and all(map(self.may_serve, self.deciding))

    @property
    def live(self) -> bool:
        return all(self.is_live(entry) for entry in self.deciding)

    @property
    def started(self) -> bool:
        return all(entry.verdict.started for entry in self.deciding)

    def reason(self, entry: Entry) -> Reason | None:
        """Why a target is not ready, shutting down before all else."""
        return Reason.SHUTTING_DOWN if self.shutting_down else entry.verdict.reason
