"""What the sidecar thinks of the application, as a condition of its pod: `accept-probe/Accepting`.

A condition can be the pod's readiness gate (Kubernetes, "Pod readiness"): then the Service follows
the verdict itself, and neither the period nor the time-out of a probe. The API server takes any
qualified name for one; a prefix is a DNS subdomain, of which one label is enough
(kubernetes, apimachinery pkg/util/validation, IsQualifiedName).

It tells what is known of the application, and nothing of ourselves: while we are absent, starting
or shutting down, what was written stays.
"""

import asyncio
import logging
from typing import Any, NamedTuple, NoReturn

from probe.display import utc
from probe.kubernetes.client import (
    STRATEGIC_MERGE_PATCH,
    ApiError,
    Client,
    Troubles,
    path,
    quoted,
)
from probe.kubernetes.events import Pace
from probe.kubernetes.identity import Identity
from probe.model import Condition, Reason
from probe.sidecar.board import Board

log = logging.getLogger(__name__)

TYPE = "accept-probe/Accepting"
ACCEPTING = "Accepting"
KEPT = "KeptInService"
HELD = "HeldByHand"
UNKNOWN_FOR = 10.0
"""Seconds for which a new life of ours may know nothing before it says so."""
UNTOLD = 1.0
"""Seconds after which we look again whether anything has changed that nobody told us of."""


class Wanted(NamedTuple):
    """What is to stand there. Its message keeps the figures of the first sight, as Events do."""

    accepting: bool
    reason: str
    message: str


class ConditionWriter:
    """One task that writes what the board says, when it changes; the board never waits for it."""

    def __init__(
        self,
        client: Client,
        identity: Identity,
        board: Board,
        troubles: Troubles,
        pace: Pace | None = None,
    ) -> None:
        self._client = client
        self._status = path(
            *("api", "v1", "namespaces", identity.namespace, "pods", identity.pod, "status")
        )
        self._board = board
        self._troubles = troubles
        self._pace = pace or Pace()
        self._began = board.clock()
        self._changed = asyncio.Event()
        self._written: Wanted | None = None

    def notice(self) -> None:
        """Hear that the board may say something else by now."""
        self._changed.set()

    async def run(self) -> NoReturn:
        """Write whenever something has changed, until cancelled."""
        attempt = 0
        while True:
            self._changed.clear()
            wanted = self._wanted()
            pause = UNTOLD
            if wanted is not None and not self._stands(wanted):
                try:
                    await self._write(wanted)
                except ApiError as error:
                    self._troubles.refused("condition", error)
                    pause = self._pace.delay(attempt, error)
                    attempt += 1
                else:
                    self._troubles.succeeded("condition")
                    self._written, attempt = wanted, 0
                    continue
            if attempt:
                await asyncio.sleep(pause)
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _stands(self, wanted: Wanted) -> bool:
        return self._written is not None and self._written[:2] == wanted[:2]

    def _wanted(self) -> Wanted | None:
        """What is to be written; None: leave what stands there."""
        board = self._board
        entries = board.deciding
        failing = [entry for entry in entries if not board.may_serve(entry)]
        new = board.clock() - self._began < UNKNOWN_FOR and self._written is None
        unknown = any(entry.verdict.condition is Condition.UNKNOWN for entry in failing)
        if board.leaving or (new and unknown):
            return None
        if failing:
            verdict = failing[0].verdict
            reason = verdict.reason or Reason.STARTING
            return Wanted(False, _camel(reason), quoted(verdict.message))
        held = board.held
        if held is not None and held.ready and not all(entry.verdict.ready for entry in entries):
            return Wanted(True, HELD, quoted(f"{held}"))
        kept = next(filter(None, map(board.kept, entries)), "")
        return Wanted(True, KEPT if kept else ACCEPTING, quoted(kept or "every target is ready"))

    async def _write(self, wanted: Wanted) -> None:
        condition: dict[str, Any] = {
            "type": TYPE,
            "status": f"{wanted.accepting}",
            "reason": wanted.reason,
            "message": wanted.message,
        }
        if self._written is None or self._written.accepting != wanted.accepting:
            condition["lastTransitionTime"] = utc(self._board.wall())
        # Conditions are merged by their type: a merge patch would put ours in the place of all.
        await self._client.request(
            "PATCH",
            self._status,
            {"status": {"conditions": [condition]}},
            patch=STRATEGIC_MERGE_PATCH,
        )


def _camel(reason: Reason) -> str:
    """`accept_queue_stalled` as a condition's reason is written: AcceptQueueStalled."""
    return "".join(word.capitalize() for word in reason.split("_"))
