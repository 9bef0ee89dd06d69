"""`probe serve`: the composition root. Rooms are wired together here, and nothing is decided."""

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from probe import __version__, exits
from probe.api.metrics import Metrics, SentCollector
from probe.api.replies import Replies
from probe.api.server import Server
from probe.api.status import About, Sources
from probe.commands.wiring import open_counters, open_kernel, require_here, samplers_of
from probe.config import Config, ConfigError
from probe.evidence.acceptors.owners import youngest
from probe.evidence.capture.spawn import reap_orphans
from probe.evidence.keeper import EvidenceKeeper, Saved
from probe.evidence.proc.privacy import keep_private
from probe.kernel.sampler import Sampler
from probe.kubernetes.identity import identify
from probe.model import Listener, OnStall, Target
from probe.sidecar import logs
from probe.sidecar.board import Board
from probe.sidecar.hold import HoldKeeper
from probe.sidecar.memory import Memory
from probe.sidecar.monitor import Monitor
from probe.sidecar.recording import Recorder
from probe.sidecar.selftest import SelfTest
from probe.sidecar.threads import Threads
from probe.sidecar.watchdog import Watchdog

if TYPE_CHECKING:
    from probe.api.agent import Agent
    from probe.api.view.live import Live
    from probe.evidence.upload.uploader import Uploader
    from probe.imports.aiohttp_lean import web
    from probe.kubernetes.reporter import KubernetesReporter
    from probe.sidecar.discovery import Discovery

logger = logging.getLogger("probe")

BY_THE_CLUSTER = {OnStall.QUARANTINE, OnStall.EVICT}


def run(config: Config) -> int:
    """Serve until told to stop. Exit 0 after SIGTERM or SIGINT, 2 when it cannot begin."""
    logs.configure(config.log_format, config.log_level)
    for notice in config.notices:
        logger.info(notice)
    if config.evidence.dir:
        with suppress(OSError):  # Whoever keeps something there says what is wrong with it.
            Path(config.evidence.dir).mkdir(mode=0o700, exist_ok=True)
    try:
        return asyncio.run(_serve(config))
    except ConfigError as error:
        for line in error.errors:
            logger.critical("%s", line)
        return exits.USAGE
    except OSError as error:
        logger.critical("%s", error)
        return exits.USAGE


async def _serve(config: Config) -> int:
    asyncio.get_running_loop().set_default_executor(Threads(thread_name_prefix="probe"))
    await require_here(config)
    keep_private()
    reap_orphans()
    async with AsyncExitStack() as stack:
        view = open_kernel(config, stack)
        board = Board(config.targets, discovered_decide=config.discovery.mode == "decide")
        logs.Narrator(board)
        about = About(
            view.name, config.policy, board.clock(), tuple(map(OnStall, config.response.on_stall))
        )
        metrics = Metrics(board, about, full=config.metrics == "full")
        reporter = _reporter(config, board, metrics)
        keeper = _keeper(config, board, metrics, reporter)
        shutdown = Shutdown(board)
        responder = None
        if config.response.on_stall not in ((), (OnStall.RESTART,)):
            from probe.commands.responding import wire  # not loaded for nothing

            responder = wire(config, board, metrics, keeper, reporter, shutdown.begin)
        uploader = _uploader(config, keeper, metrics)
        access = SelfTest(board)
        replies = Replies(
            *(board, about, metrics),
            evidence=access.found,
            sent=None if uploader is None else uploader.so_far,
        )

        def others() -> list[Listener] | None:
            seen = sampler.last_seen
            return None if seen is None else [one for one in seen if one.port not in own]

        sources = Sources(board, about, lambda: metrics.lag, access.found, others)
        server = Server(replies, partial(_pages, keeper), partial(_views, sources))
        uncounted = partial(_tell_uncounted, board)
        counters = open_counters(stack, uncounted)
        agent = await _open_agent(config, board, stack)

        def own_accepts() -> int:
            return server.accepts + (agent.accepts if agent else 0)

        sampler = Sampler(view, counters, metrics.sampled, own_accepts, uncounted=uncounted)
        phase = board.clock()
        samplers = samplers_of(config, sampler, stack)
        monitors = _monitors(config, samplers, board, keeper, stack, phase)
        await server.start(*config.listen)
        stack.push_async_callback(server.close)
        own = [port for each in (server, agent) if each for _, port in each.addresses]
        discovery = _discovery(config, sampler, board, keeper, phase, own)
        watchdog = Watchdog(asyncio.get_running_loop(), metrics.pulse)
        try:
            watchdog.start()
            stack.callback(watchdog.stop)
        except RuntimeError as error:  # a limit on tasks
            logger.warning("nobody will notice if the event loop is blocked: %s", error)
        shutdown.at_signals()
        _, port = server.addresses[0]
        pod = identify(os.environ)
        logger.info(
            "probe %s watches %s by %s and answers on %s%s",
            __version__,
            ", ".join((*board.entries, *(["whatever listens"] if discovery else []))),
            view.name,
            config.listen._replace(port=port),
            f", {pod}" if pod.known else "",
            extra={"fields": {"event": "serving", "port": port, **pod._asdict()}},
        )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(monitor.run()) for monitor in monitors]
            running.append(tasks.create_task(keeper.run()))
            if discovery is not None:
                running.append(tasks.create_task(discovery.run()))
            running.append(tasks.create_task(HoldKeeper(board, port).run()))
            if uploader is not None:
                running.append(tasks.create_task(uploader.run()))
            if reporter is not None:
                running.append(tasks.create_task(reporter.run()))
            if responder is not None:
                running.append(tasks.create_task(responder.run()))
            await shutdown.begun.wait()
            logger.info("not ready any more: shutting down")
            await asyncio.sleep(config.drain)
            for task in running:
                task.cancel()
    return shutdown.status


def _pages(keeper: EvidenceKeeper) -> "web.AppRunner":
    """What serves pages; called when somebody asks for one, and not before."""
    from probe.api import evidence, pages  # aiohttp, not loaded for nothing

    return pages.runner(evidence.routes(keeper))


def _views(sources: Sources) -> "Live":
    """What people look at; called when somebody does, and not before."""
    from probe.api.view.live import Live

    return Live(sources)


def _keeper(
    config: Config, board: Board, metrics: Metrics, reporter: "KubernetesReporter | None"
) -> EvidenceKeeper:
    def announce(saved: Saved) -> None:
        metrics.evidence_saved(saved.target)
        board.evidence_saved(saved.target, saved.id, saved.line)
        note = f" ({saved.note})" if saved.note else ""
        fields = {"event": "evidence", "target": saved.target, "id": saved.id}
        logger.warning(
            *("%s; evidence in %.1f s: %s%s", saved.line, saved.seconds, saved.where, note),
            extra={"fields": fields},
        )
        if not config.evidence.dir:
            # Nothing outlives us but what a collector of logs has taken.
            with suppress(OSError):
                print(saved.line, flush=True)
        if reporter is not None:
            reporter.evidence_saved(saved.target, saved.line, saved.where)

    keeper = EvidenceKeeper(
        (),
        config.evidence,
        history=lambda name: board.entries[name].history,
        announce=announce,
        leaving=lambda: board.leaving,
    )
    board.on_coming(keeper.add)
    board.on_going(keeper.forget)
    board.subscribe(keeper.on_transition)
    board.observe(keeper.on_observation)
    board.gate_live(keeper.holds)
    return keeper


def _uploader(config: Config, keeper: EvidenceKeeper, metrics: Metrics) -> "Uploader | None":
    """What sends evidence away, if there is an address for it."""
    if not config.evidence.put:
        return None
    from probe.evidence.upload.uploader import Uploader  # not loaded for nothing

    pod = identify(os.environ)
    origin = f"{pod.namespace}_{pod.pod}" if pod.known else socket.gethostname()
    uploader = Uploader(config.evidence, origin, keeper.read)
    keeper.deliver_by(uploader.deliver)
    metrics.register(SentCollector(uploader.so_far))
    redacted = ", without peers and names of threads" if config.evidence.redact else ""
    logger.info("evidence is sent to %s%s", uploader.so_far().to, redacted)
    return uploader


def _reporter(config: Config, board: Board, metrics: Metrics) -> "KubernetesReporter | None":
    """What tells the cluster, or asks it for something, if that is wanted."""
    response = config.response
    asked = config.kube_events or config.kube_condition or response.floor is not None
    if not asked and not BY_THE_CLUSTER.intersection(response.on_stall):
        return None
    # aiohttp and more, not loaded for nothing.
    from probe.kubernetes.client import Account
    from probe.kubernetes.collector import ClusterCollector
    from probe.kubernetes.departure import FloorTerms, Unknown
    from probe.kubernetes.reporter import KubernetesReporter

    account = Account.in_cluster(os.environ)
    pod = identify(os.environ)
    reporter = KubernetesReporter(board, pod, account, events=config.kube_events)
    if response.floor is not None:
        unknown = Unknown(response.floor_unknown)
        reporter.keep_floor(FloorTerms(response.floor, unknown, config.policy.live_after))
    if config.kube_condition:
        reporter.write_condition()
    metrics.register(ClusterCollector(reporter))
    return reporter


def _monitors(
    config: Config,
    samplers: dict[str, Sampler],
    board: Board,
    keeper: EvidenceKeeper,
    stack: AsyncExitStack,
    phase: float,
) -> list[Monitor]:
    memory = Memory(Path(config.evidence.dir) if config.evidence.dir else None)
    remembered = memory.load()
    record = None
    if config.record:
        try:
            record = Recorder(Path(config.record), board.entries, config.policy)
            stack.callback(record.close)
        except OSError as error:
            # Whatever lies there costs the recording, and not the verdicts.
            logger.warning("nothing will be recorded: %s", error)
    return [
        Monitor(
            target,
            config.policy,
            samplers[target.name],
            board,
            remembered=remembered,
            remember=memory.remember,
            record=record,
            acceptors_gone=keeper.acceptors_gone,
            youngest_owner=youngest,
            phase=phase,
        )
        for target in config.targets
    ]


def _discovery(
    config: Config,
    sampler: Sampler,
    board: Board,
    keeper: EvidenceKeeper,
    phase: float,
    own: list[int],
) -> "Discovery | None":
    """What finds the listeners that are no target, if that is wanted. `own`: our own ports."""
    if config.discovery.mode is None:
        return None
    from probe.sidecar.discovery import Discovery  # not loaded for nothing

    # Nobody has asked for them, so nothing is restarted or set aside for them.
    policy = config.policy._replace(live_after=float("inf"))

    def monitor(target: Target) -> Monitor:
        return Monitor(
            target,
            policy,
            sampler,
            board,
            acceptors_gone=keeper.acceptors_gone,
            youngest_owner=youngest,
            phase=phase,
        )

    return Discovery(
        sampler,
        board,
        monitor,
        interval=policy.interval,
        excluded=(*own, *config.discovery.excluded),
        ephemeral=config.discovery.ephemeral,
        phase=phase,
    )


def _tell_uncounted(board: Board, why: str) -> None:
    """Once in the log, and in /status for as long as it lasts."""
    board.accepts_unknown = why
    logger.warning("%s", why or "accepts are counted again")


async def _open_agent(config: Config, board: Board, stack: AsyncExitStack) -> "Agent | None":
    """What answers HAProxy, if asked for. Raises OSError with one line."""
    if config.agent_listen is None:
        return None
    from probe.api.agent import Agent  # not loaded for nothing

    agent = Agent(board)
    await agent.start(*config.agent_listen)
    stack.push_async_callback(agent.close)
    _, port = agent.addresses[0]
    logger.info(
        "HAProxy's agent-check is answered on %s",
        config.agent_listen._replace(port=port),
        extra={"fields": {"event": "agent", "port": port}},
    )
    return agent


class Shutdown:
    """The end of the sidecar, at SIGTERM or SIGINT: then nothing is ready any more."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.begun = asyncio.Event()
        self.status = exits.OK

    def begin(self, status: int = exits.OK) -> None:
        """End, with this status."""
        self._board.shut_down()
        self.status = status
        self.begun.set()

    def at_signals(self) -> None:
        """Begin at the first signal; a second one ends at once."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.begun.is_set():
            os._exit(exits.FAILED)
        self.begin()
