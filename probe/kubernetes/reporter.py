"""The sidecar's part in the cluster: it tells of transitions and answers a stall as it was told to.

It listens to the board and is asked by it; a verdict never waits for it. What it has to do with
the API server is done in `run`, whose failures are logged, counted and tried again.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, NoReturn

from probe.kubernetes.client import Account, Client, Trouble, Troubles
from probe.kubernetes.events import EventWriter, Journal, Note, Pace
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import (
    SETTLE,
    WITHDRAW_AGAIN,
    Declined,
    Phase,
    Quarantine,
    Terms,
)
from probe.model import Transition, Verdict
from probe.sidecar.board import Board

log = logging.getLogger(__name__)


class OnStall(StrEnum):
    """What follows when /live would fail.

    RESTART: it does. HOLD: it does not, and the pod stays out of service until somebody looks.
    QUARANTINE: the pod is set aside and replaced; where that cannot be done, it is restarted.
    """

    RESTART = "restart"
    HOLD = "hold"
    QUARANTINE = "quarantine"


class ReporterSettings(NamedTuple):
    """What was asked for. `terms` are needed for QUARANTINE."""

    events: bool = False
    on_stall: OnStall = OnStall.RESTART
    terms: Terms | None = None


class Activity(NamedTuple):
    """What came of it so far, for /metrics."""

    written: dict[str, int]
    """Events by reason."""
    dropped: int
    troubles: dict[tuple[str, Trouble], int]
    """Refusals by what was tried and what came of it."""
    quarantine: Phase


class KubernetesReporter:
    """Start `run` as a task; the rest is called by the board, and costs it a look at memory."""

    def __init__(
        self,
        settings: ReporterSettings,
        board: Board,
        identity: Identity,
        account: Account,
        *,
        pace: Pace | None = None,
        settle: float = SETTLE,
    ) -> None:
        if settings.on_stall is OnStall.QUARANTINE and settings.terms is None:
            raise ValueError("quarantine needs the labels to change")
        self._settings = settings
        self._board = board
        self._identity = identity
        self._wall: Callable[[], float] = board.wall
        self._troubles = Troubles()
        client = Client(account)
        self._journal = Journal()
        self._writer = EventWriter(client, identity, self._troubles, pace)
        self._quarantine = Quarantine(
            client,
            identity,
            settings.terms or Terms(()),
            self._troubles,
            pace=pace,
            settle=settle,
            clock=board.clock,
            wall=board.wall,
        )
        self._stall = asyncio.Event()
        self._why = ""
        board.subscribe(self.on_transition)
        board.gate_live(self.gates_live)

    def on_transition(self, transition: Transition) -> None:
        """Hear of a transition, from the board."""
        self._tell(*self._journal.tell(transition, self._wall()))
        if self._settings.on_stall is not OnStall.QUARANTINE:
            return
        if transition.before.live and not transition.after.live:
            self._why = transition.after.message
            if self._quarantine.phase is Phase.NONE:
                self._quarantine.begin()
                self._stall.set()
        elif all(entry.verdict.live for entry in self._board.entries.values()):
            self._quarantine.forget()

    def evidence_saved(self, target: str, finding: str, where: str) -> None:
        """Tell that the evidence of an incident was saved: what it says, and where it is kept."""
        self._tell(*self._journal.saved(target, finding, where, self._wall()))

    def gates_live(self, verdict: Verdict) -> bool:
        """Whether /live stays good although the verdict is not."""
        if self._settings.on_stall is OnStall.QUARANTINE:
            return not verdict.live and self._quarantine.holds
        return self._settings.on_stall is OnStall.HOLD

    @property
    def activity(self) -> Activity:
        return Activity(
            dict(self._writer.written),
            self._writer.dropped,
            dict(self._troubles.counts),
            self._quarantine.phase,
        )

    async def run(self) -> NoReturn:
        """Write Events and set the pod aside, as settled; until cancelled."""
        if self._settings.events and not self._identity.known:
            log.warning(
                "events: which pod this is, is not known: set POD_NAME, POD_NAMESPACE and POD_UID "
                "from the downward API, or mount the service account's token"
            )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._writer.run())
                group.create_task(self._answer_stalls())
        finally:
            await self._quarantine.end()
        raise AssertionError("a task of the reporter returned")

    def _tell(self, *notes: Note) -> None:
        if self._settings.events and self._identity.known:
            for note in notes:
                self._writer.offer(note)

    async def _answer_stalls(self) -> NoReturn:
        while True:
            try:
                async with asyncio.timeout(WITHDRAW_AGAIN if self._quarantine.owed else None):
                    await self._stall.wait()
            except TimeoutError:
                await self._quarantine.withdraw()
            else:
                self._stall.clear()
                await self._answer_stall(self._why)

    async def _answer_stall(self, why: str) -> None:
        try:
            said = await self._quarantine.decide(why)
        except Declined as declined:
            if self._quarantine.phase is not Phase.DECLINED:
                log.info("quarantine: not set aside: %s", declined)
                return
            log.warning("quarantine: not set aside, so /live fails: %s", declined)
            reason, action = "NotQuarantined", "Restart"
            text = f"{why}; not set aside, so it is restarted: {declined}"
        else:
            log.warning("quarantine: %s is set aside (%s): %s", self._identity, said, why)
            reason, action = "Quarantined", "Quarantine"
            text = f"{why}; set aside, {said}"
        at = self._wall()
        self._tell(Note(("quarantine", f"{at}"), reason, action, text, at))
