"""The sidecar's part in the cluster: it tells of transitions, and of what followed a stall.

It listens to the board; a verdict never waits for it. What it has to do with the API server is done
in `run`, whose failures are logged, counted and tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from probe.kubernetes.client import TIMEOUT, Account, Client, Trouble, Troubles
from probe.kubernetes.condition import ConditionWriter
from probe.kubernetes.departure import Departure, FloorActivity, FloorTerms
from probe.kubernetes.events import EventWriter, Journal, Note, Pace
from probe.kubernetes.eviction import Eviction
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import SETTLE, Phase, Quarantine, Terms
from probe.model import Hold, Transition
from probe.sidecar.board import Board

log = logging.getLogger(__name__)


class Activity(NamedTuple):
    """What came of it so far, for /metrics."""

    written: dict[str, int]
    """Events by reason."""
    dropped: int
    troubles: dict[tuple[str, Trouble], int]
    """Refusals by what was tried and what came of it."""
    quarantine: Phase
    floor: FloorActivity | None = None
    """None where no floor was asked for."""


class KubernetesReporter:
    """Start `run` as a task; the rest is called by the board, and costs it a look at memory."""

    def __init__(
        self,
        board: Board,
        identity: Identity,
        account: Account,
        *,
        events: bool = False,
        pace: Pace | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._events = events
        self._board = board
        self._identity = identity
        self._wall: Callable[[], float] = board.wall
        self._troubles = Troubles()
        self._client = Client(account, timeout)
        self._pace = pace
        self._journal = Journal()
        self._writer = EventWriter(self._client, identity, self._troubles, pace)
        self._quarantine: Quarantine | None = None
        self._departure: Departure | None = None
        self._condition: ConditionWriter | None = None
        board.subscribe(self.on_transition)
        board.hear_of_holds(self.on_hold)

    def quarantine(self, terms: Terms, *, settle: float = SETTLE) -> Quarantine:
        """The way to set this pod aside."""
        self._quarantine = Quarantine(
            self._client,
            self._identity,
            terms,
            self._troubles,
            pace=self._pace,
            settle=settle,
            clock=self._board.clock,
            wall=self._board.wall,
        )
        return self._quarantine

    def eviction(self) -> Eviction:
        """The way to have this pod evicted."""
        return Eviction(
            self._client,
            self._identity,
            self._troubles,
            tell=self.tell,
            pace=self._pace,
            clock=self._board.clock,
        )

    def keep_floor(self, terms: FloorTerms) -> None:
        """Let an overloaded pod leave its Services only while enough others are ready."""
        self._departure = Departure(
            self._client,
            self._identity,
            terms,
            self._board,
            self._troubles,
            pace=self._pace,
            told=lambda said: self.tell("KeptInService", "KeepInService", said),
            answered=self._notice,
        )
        self._board.gate_ready(self._departure.keeps)
        self._board.subscribe(self._departure.on_transition)

    def write_condition(self) -> None:
        """Keep a condition of this pod at what the board says."""
        self._condition = ConditionWriter(
            self._client, self._identity, self._board, self._troubles, self._pace
        )

    def on_transition(self, transition: Transition) -> None:
        """Hear of a transition, from the board."""
        self._offer(*self._journal.tell(transition, self._wall()))
        self._notice()

    def on_hold(self, _before: Hold | None, after: Hold | None) -> None:
        """Hear of a hold, from the board."""
        if after is not None:
            self.tell("HoldBegun", "Hold", f"{after}")
        else:
            self.tell("HoldEnded", "Release", "/live says again what is found")
        self._notice()

    def evidence_saved(self, target: str, finding: str, where: str) -> None:
        """Tell that the evidence of an incident was saved: what it says, and where it is kept."""
        self._offer(*self._journal.saved(target, finding, where, self._wall()))

    def tell(self, reason: str, action: str, text: str) -> None:
        """Tell what followed a stall or did not, and what somebody does about it."""
        at = self._wall()
        self._offer(Note((reason, f"{at}"), reason, action, text, at))

    @property
    def activity(self) -> Activity:
        return Activity(
            dict(self._writer.written),
            self._writer.dropped,
            dict(self._troubles.counts),
            self._quarantine.phase if self._quarantine else Phase.NONE,
            self._departure.activity if self._departure else None,
        )

    async def run(self) -> NoReturn:
        """Write Events, and do what else was asked for, until cancelled."""
        wanted = {
            "events": self._events,
            "condition": self._condition is not None,
            "floor": self._departure is not None,
        }
        if any(wanted.values()) and not self._identity.known:
            log.warning(
                "%s: which pod this is, is not known: set POD_NAME, POD_NAMESPACE and POD_UID "
                "from the downward API, or mount the service account's token",
                ", ".join(what for what, is_wanted in wanted.items() if is_wanted),
            )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._writer.run())
            if self._departure is not None:
                group.create_task(self._departure.run())
            if self._condition is not None and self._identity.known:
                group.create_task(self._condition.run())
        raise AssertionError("a task of the reporter returned")

    def _notice(self) -> None:
        """What the board answers may have changed."""
        if self._condition is not None:
            self._condition.notice()

    def _offer(self, *notes: Note) -> None:
        if self._events and self._identity.known:
            for note in notes:
                self._writer.offer(note)
