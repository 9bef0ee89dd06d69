"""What grows with connections, listeners, clients and targets, beside the usual ways; with plots.

CPU time throughout, which a busy machine changes less than the clock. JSON and SVG go to
docs/figures.
"""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import which
from typing import NamedTuple

import psutil
from pyroute2 import DiagSocket

from bench.measure import FIGURES, cpu_of, cpu_of_call, cpu_of_process, median, table
from bench.plot import Axis, Point, Series, lines
from bench.ready import ask
from bench.sample import connections
from bench.targets import share_of_a_core
from probe.kernel import KernelView, open_view
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from tests.faults.harness import application, watched

CONNECTIONS = (0, 10_000, 50_000, 100_000)
LISTENERS = (1, 100, 1_000)
CLIENTS = (1, 3, 10, 30, 100, 300, 1_000)
TARGETS = (1, 10, 50)

ANSWERS = 3_000
"""Requests for each number of clients."""

PORT, BUSY, FIRST = 8080, 8081, 20_000
LISTEN = 1 << 10
"""The state, as a bit; see include/net/tcp_states.h."""

Figures = Mapping[str, Mapping[int, float]]
"""By way, and by how many there were, CPU seconds."""


class Answered(NamedTuple):
    """What so many clients at once were given: seconds, and the sidecar's CPU seconds for each."""

    clients: int
    answers: int
    median: float
    p99: float
    cpu: float


def ways(kernel: KernelView, client: socket.socket) -> dict[str, Callable[[], float]]:
    """How to learn what a queue or a connection is up to, and the CPU seconds that it takes once.
    The other end of `client` is what is looked up.
    """
    sampler = Sampler(kernel, Counters())
    ends = (client.getsockname(), client.getpeername())

    def by_pyroute2() -> None:
        with DiagSocket() as diag:
            for family in (socket.AF_INET, socket.AF_INET6):
                diag.get_sock_stats(family=family, states=LISTEN)

    found = {
        "probe: one sample": lambda: cpu_of_call(lambda: sampler.sample(PORT), 1000),
        "probe: an exact lookup": lambda: cpu_of_call(lambda: kernel.lookup(*ends), 1000),
        "pyroute2: a dump of the listeners": lambda: cpu_of_call(by_pyroute2, 10),
        "/proc/net/tcp, read whole": lambda: cpu_of_call(Path("/proc/net/tcp").read_bytes, 3),
        "psutil.net_connections": lambda: cpu_of_call(lambda: psutil.net_connections("tcp"), 1),
        "probe diagnose: a report": lambda: cpu_of(
            (sys.executable, "-m", "probe", "diagnose", "--port", str(PORT), "--json")
        ),
    }
    if which("ss"):
        found["ss -ltn"] = lambda: median([cpu_of(("ss", "-ltn")) for _ in range(3)])
    return found


def by_size() -> tuple[Figures, Figures]:
    """CPU seconds by the connections among which one asks, and by the listeners."""
    among: dict[str, dict[int, float]] = {}
    beside: dict[str, dict[int, float]] = {}
    with (
        socket.create_server(("127.0.0.1", PORT)),
        socket.create_server(("127.0.0.1", BUSY), backlog=4096) as busy,
        socket.create_connection(busy.getsockname()) as client,
        busy.accept()[0],
        contextlib.closing(open_view()) as kernel,
    ):
        with contextlib.ExitStack() as others:
            there_are = 2
            for number in LISTENERS:
                for port in range(there_are, number):
                    others.enter_context(socket.create_server(("127.0.0.1", FIRST + port)))
                there_are = max(there_are, number)
                for name, measure in ways(kernel, client).items():
                    beside.setdefault(name, {})[number] = measure()
        for number in CONNECTIONS:
            with connections(number, busy):
                for name, measure in ways(kernel, client).items():
                    among.setdefault(name, {})[number] = measure()
    return among, beside


async def crowd(port: int, clients: int) -> list[float]:
    """Have so many clients ask for /ready in turn, a connection each; how long each answer took."""
    taken: list[float] = []
    left = ANSWERS

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await ask(port, taken, time.monotonic())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(client())
    return sorted(taken)


def by_clients() -> list[Answered]:
    told = []
    with application() as app, watched(app) as sidecar:
        for clients in CLIENTS:
            before = cpu_of_process(sidecar.process.pid)
            taken = asyncio.run(crowd(sidecar.port, clients))
            cpu = (cpu_of_process(sidecar.process.pid) - before) / len(taken)
            p99 = taken[len(taken) * 99 // 100]
            told.append(Answered(clients, len(taken), median(taken), p99, cpu))
    return told


def main() -> None:
    """Print tables, and keep figures and plots."""
    among, beside = by_size()
    for head, figures in (("connections", among), ("listeners", beside)):
        numbers = next(iter(figures.values()))
        rows = [("CPU time", *(f"{number:,} {head}" for number in numbers))]
        rows += [(name, *map(_time, taken.values())) for name, taken in figures.items()]
        table(rows)
        print()
    answered = by_clients()
    rows = [("clients at once", "answered", "median", "p99", "CPU time for each")]
    for one in answered:
        times = (_time(one.median), _time(one.p99), _time(one.cpu))
        rows.append((f"{one.clients:,}", f"{one.answers:,} of {ANSWERS:,}", *times))
    table(rows)
    print()
    tree = Path(__file__).parents[1]
    targets = {number: share_of_a_core(tree, number) for number in TARGETS}
    table([("targets", "CPU of one core"), *((f"{n}", f"{s:.2%}") for n, s in targets.items())])
    kept = {
        "connections": among,
        "listeners": beside,
        "clients": [one._asdict() for one in answered],
        "targets": targets,
    }
    (FIGURES / "scale.json").write_text(json.dumps(kept, indent=1) + "\n")
    draw(kept)


def draw(kept: Mapping[str, object]) -> None:
    """Make the plots that docs/performance.md shows."""
    for name, title in (("connections", "among connections"), ("listeners", "beside listeners")):
        figures = kept[name]
        assert isinstance(figures, Mapping)
        first, last = (list(figures["probe: one sample"].values())[at] for at in (0, -1))
        plot = lines(
            f"One look at a queue {title}: CPU time",
            f"A sample takes {_time(first)} with the fewest {name}, {_time(last)} with the most. "
            "The other ways are in the table of docs/performance.md.",
            Axis(name, log=name == "listeners"),
            Axis("CPU time", log=True, tell=_time),
            [
                Series(way, [Point(int(number), cpu) for number, cpu in taken.items()])
                for way, taken in figures.items()
            ],
        )
        (FIGURES / f"scale-{name}.svg").write_text(plot)
    answered = kept["clients"]
    assert isinstance(answered, list)
    plot = lines(
        "/ready, by clients at once",
        "Closed loop, a connection for each request, clients and sidecar on the same two cores: "
        + "; ".join(f"{one['clients']} clients: {_time(one['median'])}" for one in answered),
        Axis("clients", log=True),
        Axis("time to the answer", log=True, tell=_time),
        [
            Series(name, [Point(one["clients"], one[key]) for one in answered])
            for name, key in (
                ("median", "median"),
                ("99th percentile", "p99"),
                ("CPU time of the sidecar for each", "cpu"),
            )
        ],
    )
    (FIGURES / "scale-clients.svg").write_text(plot)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
