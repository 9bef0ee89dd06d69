"""Which listeners were seen to accept, remembered across restarts of the sidecar; and which were
answered by its end.

Live fails only for a listener that has accepted before. Without this file, a sidecar that is
restarted beside a dead application would take it for one that is still starting.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from probe.evidence.proc.files import Unavailable, create, parse_json, read

logger = logging.getLogger(__name__)

MAX_COOKIES = 1000

FILE_LIMIT = 64 << 10
"""Bytes of the file that are read at most: a thousand cookies are a third of it."""


class Memory:
    """A small file of socket cookies, valid for this boot and this network namespace only.

    Its folder may be shared with the application, so whatever lies there under its name is read as
    a hidden's: never waited for, never more than a piece, and believed only where it makes sense.
    """

    def __init__(
        self, folder: Path | None, proc: Path = Path("/proc"), *, name: str = "accepted"
    ) -> None:
        """`name` is the file's, and says what these listeners have in common."""
        self._path = None if folder is None else folder / f"{name}.json"
        self._name = name
        self._proc = proc
        self._cookies: tuple[int, ...] = ()

    def load(self) -> frozenset[int]:
        """Return what an earlier life remembered; nothing without such a file, or a bad one."""
        if self._path is None:
            return frozenset()
        if not os.path.lexists(self._path):
            return frozenset()
        try:
            seen = parse_json(read(str(self._path), FILE_LIMIT))
            if seen["where"] == self._where():
                self._cookies = _cookies(seen["cookies"])
        except (OSError, Unavailable, ValueError, TypeError, KeyError) as error:
            logger.warning("%s is not readable and will be written anew: %s", self._path, error)
        return frozenset(self._cookies)

    def remember(self, cookies: frozenset[int]) -> None:
        """Add cookies; a directory that cannot be written is told once, and then left alone."""
        new = tuple(sorted(cookies.difference(self._cookies)))
        if self._path is None or not new:
            return
        self._cookies = (*self._cookies, *new)[-MAX_COOKIES:]
        draft = self._path.with_suffix(".new")
        try:
            with open(create(str(draft)), "w") as file:  # noqa: PTH123 - a descriptor
                json.dump({"where": self._where(), "cookies": self._cookies}, file)
            draft.replace(self._path)
        except OSError as error:
            logger.warning("listeners that %s will not be remembered: %s", self._name, error)
            self._path = None

    def _where(self) -> str:
        """Cookies are unique within one boot of the kernel."""
        boot = (self._proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(self._proc / 'self/ns/net').readlink()}"


def _cookies(listed: Any) -> tuple[int, ...]:
    """What a file lists as cookies. Raises TypeError and ValueError where it is anything else."""
    if not isinstance(listed, list) or not all(type(cookie) is int for cookie in listed):
        raise TypeError("its cookies are no list of numbers")
    if not all(0 <= cookie < 1 << 64 for cookie in listed):
        raise ValueError("its cookies are no cookies")
    return tuple(listed[-MAX_COOKIES:])
