"""Several targets of one sidecar: they have their ticks together, and share what one look costs."""

import asyncio
import socket
from collections import defaultdict
from contextlib import AsyncExitStack, suppress
from itertools import pairwise

from probe.kernel import open_view
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from probe.model import Observation, Policy, Target
from probe.sidecar.board import Board
from probe.sidecar.monitor import Monitor

POLICY = Policy(interval=0.2, timeout=0.5, stalled_for=0.6)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    writer.close()


def test_targets_share_samples_and_each_has_its_own_verdict() -> None:
    """Nine answer, and one accepts nothing: that one has samples of its own, four times as many."""
    observed: dict[str, list[Observation]] = defaultdict(list)
    dumps: list[float] = []

    async def scenario(deaf: socket.socket) -> Board:
        view, counters = open_view(), Counters()
        async with AsyncExitStack() as stack:
            stack.callback(view.close)
            stack.callback(counters.close)
            ports = [deaf.getsockname()[1]]
            for _ in range(9):
                server = await asyncio.start_server(answer, "127.0.0.1", 0)
                await stack.enter_async_context(server)
                ports.append(server.sockets[0].getsockname()[1])
            targets = [Target(port) for port in ports]
            board = Board(targets)
            board.observe(lambda name, seen: observed[name].append(seen))
            sampler = Sampler(view, counters, dumps.append)
            phase = board.clock()
            monitors = [Monitor(one, POLICY, sampler, board, phase=phase) for one in targets]
            with suppress(TimeoutError):
                async with asyncio.timeout(4.0), asyncio.TaskGroup() as tasks:
                    for monitor in monitors:
                        tasks.create_task(monitor.run())
            return board

    with socket.create_server(("127.0.0.1", 0), backlog=5) as deaf:
        board = asyncio.run(scenario(deaf))
        suspect = str(deaf.getsockname()[1])

    samples = {
        name: [one for one in seen if one.sample is not None] for name, seen in observed.items()
    }
    assert [entry.verdict.ready for entry in board.entries.values()] == [False] + [True] * 9
    assert "stalled" in board.entries[suspect].verdict.message
    assert len(dumps) < sum(len(seen) for seen in samples.values()) / 3
    counted = defaultdict(set)
    for seen in samples.values():
        for observation in seen:
            assert observation.sample is not None
            counted[observation.at].add(observation.sample.accepts)
    assert all(len(accepts) == 1 for accepts in counted.values()), "one moment, one count"
    for seen in samples.values():
        assert all(earlier.at < later.at for earlier, later in pairwise(seen)), "none is told twice"
    others = max(len(seen) for name, seen in samples.items() if name != suspect)
    assert len(samples[suspect]) > 2 * others
