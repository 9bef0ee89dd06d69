"""Bounded reads of what belongs to others, and one error for all that can't be read."""

import os
import stat

CHUNK = 1 << 16


class Unavailable(Exception):
    """A piece of evidence can't be had; str() is the one-line reason, fit for the report."""


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
