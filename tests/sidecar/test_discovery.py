"""Listeners that nobody asked for: which are found, how many, and for how long."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from probe.kernel import Crowded, KernelView, open_view
from probe.kernel.procfs import EPHEMERAL, Counters, ephemeral_ports
from probe.kernel.sampler import Sampler
from probe.model import Condition, Policy, Protocol, Target
from probe.sidecar import discovery
from probe.sidecar.board import Board
from probe.sidecar.discovery import Discovery
from probe.sidecar.monitor import Monitor

POLICY = Policy(interval=0.05, stalled_for=0.5, live_after=float("inf"))
PATIENCE = 20.0


def listening(port: int) -> closing[socket.socket]:
    listener = socket.create_server(("127.0.0.1", port), backlog=5)
    listener.setblocking(False)
    return closing(listener)


class Scene:
    """A discovery on a board of its own, with how often the kernel was asked for listeners."""

    def __init__(self, view: KernelView, counters: Counters | None, *targets: Target) -> None:
        self.dumps: list[float] = []
        self.sampler = Sampler(view, counters, self.dumps.append)
        self.board = Board(targets)
        self._changed = asyncio.Event()
        self.board.on_coming(lambda _: self._changed.set())
        self.board.on_going(self._going)
        self.board.observe(lambda *_: self._changed.set())

    def _going(self, _: str) -> None:
        asyncio.get_running_loop().call_soon(self._changed.set)

    def monitor(self, target: Target) -> Monitor:
        return Monitor(target, POLICY, self.sampler, self.board, phase=0.0)

    @property
    def ports(self) -> list[int]:
        found = (entry.target for entry in self.board.entries.values())
        return sorted(target.port for target in found if target.discovered)

    async def until(self, so: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not so():
                self._changed.clear()
                await self._changed.wait()

    async def samples(self, number: int) -> None:
        """Wait until every target was sampled so often from now."""
        before = {name: entry.samples for name, entry in self.board.entries.items()}
        await self.until(
            lambda: all(
                entry.samples >= before.get(name, 0) + number
                for name, entry in self.board.entries.items()
            )
        )


@asynccontextmanager
async def discovering(
    *targets: Target, excluded: tuple[int, ...] = (), ephemeral: bool = False, counted: bool = True
) -> AsyncIterator[Scene]:
    with closing(open_view()) as view, closing(Counters()) as counters:
        scene = Scene(view, counters if counted else None, *targets)
        looking = Discovery(
            scene.sampler,
            scene.board,
            scene.monitor,
            interval=POLICY.interval,
            excluded=excluded,
            ephemeral=ephemeral,
        )
        tasks = [asyncio.create_task(looking.run())]
        tasks += [asyncio.create_task(scene.monitor(target).run()) for target in targets]
        try:
            yield scene
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("counted", [True, False])
async def test_what_listens_is_found_and_what_has_gone_is_forgotten(counted: bool) -> None:
    async with discovering(counted=counted) as scene:
        with listening(8080) as listener:
            with listening(9000):
                await scene.until(lambda: scene.ports == [8080, 9000])
                await scene.samples(2)
                for entry in scene.board.entries.values():
                    assert entry.target.protocol is Protocol.QUEUE
                    assert entry.verdict.condition is Condition.HEALTHY
            await scene.until(lambda: scene.ports == [8080])
            await scene.samples(3)
            with pytest.raises(BlockingIOError):
                listener.accept()  # Nobody has knocked.
        await scene.until(lambda: not scene.ports)
        with listening(9000):
            await scene.until(lambda: scene.ports == [9000])


async def test_that_one_has_gone_is_no_verdict() -> None:
    async with discovering() as scene:
        conditions = []
        scene.board.subscribe(lambda transition: conditions.append(transition.after.condition))
        with listening(8080):
            await scene.until(lambda: scene.ports == [8080])
            await scene.samples(2)
        await scene.until(lambda: not scene.ports)
    assert conditions == [Condition.HEALTHY]


async def test_targets_the_excluded_and_what_the_kernel_gave_out_are_left_alone() -> None:
    with (
        listening(8080),
        listening(8081),
        listening(8082),
        closing(socket.create_server(("127.0.0.1", 0))) as given_out,
    ):
        async with discovering(Target(8080), excluded=(8081,)) as scene:
            await scene.until(lambda: scene.ports == [8082])
            await scene.samples(3)
            assert scene.ports == [8082]
        async with discovering(ephemeral=True) as scene:
            port = given_out.getsockname()[1]
            await scene.until(lambda: scene.ports == [8080, 8081, 8082, port])


async def test_a_look_costs_no_dump_beside_the_one_that_targets_share() -> None:
    with listening(8080), listening(8081), listening(8082):
        async with discovering(Target(8080, Protocol.QUEUE)) as scene:
            await scene.until(lambda: scene.ports == [8081, 8082])
            dumps, samples = len(scene.dumps), _samples(scene)
            await scene.samples(10)
            # Four who ask: the discovery and three targets.
            assert len(scene.dumps) - dumps < (_samples(scene) - samples) / 2


def _samples(scene: Scene) -> int:
    return sum(entry.samples for entry in scene.board.entries.values())


async def test_many_are_bounded_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "MOST", 2)
    with listening(8081), listening(8082):
        with listening(8080):
            async with discovering() as scene:
                await scene.until(lambda: scene.ports == [8080, 8081])
                await scene.samples(3)
                assert scene.ports == [8080, 8081]
                (told,) = [one for one in caplog.records if one.levelno == logging.WARNING]
                assert told.getMessage() == (
                    "1 of the listeners not watched: 2 are at most; --exclude-port leaves some out"
                )
        async with discovering() as scene:
            await scene.until(lambda: scene.ports == [8081, 8082])


async def test_where_too_many_listen_nothing_new_is_found_and_the_known_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(8080):
        async with discovering() as scene:
            await scene.until(lambda: scene.ports == [8080])
            monkeypatch.setattr("probe.kernel.sampler.MANY", 1)
            with listening(8081):
                await scene.samples(5)
                assert scene.ports == [8080]
                told = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.getMessage() for one in told] == [f"nothing new is discovered: {Crowded(1)}"]


def test_the_range_that_the_kernel_gives_out(tmp_path: Path) -> None:
    file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first, last = map(int, file.read_text().split())
    assert ephemeral_ports() == range(first, last + 1)
    file.write_text("20000 20003")  # of this test's own network namespace
    assert list(ephemeral_ports()) == [20000, 20001, 20002, 20003]
    assert ephemeral_ports(str(tmp_path)) == EPHEMERAL
    assert 8080 not in EPHEMERAL
