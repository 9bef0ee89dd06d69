"""If the sidecar's own loop stops, the sidecar ends, so that it is restarted; the pod stays."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

from probe import exits
from probe.sidecar import logs


class Watchdog(threading.Thread):
    """Asks the loop for a sign of life once every `interval` seconds, from a thread of its own.

    It counts its own wake-ups and not the clock: a sidecar that was frozen and thawed (SIGSTOP, a
    suspended node) is not one whose loop is blocked. `lag` is told how late each sign came, in
    seconds.

    What the loop may hold is not needed to end: neither the log nor its locks, nor Python itself.
    Code that computes without ever letting another thread run stops this one, too; then the kernel
    ends the process, after twice that much CPU time without a sign of life. (Not process 1: the
    kernel keeps from it every signal that it has no handler for, see pid_namespaces(7).)
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        lag: Callable[[float], None],
        *,
        interval: float = 1.0,
        patience: int = 10,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._loop = loop
        self._lag = lag
        self._interval = interval
        self._patience = patience
        self._stopped = threading.Event()
        self._unanswered = 0

    def run(self) -> None:
        while not self._stopped.wait(self._interval):
            if self._unanswered >= self._patience:
                blocked = self._unanswered * self._interval
                logs.last_words(
                    f"the event loop has been blocked for {blocked:.0f} s: ending, to be restarted"
                )
                os._exit(exits.BLOCKED)
            self._unanswered += 1
            if self._unanswered == 1:
                try:
                    self._loop.call_soon_threadsafe(self._answer, time.monotonic())
                except RuntimeError:
                    return  # The loop was closed: the sidecar is ending.

    def stop(self) -> None:
        self._stopped.set()
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _answer(self, asked: float) -> None:
        if self._stopped.is_set():
            return
        self._unanswered = 0
        signal.setitimer(signal.ITIMER_PROF, 2 * self._patience * self._interval)
        self._lag(time.monotonic() - asked)
