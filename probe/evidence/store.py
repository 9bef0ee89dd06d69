"""Where incidents are kept: a folder each under the evidence directory, or a little memory.

The evidence directory may be shared with the application, so what lies in it is not trusted: only
real directories of our own user with a name of our own form count, nothing is followed through a
symbolic link, and everything is opened relative to a descriptor of the directory above it.
"""

import errno
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from probe.evidence.proc.files import Unavailable, read

ID = re.compile(r"(\d{8}T\d{6}Z)-(\d{1,5})-([a-z_]{1,40})(?:-\d{1,3})?")
"""When, which port, why: sorts by time, and is safe as a file name and in a URL."""

NAME = re.compile(r"[a-z][a-z0-9-]{0,60}\.(?:json|txt)")
"""The files of an incident."""

FILE_LIMIT = 32 << 20
"""Bytes of one file that are read at most."""


class Incident(NamedTuple):
    """One incident that is kept, with its files and their sizes in bytes."""

    id: str
    files: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.files)


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

    def list(self) -> tuple[Incident, ...]:
        """What is kept, the newest first."""

    def read(self, identity: str, name: str) -> bytes:
        """One file. Raises KeyError where there is no such incident or file."""


class FolderStore:
    """A folder (0700) per incident, its files 0600: written under another name, then renamed.

    At most `count` incidents and `size` bytes are kept, the newest whatever its size.
    """

    def __init__(self, directory: str, *, count: int = 20, size: int = 256 << 20) -> None:
        self.where = directory
        self.count = count
        self.size = size

    def clean(self) -> tuple[str, ...]:
        """Remove what a crash left half written; says what is there that is not ours."""
        strange = []
        with self._root() as root:
            for name in os.listdir(root):  # noqa: PTH208 - relative to a descriptor
                if not ID.fullmatch(name.removeprefix(".")):
                    continue
                if not _is_ours(root, name):
                    strange.append(f"{name} is not a folder of ours: left alone")
                elif name.startswith("."):
                    _remove(root, name)
        return tuple(strange)

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
            self._prune(root)
            return _incident(root, identity)

    def abandon(self, identity: str) -> None:
        with suppress(OSError), self._root() as root:
            _remove(root, _temporary(identity))

    def append(self, identity: str, name: str, content: bytes) -> None:
        with self._root() as root:
            _write(root, identity, {name: content})

    def list(self) -> tuple[Incident, ...]:
        with self._root() as root:
            return tuple(_incident(root, name) for name in reversed(_kept(root)))

    def read(self, identity: str, name: str) -> bytes:
        if not ID.fullmatch(identity) or not NAME.fullmatch(name):
            raise KeyError(f"{identity}/{name}")
        try:
            with self._root() as root, _directory(identity, root) as folder:
                return read(name, FILE_LIMIT, dir_fd=folder)
        except (OSError, Unavailable) as error:
            raise KeyError(f"{identity}/{name}") from error

    @contextmanager
    def _root(self) -> Iterator[int]:
        root = os.open(self.where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield root
        finally:
            os.close(root)

    def _drop_raw(self, root: int, identity: str, needed: int) -> None:
        """The report says the most of what the raw dumps do; it comes first on a full disk."""
        del needed
        _remove(root, _temporary(identity))
        os.mkdir(_temporary(identity), 0o700, dir_fd=root)

    def _drop_oldest(self, root: int, identity: str, needed: int) -> None:
        """The newest incident is worth more than the oldest, if that helps at all."""
        del identity
        for name in _kept(root)[:1]:
            if _incident(root, name).size >= needed:
                _remove(root, name)

    def _prune(self, root: int) -> None:
        """Drop the oldest until both limits hold; the newest always stays."""
        kept = [_incident(root, name) for name in _kept(root)]
        while len(kept) > 1 and (
            len(kept) > self.count or sum(one.size for one in kept) > self.size
        ):
            _remove(root, kept.pop(0).id)


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

    def list(self) -> tuple[Incident, ...]:
        return tuple(_packed_incident(*kept) for kept in reversed(tuple(self._kept.items())))

    def read(self, identity: str, name: str) -> bytes:
        return zlib.decompress(self._kept[identity][name][1])

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


def _kept(root: int) -> list[str]:
    """The finished incidents, the oldest first: the form of their names sorts them by time."""
    names = os.listdir(root)
    return sorted(name for name in names if ID.fullmatch(name) and _is_ours(root, name))


def _is_ours(root: int, name: str) -> bool:
    """Whether it is a real directory that belongs to us, and no link to one."""
    try:
        seen = os.lstat(name, dir_fd=root)
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid()


def _incident(root: int, identity: str) -> Incident:
    files = []
    with suppress(OSError), _directory(identity, root) as folder:
        for name in os.listdir(folder):  # noqa: PTH208 - relative to a descriptor
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
    """A new file (0600) in the folder of that descriptor, on the disk. Raises OSError.

    One of that name that is there already makes way: it can only be a part of this very incident,
    or a trap.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:  # noqa: PTH123
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove(root: int, name: str) -> None:
    """Remove a folder and what is in it, following no symbolic link on the way."""
    shutil.rmtree(name, ignore_errors=True, dir_fd=root)
