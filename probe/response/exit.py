"""`--on-stall exit`: the sidecar ends with a status of its own, and by a rule of the pod kubelet
restarts all containers: `RestartAllContainers` in restartPolicyRules, Kubernetes 1.36.

Where there is no such rule, kubelet restarts the sidecar alone, which finds the same stall again.
So it is remembered for which listener it has ended, and is not done twice: the rule would have
replaced that.
"""

from collections.abc import Callable

from probe import exits
from probe.model import OnStall
from probe.response.stalls import Declined, Response, Stall
from probe.sidecar.board import Board
from probe.sidecar.memory import Memory


class Exit(Response):
    """Ends the sidecar, for kubelet to end the rest."""

    kind = OnStall.EXIT
    events = ("SidecarExits", "NotExited")
    action = "Exit"
    refusal = "not ended"

    def __init__(self, board: Board, memory: Memory, end: Callable[[int], None]) -> None:
        """`end` makes the sidecar end with a status, a little later."""
        super().__init__(board.clock)
        self._board = board
        self._memory = memory
        self._before = memory.load()
        self._end = end

    async def give(self, stall: Stall) -> str:
        """End, unless that was in vain before."""
        listeners = self._board.entries[stall.target].listeners
        cookies = frozenset(listener.cookie for listener in listeners)
        if cookies & self._before:
            raise Declined(
                f"the sidecar has ended with status {exits.STALLED} for this stall before, and the "
                "application was not restarted: restartPolicyRules need the action "
                "RestartAllContainers, and that needs Kubernetes 1.36"
            )
        self._memory.remember(cookies)
        self._end(exits.STALLED)
        return f"the sidecar ends with status {exits.STALLED}, so that all containers are restarted"
