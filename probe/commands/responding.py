"""What follows a stall, wired together from what `--on-stall` says. Loaded where it does."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from probe.api.metrics import Metrics
from probe.config import Config
from probe.evidence.keeper import EvidenceKeeper
from probe.model import OnStall
from probe.response.collector import ResponseCollector
from probe.response.stalls import Responder, Response
from probe.sidecar.board import Board
from probe.sidecar.memory import Memory

if TYPE_CHECKING:
    from probe.kubernetes.reporter import KubernetesReporter

ALWAYS = (OnStall.RESTART, OnStall.HOLD)
"""What needs nobody to do it."""


def wire(
    config: Config,
    board: Board,
    metrics: Metrics,
    keeper: EvidenceKeeper,
    reporter: "KubernetesReporter | None",
    end: Callable[[int], None],
) -> Responder:
    """Who answers stalls; `end` ends the sidecar with a status."""
    ways = [OnStall(way) for way in config.response.on_stall]
    responses = [_response(way, config, board, reporter, end) for way in ways if way not in ALWAYS]
    responder = Responder(
        responses,
        board,
        last=ways[-1] if ways[-1] in ALWAYS else OnStall.RESTART,
        saved=keeper.saved,
        tell=reporter.tell if reporter else None,
    )
    metrics.register(ResponseCollector(responder))
    return responder


def _response(
    way: OnStall,
    config: Config,
    board: Board,
    reporter: "KubernetesReporter | None",
    end: Callable[[int], None],
) -> Response:
    """Each is imported by who asks for it."""
    options = config.response
    if way is OnStall.TERMINATE:
        from probe.response.terminate import Terminate

        return Terminate(board, options.terminate_grace)
    if way is OnStall.EXIT:
        from probe.response.exit import Exit

        return Exit(board, Memory(Path(config.evidence.dir), name="exited"), end)
    if reporter is None:
        raise AssertionError("whoever asks the API server for something has a reporter")
    if way is OnStall.EVICT:
        return reporter.eviction()
    from probe.kubernetes.quarantine import Terms

    return reporter.quarantine(
        Terms(options.quarantine_labels, options.quarantine_for, options.quarantine_max)
    )
