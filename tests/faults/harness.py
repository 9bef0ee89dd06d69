"""The sidecar and the application as real processes, and their events to wait for."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

APP = Path(__file__).with_name("app.py")


class Lines:
    """The lines of a pipe, with a time limit."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self.seen: list[str] = []
        os.set_blocking(fd, False)

    def next(self, within: float) -> str | None:
        """Return the next line; None when none came in time, or the pipe was closed."""
        deadline = time.monotonic() + within
        with selectors.DefaultSelector() as selector:
            selector.register(self._fd, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    return None
                data = os.read(self._fd, 65536)
                if not data:
                    return None
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        self.seen.append(line.decode())
        return self.seen[-1]


class App:
    """`app.py` in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(APP), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin
        assert self.process.stdout
        self._stdin = self.process.stdin
        self._lines = Lines(self.process.stdout.fileno())
        word, _, port = (self._lines.next(10) or "").partition(" ")
        assert word == "port"
        self.port = int(port)

    def tell(self, command: str) -> None:
        self._stdin.write(command.encode() + b"\n")
        self._stdin.flush()
        assert self._lines.next(10) == "done", command

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Sidecar:
    """`probe serve` in a process of its own; its log is the stream of events."""

    def __init__(self, *options: str, wrapper: Sequence[str] = ()) -> None:
        """`wrapper` is a command that becomes the one it is given."""
        self.process = subprocess.Popen(
            [
                *wrapper,
                *(sys.executable, "-m", "probe", "serve", "--listen", "127.0.0.1:0"),
                *("--log-format", "json", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr
        self._lines = Lines(self.process.stderr.fileno())
        self.events: list[dict[str, Any]] = []
        try:
            self.port = int(self.until(60, event="serving")["port"])
        except BaseException:
            self.end()  # Nobody else knows of it.
            raise

    def next(self, within: float) -> dict[str, Any] | None:
        line = self._lines.next(within)
        if line is None:
            return None
        assert line.startswith("{"), "\n".join(self._lines.seen)
        event: dict[str, Any] = json.loads(line)
        self.events.append(event)
        return event

    def until(self, within: float, **fields: object) -> dict[str, Any]:
        """Return the next event that has these fields; fail when it does not come in time."""
        deadline = time.monotonic() + within
        while (event := self.next(deadline - time.monotonic())) is not None:
            if all(event.get(name) == value for name, value in fields.items()):
                return event
        raise AssertionError(f"no {fields} within {within} s; log:\n" + "\n".join(self._lines.seen))

    def throughout(self, seconds: float, **fields: object) -> None:
        """Fail when a transition within `seconds` says something else than these fields."""
        deadline = time.monotonic() + seconds
        while (event := self.next(deadline - time.monotonic())) is not None:
            if event.get("event") == "transition":
                for name, value in fields.items():
                    assert event[name] == value, "\n".join(self._lines.seen)
        assert self.process.poll() is None, "\n".join(self._lines.seen)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=5
            ) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.get("/status")[1])
        return body

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def flowing(*command: str) -> Iterator[None]:
    """Clients in a process of their own, from the moment it says `flowing`."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        assert Lines(process.stdout.fileno()).next(60) == "flowing"
        yield
    finally:
        process.kill()
        process.communicate()


@contextmanager
def application(*options: str) -> Iterator[App]:
    app = App(*options)
    try:
        yield app
    finally:
        app.resume()
        app.end()


@contextmanager
def sidecar(*options: str, wrapper: Sequence[str] = ()) -> Iterator[Sidecar]:
    started = Sidecar(*options, wrapper=wrapper)
    try:
        yield started
    finally:
        started.end()


@contextmanager
def watched(app: App, *options: str, wrapper: Sequence[str] = ()) -> Iterator[Sidecar]:
    """A sidecar that has found the application healthy."""
    with sidecar("--port", str(app.port), *options, wrapper=wrapper) as watching:
        watching.until(10, condition="healthy", ready=True)
        yield watching
