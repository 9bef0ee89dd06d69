"""`probe demo` as it runs in a terminal: recorded, and drawn for the README.

    python -m bench recording      # runs it: docs/figures/demo.cast, then docs/figures/demo.svg
    python -m bench.recording      # draws docs/figures/demo.svg from the recording again

The recording is asciinema's: `asciinema play docs/figures/demo.cast`.
"""

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from bench.terminal import film

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
RECORDING, DRAWING = FIGURES / "demo.cast", FIGURES / "demo.svg"

COMMAND = "probe demo"
COLUMNS, ROWS = 80, 28


def record(command: str) -> str:
    """Run a command of ours in a terminal; return what it showed, as asciicast v2.

    Raises CalledProcessError where it fails.
    """
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    begun = time.monotonic()
    program, *arguments = command.split()
    process = subprocess.Popen(
        [sys.executable, "-m", program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env=environment,
    )
    os.close(its)
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": command}
    lines: list[object] = [header]
    try:
        while data := os.read(ours, 65536):
            lines.append([round(time.monotonic() - begun, 3), "o", data.decode()])
    except OSError:  # EIO: the last who had it open has closed it.
        pass
    os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def main() -> None:
    """Record it and draw it."""
    RECORDING.write_text(record(COMMAND))
    redraw()


def redraw() -> None:
    """Draw it from the recording that is there."""
    DRAWING.write_text(film(RECORDING.read_text(), speed=2))
    print(f"{DRAWING.name}: {DRAWING.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    redraw()
