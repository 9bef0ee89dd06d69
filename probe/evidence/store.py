"""Where incidents are kept: a folder each under the evidence directory, or a little memory.

The evidence directory may be shared with the application, so what lies in it is not trusted: only
real directories of our own user with a name of our own form count, nothing is followed through a
symbolic link, and everything is opened relative to a descriptor of the directory above it. Nor is
there ever more of it in memory, or removed at once, than the limits below, however much there is.
"""

import errno
import heapq
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import NamedTuple, Protocol

from probe.evidence.proc.files import Unavailable, create, read

ID = re.compile(
    r"([0-9]{8}T[0-9]{6}Z)-([0-9]{1,5}|unix\.[A-Za-z0-9_.]{1,40})-([a-z_]{1,40})(?:-[0-9]{1,3})?"
)
"""When, which port or unix socket, why: sorts by time, and is safe as a file name and in a URL. Not
every name of this form is an id: see `parse_id`.
"""

NAME = re.compile(r"[a-z][a-z0-9-]{0,60}\.(?:json|txt)")
"""The files of an incident."""

REPORT, RECORD = "report.txt", "report.json"
"""The two files that every incident has: for people, and for programs."""

FILE_LIMIT = 16 << 20
"""Bytes of one file that are read at most: twice what the longest that we write can have."""

FILES = 64
"""Files of one incident that are told of at most; we write six or so."""

PRUNED = 100
"""Incidents beyond the count that are removed with one save, and what crashes left with one start:
whoever plants more costs us no more time.
"""

REMOVED = 1000
"""Files that are removed with one incident."""

STRANGE = 5
"""Things that are not ours and are told by name; of the others, how many there are."""


class Id(NamedTuple):
    """What an incident's id tells."""

    at: datetime
    place: str
    """The target's `slug`."""
    why: str


def parse_id(name: str) -> Id | None:
    """What an id tells; None for any other name, one that gives no day of the calendar too."""
    form = ID.fullmatch(name)
    if form is None:
        return None
    moment, place, why = form.groups()
    try:
        return Id(datetime.fromisoformat(moment), place, why)
    except ValueError:
        return None


def by_time(now: float) -> Callable[[str], tuple[bool, str]]:
    """A key that sorts ids, the oldest first, as of a time on the wall.

    One from a time to come, of a clock that was ahead or of a hostile hand, is older than any
    other: it must not push out, or hide, what is true.
    """
    present = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    return lambda identity: (identity[: len(present)] <= present, identity)


class Incident(NamedTuple):
    """One incident that is kept, with its files and their sizes in bytes."""

    id: str
    files: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


class Kept(NamedTuple):
    """The newest incidents, the newest first, and how many older ones there are beside them."""

    incidents: tuple[Incident, ...]
    older: int


class Store(Protocol):
    """Keeps the newest incidents. OSError: it could not, and str() of it says why."""

    @property
    def where(self) -> str:
        """For people: the directory, or that it is memory."""

    def begin(self, identity: str) -> str:
        """Make room for an incident; the folder that raw dumps may be written to, "" for none."""

    def save(self, identity: str, files: Mapping[str, bytes]) -> Incident:
        """Keep the incident for good, with what is in its folder, and drop what is too old."""

    def abandon(self, identity: str) -> None:
        """Forget an incident that was begun and is not going to be saved."""

    def append(self, identity: str, name: str, content: bytes) -> None:
        """Add a file to an incident that was saved."""

    def list(self, most: int) -> Kept:
        """What is kept, `most` incidents of it at most."""

    def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        """A file's first `limit` bytes. Raises KeyError where there is no such incident or file."""


class FolderStore:
    """A folder (0700) per incident, its files 0600: written under another name, then renamed.

    At most `count` incidents and `size` bytes are kept, the one that was saved last whatever its
    size.
    """

    def __init__(
        self,
        directory: str,
        *,
        count: int = 20,
        size: int = 256 << 20,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.where = directory
        self.count = count
        self.size = size
        self._wall = wall

    def clean(self) -> tuple[str, ...]:
        """Remove what a crash left half written; says what is there that is not ours."""
        strange: list[str] = []
        more = removed = 0
        with self._root() as root, os.scandir(root) as entries:
            for name in (entry.name for entry in entries):
                if not parse_id(name.removeprefix(".")):
                    continue
                why = "" if _is_ours(root, name) else "not a folder of ours"
                if not why and name.startswith(".") and removed < PRUNED:
                    removed += 1
                    why = "" if _remove(root, name) else "more than a folder of our files"
                if why and len(strange) < STRANGE:
                    strange.append(f"{name} is {why}: left alone")
                elif why:
                    more += 1
        return (*sorted(strange), *([f"{more} more are not ours: left alone"] if more else ()))

    def begin(self, identity: str) -> str:
        with self._root() as root:
            os.mkdir(_temporary(identity), 0o700, dir_fd=root)
        return f"{self.where}/{_temporary(identity)}"

    def save(self, identity: str, files: Mapping[str, bytes]) -> Incident:
        with self._root() as root:
            for make_room in (self._drop_raw, self._drop_oldest, None):
                try:
                    _write(root, _temporary(identity), files)
                    break
                except OSError as error:
                    if make_room is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    make_room(root, identity, sum(map(len, files.values())))
            os.rename(_temporary(identity), identity, src_dir_fd=root, dst_dir_fd=root)
            os.fsync(root)
            saved = _incident(root, identity)
            self._prune(root, saved)
            return saved

    def abandon(self, identity: str) -> None:
        with suppress(OSError), self._root() as root:
            _remove(root, _temporary(identity))

    def append(self, identity: str, name: str, content: bytes) -> None:
        with self._root() as root:
            _write(root, identity, {name: content})

    def list(self, most: int) -> Kept:
        with self._root() as root:
            return self._newest(root, most)

    def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        if not parse_id(identity) or not NAME.fullmatch(name):
            raise KeyError(f"{identity}/{name}")
        try:
            with self._root() as root, _directory(identity, root) as folder:
                return read(name, limit, dir_fd=folder)
        except (OSError, Unavailable) as error:
            raise KeyError(f"{identity}/{name}") from error

    @contextmanager
    def _root(self) -> Iterator[int]:
        root = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        finally:
            os.close(root)

    def _newest(self, root: int, most: int) -> Kept:
        """The newest of the finished incidents; every name is looked at, and few are kept."""
        total = 0

        def finished() -> Iterator[str]:
            nonlocal total
            with os.scandir(root) as entries:
                for entry in entries:
                    if parse_id(entry.name) and _is_ours(root, entry.name):
                        total += 1
                        yield entry.name

        newest = heapq.nlargest(most, finished(), key=by_time(self._wall()))
        return Kept(tuple(_incident(root, name) for name in newest), total - len(newest))

    def _drop_raw(self, root: int, identity: str, needed: int) -> None:
        """The report says the most of what the raw dumps do; it comes first on a full disk."""
        del needed
        _remove(root, _temporary(identity))
        os.mkdir(_temporary(identity), 0o700, dir_fd=root)

    def _drop_oldest(self, root: int, identity: str, needed: int) -> None:
        """The newest incident is worth more than the oldest, if that helps at all."""
        del identity
        for oldest in self._newest(root, self.count + PRUNED).incidents[-1:]:
            if oldest.size >= needed:
                _remove(root, oldest.id)

    def _prune(self, root: int, saved: Incident) -> None:
        """Drop others until both limits hold: what is too large by itself, then the oldest."""
        others = [
            other
            for other in self._newest(root, self.count + PRUNED).incidents
            if other.id != saved.id
        ]
        others.sort(key=lambda other: other.size > self.size)
        size = saved.size + sum(other.size for other in others)
        while others and (len(others) >= self.count or size > self.size):
            dropped = others.pop()
            size -= dropped.size
            _remove(root, dropped.id)


class MemoryStore:
    """The newest incidents, compressed, where there is no directory. Raw dumps are not kept.

    Every change is one assignment, so that one thread may look while another one saves.
    """

    where = "memory"

    def __init__(self, *, count: int = 5, size: int = 1 << 20) -> None:
        self.count = count
        self.size = size
        self._kept: dict[str, dict[str, Packed]] = {}
        """By id, the oldest first, and by name."""

    def begin(self, identity: str) -> str:
        del identity
        return ""

    def save(self, identity: str, files: Mapping[str, bytes]) -> Incident:
        self._kept[identity] = {name: _packed(content) for name, content in files.items()}
        while len(self._kept) > 1 and (len(self._kept) > self.count or self.bytes > self.size):
            del self._kept[next(iter(self._kept))]
        return _packed_incident(identity, self._kept[identity])

    def abandon(self, identity: str) -> None:
        del identity

    def append(self, identity: str, name: str, content: bytes) -> None:
        self._kept[identity] = {**self._kept[identity], name: _packed(content)}

    def list(self, most: int) -> Kept:
        every = [_packed_incident(*kept) for kept in reversed(tuple(self._kept.items()))]
        return Kept(tuple(every[:most]), len(every[most:]))

    def read(self, identity: str, name: str, limit: int = FILE_LIMIT) -> bytes:
        return zlib.decompress(self._kept[identity][name][1])[:limit]

    @property
    def bytes(self) -> int:
        """How much memory the contents take."""
        every = tuple(self._kept.values())
        return sum(len(content) for files in every for _, content in files.values())


Packed = tuple[int, bytes]
"""A file's size, and its content compressed."""


def _packed(content: bytes) -> Packed:
    return len(content), zlib.compress(content)


def _packed_incident(identity: str, files: Mapping[str, Packed]) -> Incident:
    return Incident(identity, tuple(sorted((name, size) for name, (size, _) in files.items())))


def _temporary(identity: str) -> str:
    return f".{identity}"


def _is_ours(root: int, name: str) -> bool:
    """Whether it is a real directory that belongs to us, and no link to one."""
    try:
        seen = os.lstat(name, dir_fd=root)
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()


def _incident(root: int, identity: str) -> Incident:
    """An incident with its report, and what lies beside it up to FILES."""
    files = []
    with suppress(OSError), _directory(identity, root) as folder:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in islice(entries, FILES)}
        for name in names.union((REPORT, RECORD)):
            with suppress(FileNotFoundError):
                seen = os.lstat(name, dir_fd=folder)
                if NAME.fullmatch(name) and stat.S_ISREG(seen.st_mode):
                    files.append((name, seen.st_size))
    return Incident(identity, tuple(sorted(files)))


@contextmanager
def _directory(name: str, root: int) -> Iterator[int]:
    """A descriptor of one incident's folder; never through a symbolic link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(name, flags, dir_fd=root)
    try:
        yield folder
    finally:
        os.close(folder)


def _write(root: int, folder_name: str, files: Mapping[str, bytes]) -> None:
    """Write the files and see them, and whatever lies beside them, on the disk."""
    with _directory(folder_name, root) as folder:
        for name, content in files.items():
            write(folder, name, content)
        os.fsync(folder)


def write(folder: int, name: str, content: bytes) -> None:
    """A new file (see `create`) in the folder of that descriptor, on the disk. Raises OSError."""
    with open(create(name, dir_fd=folder), "wb") as file:  # noqa: PTH123
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove(root: int, name: str) -> bool:
    """Remove a folder and the files in it, following no symbolic link; whether it is gone.

    One that has folders in it, or more files than any of ours, is none of ours: that one stays.
    """
    try:
        with _directory(name, root) as folder:
            with os.scandir(folder) as entries:
                found = list(islice(entries, REMOVED))
            if any(entry.is_dir(follow_symlinks=False) for entry in found):
                return False
            for entry in found:
                os.unlink(entry.name, dir_fd=folder)
        os.rmdir(name, dir_fd=root)
    except OSError:
        return False
    return True
