"""The schedule: one loop per target samples its listeners, makes round trips and feeds the judge.

The one-connection rule lives here: while a connection of ours may still be in the application's
accept queue, no second one is made, and none at all while the queue is full. A dead application is
thus left with one entry of ours, however long the fault lasts.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from probe import judge
from probe.kernel.hosts import Elsewhere, NoAddress
from probe.kernel.sampler import Front, Sampler
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Policy,
    RoundTrip,
    Sample,
    Target,
)
from probe.roundtrip import Attempt, address, aio
from probe.sidecar.board import Board, Observer

logger = logging.getLogger(__name__)

CLOSE_LOOKS = 4
"""Looks per interval while anything is suspicious: sooner recovered, and less often mistaken."""

LONGEST_CLOSE_LOOK = 1.0
"""Seconds between them at most, however long the interval."""

WALK_EVERY = 2.0
"""Seconds between two walks of the connection table in search of the front of a queue."""


class Monitor:
    """Watches one target for ever."""

    def __init__(
        self,
        target: Target,
        policy: Policy,
        sampler: Sampler,
        board: Board,
        *,
        remembered: Iterable[int] = (),
        remember: Callable[[frozenset[int]], None] | None = None,
        record: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._policy = policy
        self._sampler = sampler
        self._board = board
        self._remember = remember
        self._record = record
        self._clock = clock
        self._state = judge.initial(target, clock(), remembered)
        self._close_look = min(policy.interval / CLOSE_LOOKS, LONGEST_CLOSE_LOOK)
        self._trip: asyncio.Task[None] | None = None
        self._trip_at: float | None = None
        self._held: Attempt | None = None
        self._own_queued_for = 0.0
        self._own_seen_at = 0.0
        self._hosts: tuple[str, ...] = ()
        """The addresses that the target's host stands for, as last known."""
        self._astray = ""
        """Why the host stands for no address of here, as far as can be told; then nothing is seen.
        """
        self._front = Front(sampler.view, target.port)
        self._walk: asyncio.Task[None] | None = None
        self._walked_at: float | None = None

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        with suppress(NoAddress):
            await self._find_host()
        deadline = self._clock()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._tick(tasks)
                    now = self._clock()
                    if now >= deadline:
                        missed = (now - deadline) // self._policy.interval
                        deadline += (missed + 1) * self._policy.interval
                    await self._pause(deadline)
        finally:
            if self._held is not None:
                self._held.close()

    async def _pause(self, deadline: float) -> None:
        """Sleep until the next tick; look closely while a round trip or a verdict is late."""
        if self._calm and self._trip is not None:
            await asyncio.wait([self._trip], timeout=self._close_look)
            if self._trip is not None:
                return  # It is late: look at once.
        rest = deadline - self._clock()
        if not self._calm:
            rest = min(rest, self._close_look)
        await asyncio.sleep(rest)

    @property
    def _calm(self) -> bool:
        return self._state.verdict.condition is Condition.HEALTHY and not any(
            watch.high_since is not None for watch in self._state.watches
        )

    def _tick(self, tasks: asyncio.TaskGroup) -> None:
        now = self._clock()
        try:
            held, accepted = self._look_at_held(now)
            sample = self._sample()
            sample = sample._replace(front=self._look_at_front(sample, now, tasks))
            self._feed(Observation(now, sample, accepted=accepted, held=held))
            if self._may_connect(sample, now):
                self._trip_at = now
                self._trip = tasks.create_task(self._round_trip(sample.listeners))
        except Exception as error:
            # A defect of ours must neither fail the target nor go unseen.
            logger.exception("%s: a look failed", self._target.name)
            fault = Sample(error=f"a defect of the sidecar: {error!r}")
            self._board.publish(
                self._target.name, Observation(now, fault), self._state.verdict, None
            )

    def _sample(self) -> Sample:
        if self._astray:
            return Sample(error=self._astray)
        return self._sampler.sample(self._target.port, self._hosts)

    async def _find_host(self) -> None:
        """Look up what the target's host stands for: a name may change its address. Raises
        NoAddress; where that is the resolver's fault alone, what was known stays so.
        """
        try:
            self._hosts = await aio.hosts(self._target, self._policy.timeout)
            self._astray = ""
        except NoAddress as error:
            if isinstance(error, Elsewhere) or not self._hosts:
                self._astray = str(error)
            raise

    def _feed(self, observation: Observation) -> None:
        self._state, transition = judge.step(self._state, observation, self._policy)
        if self._remember is not None:
            self._remember(frozenset(one.cookie for one in self._state.watches if one.accepted))
        if self._record is not None:
            self._record(self._target.name, observation)
        self._board.publish(self._target.name, observation, self._state.verdict, transition)

    # --- our own connection

    def _may_connect(self, sample: Sample, now: float) -> bool:
        if self._trip is not None or self._held is not None:
            return False
        if self._trip_at is not None and now - self._trip_at < self._policy.interval * 0.95:
            return False
        if sample.error:
            return True  # Nothing can be seen: what remains is to ask.
        return bool(sample.listeners) and not any(listener.full for listener in sample.listeners)

    async def _round_trip(self, listeners: tuple[Listener, ...]) -> None:
        at = self._clock()
        try:
            await self._find_host()
            where = address(self._target, listeners, self._hosts)
            left = self._policy.timeout - (self._clock() - at)
            result, self._held = await aio.run(self._target, where, self._sampler.view, left)
            self._own_seen_at = self._clock()
            self._own_queued_for = min(self._own_seen_at - at, self._policy.timeout)
        except NoAddress as error:
            result = RoundTrip(at, Outcome.UNKNOWN, detail=str(error))
        except Exception as error:
            logger.exception("%s: a round trip could not be made", self._target.name)
            result = RoundTrip(at, Outcome.UNKNOWN, detail=f"a defect of the sidecar: {error!r}")
        finally:
            self._trip = None
        self._feed(Observation(self._clock(), round_trip=result))

    def _look_at_held(self, now: float) -> tuple[float | None, bool]:
        """Return how long our connection was seen queued, if it is, and if it was accepted."""
        attempt = self._held
        if attempt is None:
            return None, False
        # What passed while we were frozen, and the application with us perhaps, is no wait.
        self._own_queued_for += min(now - self._own_seen_at, judge.furthest(self._policy))
        self._own_seen_at = now
        if attempt.poll(now):
            # Where nobody can tell whether it is queued, only a failure of its own counts.
            failed = attempt.result is not None and attempt.result.outcome is Outcome.FAILED
            return self._own_queued_for if failed or not attempt.blind else None, False
        attempt.close()
        self._held = None
        return None, attempt.accepted

    # --- the front of the queue

    def _look_at_front(
        self, sample: Sample, now: float, tasks: asyncio.TaskGroup
    ) -> tuple[int, ...]:
        """Return the cookies at the front of the queue, all seen queued just now; () unknown."""
        if self._walk is not None:
            return ()
        if not self._suspicious(sample, now):
            return ()
        front = self._front.look()
        if not front and (self._walked_at is None or now - self._walked_at >= WALK_EVERY):
            self._walk = tasks.create_task(self._find_front())
        return front

    def _suspicious(self, sample: Sample, now: float) -> bool:
        """Whether it matters who is at the front: something waits, and may wait for ever."""
        if not any(listener.length for listener in sample.listeners):
            return False
        late = (
            self._trip is not None
            and self._trip_at is not None
            and now - self._trip_at >= self._policy.interval / 2
        )
        return (
            late
            or self._held is not None
            or any(one.full for one in sample.listeners)
            or self._beyond_reach(now)
        )

    def _beyond_reach(self, now: float) -> bool:
        """Whether a queue waits at one of several listeners, where no round trip may ever come."""
        watches = self._state.watches
        return len(watches) > 1 and any(
            watch.waiting_since is not None and now - watch.waiting_since >= self._policy.interval
            for watch in watches
        )

    async def _find_front(self) -> None:
        self._walked_at = self._clock()
        try:
            await asyncio.to_thread(self._front.find, self._hosts)
        except OSError as error:
            logger.warning("%s: the front of the queue is not found: %s", self._target.name, error)
        except Exception:
            logger.exception("%s: the front of the queue could not be found", self._target.name)
        finally:
            self._walk = None
