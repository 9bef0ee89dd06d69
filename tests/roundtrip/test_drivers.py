"""What the drivers owe their callers beside the result: promptness, tidiness, few imports."""

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from probe.kernel import KernelView
from probe.model import Outcome, Protocol, RoundTrip, Stage, Target
from probe.roundtrip import Address, address, aio, blocking
from probe.roundtrip.exchange import LIMIT
from probe.roundtrip.protocols import PROTOCOLS, exchange
from tests.roundtrip.application import Application, answer, listen, open_sockets, port_of, replying

# fmt: off
HEAVY = [
    "aiohttp", "argparse", "asyncio", "contextvars", "dataclasses", "h2", "inspect", "json",
    "logging", "pathlib", "psutil", "pyroute2", "ssl", "threading", "urllib.parse", "yaml",
]
# fmt: on

LEAN = """
import sys
before = set(sys.modules)
from probe.kernel import open_view
from probe.model import Protocol, Target
from probe.roundtrip import address, blocking
target = Target(int(sys.argv[1]), Protocol(sys.argv[2]))
result = blocking.run(target, address(target, ()), open_view(), 5.0)
assert result.outcome == "ok", result
print(*(name for name in sys.argv[3:] if name in sys.modules and name not in before))
"""


def dialled(port: int) -> tuple[Target, Address]:
    """A target and where it is, as a driver takes them."""
    return Target(port), address(Target(port), ())


@pytest.mark.parametrize("protocol", ["http", "tcp"])
def test_a_plain_check_imports_nothing_heavy(protocol: str) -> None:
    with Application(lambda connection: connection.sendall(answer())) as application:
        command = [sys.executable, "-c", LEAN, str(application.port), protocol, *HEAVY]
        found = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (found.stdout, found.stderr) == ("\n", "")


def test_time_in_which_the_loop_was_away_is_not_the_applications(view: KernelView) -> None:
    """As a sidecar that gets no CPU: it dials, and says what it wants when its time is over."""

    def reply(connection: socket.socket) -> None:
        connection.recv(1024)
        time.sleep(0.1)
        connection.sendall(answer())

    async def run(port: int) -> RoundTrip:
        trip = asyncio.create_task(aio.run(*dialled(port), view, 1.0))
        await asyncio.sleep(0)
        time.sleep(1.5)  # noqa: ASYNC251 - the loop is away
        return (await trip)[0]

    with Application(reply) as application:
        result = asyncio.run(run(application.port))
    assert result.outcome is Outcome.OK, result


def test_several_round_trips_share_a_loop(view: KernelView) -> None:
    with Application(replying(answer())) as one, listen() as dead:

        async def run() -> None:
            alive = [aio.run(*dialled(one.port), view, 2.0) for _ in range(10)]
            stuck = aio.run(*dialled(port_of(dead)), view, 0.3)
            *good, (bad, held) = await asyncio.gather(*alive, stuck)
            assert [result.outcome for result, _ in good] == [Outcome.OK] * 10
            assert [attempt for _, attempt in good] == [None] * 10
            assert bad.stage is Stage.QUEUED
            assert held is not None
            held.close()

        asyncio.run(run(), debug=True)


def test_a_cancelled_round_trip_leaves_nothing(view: KernelView) -> None:
    with listen() as dead:

        async def run() -> set[str]:
            before = open_sockets()
            task = asyncio.create_task(aio.run(*dialled(port_of(dead)), view, 60.0))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return open_sockets() - before

        assert not asyncio.run(run(), debug=True)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened in this process, ours or another's fault."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_a_descriptor_we_could_not_ask(view: KernelView) -> None:
    async def run() -> RoundTrip:
        with no_descriptors():
            result, held = await aio.run(*dialled(80), view, 1.0)
        assert held is None
        return result

    assert blocking.run(*dialled(80), view, 1.0).stage is Stage.REFUSED
    with no_descriptors():
        results = [blocking.run(*dialled(80), view, 1.0)]
    for result in (*results, asyncio.run(run())):
        assert (result.outcome, result.stage) == (Outcome.UNKNOWN, None)
        assert result.detail == "no socket to be had: Too many open files"


def test_the_loop_is_free_while_a_round_trip_waits(view: KernelView) -> None:
    with listen() as dead:

        async def run() -> int:
            others = 0
            trip = asyncio.create_task(aio.run(*dialled(port_of(dead)), view, 1.0))
            while not trip.done():
                await asyncio.sleep(0.01)
                others += 1
            _, held = await trip
            assert held is not None
            held.close()
            return others

        assert asyncio.run(run()) > 10


def test_the_wait_of_the_blocking_driver_is_idle(view: KernelView) -> None:
    with listen() as dead:
        began = time.thread_time()
        blocking.run(*dialled(port_of(dead)), view, 1.0)
        assert time.thread_time() - began < 0.1


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "chunk",
    [b"a" * 16384, b"X: y\r\n" * 2000, bytes(16384), b"\x16\x03\x03\x40\0" + bytes(16384)],
    ids=["letters", "lines", "zeros", "records"],
)
def test_an_endless_answer_takes_little_memory(protocol: Protocol, chunk: bytes) -> None:
    target = Target(1, protocol, verify=False, send=b"x", expect=b"never")
    spoken = exchange(target, "127.0.0.1")
    spoken.start()
    if protocol is Protocol.HTTP:
        spoken.feed(b"HTTP/1.1 200 OK\r\n")
    tracemalloc.start()
    try:
        for _ in range(200):
            spoken.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * LIMIT
    if protocol is not Protocol.HTTPS or chunk[0] != 0x16:
        assert spoken.result is not None
