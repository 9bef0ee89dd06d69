"""A terminal taken over for a while, and given back as it was, however that ends.

Plain escape sequences, as xterm has them and whatever calls itself one: no library is needed for
these few, and the image has none.
"""

import os
import select
import signal
import termios
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from probe import exits

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, so that what was there comes back; no cursor; nothing wraps by itself."""

LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

CLEAR = "\x1b[H\x1b[2J"
LINE = "\x1b[{line};1H\x1b[K{text}"
"""Emptied first: after the last column, what is emptied is that column."""

SIZE = (80, 24)
"""Columns and lines where a terminal does not tell: `kubectl exec` does so a moment later."""

LARGEST = (1000, 500)

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program without asking; SIGINT is a KeyboardInterrupt."""

ALL = {*ENDING, signal.SIGINT, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH}


class Screen:
    """A terminal, by the descriptors of its keys, if there are any, and of what is shown."""

    def __init__(self, keys: int | None, shown: int, encoding: str) -> None:
        self.keys = keys
        self._shown = shown
        self._encoding = encoding
        self._before: list[Any] | None = None
        """The attributes of the terminal as they are to be again."""
        self._lines: list[str] = []
        self._size = SIZE

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, as of now."""
        try:
            columns, lines = os.get_terminal_size(self._shown)
        except OSError:
            columns = lines = 0
        return min(columns or SIZE[0], LARGEST[0]), min(lines or SIZE[1], LARGEST[1])

    @contextmanager
    def taken(self, wake: int) -> Iterator[None]:
        """Meanwhile the terminal is ours: keys come as they are pressed, and are not echoed; ctrl-c
        and ctrl-z stay what they are. A signal, a new size among them, writes a byte into `wake`.

        Raises SystemExit where a signal ends us, with the status that shells give it.
        """
        with ExitStack() as stack:
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(wake))
            for number, handler in self._handlers().items():
                stack.callback(signal.signal, number, signal.signal(number, handler))
            try:
                self._take()
                yield
            finally:
                self._give_back()

    def show(self, lines: list[str]) -> None:
        """A frame in one write, which has the lines that differ from those of the last. Raises
        SystemExit where the terminal is gone.
        """
        if self.size != self._size:
            self._lines, self._size = [], self.size
        parts = [] if self._lines else [CLEAR]
        for number, text in enumerate(lines):
            if number >= len(self._lines) or self._lines[number] != text:
                parts.append(LINE.format(line=number + 1, text=text))
        self._lines = lines
        if parts:
            try:
                self._write("".join(parts))
            except OSError:
                _end(signal.SIGHUP)

    def pressed(self) -> bytes:
        """What was typed, once something was. Raises SystemExit where the terminal is gone."""
        try:
            typed = os.read(self.keys, 1024) if self.keys is not None else b""
        except OSError:  # EIO (tty_ioctl(4), hangup)
            typed = b""
        return typed or _end(signal.SIGHUP)

    # --- taking and giving back

    def _handlers(self) -> dict[signal.Signals, Any]:
        return {
            **dict.fromkeys(ENDING, _end),
            signal.SIGTSTP: self._stop,
            signal.SIGCONT: lambda *_: self._take(),
            signal.SIGWINCH: lambda *_: None,
        }

    def _take(self) -> None:
        """Raises SystemExit where the terminal is gone: who hangs up sends SIGCONT as well."""
        try:
            if self.keys is not None:
                ours = termios.tcgetattr(self.keys)
                if self._before is None:
                    self._before = termios.tcgetattr(self.keys)
                ours[3] &= ~(termios.ICANON | termios.ECHO)
                ours[6][termios.VMIN], ours[6][termios.VTIME] = 1, 0
                termios.tcsetattr(self.keys, termios.TCSADRAIN, ours)
            self._lines = []
            self._write(ENTER)
        except (termios.error, OSError):
            _end(signal.SIGHUP)

    def _give_back(self) -> None:
        """Whatever else comes meanwhile."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
        try:
            with suppress(OSError):  # Of a terminal that is gone nothing is left to be restored.
                self._write(LEAVE)
            if self.keys is not None and self._before is not None:
                with suppress(termios.error):
                    # What was typed and not read yet was meant for us, and not for the shell.
                    termios.tcsetattr(self.keys, termios.TCSAFLUSH, self._before)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        """ctrl-z: the shell has its terminal while we are stopped."""
        self._give_back()
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here we go on: at once, where there is no shell that could stop anybody.
        signal.signal(signal.SIGTSTP, ours)
        self._take()

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "replace")
        while data:
            try:
                data = data[os.write(self._shown, data) :]
            except BlockingIOError:  # Somebody who shares the terminal has made it so.
                select.select([], [self._shown], [])


def _end(number: int, _frame: FrameType | None = None) -> NoReturn:
    raise SystemExit(exits.BY_SIGNAL + number)
