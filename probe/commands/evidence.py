"""`probe evidence list` and `probe evidence show ID`: what was kept, read from the directory or,
where none is given, asked of the sidecar that runs in this network namespace.

What lies there may be the application's work as well as ours: nothing reaches the terminal that
could move its cursor, and JSON is read before it is printed.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from probe import exits
from probe.api import client as sidecar
from probe.config import Config, ListenAddress
from probe.evidence.incident import HEAD
from probe.evidence.listing import Listed, as_json, as_table, listed
from probe.evidence.proc.files import parse_json, reason
from probe.evidence.records.audit import plain
from probe.evidence.records.report import typed
from probe.evidence.store import RECORD, REPORT, FolderStore, Kept, parse_id
from probe.evidence.wording import file_size, printable

LISTED = 10_000
"""Incidents of a directory that are listed at most: as many as may be kept."""

TEXT_LIMIT = 1 << 20
"""Bytes of a report that are shown at most; ours are a tenth of it."""

RECORD_LIMIT = 8 << 20
"""Bytes of its record that are read at most, in which each text of a dump may be there."""


class CannotShow(Exception):
    """str() says why in one line; `status` is the exit status."""

    def __init__(self, why: str, status: int = exits.FAILED) -> None:
        super().__init__(why)
        self.status = status


class IncidentFile(NamedTuple):
    """A file of an incident; its size is in bytes."""

    name: str
    size: int


class IncidentRow(NamedTuple):
    """An incident as a sidecar lists it for programs."""

    id: str
    at: str
    port: int
    why: str
    code: str
    finding: str
    size: int
    files: tuple[IncidentFile, ...]


class IncidentSource(Protocol):
    """Where incidents are kept. Its methods raise CannotShow."""

    def table(self) -> str:
        """The incidents for people."""

    def rows(self) -> tuple[IncidentRow, ...]:
        """The same for programs."""

    def read(self, identity: str, name: str, limit: int) -> bytes:
        """The first bytes of one file of an incident."""

    def place(self, identity: str, name: str) -> str:
        """Where somebody else finds that file."""


def run(config: Config) -> int:
    """Print a list or a report. Exit 2: no such directory or incident; 1: it cannot be read."""
    source = Directory(config.evidence.dir) if config.evidence.dir else Beside(config.listen)
    try:
        lines = listing if config.command == "evidence list" else report
        for line in lines(source, config):
            print(line)
    except CannotShow as error:
        print(f"probe: {error}", file=sys.stderr)
        return error.status
    return exits.OK


def listing(source: IncidentSource, config: Config) -> Iterator[str]:
    if config.json:
        yield from (json.dumps(plain(row)) for row in source.rows())
    else:
        yield from map(printable, source.table().splitlines())


def report(source: IncidentSource, config: Config) -> Iterator[str]:
    identity = config.incident
    if not parse_id(identity):
        raise CannotShow(f"{printable(identity)}: not the id of an incident", exits.USAGE)
    if config.json:
        yield record(source, identity)
        return
    text = source.read(identity, REPORT, TEXT_LIMIT + 1)
    yield from map(printable, text[:TEXT_LIMIT].decode("utf-8", "replace").splitlines())
    if len(text) > TEXT_LIMIT:
        yield f"... cut after {file_size(TEXT_LIMIT)}"
    for row in source.rows():
        raw = [file for file in row.files if file.name not in (REPORT, RECORD)]
        if row.id == identity and raw:
            yield ""
            yield "Kept beside it"
            for file in raw:
                yield printable(f"  {source.place(identity, file.name)} ({file_size(file.size)})")


def record(source: IncidentSource, identity: str) -> str:
    """The report as one line of JSON, in which nothing is left that a terminal could obey."""
    content = source.read(identity, RECORD, RECORD_LIMIT + 1)
    where = source.place(identity, RECORD)
    if len(content) > RECORD_LIMIT:
        raise CannotShow(f"{where}: longer than {file_size(RECORD_LIMIT)}")
    try:
        return json.dumps(parse_json(content))
    except MemoryError:
        raise CannotShow(f"{where}: more than there is memory for") from None
    except ValueError:
        raise CannotShow(f"{where}: not JSON") from None


class Directory:
    """A directory of evidence."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._store = FolderStore(path)

    def table(self) -> str:
        rows, older = self._listed()
        return "\n".join(as_table(rows, older, datetime.now(UTC)))

    def rows(self) -> tuple[IncidentRow, ...]:
        return typed(tuple[IncidentRow, ...], as_json(self._listed()[0]))

    def read(self, identity: str, name: str, limit: int) -> bytes:
        self._incidents(1)
        try:
            return self._store.read(identity, name, limit)
        except KeyError:
            missing = not os.path.lexists(self.place(identity, name))
        if missing:
            why = f"{identity}: no such incident in {self._path}; see probe evidence list"
            raise CannotShow(why, exits.USAGE)
        raise CannotShow(f"{self.place(identity, name)}: it cannot be read")

    def place(self, identity: str, name: str) -> str:
        return f"{self._path}/{identity}/{name}"

    def _listed(self) -> tuple[list[Listed], int]:
        incidents, older = self._incidents(LISTED)
        return [listed(incident, self._head(incident.id)) for incident in incidents], older

    def _incidents(self, most: int) -> Kept:
        try:
            found = self._store.list(most)
            if not found.incidents:
                self._complain_of_others()
        except (FileNotFoundError, NotADirectoryError):
            raise CannotShow(
                f"--evidence-dir {self._path}: no such directory", exits.USAGE
            ) from None
        except OSError as error:
            raise CannotShow(f"--evidence-dir {self._path}: {reason(error)}") from None
        return found

    def _complain_of_others(self) -> None:
        """Nothing is ours; that there is nothing at all is said only where it is so."""
        uids = set()
        with os.scandir(self._path) as entries:
            for entry in entries:
                if parse_id(entry.name):
                    with suppress(FileNotFoundError):
                        uids.add(entry.stat(follow_symlinks=False).st_uid)
        if uids:
            who = " and ".join(map(str, sorted(uids)))
            raise CannotShow(
                f"{self._path}: its incidents are those of uid {who}: run it as that user"
            )

    def _head(self, identity: str) -> bytes:
        try:
            return self._store.read(identity, RECORD, HEAD)
        except KeyError:
            return b""


class Beside:
    """A sidecar that runs here."""

    def __init__(self, listen: ListenAddress) -> None:
        self._address = listen.asked

    def table(self) -> str:
        return self._get("/evidence", "text/plain").decode("utf-8", "replace")

    def rows(self) -> tuple[IncidentRow, ...]:
        try:
            return typed(tuple[IncidentRow, ...], parse_json(self._get("/evidence"))["incidents"])
        except (ValueError, TypeError, KeyError):
            raise CannotShow(f"what answers at {self._address} is no sidecar") from None

    def read(self, identity: str, name: str, limit: int) -> bytes:
        return self._get(f"/evidence/{identity}/{name}")[:limit]

    def place(self, identity: str, name: str) -> str:
        return f"http://{self._address}/evidence/{identity}/{name}"

    def _get(self, path: str, accept: str = "application/json") -> bytes:
        try:
            return sidecar.get(self._address, path, accept)
        except sidecar.Absent as error:
            raise CannotShow(f"{error}, and no --evidence-dir was given") from None
        except sidecar.NotKept as error:
            raise CannotShow(str(error), exits.USAGE) from None
        except sidecar.Unanswered as error:
            raise CannotShow(str(error)) from None
