"""What 1, 10 and 50 targets cost: CPU time of a sidecar beside an application that is well.

`OTHER=TREE` names another work tree of this project, such as one of the commit before: its sidecar
is measured at the same time, with this interpreter, in a network namespace of its own.
"""

import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from bench.measure import cpu_of_process, table
from tests.conftest import fresh_namespace

COUNTS = (1, 10, 50)
FIRST_PORT = 20_000
SETTLE, MEASURE = 40, 20
"""Seconds: until all are healthy and who accepts for them is learnt, and then of measurement."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def serve(listeners: list[socket.socket]) -> None:
    """Answer every request, one read each: on loopback none of them comes in pieces."""
    with selectors.DefaultSelector() as selector:
        for listener in listeners:
            selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready in listeners:
                    selector.register(ready.accept()[0], selectors.EVENT_READ)
                    continue
                selector.unregister(ready)
                ready.recv(4096)
                ready.sendall(ANSWER)
                ready.close()


@contextmanager
def application(count: int) -> Iterator[list[int]]:
    """Serve so many ports from a process of its own, and give them."""
    ports = list(range(FIRST_PORT, FIRST_PORT + count))
    listeners = [socket.create_server(("127.0.0.1", port), backlog=128) for port in ports]
    process = get_context("fork").Process(target=serve, args=(listeners,))
    process.start()
    for listener in listeners:
        listener.close()
    try:
        yield ports
    finally:
        process.kill()
        process.join()


def share_of_a_core(tree: Path, count: int) -> float:
    """Run the sidecar of a work tree on so many ports; return its CPU time by the clock's."""
    with fresh_namespace(), application(count) as ports:
        return watch(tree, ports)


def watch(tree: Path, ports: list[int]) -> float:
    command = [sys.executable, "-m", "probe", "serve", "--listen", "127.0.0.1:0"]
    for port in ports:
        command += ["--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    sidecar = subprocess.Popen(command, cwd=tree, env=environment, stderr=subprocess.DEVNULL)
    try:
        time.sleep(SETTLE)
        before, began = cpu_of_process(sidecar.pid), time.monotonic()
        time.sleep(MEASURE)
        return (cpu_of_process(sidecar.pid) - before) / (time.monotonic() - began)
    finally:
        sidecar.kill()
        sidecar.wait()


def main() -> None:
    """Print the share of a core by the number of targets, of this tree and of the other."""
    trees = [Path(__file__).parents[1]]
    if other := os.environ.get("OTHER"):
        trees.insert(0, Path(other).absolute())
    rows = [("targets", *(f"CPU of one core, {tree.name}" for tree in trees))]
    for count in COUNTS:
        with ThreadPoolExecutor() as sides:
            shares = sides.map(share_of_a_core, trees, [count] * len(trees))
        rows.append((str(count), *(f"{share:.2%}" for share in shares)))
    table(rows)
