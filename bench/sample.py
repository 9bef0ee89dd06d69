"""One sample with 100,000 connections in the namespace, and with none, beside the usual ways."""

import contextlib
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from bench.measure import cpu_of, cpu_of_call, table
from probe.kernel import open_view
from probe.kernel.procfs import Counters
from probe.sampler import Sampler

CONNECTIONS = 100_000
PER_ADDRESS = 20_000
"""Connections from one address: the port range has room for 28,000."""


@contextlib.contextmanager
def connections(count: int) -> Iterator[None]:
    """Hold this many accepted connections, both ends of each."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < 2 * count + 100:
        most = 2 * count + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 9000), backlog=128))
        for number in range(count):
            source = (f"127.0.1.{1 + number // PER_ADDRESS}", 0)
            client = socket.create_connection(("127.0.0.1", 9000), source_address=source)
            stack.enter_context(client)
            stack.enter_context(listener.accept()[0])
        yield


def main() -> None:
    """Print the CPU time of one look by each way, with and without connections."""
    sampler = Sampler(open_view(), Counters())
    with socket.create_server(("127.0.0.1", 8080)):
        ways: dict[str, Callable[[], float]] = {
            "probe, one sample": lambda: cpu_of_call(lambda: sampler.sample(8080), 3000),
            "ss -ltn": lambda: min(cpu_of(("ss", "-ltn")) for _ in range(3)),
            "/proc/net/tcp, whole": lambda: cpu_of_call(Path("/proc/net/tcp").read_bytes, 3),
            "psutil.net_connections": lambda: cpu_of_call(lambda: psutil.net_connections("tcp"), 1),
        }
        without = {name: measure() for name, measure in ways.items()}
        with connections(CONNECTIONS):
            among = {name: measure() for name, measure in ways.items()}
    rows = [("way", "no connection", f"{CONNECTIONS:,} connections", "ratio")]
    for name in ways:
        ratio = among[name] / without[name]
        rows.append((name, _time(without[name]), _time(among[name]), f"{ratio:.2f}"))
    table(rows)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"
