"""Bounded reads of what belongs to others, and one error for all that cannot be read."""

import json
import os
import stat
from contextlib import suppress
from typing import Any

CHUNK = 1 << 16


class Unavailable(Exception):
    """A piece of evidence cannot be had; str() is the one-line reason, fit for the report."""


def reason(error: BaseException) -> str:
    """An error in a few words, for the end of a sentence."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, MemoryError):
        return "it needs more memory than the capture may use"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def read(path: str, limit: int = 1 << 16, *, dir_fd: int | None = None) -> bytes:
    """A regular file's first `limit` bytes; /proc gives a page at a time. Raises Unavailable.

    No symbolic link is followed at its end, and a FIFO does not block: the file may be a trap.
    """
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd
        )
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Unavailable(f"{path} is not a file")
            parts = []
            while limit > 0 and (part := os.read(descriptor, min(limit, CHUNK))):
                parts.append(part)
                limit -= len(part)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Unavailable(f"{path}: {reason(error)}") from error
    return b"".join(parts)


def parse_json(content: bytes | str) -> Any:
    """What JSON that others wrote says. Raises ValueError, whatever is wrong with it.

    How long it is, is for who reads it to bound: in memory it takes up to thirty times as much.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except MemoryError:
        raise ValueError("more than there is memory for") from None


def create(name: str, *, dir_fd: int | None = None) -> int:
    """A descriptor to write a new file (0600) by. Raises OSError.

    One of that name that is there already makes way, whatever it is a link to: it is an older one
    of ours, or a trap. A folder does not: IsADirectoryError.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o600, dir_fd=dir_fd)
