"""Observations as JSON lines: `probe serve --record` writes them, `probe replay` reads them.

The first line is a header that names the format, the targets and the policy; every further line is
one observation. A verdict follows from the observations alone, so a recorded incident replays
exactly, under its own policy or another.
"""

import errno
import json
import logging
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from probe import __version__
from probe.evidence.records.report import typed
from probe.model import Observation, Policy, plain

FORMAT = 1
MAX_BYTES = 16 * 2**20
"""A file that has grown to this is kept as FILE.1, and a new one begun: 32 MiB at the most."""

MAX_LINE = 4 * 2**20
"""Characters of a line. An observation has some hundred, and 200 more for each listener."""

MAX_WHY = 200
"""Characters about what is wrong with a line, which may be foreign."""

logger = logging.getLogger(__name__)


class BadRecording(Exception):
    """The file is no recording of ours; the message names the line."""


class RecordingHeader(NamedTuple):
    policy: Policy
    targets: tuple[str, ...]


class Recorder:
    """Writes observations until it cannot; a full disk ends the recording, not the sidecar."""

    def __init__(
        self, path: Path, targets: Iterable[str], policy: Policy, max_bytes: int = MAX_BYTES
    ) -> None:
        """Begin the file anew (0600). Raises OSError when it cannot be written at all."""
        self._path = path
        self._max_bytes = max_bytes
        self._header = _line(
            {
                "format": FORMAT,
                "version": __version__,
                "targets": list(targets),
                "policy": plain(policy),
            }
        )
        self._written = 0
        self._file: BinaryIO | None = self._begin()

    def __call__(self, target: str, observation: Observation) -> None:
        if self._file is None:
            return
        line = _line({"target": target, **_lean(observation)})
        try:
            if self._written + len(line) > self._max_bytes:
                self._file.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._file = self._begin()
            self._append(self._file, line)
        except OSError as error:
            logger.warning("recording to %s has ended: %s", self._path, error)
            self.close()

    def _append(self, file: BinaryIO, line: bytes) -> None:
        """The line, or nothing of it. Raises OSError.

        A disk that becomes full takes a part of it, and says why with the rest: write(2).
        """
        try:
            written = file.write(line)
            if written is not None and written < len(line):
                file.write(line[written:])
        except OSError:
            with suppress(OSError):
                file.truncate(self._written)
            raise
        self._written += len(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> BinaryIO:
        file = os.fdopen(_opened(self._path), "wb", buffering=0)
        self._written = 0
        try:
            self._append(file, self._header)
        except OSError:
            file.close()
            raise
        return file


def _opened(path: Path) -> int:
    """A descriptor to write a file anew by, for nobody else to read; an older one is emptied.

    The folder may be shared with the application: nothing is waited for (a FIFO), and nothing of
    ours written over that has another name (a link of either kind).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        seen = os.fstat(descriptor)
        if stat.S_ISREG(seen.st_mode):
            if seen.st_nlink != 1:
                raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), str(path))
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, 0)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read(path: Path) -> tuple[RecordingHeader, Iterator[tuple[str, Observation]]]:
    """Open a recording. Raises OSError, and BadRecording at the first line that does not fit."""
    file = path.open(encoding="utf-8", errors="replace")
    try:
        header = _header(path, file.readline(MAX_LINE))
    except BaseException:
        file.close()
        raise
    return header, _observations(path, file)


def _header(path: Path, line: str) -> RecordingHeader:
    with _told(path, 1, "not the header of a recording"):
        fields = _fields(line)
        if (written := fields.get("format")) != FORMAT:
            raise ValueError(f"its format is {written!r}, and this probe reads {FORMAT}")
        policy = typed(Policy, fields["policy"])
        for name in fields["policy"].keys() - Policy._fields:
            raise ValueError(f"policy: this probe knows no {name}")
        if min(policy.interval, policy.timeout) <= 0:
            raise ValueError("policy: interval and timeout must be above 0")
        return RecordingHeader(policy, tuple(_target(name) for name in fields["targets"]))


def _observations(path: Path, file: TextIO) -> Iterator[tuple[str, Observation]]:
    number = 1
    with file:
        while line := file.readline(MAX_LINE):
            number += 1
            with _told(path, number, "not an observation"):
                fields = _fields(line)
                observed = _target(fields["target"]), typed(Observation, fields)
            yield observed


@contextmanager
def _told(path: Path, number: int, what: str) -> Iterator[None]:
    """Say of whatever does not fit in a line in which it is, and why."""
    try:
        yield
    except KeyError as error:
        why = f"{error.args[0]} is missing"
    except RecursionError:
        why = "nested too deeply"
    except (ValueError, TypeError, OverflowError) as error:
        why = str(error)
    else:
        return
    raise BadRecording(f"{path}:{number}: {what}: {why[:MAX_WHY]}") from None


def _fields(line: str) -> dict[str, Any]:
    if len(line) == MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} characters")
    try:
        fields = json.loads(line, parse_constant=_finite, parse_float=_finite)
    except json.JSONDecodeError:
        raise ValueError("it is no JSON" if line.strip() else "it is empty") from None
    if not isinstance(fields, dict):
        raise TypeError("it is no JSON object")
    return fields


def _finite(text: str) -> float:
    """A number that can be reckoned with: JSON as Python reads it has NaN and Infinity too."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _target(name: object) -> str:
    """A target's name: its port in decimal digits, or the path of its unix socket."""
    if isinstance(name, str) and len(name) <= 5 and name.isascii() and name.isdecimal():
        return name
    if isinstance(name, str) and len(name) <= 107 and name[:1] in {"/", "@"}:
        return name
    raise ValueError(f"target {name!r} is no port and no unix socket")


def _lean(record: Any) -> dict[str, Any]:
    """Leave out what says nothing, so that an stalled_for hour takes little room."""
    lean = {}
    for name, value in record._asdict().items():
        if name in record._field_defaults and value == record._field_defaults[name]:
            continue
        nested = hasattr(value, "_asdict") and name != "listeners"
        lean[name] = _lean(value) if nested else plain(value)
    return lean


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"
