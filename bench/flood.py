"""kubelet's probe of the sidecar while clients flood it: answered within 1 s, and how fast.

Sidecar and kubelet are pinned to one core, the flood to the other, where there are two. kubelet
asks /live and /ready, 20 times a second together, each on a new connection.
"""

import asyncio
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import NamedTuple

from bench.measure import cpu_of_process, median, rss_of, table
from tests.faults.harness import application, watched

SECONDS = 10.0
RATE = 20
TIMEOUT = 1.0


class Flood(NamedTuple):
    """`clients` at once that say `says`, if anything, and come again when they are closed."""

    clients: int
    says: bytes = b""
    again: bool = False
    """Whether they say it again on the same connection, after each answer."""


def asking(*headers: bytes, path: bytes = b"/live") -> bytes:
    return b"\r\n".join((b"GET " + path + b" HTTP/1.1", b"Host: a", *headers, b"", b""))


ACCEPT = b"Accept: application/x" + b",a" * 3900

FLOODS = {
    "nothing": Flood(0),
    "2,000 idle": Flood(2000),
    "2,000 half a request": Flood(2000, b"GET /live HTTP/1.1\r\nX: "),
    "500 ask again and again": Flood(500, asking(), again=True),
    "500 ask once": Flood(500, asking(b"Connection: close")),
    "500 ask for /metrics": Flood(500, asking(path=b"/metrics"), again=True),
    "500 pipeline": Flood(500, asking() * 500, again=True),
    "500, a header of 8 KiB": Flood(500, asking(ACCEPT), again=True),
    "200, headers of 24 KiB": Flood(200, asking(ACCEPT, ACCEPT, ACCEPT), again=True),
    "500, a query of 8 KiB": Flood(500, asking(path=b"/live?" + b"a&" * 4000)),
    "500, a body": Flood(500, asking(b"Content-Length: 1000000") + bytes(16000)),
    "500, no HTTP": Flood(500, b"\x16\x03\x01" + bytes(200)),
}


def flood(name: str, port: int, seconds: float) -> None:
    """Be the flood, as fast as one core goes."""
    clients, says, again = FLOODS[name]
    poll = select.epoll()
    waiting = select.EPOLLIN | select.EPOLLRDHUP
    open_now: dict[int, socket.socket] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(min(clients - len(open_now), 64)):
            client = socket.socket()
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
            open_now[client.fileno()] = client
            poll.register(client, waiting | (select.EPOLLOUT if says else 0))
        for descriptor, event in poll.poll(0.001, 256):
            client = open_now[descriptor]
            try:
                if event & select.EPOLLOUT:
                    poll.modify(client, waiting)
                    client.send(says)
                elif not client.recv(1 << 16):
                    raise ConnectionError
                elif again:
                    client.send(says)
            except BlockingIOError:
                pass
            except OSError:
                del open_now[descriptor]
                client.close()


async def probe(port: int, path: str) -> float | None:
    """Ask as kubelet does; return the seconds it took, None if that failed."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
    except (OSError, TimeoutError):
        return None
    return time.monotonic() - begun if answer.startswith(b"HTTP/1.1 200 ") else None


async def kubelet(port: int) -> list[float | None]:
    """Ask at a steady rate, whatever becomes of the answers."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        asked = []
        for number in range(round(RATE * SECONDS)):
            await asyncio.sleep(begun + number / RATE - time.monotonic())
            asked.append(tasks.create_task(probe(port, ("/live", "/ready")[number % 2])))
    return [one.result() for one in asked]


def main() -> None:
    """Print one row for each flood."""
    cores = sorted(os.sched_getaffinity(0))
    rows = [("flood", "answered", "median", "p99", "CPU of one core", "RSS")]
    with application() as app, watched(app) as sidecar:
        pid = sidecar.process.pid
        for each in (pid, 0):
            os.sched_setaffinity(each, cores[:1])
        for name in FLOODS:
            script = [sys.executable, "-m", "bench.flood", name, str(sidecar.port)]
            flooding = subprocess.Popen(
                script, preexec_fn=lambda: os.sched_setaffinity(0, cores[-1:])
            )
            time.sleep(1.0)  # The flood is at its height, and so is the crowd.
            before = cpu_of_process(pid)
            took = asyncio.run(kubelet(sidecar.port))
            busy = (cpu_of_process(pid) - before) / SECONDS
            flooding.terminate()
            flooding.wait()
            good = sorted(one for one in took if one is not None) or [TIMEOUT]
            failed = sum(one is None for one in took)
            rows.append(
                (
                    *(name, f"{len(took) - failed} of {len(took)}"),
                    f"{median(good) * 1e3:.1f} ms",
                    f"{good[len(good) * 99 // 100] * 1e3:.1f} ms",
                    *(f"{busy:.0%}", f"{rss_of(pid):.0f} MiB"),
                )
            )
            time.sleep(1.0)  # What it left in the accept queue is gone.
    table(rows)


if __name__ == "__main__":
    flood(sys.argv[1], int(sys.argv[2]), SECONDS + 10)
