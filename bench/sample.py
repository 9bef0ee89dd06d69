"""One sample with 100,000 connections in the namespace, and with none, beside the usual ways."""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import psutil

from bench.measure import cpu_of, cpu_of_call, table
from probe.kernel import open_view
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler

CONNECTIONS = 100_000
PER_HOLDER = 5_000
"""Connections that one process holds, both ends: 10,000 descriptors, which most systems allow."""


def hold(number: int, listener: socket.socket, ready: Barrier, done: Event) -> None:
    """Hold connections to a listener that all share, both ends of each, until `done`."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * PER_HOLDER + 100,) * 2)
    with contextlib.ExitStack() as stack:
        for _ in range(PER_HOLDER):
            source = (f"127.0.1.{number}", 0)
            client = socket.create_connection(listener.getsockname(), source_address=source)
            stack.enter_context(client)
            stack.enter_context(listener.accept()[0])
        ready.wait()
        done.wait()


@contextlib.contextmanager
def connections(count: int, listener: socket.socket) -> Iterator[None]:
    """Have this many accepted connections to `listener` in the namespace."""
    context = get_context("fork")
    holders = range(1, 1 + count // PER_HOLDER)
    ready, done = context.Barrier(1 + len(holders)), context.Event()
    processes = [
        context.Process(target=hold, args=(number, listener, ready, done)) for number in holders
    ]
    for process in processes:
        process.start()
    ready.wait(timeout=120)
    yield
    done.set()
    for process in processes:
        process.join()


def main() -> None:
    """Print the CPU time of one look by each way, with and without connections."""
    sampler = Sampler(open_view(), Counters())
    with (
        socket.create_server(("127.0.0.1", 8080)),
        socket.create_server(("127.0.0.1", 8081), backlog=4096) as busy,
    ):
        ways: dict[str, Callable[[], float]] = {
            "probe, one sample": lambda: cpu_of_call(lambda: sampler.sample(8080), 3000),
            "ss -ltn": lambda: min(cpu_of(("ss", "-ltn")) for _ in range(3)),
            "/proc/net/tcp, whole": lambda: cpu_of_call(Path("/proc/net/tcp").read_bytes, 3),
            "psutil.net_connections": lambda: cpu_of_call(lambda: psutil.net_connections("tcp"), 1),
        }
        without = {name: measure() for name, measure in ways.items()}
        with connections(CONNECTIONS, busy):
            among = {name: measure() for name, measure in ways.items()}
    rows = [("way", "no connection", f"{CONNECTIONS:,} connections", "ratio")]
    for name in ways:
        ratio = among[name] / without[name]
        rows.append((name, _time(without[name]), _time(among[name]), f"{ratio:.2f}"))
    table(rows)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"
