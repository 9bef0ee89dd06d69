"""What `probe watch` is told, and by whom: threads that post it, and the mailbox it lies in."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from probe import exits
from probe.api import client as sidecar
from probe.config import ListenAddress
from probe.watch.controls import Sheet
from probe.watch.document import Document, read

VIEW = "/view"

AGAIN = 1.0
"""Seconds until a sidecar that does not answer is asked once more."""


class Received(NamedTuple):
    """One more document, which came as `told`."""

    document: Document
    told: dict[str, Any]

    @property
    def briefly(self) -> dict[str, Any]:
        """As it came, without the history."""
        targets = [
            {name: value for name, value in target.items() if name != "history"}
            for target in self.told["targets"]
        ]
        return {**self.told, "targets": targets}


class Unheard(NamedTuple):
    """Nobody tells anything now."""

    why: str


class Remarked(NamedTuple):
    """What the watching itself has to say."""

    remark: str


class Ended(NamedTuple):
    """Nothing will ever be told: why, a line each, and what to exit with."""

    lines: tuple[str, ...]
    status: int = exits.UNKNOWN


News = Received | Unheard | Remarked | Ended | Sheet
Post = Callable[[News], None]
Source = Callable[[Post], None]
"""Posts what it hears, for ever; to be run in a thread of its own."""


class Mailbox:
    """News in the order of their coming. `ready` can be read when there are any, or when a byte was
    written into `bell` by somebody else.
    """

    def __init__(self) -> None:
        self._news: deque[News] = deque()
        self.ready, self.bell = os.pipe()
        for descriptor in (self.ready, self.bell):
            os.set_blocking(descriptor, False)

    def post(self, piece: News) -> None:
        self._news.append(piece)
        with suppress(BlockingIOError):  # It has been rung often enough.
            os.write(self.bell, b"\0")

    def take(self) -> Iterator[News]:
        """Each that is there."""
        with suppress(BlockingIOError):
            while os.read(self.ready, 4096):
                pass
        while self._news:
            yield self._news.popleft()


def beside(address: ListenAddress) -> Source:
    """A sidecar: it is asked again whenever it has gone."""

    def ask(post: Post) -> None:
        while True:
            why = f"the sidecar at {address} has ended"
            try:
                for told in sidecar.follow(address, VIEW):
                    with sidecar.understood(address):
                        heard = Received(read(told), told)
                    post(heard)
            except sidecar.NotKept:
                why = f"the sidecar at {address} has no {VIEW}: it is older than this probe"
            except sidecar.Unanswered as error:
                why = str(error)
            post(Unheard(why))
            time.sleep(AGAIN)

    return ask
