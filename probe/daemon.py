"""`probe serve`: the composition root. Rooms are wired together here, and nothing is decided."""

import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from probe import __version__, logs
from probe.board import Board
from probe.config import Config
from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.procfs import Counters
from probe.memory import Memory
from probe.metrics import Metrics
from probe.monitor import Monitor
from probe.recording import Recorder
from probe.sampler import Sampler
from probe.server import Server, make_app
from probe.status import About
from probe.watchdog import Watchdog

logger = logging.getLogger("probe")

EXIT_USAGE = 2


def run(config: Config) -> int:
    """Serve until told to stop. Exit 0 after SIGTERM or SIGINT, 2 when it can't begin."""
    logs.configure(config.log_format, config.log_level)
    for notice in config.notices:
        logger.info(notice)
    try:
        asyncio.run(_serve(config))
    except OSError as error:
        logger.critical("%s", error)
        return EXIT_USAGE
    return 0


async def _serve(config: Config) -> None:
    async with AsyncExitStack() as stack:
        view = _open_view(stack)
        board = Board(config.targets)
        logs.Narrator(board)
        about = About(view.name, config.policy, board.clock())
        metrics = Metrics(board, about)
        memory = Memory(Path(config.evidence.dir) if config.evidence.dir else None)
        remembered = memory.load()
        record = None
        if config.record:
            record = Recorder(Path(config.record), board.entries, config.policy)
            stack.callback(record.close)
        server = Server(make_app(board, about, metrics))
        await server.start(*config.listen)
        stack.push_async_callback(server.close)
        watchdog = Watchdog(asyncio.get_running_loop(), metrics.pulse)
        watchdog.start()
        stack.callback(watchdog.stop)
        stop = _stop_event(board)
        sampler = Sampler(view, _open_counters(stack), metrics.sampled)
        monitors = [
            Monitor(
                target,
                config.policy,
                sampler,
                board,
                remembered=remembered,
                remember=memory.remember,
                record=record,
            )
            for target in config.targets
        ]
        _, port = server.addresses[0]
        logger.info(
            "probe %s watches %s by %s and answers on %s",
            __version__,
            ", ".join(board.entries),
            view.name,
            config.listen._replace(port=port),
            extra={"fields": {"event": "serving", "port": port}},
        )
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(monitor.run(), name=f"monitor {target.name}")
                for monitor, target in zip(monitors, config.targets, strict=True)
            ]
            await stop.wait()
            logger.info("not ready any more: shutting down")
            for task in running:
                task.cancel()


def _open_view(stack: AsyncExitStack) -> KernelView:
    view = open_view()
    stack.callback(view.close)
    if view.name != "sock_diag":
        logger.warning("sock_diag is refused: limits and drops are unknown, so is saturation")
    return view


def _open_counters(stack: AsyncExitStack) -> Counters | None:
    try:
        counters = Counters()
    except CannotTell as error:
        logger.warning("accepts cannot be counted: %s", error)
        return None
    stack.callback(counters.close)
    return counters


def _stop_event(board: Board) -> asyncio.Event:
    """Set at SIGTERM or SIGINT, when nothing is ready any more; a second signal ends at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        board.shut_down()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop
