"""A terminal for a program to be in: a real one of the kernel's, whose screen is read back."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 30.0

LINE = re.compile(r"\x1b\[(\d+);1H\x1b\[K([^\x1b]*(?:\x1b\[[\d;]*m[^\x1b]*)*)|\x1b\[2J")
PAINT = re.compile(r"\x1b\[[\d;]*m")

TAKEN = "\x1b[?1049h"
GIVEN_BACK = "\x1b[?1049l"
CURSOR = "\x1b[?25h"


class Terminal:
    """A program in a session of its own, with a terminal of this size."""

    def __init__(self, *command: str, columns: int, lines: int, environment: dict[str, str]):
        self._ours, theirs = pty.openpty()
        self._theirs = theirs
        self._resize(columns, lines)
        self.before = self.attributes()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.sent = ""
        """All that it has written."""
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
        )

    def attributes(self) -> list[Any]:
        """What stty shows."""
        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """As somebody drags its corner: the kernel tells the program."""
        self._resize(columns, lines)

    def _resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, size)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def hang_up(self) -> None:
        """As when a connection breaks."""
        os.close(self._theirs)
        os.close(self._ours)
        self._ours = self._theirs = -1

    @property
    def screen(self) -> list[str]:
        """The lines of the last picture, without colours."""
        lines: dict[int, str] = {}
        for found in LINE.finditer(self.sent):
            if found[1] is None:
                lines = {}
            else:
                lines[int(found[1])] = PAINT.sub("", found[2]).rstrip()
        return [lines.get(number, "") for number in range(1, max(lines, default=0) + 1)]

    def until(self, condition: Callable[[], bool], what: str = "it") -> None:
        """Read what is written until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            written = self._is_written(deadline - time.monotonic())
            assert written, f"{what} did not come; the screen:\n" + "\n".join(self.screen)
            self._read()

    def _is_written(self, seconds: float) -> bool:
        """Whether there is something to read within so many seconds."""
        # Not by select(), which takes no descriptor above 1023: other tests have many.
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        return bool(poll.poll(max(seconds, 0) * 1000))

    def _read(self) -> None:
        try:
            # A letter may come in two pieces.
            self.sent += self._decoder.decode(os.read(self._ours, 65536))
        except OSError:  # Nobody has the other end any more.
            self.sent += "\n(the terminal is closed)\n"
            raise

    def until_shown(self, pattern: str) -> str:
        """The line that has this, once there is one."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [line for line in self.screen if re.search(pattern, line)]
            return bool(found)

        self.until(is_there, pattern)
        return found[0]

    def ended(self) -> int:
        """The exit status; what was written last is read."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it did not end:\n" + "\n".join(self.screen)
            if self._ours >= 0 and self._is_written(0.02):
                self._read()
        while self._ours >= 0 and self._is_written(0):
            self._read()
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        if self._ours >= 0:
            os.close(self._ours)
            os.close(self._theirs)


@contextmanager
def terminal(
    *command: str, columns: int = 80, lines: int = 24, environment: dict[str, str] | None = None
) -> Iterator[Terminal]:
    opened = Terminal(*command, columns=columns, lines=lines, environment=environment or {})
    try:
        yield opened
    finally:
        opened.close()


def watch(*words: str) -> tuple[str, ...]:
    """The command line."""
    return (sys.executable, "-m", "probe", "watch", *words)
