"""Which listeners were seen to accept, remembered across restarts of the sidecar.

Live fails only for a listener that has accepted before. Without this file, a sidecar that is
restarted beside a dead application would take it for one that is still starting.
"""

import json
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_COOKIES = 1000


class Memory:
    """A small file of socket cookies, valid for this boot and this network namespace only."""

    def __init__(self, folder: Path | None, proc: Path = Path("/proc")) -> None:
        self._path = None if folder is None else folder / "accepted.json"
        self._proc = proc
        self._cookies: tuple[int, ...] = ()

    def load(self) -> frozenset[int]:
        """Return what an earlier life remembered; nothing without such a file, or a bad one."""
        if self._path is None:
            return frozenset()
        try:
            seen = json.loads(self._path.read_text())
            if seen["where"] == self._where():
                self._cookies = tuple(int(cookie) for cookie in seen["cookies"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s is not readable and will be written anew: %s", self._path, error)
        return frozenset(self._cookies)

    def remember(self, cookies: frozenset[int]) -> None:
        """Add cookies; a directory that can't be written is told once, and then left alone."""
        new = tuple(sorted(cookies.difference(self._cookies)))
        if self._path is None or not new:
            return
        self._cookies = (*self._cookies, *new)[-MAX_COOKIES:]
        draft = self._path.with_suffix(".new")
        try:
            # The folder may be shared with the application: never write through a link of its.
            with open(draft, "w", opener=_not_through_links) as file:
                json.dump({"where": self._where(), "cookies": self._cookies}, file)
            draft.replace(self._path)
        except OSError as error:
            logger.warning("accepting listeners will not be remembered: %s", error)
            self._path = None

    def _where(self) -> str:
        """Cookies are unique within one boot of the kernel."""
        boot = (self._proc / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(self._proc / 'self/ns/net').readlink()}"


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
