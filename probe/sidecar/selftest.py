"""Which evidence will be available in this pod: tried once per target, told in log and /status."""

import asyncio
import logging

from probe.evidence.access import self_test
from probe.evidence.records.audit import Access
from probe.model import Transition
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)


class SelfTest:
    """Tries when a target has started: then its processes are there to be tried on."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._found: dict[str, tuple[Access, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        board.subscribe(self._on_transition)

    def found(self, target: str) -> tuple[Access, ...]:
        """Return what was found for a target; () until it was tried."""
        return self._found.get(target, ())

    def _on_transition(self, transition: Transition) -> None:
        target = self._board.entries[transition.target].target
        if target.discovered:
            return  # It is told for those that were asked for: once a port would be a flood.
        if transition.after.started and transition.target not in self._found:
            self._found[transition.target] = ()
            task = asyncio.create_task(self._try(transition.target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _try(self, name: str) -> None:
        listeners = self._board.entries[name].listeners
        try:
            found = await asyncio.to_thread(self_test, listeners)
        except OSError as error:
            logger.warning("%s: the evidence could not be tried: %s", name, error)
            return
        except Exception:
            logger.exception("%s: the self-test of the evidence failed", name)
            return
        self._found[name] = found
        for one in found:
            verb = "available" if one.available else "not available"
            change = f"; {one.change}" if one.change else ""
            logger.info("%s evidence: %s %s: %s%s", name, one.name, verb, one.why, change)
