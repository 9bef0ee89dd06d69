"""Whether a stall is worth a restart: what it would cut off, and whether that would help."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.faults.harness import Lines, Sidecar, sidecar
from tests.faults.test_faults import HEALTHY, STALLED

PLACES = 4

SERVER = f"""
import socket, sys, threading

places = threading.Semaphore({PLACES})
blocked = threading.Event()

def serve(client):
    with client:
        while data := client.recv(65536):
            if data == b"slowly\\n":
                threading.Event().wait()
            client.sendall(data)
            said = data
        if kind == "leaks" and said == b"hello\\n":
            threading.Event().wait()
    places.release()

def accept():
    while True:
        places.acquire()
        if blocked.is_set():
            threading.Event().wait()
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()

kind = sys.argv[1]
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, daemon=True).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.readline()
blocked.set()
print("blocked", flush=True)
sys.stdin.readline()
"""

RECYCLED = """
import os, socket, sys, time

def work():
    while True:
        client, _ = listener.accept()
        with client:
            client.sendall(client.recv(65536))

listener = socket.create_server(("127.0.0.1", 0))
first = os.fork() or work()
print(listener.getsockname()[1], flush=True)
sys.stdin.readline()
os.kill(first, 9)
os.wait()
second = os.fork() or (time.sleep(7), work())
print("blocked", flush=True)
sys.stdin.readline()
os.kill(second, 9)
"""


class Server:
    """Echoes lines to so many clients as it has places, and accepts the next when one leaves."""

    def __init__(self, kind: str, program: str = SERVER) -> None:
        command = [sys.executable, "-c", program, kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self._stdin = self.process.stdin
        self._lines = Lines(self.process.stdout.fileno())
        self.port = int(self._lines.next(10) or 0)

    def block(self) -> None:
        """From now on a place that becomes free is not taken."""
        self._say_go()
        assert self._lines.next(10) == "blocked"

    def end(self) -> None:
        self._say_go()
        self.process.communicate(timeout=10)

    def _say_go(self) -> None:
        self._stdin.write(b"\n")
        self._stdin.flush()


@contextmanager
def served(kind: str = "plain", program: str = SERVER) -> Iterator[tuple[Server, Sidecar]]:
    """The server, and a sidecar that has found it healthy."""
    server = Server(kind, program)
    target = f"tcp://:{server.port}?send=PING\\n&expect=PING"
    patience = ("--live-after", "4s", "--live-after-busy", "9s")
    try:
        with sidecar("--target", target, *patience) as probe:
            probe.until(10, **HEALTHY)
            yield server, probe
    finally:
        server.process.kill()
        server.process.communicate()


@contextmanager
def session(port: int) -> Iterator[socket.socket]:
    """A client that is answered every 0.2 s."""
    ended = threading.Event()
    with socket.create_connection(("127.0.0.1", port), 10) as client:

        def talk() -> None:
            while not ended.wait(0.2):
                client.sendall(b"hello\n")
                assert client.recv(64) == b"hello\n"

        client.sendall(b"hello\n")
        assert client.recv(64) == b"hello\n"
        thread = threading.Thread(target=talk)
        thread.start()
        try:
            yield client
        finally:
            ended.set()
            thread.join()


def test_at_its_limit_with_every_session_served_it_is_not_ready_and_live() -> None:
    with served() as (server, probe), ExitStack() as leaving:
        for _ in range(PLACES):
            leaving.enter_context(session(server.port))
        probe.until(8, **STALLED, live=True)
        event = probe.until(5, **STALLED, live=True)
        assert f"; live: {PLACES} connections are served, until none is for 4 s" in event["message"]
        probe.throughout(7, **STALLED, live=True)
        assert f"ok: {PLACES} connections are served" in probe.get("/live?verbose")[1]
        (target,) = probe.status()["targets"]
        assert target["verdict"]["kept_live"].startswith(f"{PLACES} connections are served")
        assert f"; live: {PLACES} connections" in probe.get("/ready")[1]
        leaving.close()
        probe.until(8, **HEALTHY)


def test_a_place_that_is_free_and_not_taken_outweighs_the_sessions() -> None:
    """Who accepts waits for a lock for ever: nobody can prove it, until somebody leaves."""
    with served() as (server, probe), ExitStack() as staying, ExitStack() as leaving:
        leaving.enter_context(session(server.port))
        for _ in range(PLACES - 1):
            staying.enter_context(session(server.port))
        server.block()
        probe.until(8, **STALLED, live=True)
        probe.until(5, **STALLED, live=True)
        leaving.close()
        event = probe.until(12, **STALLED, live=False)
        assert "; a place has been free for 4" in event["message"]


def test_requests_that_are_worked_on_are_waited_for_so_long() -> None:
    with served() as (server, probe), ExitStack() as waiting:
        for _ in range(PLACES):
            client = waiting.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            client.sendall(b"slowly\n")
        probe.until(8, **STALLED, live=True)
        event = probe.until(5, **STALLED, live=True)
        assert f"; live: {PLACES} requests are worked on, until 9 s" in event["message"]
        event = probe.until(9, **STALLED, live=False)
        assert "nothing accepted for 9" in event["message"]


def test_connections_that_were_leaked_are_no_reason_to_stay() -> None:
    with served("leaks") as (server, probe):
        for _ in range(PLACES):
            with session(server.port):
                pass
        probe.until(8, **STALLED, live=True)
        event = probe.until(5, **STALLED, live=False)
        assert "nothing accepted for 4" in event["message"]


def test_a_worker_that_starts_is_waited_for() -> None:
    """The one before it has ended; the listener is their parent's, and has accepted before."""
    with served(program=RECYCLED) as (server, probe):
        server.block()
        probe.until(8, **STALLED, live=True)
        event = probe.until(5, **STALLED, live=True)
        assert "; live: a process that holds the listener is " in event["message"]
        probe.until(10, **HEALTHY)
        server.end()
