"""Log lines: one per transition and one per oddity, for people or as JSON.

Who reads them may stop reading: a pipe is full then, a disk hangs. Whoever writes here does not
wait for that (`Outlet`).
"""

import atexit
import io
import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable

from probe.model import Condition, Hold, Observation, Outcome, Reason, Transition
from probe.sidecar.board import Board

logger = logging.getLogger("probe")


class TextFormatter(logging.Formatter):
    """`2026-11-22T08:49:58Z WARNING 8080 accept queue stalled: ...`, in UTC."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime


class JsonFormatter(logging.Formatter):
    """One object a line; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class Outlet(io.TextIOBase):
    """A stream that nobody waits for: a thread of its own writes to the descriptor, and what it
    cannot take in time is dropped, counted, and said once something can be said again.

    Blocking is left to the thread, since nothing else covers all that a descriptor can be: a
    non-blocking one would be so for every process that shares it, and disks know no such thing.
    Where a limit on tasks forbids a thread, what a pipe has no room for is dropped at once.
    """

    LINES = 500
    """Writes that wait at most."""

    LONGEST = 8 * 1024
    """Characters of one of them."""

    SHORTER = select.PIPE_BUF - 16
    """The same where there is no thread: so much a pipe takes at once (pipe(7), PIPE_BUF)."""

    def __init__(self, descriptor: int, lost: Callable[[int], str]) -> None:
        """`lost` words the line that says how many writes were dropped."""
        self._descriptor = descriptor
        self._lost = lost
        self._dropped = self._told = 0
        self._waiting: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._threaded = True
        try:
            thread = threading.Thread(target=self._write_all, name=f"outlet {descriptor}")
            thread.daemon = True
            thread.start()
        except RuntimeError:
            self._threaded = False

    def write(self, text: str) -> int:
        """Hand over `text`, or drop it where too much waits already. Takes no lock."""
        longest = self.LONGEST if self._threaded else self.SHORTER
        shown = text if len(text) <= longest else text[:longest] + " ...\n"
        if self._threaded and self._waiting.qsize() < self.LINES:
            self._waiting.put(shown)
        elif self._threaded or not self._has_room():
            self._dropped += 1
        else:
            self._write_and_tell(shown)
        return len(text)

    def drain(self, seconds: float) -> None:
        """Wait until all that was handed over is written, `seconds` at most."""
        if not self._threaded:
            return
        written = threading.Event()
        self._waiting.put(written)
        written.wait(seconds)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def _write_all(self) -> None:
        while True:
            text = self._waiting.get()
            if isinstance(text, threading.Event):
                text.set()
            else:
                self._write_and_tell(text)

    def _write_and_tell(self, text: str) -> None:
        self._write(text)
        dropped = self._dropped
        if dropped > self._told:
            self._write(self._lost(dropped - self._told))
            self._told = dropped

    def _has_room(self) -> bool:
        """Whether a line can be written without waiting."""
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        return bool(writable.poll(0))

    def _write(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                time.sleep(0.1)  # Somebody else made it non-blocking.
            except OSError:
                return  # Closed, or full: there is nowhere left to say so.


LAST_WORDS = 1.0
"""Seconds that the end of the process waits for its last lines."""


def configure(form: str, level: str) -> None:
    """Send everything from `level` on to stderr, as `text` or `json`. From here on neither stderr
    nor stdout makes anyone wait.
    """
    formatter = JsonFormatter() if form == "json" else TextFormatter()

    def lost(number: int) -> str:
        return _line(formatter, logging.WARNING, f"{number} lines were lost: nobody took them")

    outlet = Outlet(2, lost)
    sys.stderr = outlet
    sys.stdout = Outlet(1, lambda _: "")
    for each in (sys.stdout, outlet):
        atexit.register(each.drain, LAST_WORDS)
    handler = logging.StreamHandler(outlet)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def last_words(text: str) -> None:
    """Say why the process ends at once, as far as that can be said within a second.

    Nothing that another thread may hold is needed: neither the locks of `logging` nor the stream.
    """
    stream = sys.stderr
    if not isinstance(stream, Outlet):
        logger.critical(text)
        return
    formatter = next((one.formatter for one in logging.root.handlers if one.formatter), None)
    stream.write(_line(formatter or TextFormatter(), logging.CRITICAL, text))
    stream.drain(LAST_WORDS)


def _line(formatter: logging.Formatter, level: int, text: str) -> str:
    record = logging.LogRecord(logger.name, level, __file__, 0, text, None, None)
    return formatter.format(record) + "\n"


class Narrator:
    """Tells the log what happens on the board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._unseen: dict[str, str] = {}
        """By target, why the last sample told nothing."""
        self._unasked: set[str] = set()
        """The targets whose last round trip could not be made."""
        board.subscribe(self.transition)
        board.observe(self.oddity)
        board.on_going(self.forget)
        board.hear_of_holds(self.hold)

    def transition(self, transition: Transition) -> None:
        verdict = transition.after
        level = logging.INFO
        if verdict.condition is Condition.UNHEALTHY and verdict.reason is not Reason.NOT_LISTENING:
            # Every rollout closes listeners; what became of one that is missed, the evidence says.
            level = logging.WARNING
        if not verdict.live:
            level = logging.ERROR
        suffix = ""
        if not verdict.live:
            gated = self._board.is_live(self._board.entries[transition.target])
            suffix = "; /live is held" if gated else "; not live"
        logger.log(
            level,
            "%s%s",
            verdict.message,
            suffix,
            extra={
                "fields": {
                    "event": "transition",
                    "target": transition.target,
                    "before": transition.before.condition,
                    "condition": verdict.condition,
                    "reason": verdict.reason,
                    "stage": verdict.stage,
                    "ready": verdict.ready,
                    "live": verdict.live,
                    "started": verdict.started,
                }
            },
        )

    def forget(self, name: str) -> None:
        """There is no such target any more."""
        self._unseen.pop(name, None)
        self._unasked.discard(name)

    def hold(self, before: Hold | None, after: Hold | None) -> None:
        if after is not None:
            said = f"{after}; `probe release` ends it"
        else:
            over = before is not None and before.until <= self._board.clock()
            said = f"the hold is {'over' if over else 'released'}: /live says again what is found"
        logger.warning("%s", said, extra={"fields": {"event": "hold", "held": after is not None}})

    def oddity(self, target: str, observation: Observation) -> None:
        """Say when the kernel begins, and when it ceases, to refuse an answer, or a round trip to
        be impossible for a reason that is not the application's.
        """
        sample, trip = observation.sample, observation.round_trip
        if sample is not None and sample.error != self._unseen.get(target, ""):
            self._unseen[target] = sample.error
            self._tell(target, "seen", sample.error)
        if trip is not None and (trip.outcome is Outcome.UNKNOWN) != (target in self._unasked):
            # Once, however often the reason changes: a resolver has many words for one thing.
            self._unasked ^= {target}
            self._tell(target, "asked", trip.detail if target in self._unasked else "")

    def _tell(self, target: str, what: str, why: str) -> None:
        fields = {"event": "unknown" if why else "known", "target": target}
        if why:
            logger.warning("%s cannot be %s: %s", target, what, why, extra={"fields": fields})
        else:
            logger.info("%s can be %s again", target, what, extra={"fields": fields})
