"""The monitor's schedule, on a clock that stands still but when there is nothing else to do.

Listeners, queues and connections are the kernel's. A minute of them takes as long as the loop does.
"""

import asyncio
import selectors
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest

from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.hosts import NoAddress
from probe.kernel.sampler import Sampler
from probe.model import (
    Accepted,
    Condition,
    Connection,
    Observation,
    Outcome,
    Policy,
    Protocol,
    Reason,
    Stage,
    Target,
)
from probe.roundtrip import aio
from probe.sidecar.board import Board
from probe.sidecar.monitor import Monitor, YoungestOwner

PATIENCE = 30.0
"""Real seconds within which an application that answers has done so, on however slow a machine."""

POLICY = Policy()


class Clock(selectors.DefaultSelector):
    """The loop's selector and everyone's clock: where it would wait for a time, that time is come.

    `answers`: whoever waits for a socket has an answer coming, so that is waited for really.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.answers: Callable[[], bool] = lambda: False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if timeout is None or self.answers():
            events = super().select(PATIENCE)
            assert events, "nothing came of what was waited for"
            return events
        events = super().select(0.001)  # for what the kernel has still under way
        if not events:
            self.now += timeout
        return events


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(clock)

    def time(self) -> float:
        return self._clock.now


class AtOnce(ThreadPoolExecutor):
    """A walk in a thread takes no time on a clock that stands still."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - as a thread does, it goes to who awaits
            future.set_exception(error)
        return future


class View:
    """The kernel's view, and when each walk of the connection table was made."""

    def __init__(self, view: KernelView, clock: Clock) -> None:
        self._view = view
        self._clock = clock
        self.hides_the_head = False
        self.walk_takes = 0.0
        self.head_fault: Exception | None = None
        self.work_fault: Exception | None = None
        self.head_walks: list[float] = []
        self.work_walks: list[float] = []

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        self.head_walks.append(self._clock.now)
        if self.head_fault:
            raise self.head_fault
        if self.hides_the_head:
            return ()
        return self._view.head(port, hosts, presumed=presumed)

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        self.work_walks.append(self._clock.now)
        self._clock.now += self.walk_takes
        if self.work_fault:
            raise self.work_fault
        return iter(self._view.accepted(port, hosts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)


class Watch:
    """A monitor of one port, and all that it has told its board."""

    def __init__(
        self,
        port: int,
        clock: Clock,
        view: View,
        policy: Policy,
        youngest_owner: YoungestOwner = lambda listeners, age: None,
        host: str = "",
        protocol: Protocol = Protocol.HTTP,
    ) -> None:
        self.clock = clock
        self.view = view
        self.target = Target(port, protocol, host=host)
        self.remembered: frozenset[int] = frozenset()
        self.recorded: list[Observation] = []
        self.board = Board([self.target])
        self.seen: list[Observation] = []
        self.board.observe(lambda _, observation: self.seen.append(observation))
        sampler = Sampler(view, None)
        self.monitor = Monitor(
            self.target,
            policy,
            sampler,
            self.board,
            remember=self.remember,
            record=lambda _, observation: self.recorded.append(observation),
            youngest_owner=youngest_owner,
            clock=lambda: clock.now,
        )

    def remember(self, cookies: frozenset[int]) -> None:
        self.remembered = cookies

    async def watch(self, seconds: float) -> None:
        """Let it watch for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.monitor.run()

    @property
    def samples(self) -> list[float]:
        """When each sample was taken."""
        return [observation.at for observation in self.seen if observation.sample is not None]

    @property
    def trips(self) -> list[Observation]:
        return [observation for observation in self.seen if observation.round_trip is not None]

    @property
    def condition(self) -> Condition:
        return self.board.entries[self.target.name].verdict.condition

    @property
    def queued(self) -> int:
        """Connections in the accept queue right now."""
        return sum(listener.length for listener in self.view.listeners(self.target.port))


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock() as clock:
        yield clock


@pytest.fixture
def view(clock: Clock) -> Iterator[View]:
    opened = open_view()
    yield View(opened, clock)
    opened.close()


def run(clock: Clock, scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        runner.get_loop().set_default_executor(AtOnce())
        runner.run(scenario)


@contextmanager
def deaf(backlog: int = 5) -> Iterator[socket.socket]:
    """An application that listens, and accepts nothing by itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def gaps(moments: list[float]) -> set[float]:
    """The distances between neighbours, to a tenth of a millisecond."""
    return {round(later - earlier, 4) for earlier, later in pairwise(moments)}


@asynccontextmanager
async def answering(
    clock: Clock, backlog: int = 100
) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """An application that answers in this loop: its port, and how to have it accept no more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, backlog=backlog) as server:
        listener = server.sockets[0]
        at_rest = len(clock.get_map())
        clock.answers = lambda: len(clock.get_map()) > at_rest

        def stop() -> None:
            clock.answers = lambda: False
            asyncio.get_running_loop().remove_reader(listener.fileno())

        yield port_of(listener), stop


def test_while_all_is_well_there_is_one_sample_and_one_round_trip_per_interval(
    clock: Clock, view: View
) -> None:
    async def scenario() -> None:
        async with answering(clock) as (port, _):
            watch = Watch(port, clock, view, POLICY)
            await watch.watch(20.5)
            assert watch.remembered == {listener.cookie for listener in view.listeners(port)}
        assert [round(at - watch.samples[0], 3) for at in watch.samples] == [0, 0.25, *range(1, 21)]
        assert {trip.round_trip.outcome for trip in watch.trips if trip.round_trip} == {Outcome.OK}
        assert gaps([trip.at for trip in watch.trips]) == {1.0}
        assert watch.condition is Condition.HEALTHY
        assert view.head_walks == view.work_walks == []
        assert watch.recorded == watch.seen

    run(clock, scenario())


@pytest.mark.parametrize(("interval", "closely"), [(1.0, 0.25), (0.25, 0.0625), (20.0, 1.0)])
def test_while_anything_is_suspicious_it_samples_four_times_as_often(
    interval: float, closely: float, clock: Clock, view: View
) -> None:
    """And at least once a second, however long the interval."""
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY._replace(interval=interval))
        run(clock, watch.watch(20 * closely))
    assert len(watch.samples) >= 20
    assert gaps(watch.samples) == {closely}


def test_a_dead_application_is_left_with_one_connection_of_ours(clock: Clock, view: View) -> None:
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)
        lengths: list[int] = []
        watch.board.observe(lambda *_: lengths.append(watch.queued))
        run(clock, watch.watch(120))
        (trip,) = watch.trips
        assert trip.round_trip
        assert trip.round_trip.stage is Stage.QUEUED
        assert max(lengths) == lengths[-1] == 1
    assert watch.seen[-1].own_queued_for == pytest.approx(120, abs=1)


def test_while_we_were_frozen_ours_was_seen_by_nobody(clock: Clock, view: View) -> None:
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)

        def freeze(_: str, observation: Observation) -> None:
            if observation.own_queued_for and len(watch.samples) == 40:
                clock.now += 100

        watch.board.observe(freeze)
        run(clock, watch.watch(120))
    assert watch.seen[-1].own_queued_for == pytest.approx(22, abs=1)


def test_once_ours_is_accepted_the_next_is_made(clock: Clock, view: View) -> None:
    with deaf() as listener, ExitStack() as connections:
        watch = Watch(port_of(listener), clock, view, POLICY)

        async def scenario() -> None:
            accept = asyncio.get_running_loop().call_later(
                10, lambda: connections.enter_context(listener.accept()[0])
            )
            await watch.watch(10.9)
            assert accept.when() < clock.now

        run(clock, scenario())
        (accepted,) = [observation for observation in watch.seen if observation.accepted]
        assert round(accepted.at - watch.samples[0], 3) == 10.0 or (
            round(accepted.at - watch.samples[0], 3) == 10.25
        )
        assert watch.queued == 1, "the next one of ours"


def test_there_is_no_round_trip_while_the_queue_is_full(clock: Clock, view: View) -> None:
    with deaf(backlog=2) as listener, ExitStack() as clients:
        for _ in range(2):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        watch = Watch(port_of(listener), clock, view, POLICY)

        async def scenario() -> None:
            free = asyncio.get_running_loop().call_later(
                30, lambda: clients.enter_context(listener.accept()[0])
            )
            opened = []
            watch.board.observe(lambda *_: opened.append(watch.queued))
            await watch.watch(31)
            assert free.when() < clock.now
            assert set(opened) == {2, 1}

        run(clock, scenario())
        full = [o for o in watch.seen if o.at < watch.samples[0] + 30]
        assert len(full) >= 120
        assert not any(o.round_trip or o.own_queued_for for o in full)
        assert watch.queued == 2, "once there is room, one of ours is in the queue"
        assert view.head_walks[0] == watch.samples[0], "who is at the head matters at once"


def test_who_is_never_asked_is_watched_by_its_queue_alone(clock: Clock, view: View) -> None:
    """One walk when it is new, and for the head when something waits; and no connection ever."""

    async def scenario() -> None:
        with deaf() as listener, socket.socket() as client:
            watch = Watch(port_of(listener), clock, view, POLICY, protocol=Protocol.QUEUE)
            await watch.watch(5.5)
            assert watch.condition is Condition.HEALTHY
            assert (len(view.work_walks), view.head_walks, watch.queued) == (1, [], 0)
            client.connect(listener.getsockname())
            await watch.watch(6.5)
            entry = watch.board.entries[watch.target.name]
            assert entry.verdict.reason is Reason.ACCEPT_QUEUE_STALLED
            assert len(view.head_walks) == 1
            assert watch.queued == 1
        assert watch.trips == []

    run(clock, scenario())


def test_there_is_one_round_trip_at_a_time(clock: Clock, view: View) -> None:
    """One that is never answered lasts for two intervals."""
    with deaf() as listener, ExitStack() as connections:
        watch = Watch(port_of(listener), clock, view, POLICY._replace(timeout=2.6))
        accepted: list[float] = []

        def accept() -> None:
            accepted.append(clock.now)
            connections.enter_context(listener.accept()[0])

        async def scenario() -> None:
            asyncio.get_running_loop().add_reader(listener, accept)
            await watch.watch(20)

        run(clock, scenario())
    assert {trip.round_trip.stage for trip in watch.trips if trip.round_trip} == {Stage.UNREAD}
    assert len(accepted) >= 6
    assert min(gaps(accepted)) >= 2.6


def test_the_head_of_the_queue_is_looked_for_every_two_seconds(clock: Clock, view: View) -> None:
    """Where it cannot be found, however often samples are taken."""
    view.hides_the_head = True
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)
        run(clock, watch.watch(30))
    assert len(watch.samples) >= 120
    assert gaps(view.head_walks) == {2.0}
    assert len(view.head_walks) in (14, 15)


def test_a_head_that_was_found_is_followed_without_a_walk(clock: Clock, view: View) -> None:
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)
        run(clock, watch.watch(30))
    assert len(view.head_walks) == 1
    last = watch.seen[-1].sample
    assert last
    assert len(last.head) == 1


def test_a_queue_that_is_high_is_watched_closely_before_it_is_a_suspicion(
    clock: Clock, view: View
) -> None:
    async def scenario() -> None:
        async with answering(clock, backlog=5) as (port, stop):
            watch = Watch(port, clock, view, POLICY)
            conditions: list[tuple[float, Condition]] = []
            watch.board.observe(lambda _, seen: conditions.append((seen.at, watch.condition)))

            def fill() -> None:
                stop()
                for _ in range(5):
                    clients.enter_context(socket.create_connection(("127.0.0.1", port)))

            asyncio.get_running_loop().call_later(5.5, fill)
            await watch.watch(6.8)
        assert [at - watch.samples[0] for at in watch.samples[-5:]] == [5, 6, 6.25, 6.5, 6.75]
        assert conditions[-3][1] is Condition.HEALTHY

    with ExitStack() as clients:
        run(clock, scenario())


@pytest.mark.parametrize(("walk_takes", "pause"), [(0.0, 3.0), (0.25, 6.5), (5.0, 15.0)])
def test_what_a_restart_would_cost_is_seen_every_three_seconds(
    walk_takes: float, pause: float, clock: Clock, view: View
) -> None:
    """Once when the stall is one, and from 5 s before it would be fatal; more seldom where it
    costs more, but often enough to be of use.
    """
    view.walk_takes = walk_takes

    async def scenario() -> None:
        async with answering(clock) as (port, stop):
            watch = Watch(port, clock, view, POLICY)
            asyncio.get_running_loop().call_later(5.5, stop)
            await watch.watch(60)
        first, *later = [at - watch.samples[0] for at in view.work_walks]
        assert 9 <= first <= 10.5
        assert 30 <= later[0] <= 40
        assert gaps(later) == {pause}

    run(clock, scenario())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (OSError(11, "no thread"), "the head of the queue is not found: [Errno 11] no thread"),
        (ZeroDivisionError("a defect"), "the head of the queue could not be found"),
    ],
)
def test_a_walk_for_the_head_that_fails_is_told_and_made_again(
    fault: Exception, message: str, clock: Clock, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    view.head_fault = fault
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)
        run(clock, watch.watch(10))
    assert gaps(view.head_walks) == {2.0}
    assert set(caplog.messages) == {f"{watch.target.name}: {message}"}
    assert gaps(watch.samples) == {0.25}


@pytest.mark.parametrize(
    ("fault", "message", "once"),
    [
        (CannotTell("EPERM"), "what a restart would cost cannot be seen: EPERM", True),
        (ZeroDivisionError("a defect"), "what a restart would cost was not seen", False),
    ],
)
def test_what_a_restart_would_cost_and_cannot_be_seen_is_told(
    fault: Exception,
    message: str,
    once: bool,
    clock: Clock,
    view: View,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is refused is refused each time, and told once. Either way it keeps nothing live."""
    view.work_fault = fault

    async def scenario() -> None:
        async with answering(clock) as (port, stop):
            watch = Watch(port, clock, view, POLICY)
            asyncio.get_running_loop().call_later(5.5, stop)
            await watch.watch(60)
        assert not watch.board.live
        assert len(view.work_walks) >= 10
        told = caplog.messages.count(f"{watch.target.name}: {message}")
        assert told == (1 if once else len(view.work_walks))

    run(clock, scenario())


def test_who_accepts_may_be_unknown_and_the_work_is_seen(
    clock: Clock, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> float | None:
        raise ZeroDivisionError("a defect")

    async def scenario() -> None:
        async with answering(clock) as (port, stop):
            watch = Watch(port, clock, view, POLICY, youngest_owner=fail)
            asyncio.get_running_loop().call_later(5.5, stop)
            await watch.watch(15)
        assert f"{watch.target.name}: who accepts was not seen" in caplog.messages
        (work,) = [observation.work for observation in watch.seen if observation.work]
        assert (work.accepted, work.youngest_owner) == (0, None)

    run(clock, scenario())


def test_what_is_elsewhere_has_no_queue_here_and_is_unknown(clock: Clock, view: View) -> None:
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY, host="192.0.2.1")
        run(clock, watch.watch(10))
        assert watch.queued == 0
    assert all(seen.sample.error for seen in watch.seen if seen.sample)
    assert {trip.round_trip.outcome for trip in watch.trips if trip.round_trip} == {Outcome.UNKNOWN}
    assert watch.condition is Condition.UNKNOWN
    assert watch.board.live


def test_a_resolver_that_fails_takes_away_nothing_that_is_known(
    clock: Clock, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with answering(clock) as (port, _):
            watch = Watch(port, clock, view, POLICY, host="127.0.0.1")
            await watch.watch(2.5)
            assert watch.condition is Condition.HEALTHY
            seen = len(watch.seen)

            async def fail(*_: object) -> tuple[str, ...]:
                raise NoAddress("the name server is silent")

            monkeypatch.setattr(aio, "hosts", fail)
            await watch.watch(5)
        later = watch.seen[seen:]
        assert all(observation.sample.listeners for observation in later if observation.sample)
        trips = [observation.round_trip for observation in later if observation.round_trip]
        assert {(trip.outcome, trip.detail) for trip in trips} == {
            (Outcome.UNKNOWN, "the name server is silent")
        }
        assert watch.board.ready

    run(clock, scenario())


def test_a_round_trip_that_is_a_defect_of_ours_is_unknown(
    clock: Clock, view: View, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(aio, "run", fail)
    with deaf() as listener:
        watch = Watch(port_of(listener), clock, view, POLICY)
        run(clock, watch.watch(5))
    trips = [observation.round_trip for observation in watch.trips]
    assert {(trip.outcome, trip.detail) for trip in trips if trip} == {
        (Outcome.UNKNOWN, "a defect of the sidecar: ZeroDivisionError('a defect')")
    }
    assert len(trips) == 5
    assert set(caplog.messages) == {f"{watch.target.name}: a round trip could not be made"}
    assert watch.board.live


def test_ticks_that_were_missed_are_not_made_up_for(clock: Clock, view: View) -> None:
    """While the sidecar was frozen; afterwards it goes on when it would have."""

    async def scenario() -> None:
        async with answering(clock) as (port, _):
            watch = Watch(port, clock, view, POLICY)

            def freeze(_: str, observation: Observation) -> None:
                if observation.sample and len(watch.samples) == 6:
                    clock.now += 7.6

            watch.board.observe(freeze)
            await watch.watch(20)
        at = [round(at - watch.samples[0], 3) for at in watch.samples]
        assert at[:7] == [0, 0.25, 1, 2, 3, 4, 12]
        assert gaps(watch.samples[6:]) == {1.0}

    run(clock, scenario())
