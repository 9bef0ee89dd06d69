"""The parent's side of a capture: starts the child, keeps what it says, ends it when it is late.

The child names each step as it begins it. One that hangs, crashes or eats its memory is ended
with its whole process group, and another child goes on with the steps after it, so that one bad
step costs itself alone. Nothing here reads /proc or decodes more than a line: the loop that
reaches the verdicts goes on undisturbed.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from probe.evidence.capture.spawn import PATIENCE, Spawned, spawn
from probe.evidence.proc.files import parse_json, reason
from probe.evidence.records.audit import plain
from probe.evidence.records.report import CaptureRequest, Carried, Missing, Report, Step, typed

STEPS = {
    "queue": 2.0,
    "acceptors": 6.0,
    "connections": 3.0,
    "dumps": 8.0,
    "processes": 3.0,
    "container": 2.0,
    "network": 2.0,
}
"""The steps of a capture in the order of their worth, and the seconds each may take."""

LEARN = {"learn": 6.0}
"""The one step while all is well."""

START = 5.0
"""Seconds that a child may take before its first step."""

OUTPUT_LIMIT = 4 << 20
"""Bytes that one child may write."""

Command = tuple[str, ...]
CHILD: Command = (sys.executable, "-P", "-m", "probe.evidence.capture.child")


class Gathered(NamedTuple):
    """What the children of one capture brought back: the report's fields as plain data."""

    sections: dict[str, Any]
    missing: tuple[Missing, ...]
    steps: tuple[Step, ...]
    children: int


class Progress:
    """What is left to do and what has been found, fed with the child's lines. No I/O, no clock."""

    def __init__(self, steps: Mapping[str, float]) -> None:
        self.left = dict(steps)
        self.sections: dict[str, Any] = {}
        self.carried = Carried()
        self.missing: list[Missing] = []
        self.done: list[Step] = []
        self.current: str | None = None
        self.failed = ""
        """Why the child could not even begin, in its own words."""
        self.bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Take what the child wrote; whether a line was complete.

        Raises ValueError, KeyError or TypeError where it makes no sense.
        """
        self.bytes += len(data)
        if self.bytes > OUTPUT_LIMIT:
            raise ValueError(f"the child wrote more than {OUTPUT_LIMIT} bytes")
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            message = parse_json(line)
            if "begin" in message:
                self.current = str(message["begin"])
            elif "failed" in message:
                self.failed = str(message["failed"])
            else:
                self._end(message)
        return bool(lines)

    def _end(self, message: dict[str, Any]) -> None:
        self.left.pop(message["end"], None)
        self.current = None
        self.sections.update(message["sections"])
        self.carried = typed(Carried, message["carried"])
        self.missing += typed(tuple[Missing, ...], message["missing"])
        self.done.append(typed(Step, {"name": message["end"], "seconds": message["seconds"]}))

    def give_up(self, why: str) -> None:
        """The child is gone: drop the step it was in, or all of them if it never began one."""
        dropped = list(self.left) if self.current is None else [self.current]
        for name in dropped:
            self.left.pop(name, None)
            self.missing.append(Missing(name, why))
        self.current = None
        self.bytes = 0
        self._tail = b""

    @property
    def allowed(self) -> float:
        """Seconds that the child may stay silent now."""
        return START if self.current is None else self.left.get(self.current, START)


async def gather(
    request: CaptureRequest,
    *,
    seconds: float,
    steps: Mapping[str, float] = STEPS,
    command: Command = CHILD,
) -> Gathered:
    """Carry out a capture within `seconds`. Raises nothing but its own cancellation."""
    progress = Progress(steps)
    deadline = time.monotonic() + seconds
    children = 0
    while progress.left:
        left = deadline - time.monotonic()
        if left <= 0:
            progress.give_up(f"no time was left of the capture's {seconds:g} s")
            break
        children += 1
        request = request._replace(
            steps=tuple(progress.left), seconds=left, carried=progress.carried
        )
        why = await run_child(request, progress, deadline, command)
        progress.give_up(progress.failed or why or "the capture's child left it out")
    return Gathered(progress.sections, tuple(progress.missing), tuple(progress.done), children)


async def run_child(
    request: CaptureRequest, progress: Progress, deadline: float, command: Command
) -> str:
    """Run one child to its end; why it did not do all, "" when it did."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        async with spawn(command, given=json.dumps(plain(request)).encode(), env=env) as spawned:
            return await listen(spawned.output, progress, deadline) or await farewell(spawned)
    except OSError as error:
        return f"the capture's child cannot be started: {reason(error)}"


async def listen(stdout: asyncio.StreamReader, progress: Progress, deadline: float) -> str:
    """Feed what the child says until it falls silent for too long: then why; "" at its end."""
    silent_until = min(time.monotonic() + progress.allowed, deadline)
    while True:
        try:
            # Not wait_for: up to 3.11 it forgets a cancellation that comes together with data.
            async with asyncio.timeout(silent_until - time.monotonic()):
                data = await stdout.read(1 << 16)
        except TimeoutError:
            if silent_until >= deadline:
                return "the capture's time was over"
            return f"it took longer than its {progress.allowed:g} s"
        if not data:
            return ""
        try:
            if progress.feed(data):
                silent_until = min(time.monotonic() + progress.allowed, deadline)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            return f"the capture's child made no sense: {reason(error)}"


async def farewell(spawned: Spawned) -> str:
    """How a child ended that has closed its output; "" when it did all it was asked for."""
    try:
        async with asyncio.timeout(PATIENCE):
            code = await spawned.wait()
    except TimeoutError:
        return "the capture's child would not end"
    if code < 0:
        return f"the capture's child was ended by {signal.Signals(-code).name}"
    return f"the capture's child ended with exit code {code}" if code else ""


async def capture(report: Report, request: CaptureRequest, *, seconds: float) -> Report:
    """The report with all that could be gathered within `seconds`.

    `report` comes with what the caller knows: id, time, port, verdict, history. This is what
    `probe diagnose` calls; it raises nothing.
    """
    gathered = await gather(request, seconds=seconds)
    return assemble(report._replace(redacted=request.redact), gathered)


def assemble(report: Report, gathered: Gathered) -> Report:
    """Put the children's plain data into the report; a field that makes no sense is missing."""
    hints = get_type_hints(Report)
    fields: dict[str, Any] = {}
    missing = list(gathered.missing)
    for name, value in gathered.sections.items():
        try:
            fields[name] = typed(hints[name], value)
        except (KeyError, TypeError, ValueError) as error:
            missing.append(Missing(name, f"it made no sense: {reason(error)}"))
    return report._replace(**fields, missing=tuple(missing), steps=gathered.steps)
