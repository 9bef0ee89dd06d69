"""In which order a stall is answered, and what /live says meanwhile."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from probe.model import Condition, Hold, Observation, OnStall, Reason, Target, Transition, Verdict
from probe.response.stalls import Declined, Responder, Response, ResponseOutcome, Stall
from probe.sidecar.board import Board

HEALTHY = Verdict(
    "8080", Condition.HEALTHY, None, None, "8080 healthy", 0.0, None, True, True, True
)
DEAD = HEALTHY._replace(
    condition=Condition.UNHEALTHY,
    reason=Reason.ACCEPT_QUEUE_STALLED,
    message="8080 stalled",
    ready=False,
    live=False,
)


class Way(Response):
    """Waits until it is told how it ends."""

    within = 5.0

    def __init__(self, kind: OnStall, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.kind = kind
        self.events = (f"{kind}-done", f"{kind}-declined")
        self.refusal = "not done"
        self.asked = asyncio.Event()
        self.end_by: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def give(self, stall: Stall) -> str:
        self.asked.set()
        said = await self.end_by
        self.end_by = asyncio.get_running_loop().create_future()
        self.asked.clear()
        if said.startswith("no"):
            raise Declined(said)
        return said


class Scene:
    """Two ways, terminate and then evict, and a clock."""

    def __init__(self, last: OnStall = OnStall.RESTART) -> None:
        self.now = 0.0
        self.board = Board([Target(8080), Target(9090)], clock=lambda: self.now)
        self.board.entries["9090"].verdict = HEALTHY._replace(target="9090")
        self.board.entries["8080"].verdict = HEALTHY
        self.saved = asyncio.Event()
        self.told: list[tuple[str, str]] = []
        self.first, self.second = (
            Way(kind, lambda: self.now) for kind in (OnStall.TERMINATE, OnStall.EVICT)
        )
        self.responder = Responder(
            (self.first, self.second),
            self.board,
            last=last,
            saved=self.wait_for_evidence,
            tell=lambda reason, action, text: self.told.append((reason, text)),
        )

    async def wait_for_evidence(self, target: str) -> None:
        await self.saved.wait()

    def becomes(self, verdict: Verdict) -> None:
        before = self.board.entries[verdict.target].verdict
        transition = Transition(verdict.target, self.now, before, verdict)
        self.board.publish(verdict.target, Observation(self.now), verdict, transition)

    async def settle(self) -> None:
        """Until the responder waits for something."""
        for _ in range(10):
            await asyncio.sleep(0)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[None]:
    task = asyncio.create_task(scene.responder.run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_nothing_is_begun_before_the_evidence_is_saved() -> None:
    scene = Scene()
    async with running(scene):
        scene.becomes(DEAD)
        assert scene.board.live
        await scene.settle()
        assert not scene.first.asked.is_set()
        scene.saved.set()
        await scene.first.asked.wait()
        scene.first.end_by.set_result("it was ended")
        await scene.settle()
    assert scene.told == [("terminate-done", "8080 stalled; it was ended")]
    assert scene.responder.counts == {(OnStall.TERMINATE, ResponseOutcome.DONE): 1}
    assert not scene.second.asked.is_set()


@pytest.mark.parametrize(("last", "live"), [(OnStall.RESTART, False), (OnStall.HOLD, True)])
async def test_the_next_is_tried_and_at_last_live_fails_or_is_held(
    caplog: pytest.LogCaptureFixture, last: OnStall, live: bool
) -> None:
    scene = Scene(last)
    scene.saved.set()
    async with running(scene):
        scene.becomes(DEAD)
        await scene.first.asked.wait()
        scene.first.end_by.set_result("no owner")
        await scene.second.asked.wait()
        assert scene.board.live
        scene.second.end_by.set_result("no right")
        await scene.settle()
        assert scene.board.live is live
        # Nothing is tried again before all is well.
        scene.becomes(DEAD._replace(target="9090"))
        await scene.settle()
        assert not scene.first.asked.is_set()
        for target in ("8080", "9090"):
            scene.becomes(HEALTHY._replace(target=target))
        scene.becomes(DEAD)
        await scene.first.asked.wait()
    follows = "the pod is left as it is" if live else "/live fails"
    assert scene.told == [
        ("terminate-declined", "8080 stalled; not done, so evict is tried: no owner"),
        ("evict-declined", f"8080 stalled; not done, so {follows}: no right"),
    ]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "terminate: not done, so evict is tried: no owner",
        f"evict: not done, so {'the pod is left as it is' if live else '/live fails'}: no right",
    ]


async def test_live_is_held_no_longer_than_a_way_may_take() -> None:
    scene = Scene()
    scene.saved.set()
    async with running(scene):
        scene.becomes(DEAD)
        await scene.first.asked.wait()
        scene.now = 4.9
        assert scene.board.live
        scene.now = 5.0
        assert not scene.board.live


async def test_a_stall_that_is_over_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    async with running(scene):
        scene.becomes(DEAD)
        await scene.settle()
        scene.becomes(HEALTHY)
        scene.saved.set()
        await scene.settle()
        assert not scene.first.asked.is_set()
        scene.becomes(DEAD)
        await scene.first.asked.wait()
        scene.becomes(HEALTHY)
        scene.first.end_by.set_result("no stall any more")
        await scene.settle()
        assert not scene.second.asked.is_set()
    assert not scene.told
    assert not scene.responder.counts
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_fault_of_ours_is_no_answer() -> None:
    scene = Scene()
    scene.saved.set()
    async with running(scene):
        scene.becomes(DEAD)
        await scene.first.asked.wait()
        scene.first.end_by.set_exception(RuntimeError("a bug"))
        await scene.second.asked.wait()
    ((_, text),) = scene.told
    assert text == "8080 stalled; not done, so evict is tried: a fault of our own: RuntimeError"


async def test_what_somebody_holds_is_left_alone_and_answered_when_that_is_over() -> None:
    """Whether the hold comes before the stall, or while a way is already tried."""
    scene = Scene()
    scene.saved.set()
    async with running(scene):
        scene.board.hold(Hold(scene.now + 60, 0))
        scene.becomes(DEAD)
        await scene.settle()
        assert not scene.first.asked.is_set()
        scene.board.hold(None)
        await scene.first.asked.wait()
        scene.board.hold(Hold(scene.now + 60, 0))
        scene.first.end_by.set_result("no, it is held")
        await scene.settle()
        assert not scene.second.asked.is_set()
        assert scene.told == []
        assert scene.board.live
        scene.now += 60
        scene.board.hold(None)
        await scene.first.asked.wait()
