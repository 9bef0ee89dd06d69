"""Observations as JSON lines: `probe serve --record` writes them, `probe replay` reads them.

The first line is a header that names the format, the targets and the policy; every further line is
one observation. A verdict follows from the observations alone, so a recorded incident replays
exactly, under its own policy or another.
"""

import errno
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from probe import __version__
from probe.model import (
    Listener,
    Observation,
    Outcome,
    Phases,
    Policy,
    RoundTrip,
    Sample,
    Stage,
    plain,
)

FORMAT = 1
MAX_BYTES = 16 * 2**20
"""A file that has grown to this is kept as FILE.1, and a new one begun: 32 MiB at the most."""

logger = logging.getLogger(__name__)


class BadRecording(Exception):
    """The file is no recording of ours; the message names the line."""


class Header(NamedTuple):
    policy: Policy
    targets: tuple[str, ...]


class Recorder:
    """Writes observations until it can't; a full disk ends the recording, not the sidecar."""

    def __init__(
        self, path: Path, targets: Iterable[str], policy: Policy, max_bytes: int = MAX_BYTES
    ) -> None:
        """Begin the file anew (0600). Raises OSError when it can't be written at all."""
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
            self._file.write(line)
            self._written += len(line)
        except OSError as error:
            logger.warning("recording to %s has ended: %s", self._path, error)
            self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> BinaryIO:
        file = os.fdopen(_opened(self._path), "wb", buffering=0)
        try:
            file.write(self._header)
        except OSError:
            file.close()
            raise
        self._written = len(self._header)
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


def read(path: Path) -> tuple[Header, Iterator[tuple[str, Observation]]]:
    """Open a recording. Raises OSError, and BadRecording at the first line that does not fit."""
    file = path.open(encoding="utf-8", errors="replace")
    try:
        header = _header(path, file.readline())
    except BadRecording:
        file.close()
        raise
    return header, _observations(path, file)


def _header(path: Path, line: str) -> Header:
    try:
        fields = json.loads(line)
        if fields["format"] != FORMAT:
            raise BadRecording(f"{path}:1: format {fields['format']}; this probe reads {FORMAT}")
        policy = dict(fields["policy"])
        policy["live_on"] = frozenset(policy["live_on"])
        return Header(Policy(**policy), tuple(fields["targets"]))
    except (ValueError, TypeError, KeyError) as error:
        raise BadRecording(f"{path}:1: not the header of a recording ({error!r})") from None


def _observations(path: Path, file: TextIO) -> Iterator[tuple[str, Observation]]:
    with file:
        for number, line in enumerate(file, 2):
            try:
                fields = json.loads(line)
                yield fields["target"], _observation(fields)
            except (ValueError, TypeError, KeyError) as error:
                raise BadRecording(f"{path}:{number}: not an observation ({error!r})") from None


def _observation(fields: Mapping[str, Any]) -> Observation:
    sample = fields.get("sample")
    if sample is not None:
        rows = tuple(Listener(**row) for row in sample.pop("listeners", ()))
        front = tuple(sample.pop("front", ()))
        sample = Sample(rows, front=front, **sample)
    trip = fields.get("round_trip")
    if trip is not None:
        trip = RoundTrip(
            **{
                **trip,
                "outcome": Outcome(trip["outcome"]),
                "stage": Stage(trip["stage"]) if trip.get("stage") else None,
                "phases": Phases(**trip.get("phases", {})),
            }
        )
    return Observation(
        float(fields["at"]), sample, trip, bool(fields.get("accepted")), fields.get("held")
    )


def _lean(record: Any) -> dict[str, Any]:
    """Leave out what says nothing, so that an idle hour takes little room."""
    lean = {}
    for name, value in record._asdict().items():
        if value is None or value is False or value == "" or value == ():
            continue
        nested = hasattr(value, "_asdict") and name != "listeners"
        lean[name] = _lean(value) if nested else plain(value)
    return lean


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"
