"""What follows a stall: the ways to answer one, in the order they were asked for.

A way is tried when /live would fail, which stays good meanwhile. Nothing is begun before the
evidence is saved, since most ways end what it is about. Where one cannot be gone, the next is
tried; after the last, /live fails, or is held. A sidecar that is away answers nothing.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, NoReturn

from probe.model import Hold, OnStall, Transition, Verdict
from probe.sidecar.board import Board

logger = logging.getLogger(__name__)


class ResponseOutcome(StrEnum):
    """What became of an answer."""

    DONE = "done"
    DECLINED = "declined"


class Declined(Exception):
    """Why a stall is not answered in this way."""


class Stall(NamedTuple):
    """A target that is not live any more, and why."""

    target: str
    why: str


OVER = "the stall ended meanwhile, or is held by hand"


class Response:
    """One way to answer a stall."""

    kind: OnStall
    events = ("", "")
    """The reasons of the Events that tell it was given, or could not be: `Quarantined`,
    `NotQuarantined`."""
    action = ""
    """What these Events call it: `Quarantine`."""
    refusal = ""
    """What is said where it could not be given: `not set aside`."""
    within = 30.0
    """Seconds that /live is held while it is tried."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = float("-inf")

    @property
    def holds(self) -> bool:
        """Whether /live is to stay good on its account."""
        return self._clock() < self._until

    @property
    def settled(self) -> bool:
        """Whether it was given for the whole pod: then no further stall of it is answered."""
        return False

    @property
    def owed(self) -> bool:
        """Whether something is left to undo, which `withdraw` tries."""
        return False

    def begin(self) -> None:
        """Hold /live from this moment on."""
        self._until = self._clock() + self.within

    def release(self) -> None:
        """Hold /live no longer."""
        self._until = float("-inf")

    def forget(self) -> None:
        """The stall is over."""
        self.release()

    async def check(self, target: str) -> str:
        """Say how it would be given to a target that has just started; "": that cannot be told.
        Raises Declined.
        """
        return ""

    async def give(self, stall: Stall) -> str:
        """Answer the stall; return what was done, in words. Raises Declined, with the reason."""
        raise NotImplementedError

    async def withdraw(self) -> None:
        """Undo what is left of an answer that was declined."""

    async def end(self) -> None:
        """To be called when the sidecar is told to end."""


WITHDRAW_AGAIN = 60.0
"""Seconds until what is owed is tried again."""

Tell = Callable[[str, str, str], None]
"""Tells the cluster: reason, action, text."""


class Responder:
    """Answers stalls. Start `run` as a task; the rest is called by the board."""

    def __init__(
        self,
        responses: Sequence[Response],
        board: Board,
        *,
        last: OnStall = OnStall.RESTART,
        saved: Callable[[str], Awaitable[None]],
        tell: Tell | None = None,
    ) -> None:
        """`saved` waits until the evidence of a target is saved, or its deadline has passed;
        `last` is what follows where no response can be given: RESTART or HOLD.
        """
        self.responses = tuple(responses)
        self._board = board
        self._last = last
        self._saved = saved
        self._tell = tell or (lambda reason, action, text: None)
        self._stalls: dict[str, str] = {}
        self._exhausted = False
        """Nothing more can be tried until all is well again."""
        self._work = asyncio.Event()
        self._checked: set[str] = set()
        self._to_check: deque[str] = deque()
        self.counts: Counter[tuple[OnStall, ResponseOutcome]] = Counter()
        board.subscribe(self.on_transition)
        board.hear_of_holds(self.on_hold)
        board.gate_live(self.gates_live)

    def on_transition(self, transition: Transition) -> None:
        """Hear of a transition, from the board."""
        before, after = transition.before, transition.after
        if after.started and transition.target not in self._checked:
            self._checked.add(transition.target)
            self._to_check.append(transition.target)
            self._work.set()
        if before.live and not after.live:
            self._consider(after)
        elif all(entry.verdict.live for entry in self._board.entries.values()):
            self._exhausted = False
            self._forget()

    def on_hold(self, _before: Hold | None, after: Hold | None) -> None:
        """Hear of a hold, from the board: nothing is done while it lasts, and what is due after."""
        if after is not None:
            self._forget()
            return
        for entry in self._board.entries.values():
            if not entry.verdict.live:
                self._consider(entry.verdict)

    def _consider(self, verdict: Verdict) -> None:
        """Have a stall answered, unless somebody holds it."""
        if not self._board.is_given_up(self._board.entries[verdict.target]):
            return
        if self.responses and not self._exhausted and not self._settled:
            self.responses[0].begin()
            self._stalls[verdict.target] = verdict.message
            self._work.set()

    def _forget(self) -> None:
        self._stalls.clear()
        for response in self.responses:
            response.forget()

    def gates_live(self, verdict: Verdict) -> bool:
        """Whether /live stays good although the verdict is not."""
        if verdict.live:
            return False
        return self._last is OnStall.HOLD or any(each.holds for each in self.responses)

    @property
    def _settled(self) -> bool:
        return any(response.settled for response in self.responses)

    async def run(self) -> NoReturn:
        """Answer stalls until cancelled."""
        try:
            while True:
                owing = [response for response in self.responses if response.owed]
                try:
                    async with asyncio.timeout(WITHDRAW_AGAIN if owing else None):
                        await self._work.wait()
                except TimeoutError:
                    for response in owing:
                        await response.withdraw()
                    continue
                self._work.clear()
                while self._stalls or self._to_check:
                    if self._stalls:
                        target = next(iter(self._stalls))
                        await self._answer(Stall(target, self._stalls.pop(target)))
                    else:
                        await self._check(self._to_check.popleft())
        finally:
            for response in self.responses:
                await response.end()

    async def _check(self, target: str) -> None:
        """Say in the log, while all is well, what would follow a stall."""
        for response, following in self._ways():
            try:
                said = await response.check(target)
            except Declined as declined:
                logger.warning(
                    "%s: on a stall, %s is not possible, so %s: %s",
                    *(target, response.kind, following, declined),
                )
            except Exception:
                logger.exception("%s: what would follow a stall was not tried", target)
            else:
                if said:
                    logger.info("%s: on a stall, %s: %s", target, response.kind, said)

    async def _answer(self, stall: Stall) -> None:
        await self._saved(stall.target)
        for response, following in self._ways():
            if self._settled or self._is_over(stall):
                return
            response.begin()
            try:
                said = await response.give(stall)
            except Declined as declined:
                why = str(declined)
            except Exception as error:
                logger.exception("%s: a fault of our own", response.kind)
                why = f"a fault of our own: {type(error).__name__}"
            else:
                self.counts[response.kind, ResponseOutcome.DONE] += 1
                logger.warning("%s: %s: %s", response.kind, said, stall.why)
                self._tell(response.events[0], response.action, f"{stall.why}; {said}")
                return
            response.release()
            if self._is_over(stall):
                logger.info("%s: %s: %s", response.kind, response.refusal, why)
                return
            self.counts[response.kind, ResponseOutcome.DECLINED] += 1
            refusal = f"{response.refusal}, so {following}"
            logger.warning("%s: %s: %s", response.kind, refusal, why)
            self._tell(response.events[1], response.action, f"{stall.why}; {refusal}: {why}")
        self._exhausted = True

    def _ways(self) -> Iterator[tuple[Response, str]]:
        """Each response, and what follows where it cannot be given."""
        last = "the pod is left as it is" if self._last is OnStall.HOLD else "/live fails"
        following = [*(f"{response.kind} is tried" for response in self.responses), last]
        return zip(self.responses, following[1:], strict=True)

    def _is_over(self, stall: Stall) -> bool:
        return not self._board.is_given_up(self._board.entries[stall.target])
