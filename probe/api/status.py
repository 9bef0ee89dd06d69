"""/status: everything that the board knows, as JSON. No I/O."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from probe import __version__
from probe.api.answers import hold_document
from probe.display import without_secrets
from probe.model import EvidenceSent, Listener, OnStall, Policy, RoundTrip, Verdict, plain
from probe.sidecar.board import Board, Entry, Recorded

Json = dict[str, Any]

Evidence = Callable[[str], Iterable[tuple[object, ...]]]
"""What the pod allows to be found out about a target: records of name, available, why, change."""


class About(NamedTuple):
    """The sidecar itself. `began` is when it started, on the board's clock."""

    view: str
    """Where the listeners are read from: sock_diag, procfs or nowhere."""
    policy: Policy
    began: float
    on_stall: tuple[OnStall, ...] = ()
    """What follows a stall; none: RESTART."""
    version: str = __version__


def nothing_tried(_target: str) -> tuple[()]:
    """Stand in for Evidence where no self-test was made."""
    return ()


class Lag(NamedTuple):
    """By how many seconds the sidecar's own loop was late: last, and at worst in ten minutes."""

    last: float = 0.0
    worst: float = 0.0


class Sources(NamedTuple):
    """What a view (`probe.api.view`) is read from: all of it is in memory."""

    board: Board
    about: About
    lag: Callable[[], Lag] = Lag
    evidence: Evidence = nothing_tried
    listeners: Callable[[], Iterable[Listener] | None] = lambda: None
    """Every listener of the namespace but our own, as last seen; None: that is not known."""


def status(
    board: Board,
    about: About,
    loop_lag: float,
    evidence: Evidence = nothing_tried,
    sent: Callable[[], EvidenceSent] | None = None,
) -> Json:
    """Return everything known, as probe/api/status.schema.json has it. `loop_lag`: seconds."""
    now = Now(board)
    return {
        "version": about.version,
        "view": about.view,
        "started_at": now.moment(about.began),
        "accepts_unknown": board.accepts_unknown or None,
        "loop_lag_seconds": round(loop_lag, 6),
        "shutting_down": board.shutting_down,
        "held": hold_document(board),
        "ready": board.ready,
        "live": board.live,
        "started": board.started,
        "policy": plain(about.policy),
        "evidence_sent": None if sent is None else plain(sent()),
        "targets": [
            {**_target(board, entry, now), "evidence": [plain(one) for one in evidence(name)]}
            for name, entry in board.entries.items()
        ],
    }


class Now:
    """One reading of both clocks, to tell when on the wall a monotonic time was."""

    def __init__(self, board: Board) -> None:
        self.monotonic = board.clock()
        self.wall = board.wall()

    def moment(self, at: float, wall: float | None = None) -> Json:
        """Return a monotonic time for people; `wall` is what the clock on the wall said then, if
        it was read, since that clock may have been set in the meantime.
        """
        ago = self.monotonic - at
        shown = datetime.fromtimestamp(self.wall - ago if wall is None else wall, UTC)
        return {
            "at": shown.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "seconds_ago": round(ago, 3),
        }


def target_document(board: Board, entry: Entry) -> Json:
    """What a target is called, how it is asked, and the answers to the three questions of it."""
    target = entry.target
    return {
        "name": target.name,
        "port": target.port or None,
        "socket": target.socket or None,
        "protocol": target.protocol,
        "host": target.host,
        "path": without_secrets(target.path),
        "discovered": target.discovered,
        "ready": board.is_ready(entry),
        "live": board.is_live(entry),
        "started": entry.verdict.started,
        "kept_ready": board.kept(entry) or None,
    }


def _target(board: Board, entry: Entry, now: Now) -> Json:
    return {
        **target_document(board, entry),
        "service": entry.target.service,
        "verdict": verdict_document(entry.verdict, now),
        "observed": now.moment(entry.history[-1].at) if entry.history else None,
        "samples": entry.samples,
        "unknowns": entry.unknowns,
        "unknown": entry.unknown or None,
        "listeners": [_listener(listener) for listener in entry.listeners],
        "own_connection_queued_seconds": entry.own_queued_for,
        "round_trip": round_trip_document(entry.round_trip, now) if entry.round_trip else None,
        "failures": [round_trip_document(one, now) for one in entry.failures],
        "transitions": [_transition(one, now) for one in entry.transitions],
    }


def verdict_document(verdict: Verdict, now: Now) -> Json:
    return {
        "condition": verdict.condition,
        "reason": verdict.reason,
        "stage": verdict.stage,
        "message": verdict.message,
        "since": now.moment(verdict.since),
        "incident": None if verdict.incident is None else now.moment(verdict.incident),
        "kept_live": verdict.kept or None,
    }


def _listener(listener: Listener) -> Json:
    saturation = listener.saturation
    return {
        "address": listener.address,
        "port": listener.port or None,
        "length": listener.length,
        "limit": listener.limit,
        "saturation": None if saturation is None else round(saturation, 4),
        "full": listener.full,
        "drops": listener.drops,
        # As `ss -e` writes it. JSON has no 64-bit integers that every reader keeps whole.
        "cookie": f"{listener.cookie:x}",
        "inode": listener.inode,
        "uid": listener.uid,
    }


def round_trip_document(round_trip: RoundTrip, now: Now) -> Json:
    return {
        "begun": now.moment(round_trip.at),
        "outcome": round_trip.outcome,
        "stage": round_trip.stage,
        "detail": round_trip.detail,
        "status": round_trip.status,
        "accepted": round_trip.accepted,
        "phases_seconds": plain(round_trip.phases),
    }


def _transition(recorded: Recorded, now: Now) -> Json:
    transition = recorded.transition
    return {
        "when": now.moment(transition.at, recorded.wall),
        "before": _outline(transition.before),
        "after": _outline(transition.after),
    }


def _outline(verdict: Verdict) -> Json:
    return {
        "condition": verdict.condition,
        "reason": verdict.reason,
        "stage": verdict.stage,
        "message": verdict.message,
        "ready": verdict.ready,
        "live": verdict.live,
        "started": verdict.started,
    }
