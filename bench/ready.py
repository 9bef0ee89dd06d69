"""/ready at 500 requests a second, while the target is healthy and while it is stalled; memory.

Client and sidecar are pinned to one core each where there are two.
"""

import asyncio
import contextlib
import os
import time

from bench.measure import cpu_of_process, median, rss_of, table
from tests.faults.harness import application, watched

RATE = 500
SECONDS = 20
REQUEST = b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def ask(port: int, taken: list[float], due: float) -> None:
    """Ask as kubelet does, with a new connection; count from when the request was due."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        await reader.read()
        taken.append(time.monotonic() - due)
        writer.close()


async def load(port: int, rate: int, count: int) -> list[float]:
    """Send `count` requests at a steady rate; return how long each took, in seconds."""
    taken: list[float] = []
    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            due = begun + number / rate
            await asyncio.sleep(due - time.monotonic())
            tasks.create_task(ask(port, taken, due))
    return taken


def main() -> None:
    """Print latency and CPU for both, then the memory after 10,000 and 20,000 requests."""
    cores = sorted(os.sched_getaffinity(0))
    with application() as app, watched(app) as sidecar:
        pid = sidecar.process.pid
        os.sched_setaffinity(pid, cores[:1])
        if len(cores) > 1:
            os.sched_setaffinity(0, cores[1:])
        rss = [("after start", rss_of(pid))]
        rows = [("target", "answered", "median", "p99", "CPU of one core")]
        for state in ("healthy", "stalled"):
            if state == "stalled":
                app.tell("accept off")
                sidecar.until(6, reason="accept_queue_stalled", ready=False)
            before = cpu_of_process(pid)
            taken = sorted(asyncio.run(load(sidecar.port, RATE, RATE * SECONDS)))
            busy = (cpu_of_process(pid) - before) / SECONDS
            p99 = taken[len(taken) * 99 // 100]
            rows.append(
                (
                    *(state, f"{len(taken):,} of {RATE * SECONDS:,}"),
                    *(f"{median(taken) * 1e3:.2f} ms", f"{p99 * 1e3:.2f} ms", f"{busy:.0%}"),
                )
            )
            rss.append((f"after {RATE * SECONDS * len(rss):,} requests", rss_of(pid)))
    table(rows)
    print()
    table([("memory", "RSS"), *((when, f"{mib:.1f} MiB") for when, mib in rss)])
