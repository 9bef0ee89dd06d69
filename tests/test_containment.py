"""The sidecar's own faults: seen, counted, and never held against the application."""

import asyncio
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.sampler import Sampler
from probe.model import Listener, Observation, Policy, Sample, Target, Transition, Verdict
from probe.sidecar.board import Board
from probe.sidecar.memory import Memory
from probe.sidecar.monitor import Monitor
from tests.conftest import fresh_namespace

POLICY = Policy(interval=0.1)

json_values = st.fixed_dictionaries(
    {},
    optional={
        "where": st.deferred(lambda: st.just(where())),
        "cookies": st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    },
)
"""What might stand in the memory's file, and be of this boot."""


class Application:
    """Answers everything, in the test's own loop."""

    def __init__(self, server: asyncio.Server) -> None:
        self.port: int = server.sockets[0].getsockname()[1]


@asynccontextmanager
async def answering() -> AsyncIterator[Application]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield Application(server)


class Faulty(Sampler):
    """A sampler that can be told to fail."""

    fault: Exception | None = None

    def share(
        self, port: int, hosts: tuple[str, ...], *, now: float, since: float
    ) -> tuple[float, Sample]:
        if self.fault is not None:
            raise self.fault
        return super().share(port, hosts, now=now, since=since)


async def until(board: Board, meets: Callable[[Observation], bool]) -> Observation:
    """Return the next observation that meets a condition."""
    found: asyncio.Future[Observation] = asyncio.get_running_loop().create_future()

    def look(_: str, observation: Observation) -> None:
        if not found.done() and meets(observation):
            found.set_result(observation)

    board.observe(look)
    async with asyncio.timeout(10):
        return await found


def test_a_sampler_that_crashes_is_unknown_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        view = open_view()
        sampler = Faulty(view, None)
        async with answering() as app, asyncio.TaskGroup() as tasks:
            target = Target(app.port)
            board = Board([target])
            watching = tasks.create_task(Monitor(target, POLICY, sampler, board).run())
            await until(board, lambda seen: seen.round_trip is not None)
            before = board.entries[target.name].verdict
            assert before.ready
            sampler.fault = ZeroDivisionError("a defect")
            seen = await until(board, lambda seen: seen.sample is not None)
            assert seen.sample == Sample(
                error="a defect of the sidecar: ZeroDivisionError('a defect')"
            )
            assert board.entries[target.name].verdict == before
            assert board.entries[target.name].unknowns == 1
            sampler.fault = None
            await until(board, lambda seen: seen.round_trip is not None)
            assert board.entries[target.name].verdict.ready
            watching.cancel()
        view.close()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["a tick failed"]


class Refusing:
    """A view to which the kernel says nothing any more."""

    name = "sock_diag"

    def __init__(self, view: KernelView) -> None:
        self._view = view
        self.refuses = False

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        if self.refuses:
            raise CannotTell("EPERM")
        return self._view.listeners(port)

    def __getattr__(self, name: str) -> object:
        return getattr(self._view, name)


async def test_a_kernel_that_refuses_leaves_the_round_trip_to_judge() -> None:
    view = open_view()
    refusing = Refusing(view)
    async with answering() as app, asyncio.TaskGroup() as tasks:
        target = Target(app.port)
        board = Board([target])
        sampler = Sampler(refusing, None)  # type: ignore[arg-type]  # a view by delegation
        watching = tasks.create_task(Monitor(target, POLICY, sampler, board).run())
        await until(board, lambda seen: seen.round_trip is not None)
        refusing.refuses = True
        await until(board, lambda seen: seen.sample == Sample(error="EPERM"))
        trip = await until(board, lambda seen: seen.round_trip is not None)
        assert trip.round_trip is not None
        assert board.entries[target.name].verdict.ready
        watching.cancel()
    view.close()


def test_a_subscriber_that_fails_takes_nothing_along(caplog: pytest.LogCaptureFixture) -> None:
    board = Board([Target(8080)])
    heard: list[Transition] = []

    def fail(_: Transition) -> None:
        raise ZeroDivisionError

    board.subscribe(fail)
    board.subscribe(heard.append)
    verdict = Verdict("8080", ready=True)
    transition = Transition("8080", 1.0, Verdict("8080"), verdict)
    board.publish("8080", Observation(1.0), verdict, transition)
    assert heard == [transition]
    assert board.ready
    assert [record.message for record in caplog.records] == ["a subscriber of the board failed"]


def test_live_is_held_while_evidence_is_saved() -> None:
    board = Board([Target(8080)])
    saving = [True]
    board.gate_live(lambda verdict: saving[0])
    verdict = Verdict("8080", live=False)
    board.publish("8080", Observation(1.0), verdict, None)
    assert board.live
    saving[0] = False
    assert not board.live


def test_memory_is_of_this_boot_and_namespace(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    assert memory.load() == frozenset()
    memory.remember(frozenset({7, 8}))
    memory.remember(frozenset({7}))
    assert Memory(tmp_path).load() == {7, 8}
    with fresh_namespace():
        assert Memory(tmp_path).load() == frozenset()


def test_memory_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "accepted.new").symlink_to(tmp_path / "elsewhere")
    Memory(tmp_path).remember(frozenset({7}))
    assert (tmp_path / "elsewhere").read_text() == "untouched"


def test_memory_that_cannot_be_read_or_written_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "accepted.json").write_text("nonsense")
    memory = Memory(tmp_path)
    assert memory.load() == frozenset()
    (tmp_path / "accepted.new").mkdir()
    memory.remember(frozenset({7}))
    memory.remember(frozenset({8}))
    assert [record.message.split(": ")[0] for record in caplog.records] == [
        f"{tmp_path}/accepted.json is not readable and will be written anew",
        "listeners that accepted will not be remembered",
    ]


def where() -> str:
    """This boot and network namespace, as the file has them."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/net').readlink()}"


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"where": "WHERE", "cookies": [1e999]}',
        '{"where": "WHERE", "cookies": [NaN]}',
        '{"where": "WHERE", "cookies": [-1]}',
        '{"where": "WHERE", "cookies": [18446744073709551616]}',
        '{"where": "WHERE", "cookies": [1' + "0" * 5000 + "]}",
        '{"where": "WHERE", "cookies": [true]}',
        '{"where": "WHERE", "cookies": "17"}',
        '{"where": "WHERE", "cookies": {"7": 7}}',
        '{"where": "WHERE"}',
        '["WHERE"]',
        "WHERE",
        "\ud800",
        "\0" * 1000,
        "7" * 100_000,
        "",
    ],
)
def test_memory_believes_only_what_makes_sense(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    text = content.replace("WHERE", where())
    (tmp_path / "accepted.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    memory = Memory(tmp_path)
    assert memory.load() == frozenset()
    assert len(caplog.records) == 1
    memory.remember(frozenset({7}))
    assert Memory(tmp_path).load() == {7}


@pytest.mark.parametrize("trap", ["fifo", "folder", "zero", "dangling", "sparse", "hidden"])
@pytest.mark.parametrize("name", ["accepted.json", "accepted.new"])
def test_memory_waits_for_nothing_and_follows_no_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, trap: str
) -> None:
    path = tmp_path / name
    match trap:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "zero":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to(tmp_path / "elsewhere")
        case "sparse":
            path.touch()
            os.truncate(path, 1 << 40)
        case "hidden":
            path.touch(0)
    memory = Memory(tmp_path)
    assert memory.load() == frozenset()
    memory.remember(frozenset({7}))
    assert not (tmp_path / "elsewhere").exists()
    if trap == "folder":
        assert "listeners that accepted will not be remembered" in caplog.text
    else:
        assert Memory(tmp_path).load() == {7}


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_memory_of_any_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "accepted.json").write_bytes(content)
    cookies = Memory(tmp_path).load()
    assert len(cookies) <= 1000
    assert all(type(cookie) is int and 0 <= cookie < 1 << 64 for cookie in cookies)


async def test_a_connection_of_ours_is_closed_with_the_monitor() -> None:
    """Cancelled while its connection is queued: nothing is left open (warnings are errors)."""

    view = open_view()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        target = Target(deaf.getsockname()[1])
        board = Board([target])
        policy = POLICY._replace(timeout=0.3)
        async with asyncio.TaskGroup() as tasks:
            monitor = Monitor(target, policy, Sampler(view, None), board)
            watching = tasks.create_task(monitor.run())
            await until(board, lambda seen: seen.own_queued_for is not None)
            watching.cancel()
    view.close()
