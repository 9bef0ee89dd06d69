"""`probe watch` without a sidecar: what one would see is seen here, by the same monitors, and
judged by the same judge. Nobody is answered, nothing is captured, and nothing follows.
"""

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import NoReturn

from probe import exits
from probe.api.status import About, Sources
from probe.api.view.document import view
from probe.api.view.history import LATELY
from probe.commands.watch_news import Ended, Post, Received, Remarked, Source
from probe.commands.wiring import open_counters, open_kernel, require_here, samplers_of
from probe.config import Config, ConfigError
from probe.kernel.sampler import Sampler
from probe.model import OnStall
from probe.sidecar.board import Board
from probe.sidecar.monitor import Monitor
from probe.sidecar.past import SECONDS
from probe.sidecar.threads import Threads
from probe.watch.document import read

EVERY = 1.0
"""Seconds from one document to the next, as a sidecar sends them."""


class Remarks(logging.Handler):
    """Posts what would be in a sidecar's log: stderr is the terminal that the picture is on."""

    def __init__(self, post: Post) -> None:
        super().__init__(logging.WARNING)
        self._post = post

    def emit(self, record: logging.LogRecord) -> None:
        self._post(Remarked(record.getMessage()))


def alone(config: Config) -> Source:
    """The targets, watched by ourselves."""

    def watch(post: Post) -> None:
        logging.basicConfig(handlers=[Remarks(post)], force=True)
        post(Remarked("no sidecar: what comes next is what one would do; here nothing follows"))
        try:
            asyncio.run(_watch(config, post))
        except ConfigError as error:
            post(Ended(tuple(error.errors), exits.USAGE))
        except Exception as error:  # noqa: BLE001 - of a thread nobody else would hear
            post(Ended((f"a defect of probe: {error!r}",)))

    return watch


async def _watch(config: Config, post: Post) -> NoReturn:
    asyncio.get_running_loop().set_default_executor(Threads(thread_name_prefix="probe"))
    await require_here(config)
    async with AsyncExitStack() as stack:
        kernel = open_kernel(config, stack)
        board = Board(config.targets)
        uncounted = partial(setattr, board, "accepts_unknown")
        counters = open_counters(stack, uncounted)
        sampler = Sampler(kernel, counters, uncounted=uncounted)
        samplers = samplers_of(config, sampler, stack)
        about = About(kernel.name, config.policy, board.clock(), (OnStall.RESTART,))
        phase = board.clock()
        async with asyncio.TaskGroup() as tasks:
            for target in config.targets:
                monitor = Monitor(target, config.policy, samplers[target.name], board, phase=phase)
                tasks.create_task(monitor.run())
            seconds = SECONDS
            while True:
                await asyncio.sleep(EVERY)
                told = view(Sources(board, about), local=True, seconds=seconds)
                seconds = LATELY
                post(Received(read(told), told))
