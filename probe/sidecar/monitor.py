"""The schedule: one loop per target samples its listeners, makes round trips and feeds the judge.

The one-connection rule lives here: while a connection of ours may still be in the application's
accept queue, no second one is made, and none at all while the queue is full. A dead application is
thus left with one entry of ours, however long the fault lasts.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

from probe import judge
from probe.kernel import CannotTell
from probe.kernel.hosts import Elsewhere, NoAddress
from probe.kernel.sampler import Head, Sampler
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Policy,
    Protocol,
    RoundTrip,
    Sample,
    Target,
    Work,
)
from probe.roundtrip import Attempt, address, aio
from probe.roundtrip.protocols import LEFT_UNREAD
from probe.sidecar.board import Board, Observer

logger = logging.getLogger(__name__)

CLOSE_SAMPLES = 4
"""Samples per interval while anything is suspicious: sooner recovered, and less often mistaken."""

LONGEST_CLOSE_PAUSE = 1.0
"""Seconds between them at most, however long the interval."""

SHARED = 0.02
"""Seconds that a sample may be old. Targets have their ticks at the same moments, so the first one
asks the kernel for all of them; it is less than lies between two ticks of one target.
"""

WALK_EVERY = 2.0
"""Seconds between two walks of the connection table in search of the head of a queue."""

WEIGH_EVERY = 3.0
"""Seconds between two walks that see what a restart would cost, while one is near or due..."""

WEIGH_SHARE = 25
"""...or so many times what the last one took: 50,000 connections cost 0.2 s of CPU time."""

BIRTH_BLUR = 0.1
"""Seconds. A process is as old as the clock tick of its birth, 10 ms or so, tells."""

OWN_ENDS = 64
"""Connections of ours remembered that came to nothing: the application may still hold them."""

AcceptorsGone = Callable[[str], bool | None]
"""Whether it is proven that who accepted for a target has exited; None: that cannot be told."""

YoungestOwner = Callable[[tuple[Listener, ...], float], float | None]
"""The age in seconds of the youngest process that holds one of these listeners, if it is younger
than the age given; None: none is in sight."""


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
        acceptors_gone: AcceptorsGone = lambda name: None,
        youngest_owner: YoungestOwner = lambda listeners, age: None,
        clock: Callable[[], float] = time.monotonic,
        phase: float | None = None,
    ) -> None:
        """`acceptors_gone` and `youngest_owner` are asked in the thread that walks. `phase` is a
        moment on the clock from which the ticks are counted, the same for all targets of a sampler;
        None: now.
        """
        self._target = target
        self._unasked = target.protocol is Protocol.QUEUE
        self._policy = policy
        self._sampler = sampler
        self._board = board
        self._remember = remember
        self._record = record
        self._clock = clock
        self._state = judge.initial(target, clock(), remembered)
        self._close_pause = min(policy.interval / CLOSE_SAMPLES, LONGEST_CLOSE_PAUSE)
        self._phase = clock() if phase is None else phase
        self._ticked_at = float("-inf")
        self._trip: asyncio.Task[None] | None = None
        self._trip_at: float | None = None
        self._attempt: Attempt | None = None
        self._own_ends: deque[tuple[str, int]] = deque(maxlen=OWN_ENDS)
        self._lingering: Attempt | None = None
        self._own_queued_for = 0.0
        self._own_seen_at = 0.0
        self._hosts: tuple[str, ...] = ()
        """The addresses that the target's host stands for, as last known."""
        self._astray = ""
        """Why the host stands for no address of here, as far as can be told; then nothing is seen.
        """
        self._head = Head(sampler.view, target.port)
        self._walk: asyncio.Task[None] | None = None
        self._walked_at: float | None = None
        self._head_found_at = float("-inf")
        self._acceptors_gone = acceptors_gone
        self._youngest_owner = youngest_owner
        self._weighing: asyncio.Task[None] | None = None
        self._weigh_at = 0.0
        self._work: Work | None = None
        self._unseen = ""
        """Why the last walk could not see it: said once."""

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        with suppress(NoAddress):
            await self._find_host()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._tick(tasks)
                    await self._pause()
        finally:
            if self._lingering is not None:
                self._lingering.close()

    async def _pause(self) -> None:
        """Sleep until the next tick, which comes sooner while a round trip or a verdict is late."""
        if self._calm and self._trip is not None:
            await asyncio.wait([self._trip], timeout=self._until_next(self._close_pause))
            if self._trip is not None:
                return  # It is late: a tick at once.
        every = self._policy.interval if self._calm else self._close_pause
        await asyncio.sleep(self._until_next(every))

    def _until_next(self, every: float) -> float:
        """Seconds from now to the next moment of the schedule. One that is missed is left out, and
        so is one that follows a late tick at once: two samples are to tell more than one.
        """
        now = self._clock()
        begun = max(now, self._ticked_at + self._close_pause / 2) - self._phase
        return self._phase + (begun // every + 1) * every - now

    @property
    def _calm(self) -> bool:
        return self._state.verdict.condition is Condition.HEALTHY and not any(
            watch.high_since is not None for watch in self._state.watches
        )

    def _tick(self, tasks: asyncio.TaskGroup) -> None:
        now = self._ticked_at = self._clock()
        try:
            own_queued_for, accepted = self._follow_own(now)
            at, sample = self._sample(now)
            if self._target.discovered and not (sample.listeners or sample.error):
                return  # It has gone: who discovered it forgets it with the next look.
            if at >= self._head_found_at:
                sample = sample._replace(head=self._follow_head(sample, now, tasks))
            work, self._work = self._work, None
            self._feed(
                Observation(
                    at,
                    sample,
                    accepted=accepted,
                    own_queued_for=own_queued_for,
                    work=work,
                    unasked=self._unasked,
                )
            )
            if sample.listeners and self._must_weigh(now):
                self._weighing = tasks.create_task(self._weigh(sample.listeners))
            if self._may_connect(sample, now):
                self._trip_at = now
                self._trip = tasks.create_task(self._round_trip(sample.listeners))
        except Exception as error:
            # A defect of ours must neither fail the target nor go unseen.
            logger.exception("%s: a tick failed", self._target.name)
            fault = Sample(error=f"a defect of the sidecar: {error!r}")
            self._board.publish(
                *(self._target.name, Observation(now, fault), self._state.verdict, None),
                self._state,
            )

    def _sample(self, now: float) -> tuple[float, Sample]:
        """A sample, and when it was taken: no other observation of this target is younger."""
        if self._astray:
            return now, Sample(error=self._astray)
        since = max(now - SHARED, self._state.at or now - SHARED)
        return self._sampler.share(self._target.port, self._hosts, now=now, since=since)

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
        verdict = self._state.verdict
        self._board.publish(self._target.name, observation, verdict, transition, self._state)

    # --- our own connection

    def _may_connect(self, sample: Sample, now: float) -> bool:
        if self._unasked or self._trip is not None or self._lingering is not None:
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
            result, self._lingering = await aio.run(
                self._target, where, self._sampler.view, left, self._begun, self._clock
            )
            if result.outcome is not Outcome.OK and self._attempt is not None:
                self._own_ends.append(self._attempt.local)
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

    def _begun(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def _follow_own(self, now: float) -> tuple[float | None, bool]:
        """Return how long our connection was seen queued, if it is, and if it was accepted."""
        attempt = self._lingering
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
        self._lingering = None
        return None, attempt.accepted

    # --- the head of the queue

    def _follow_head(self, sample: Sample, now: float, tasks: asyncio.TaskGroup) -> tuple[int, ...]:
        """Return the cookies at the head of the queue, all seen queued just now; () unknown."""
        if self._walk is not None:
            return ()
        if not self._suspicious(sample, now):
            return ()
        head = self._head.verify()
        if not head and (self._walked_at is None or now - self._walked_at >= WALK_EVERY):
            self._walk = tasks.create_task(self._find_head())
        return head

    def _suspicious(self, sample: Sample, now: float) -> bool:
        """Whether it matters who is at the head: something waits, and may wait for ever."""
        if not any(listener.length for listener in sample.listeners):
            return False
        late = (
            self._trip is not None
            and self._trip_at is not None
            and now - self._trip_at >= self._policy.interval / 2
        )
        return (
            late
            or self._lingering is not None
            or any(one.full for one in sample.listeners)
            or self._beyond_reach(now)
        )

    def _beyond_reach(self, now: float) -> bool:
        """Whether a queue waits where no round trip may ever come: at one of several listeners, or
        of a target that is never asked.
        """
        watches = self._state.watches
        return (len(watches) > 1 or self._unasked) and any(
            watch.waiting_since is not None and now - watch.waiting_since >= self._policy.interval
            for watch in watches
        )

    async def _find_head(self) -> None:
        self._walked_at = self._clock()
        try:
            await asyncio.to_thread(self._head.find, self._hosts)
        except OSError as error:
            logger.warning("%s: the head of the queue is not found: %s", self._target.name, error)
        except Exception:
            logger.exception("%s: the head of the queue could not be found", self._target.name)
        finally:
            self._walk = None
            self._head_found_at = self._clock()

    # --- what a restart would cost

    def _must_weigh(self, now: float) -> bool:
        return (
            self._weighing is None
            and not self._target.discovered  # which nobody is restarted for
            and now >= self._weigh_at
            and self._sampler.view.name == "sock_diag"  # Nobody else tells.
            and judge.weighs(self._state, self._policy)
        )

    async def _weigh(self, listeners: tuple[Listener, ...]) -> None:
        began = self._clock()
        state = self._state
        stalled = {watch.cookie for watch in state.watches if watch.stalled_for}
        accepted_at = state.accepted_at if state.accepted_at is not None else state.watched_since
        try:
            work = await asyncio.to_thread(
                self._see_work,
                self._hosts,
                tuple(listener for listener in listeners if listener.cookie in stalled),
                (*self._own_ends, *([self._attempt.local] if self._attempt else ())),
                began - (accepted_at or began) + BIRTH_BLUR,
            )
            if self._state.broken_at != state.broken_at:
                work = work._replace(resets=None)  # It is no measure of the places.
            self._work, self._unseen = work, ""
        except (CannotTell, OSError) as error:  # OSError: no thread is to be had
            if self._unseen != str(error):
                logger.warning(
                    "%s: what a restart would cost cannot be seen: %s", self._target.name, error
                )
            self._unseen = str(error)
        except Exception:
            logger.exception("%s: what a restart would cost was not seen", self._target.name)
        finally:
            self._weighing = None
            now = self._clock()
            pause = min(WEIGH_SHARE * (now - began), self._policy.live_after / 3)
            self._weigh_at = now + max(WEIGH_EVERY, pause)

    def _see_work(
        self,
        hosts: tuple[str, ...],
        stalled: tuple[Listener, ...],
        own: tuple[tuple[str, int], ...],
        age: float,
    ) -> Work:
        """Walk, in a thread; `age` seconds is whoever was born at the last known accept."""
        unread = LEFT_UNREAD.get(self._target.protocol, 0)
        within = self._policy.live_after
        work = self._sampler.work(self._target.port, hosts, own, within, unread)
        try:
            return work._replace(
                youngest_owner=self._youngest_owner(stalled, age),
                acceptors_gone=self._acceptors_gone(self._target.name),
            )
        except Exception:
            logger.exception("%s: who accepts was not seen", self._target.name)
            return work
