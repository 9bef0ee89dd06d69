"""`probe evidence list` and `probe evidence show ID`: what was kept, read from the directory or,
where none is given, asked of the sidecar that runs in this network namespace.

What lies there may be the application's work as well as ours: nothing reaches the terminal that
could move its cursor, and JSON is read before it is printed.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from probe.api import client as sidecar
from probe.config import Address, Config
from probe.evidence.listing import as_json, as_table, listed
from probe.evidence.proc.files import reason
from probe.evidence.store import ID, FolderStore, Incident
from probe.evidence.wording import bulk, printable

EXIT_UNREADABLE = 1
EXIT_USAGE = 2

TEXT, RECORD = "report.txt", "report.json"


class CannotShow(Exception):
    """str() says why in one line; `status` is the exit status."""

    def __init__(self, why: str, status: int = EXIT_UNREADABLE) -> None:
        super().__init__(why)
        self.status = status


class Kept(Protocol):
    """Where incidents are kept. Its methods raise CannotShow."""

    def table(self) -> str:
        """The incidents for people."""

    def rows(self) -> list[dict[str, Any]]:
        """The same for programs."""

    def read(self, identity: str, name: str) -> bytes:
        """One file of an incident."""

    def place(self, identity: str, name: str) -> str:
        """Where somebody else finds that file."""


def run(config: Config) -> int:
    """Print a list or a report. Exit 2: no such directory or incident; 1: it can't be read."""
    kept = Directory(config.evidence.dir) if config.evidence.dir else Beside(config.listen)
    try:
        lines = listing if config.command == "evidence list" else report
        for line in lines(kept, config):
            print(line)
    except CannotShow as error:
        print(f"probe: {error}", file=sys.stderr)
        return error.status
    return 0


def listing(kept: Kept, config: Config) -> Iterator[str]:
    if config.json:
        yield from map(json.dumps, kept.rows())
    else:
        yield from map(printable, kept.table().splitlines())


def report(kept: Kept, config: Config) -> Iterator[str]:
    identity = config.incident
    if not ID.fullmatch(identity):
        raise CannotShow(f"{printable(identity)}: not the id of an incident", EXIT_USAGE)
    if config.json:
        try:
            yield json.dumps(json.loads(kept.read(identity, RECORD)))
        except ValueError:
            raise CannotShow(f"{kept.place(identity, RECORD)}: not JSON") from None
        return
    yield from map(printable, kept.read(identity, TEXT).decode("utf-8", "replace").splitlines())
    for row in kept.rows():
        raw = [one for one in row["files"] if one["name"] not in (TEXT, RECORD)]
        if row["id"] == identity and raw:
            yield ""
            yield "Kept beside it"
            for one in raw:
                where = kept.place(identity, str(one["name"]))
                yield printable(f"  {where} ({bulk(int(one['size']))})")


class Directory:
    """A directory of evidence."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._store = FolderStore(path)

    def table(self) -> str:
        rows = [listed(one, self._text(one)) for one in self._incidents()]
        return "\n".join(as_table(rows, datetime.now(UTC))) or "no incident was kept"

    def rows(self) -> list[dict[str, Any]]:
        return as_json([listed(one, self._text(one)) for one in self._incidents()])

    def read(self, identity: str, name: str) -> bytes:
        self._incidents()
        try:
            return self._store.read(identity, name)
        except KeyError:
            missing = not os.path.lexists(self.place(identity, name))
        if missing:
            why = f"{identity}: no such incident in {self._path}; see probe evidence list"
            raise CannotShow(why, EXIT_USAGE)
        raise CannotShow(f"{self.place(identity, name)}: it can't be read")

    def place(self, identity: str, name: str) -> str:
        return f"{self._path}/{identity}/{name}"

    def _incidents(self) -> Sequence[Incident]:
        try:
            found = self._store.list()
            if not found:
                self._complain_of_others()
        except (FileNotFoundError, NotADirectoryError):
            raise CannotShow(
                f"--evidence-dir {self._path}: no such directory", EXIT_USAGE
            ) from None
        except OSError as error:
            raise CannotShow(f"--evidence-dir {self._path}: {reason(error)}") from None
        return found

    def _complain_of_others(self) -> None:
        """Nothing is ours; that there is nothing at all is said only where it is so."""
        with os.scandir(self._path) as entries:
            uids = {
                one.stat(follow_symlinks=False).st_uid for one in entries if ID.fullmatch(one.name)
            }
        if uids:
            who = " and ".join(map(str, sorted(uids)))
            raise CannotShow(
                f"{self._path}: its incidents are those of uid {who}: run it as that user"
            )

    def _text(self, incident: Incident) -> bytes:
        try:
            return self._store.read(incident.id, TEXT)
        except KeyError:
            return b""


class Beside:
    """A sidecar that runs here."""

    def __init__(self, listen: Address) -> None:
        self._address = sidecar.place(listen)

    def table(self) -> str:
        return self._get("/evidence", "text/plain").decode("utf-8", "replace")

    def rows(self) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = json.loads(self._get("/evidence"))["incidents"]
        except (ValueError, TypeError, KeyError):
            raise CannotShow(f"what answers at {self._address} is no sidecar") from None
        return rows

    def read(self, identity: str, name: str) -> bytes:
        return self._get(f"/evidence/{identity}/{name}")

    def place(self, identity: str, name: str) -> str:
        return f"http://{self._address}/evidence/{identity}/{name}"

    def _get(self, path: str, accept: str = "application/json") -> bytes:
        try:
            return sidecar.get(self._address, path, accept)
        except sidecar.Absent as error:
            raise CannotShow(f"{error}, and no --evidence-dir was given") from None
        except sidecar.NotKept as error:
            raise CannotShow(str(error), EXIT_USAGE) from None
        except sidecar.Unanswered as error:
            raise CannotShow(str(error)) from None
