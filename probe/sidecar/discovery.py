"""Whoever listens in the network namespace though nobody has asked for it: found, and watched by
its accept queue alone.

What is found comes from the sample that the targets share, so it costs no call of its own. A
listener is watched from the second look that sees it, and forgotten with the first that does not:
nobody is told that one which nobody asked for has gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

from probe.kernel import CannotTell
from probe.kernel.procfs import ephemeral_ports
from probe.kernel.sampler import Sampler
from probe.model import Protocol, Target
from probe.sidecar.board import Board
from probe.sidecar.monitor import SHARED, Monitor

logger = logging.getLogger(__name__)

MOST = 64
"""Listeners that are watched at most: those of the lowest ports, of all that come at once."""


class Discovery:
    """Keeps the board's discovered targets those that listen."""

    def __init__(
        self,
        sampler: Sampler,
        board: Board,
        monitor: Callable[[Target], Monitor],
        *,
        interval: float,
        excluded: Iterable[int] = (),
        ephemeral: bool = False,
        clock: Callable[[], float] = time.monotonic,
        phase: float = 0.0,
    ) -> None:
        """`monitor` makes what watches one of them. Not watched are the ports `excluded`, those of
        the board's own targets, and those that the kernel gives out by itself unless `ephemeral`.
        `interval` is seconds from look to look, and `phase` a moment on the clock from which they
        are counted, the same as that of the monitors.
        """
        self._sampler = sampler
        self._board = board
        self._monitor = monitor
        self._interval = interval
        asked_for = {entry.target.port for entry in board.entries.values()}
        self._excluded = frozenset((*excluded, *asked_for))
        self._given_out = range(0) if ephemeral else ephemeral_ports()
        self._clock = clock
        self._phase = phase
        self._watched: dict[int, asyncio.Task[NoReturn]] = {}
        self._seen: frozenset[int] = frozenset()
        self._untold = ""
        """Why the last look could not see: said once."""
        self._left_out = 0

    async def run(self) -> NoReturn:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._look(tasks)
                since = self._clock() - self._phase
                await asyncio.sleep((since // self._interval + 1) * self._interval - since)
        raise AssertionError("the loop above ends by cancellation only")

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        if self._board.leaving:
            return  # Applications that end close their listeners, which is no news.
        now = self._clock()
        try:
            seen = self._ports(now)
        except CannotTell as error:
            # Those that are watched stay so: each can still be sampled by itself.
            if self._untold != str(error):
                logger.warning("nothing new is discovered: %s", error)
            self._untold = str(error)
            return
        self._untold = ""
        for port in self._watched.keys() - seen:
            self._forget(port)
        new = sorted((seen & self._seen) - self._watched.keys())
        room = MOST - len(self._watched)
        for port in new[:room]:
            self._watch(port, tasks)
        self._tell_left_out(len(new[room:]))
        self._seen = seen

    def _ports(self, now: float) -> frozenset[int]:
        """The ports of the listeners that are to be watched. Raises CannotTell."""
        every = self._sampler.every(now=now, since=now - SHARED)
        return frozenset(
            port for port in every.keys() - self._excluded if port not in self._given_out
        )

    def _watch(self, port: int, tasks: asyncio.TaskGroup) -> None:
        target = Target(port, Protocol.QUEUE, discovered=True)
        self._board.add(target)
        self._watched[port] = tasks.create_task(self._monitor(target).run())
        logger.info(
            "%s is discovered, and watched by its queue",
            target.name,
            extra={"fields": {"event": "discovered", "target": target.name}},
        )

    def _forget(self, port: int) -> None:
        self._watched.pop(port).cancel()
        self._board.forget(str(port))
        logger.info(
            "%s has gone, and is forgotten",
            port,
            extra={"fields": {"event": "forgotten", "target": str(port)}},
        )

    def _tell_left_out(self, number: int) -> None:
        """Once, until there is room for all."""
        if number and not self._left_out:
            logger.warning(
                "%d of the listeners not watched: %d are at most; --exclude-port leaves some out",
                *(number, MOST),
            )
        self._left_out = number
