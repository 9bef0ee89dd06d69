"""`probe demo` and `probe watch` as they run in a terminal: recorded, and drawn for the README.

    python -m bench recording      # runs them: docs/figures/NAME.cast, then docs/figures/NAME.svg
    python -m bench.recording      # draws docs/figures/NAME.svg from the recordings again

The recordings are asciinema's: `asciinema play docs/figures/demo.cast`. What `probe watch` sees is
the incident beside a sidecar with default settings; the restart comes five seconds after /live has
failed, which is sooner than kubelet's.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.terminal import film, screens
from tests.faults.harness import application, flowing, watched
from tests.faults.test_faults import HEALTHY, STALLED, TRAFFIC

FIGURES = Path(__file__).parent.parent / "docs" / "figures"

COLUMNS = 80
PORT, BACKLOG, RATE = 8080, 50, 2
CALM, DEAD = 8, 5
"""Seconds of `probe watch` before the fault and at the end; and while it is not live."""


class Terminal:
    """A command of ours in a terminal, and what it shows there."""

    def __init__(self, command: str, title: str, rows: int) -> None:
        self._title = title
        self._rows = rows
        self._ours, its = os.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        environment.pop("NO_COLOR", None)
        self._events: list[tuple[float, str, str]] = []
        self._begun = time.monotonic()
        program, *arguments = command.split()
        self._process = subprocess.Popen(
            [sys.executable, "-m", program, *arguments],
            stdin=its,
            stdout=its,
            stderr=its,
            env=environment,
            start_new_session=True,
        )
        os.close(its)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self._events.append((round(time.monotonic() - self._begun, 3), "o", data.decode()))
        except OSError:  # EIO: the last who had it open has closed it.
            pass

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def recording(self) -> str:
        """When the command has ended: an asciicast. Raises CalledProcessError where it failed."""
        status = self._process.wait()
        self._reader.join()
        os.close(self._ours)
        if status:
            raise subprocess.CalledProcessError(status, self._title)
        header = {"version": 2, "width": COLUMNS, "height": self._rows, "title": self._title}
        lines = (json.dumps(line, ensure_ascii=False) for line in (header, *self._events))
        return "".join(f"{line}\n" for line in lines)


def demo() -> str:
    return Terminal("probe demo", "probe demo", 28).recording()


def watch() -> str:
    address = ("--port", str(PORT), "--backlog", str(BACKLOG))
    clients = (sys.executable, str(TRAFFIC), str(PORT), str(RATE), "200")
    with application(*address) as app, watched(app) as sidecar, flowing(*clients):
        time.sleep(CALM)  # So that there is a history.
        terminal = Terminal(f"probe watch --sidecar 127.0.0.1:{sidecar.port}", "probe watch", 24)
        time.sleep(CALM)
        app.tell("die")
        sidecar.until(20, **STALLED)
        sidecar.until(60, live=False)
        time.sleep(DEAD)
        app.end()
        with application(*address):
            sidecar.until(20, **HEALTHY)
            time.sleep(CALM)
            terminal.press(b"q")
            return terminal.recording()


RECORDED: dict[str, tuple[Callable[[], str], Callable[[str], str]]] = {
    "demo": (demo, lambda recording: film(recording, speed=2)),
    "watch": (watch, lambda recording: screens(recording, speed=4, still=CALM + 20)),
}
"""How each is recorded and drawn."""


def main() -> None:
    """Record them and draw them."""
    for name, (record, _) in RECORDED.items():
        (FIGURES / f"{name}.cast").write_text(record())
    redraw()


def redraw() -> None:
    """Draw them from the recordings that are there."""
    for name in RECORDED:
        figure = FIGURES / f"{name}.svg"
        figure.write_text(drawn(name))
        print(f"{figure.name}: {figure.stat().st_size / 1000:.1f} kB")


def drawn(name: str) -> str:
    """What the recording of this name looks like."""
    return RECORDED[name][1]((FIGURES / f"{name}.cast").read_text())


if __name__ == "__main__":
    redraw()
