"""Real applications in processes of their own, obeying one word a line on stdin."""

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from socket import create_connection

from probe.kernel import KernelView
from tests.support import until

HERE = Path(__file__).parent
PATIENCE = 30.0
"""Seconds after which a program that does not answer has failed the test."""


class Program:
    """A process that answers every word it is told with a line."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.name = " ".join(command)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ, **(env or {})),
            preexec_fn=prepare,
        )
        self.pid = self.process.pid
        self._buffer = b""

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                assert selector.select(deadline - time.monotonic()), f"{self.name} is silent"
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"{self.name} ended with {self.process.wait()}"
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode().strip()

    def tell(self, word: str) -> str:
        self.send(word)
        return self.line()

    def send(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def program(*command: str, ready: str = "ready", **env: str) -> Iterator[Program]:
    """A program that has said that it is ready."""
    started = Program(command, env=env)
    try:
        assert started.line() == ready
        yield started
    finally:
        started.end()


def server(mode: str, port: int, **env: str) -> AbstractContextManager[Program]:
    """One of the applications of servers.py."""
    return program(sys.executable, str(HERE / "servers.py"), mode, str(port), **env)


def length(view: KernelView, port: int) -> int:
    return sum(listener.length for listener in view.listeners(port))


@contextmanager
def queued(view: KernelView, port: int, count: int = 3) -> Iterator[None]:
    """Connections that are in the accept queue, and stay open meanwhile."""
    before = length(view, port)
    with ExitStack() as clients:
        for _ in range(count):
            clients.enter_context(create_connection(("127.0.0.1", port)))
        until(lambda: length(view, port) == before + count, f"a queue of {before + count}")
        yield
