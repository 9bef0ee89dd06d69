"""What the board says, in the words and the JSON that go out over HTTP. No I/O."""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from probe import __version__
from probe.display import without_secrets
from probe.model import (
    Condition,
    Listener,
    Outcome,
    Policy,
    Reason,
    RoundTrip,
    Stage,
    Verdict,
    plain,
)
from probe.sidecar.board import Board, Entry, Recorded

Json = dict[str, Any]

Evidence = Callable[[str], Iterable[tuple[object, ...]]]
"""What the pod allows to be found out about a target: records of name, available, why, change."""


class Question(StrEnum):
    """What a client may ask; the word that answers it, too."""

    READY = "ready"
    LIVE = "live"
    STARTED = "started"


class About(NamedTuple):
    """The sidecar itself. `began` is when it started, on the board's clock."""

    view: str
    """Where the listeners are read from: sock_diag, procfs or nowhere."""
    policy: Policy
    began: float
    version: str = __version__


class Answer(NamedTuple):
    """The answer to a question; `target` and what follows it are of the worst failing target."""

    question: Question
    ok: bool
    target: str | None = None
    reason: Reason | None = None
    stage: Stage | None = None
    message: str = ""

    @property
    def line(self) -> str:
        if self.ok:
            return self.question
        return f"not {self.question}: {_because(self.reason, self.stage, self.message)}"


class Check(NamedTuple):
    """One line of a verbose answer; `reason` is why it is not ok, or why it is in spite of all."""

    name: str
    ok: bool
    reason: str = ""


WORST_FIRST = (Condition.UNHEALTHY, Condition.SUSPECT, Condition.UNKNOWN, Condition.HEALTHY)

CHECKS = ("listening", "accept-queue", "round-trip")

CHECK_OF = {
    Reason.STARTING: "round-trip",
    Reason.NOT_LISTENING: "listening",
    Reason.ACCEPT_QUEUE_SATURATED: "accept-queue",
    Reason.ACCEPT_QUEUE_STALLED: "accept-queue",
    Reason.ROUND_TRIP_FAILED: "round-trip",
}

SHUTTING_DOWN = "the sidecar is shutting down"


def ask(board: Board, question: Question) -> Answer:
    """Answer a question about all targets at once."""
    if question is Question.READY and board.shutting_down:
        return Answer(question, ok=False, reason=Reason.SHUTTING_DOWN, message=SHUTTING_DOWN)
    holds = _holds(board, question)
    failing = [entry for entry in board.entries.values() if not holds(entry)]
    if not failing:
        return Answer(question, ok=True)
    worst = min(
        failing,
        key=lambda entry: (WORST_FIRST.index(entry.verdict.condition), entry.verdict.since),
    )
    return Answer(question, False, worst.target.name, *_fault(worst))


def checks(board: Board, question: Question) -> Iterator[Check]:
    """Answer a question check by check, every target's."""
    if question is Question.READY:
        yield Check(
            "shutdown", not board.shutting_down, SHUTTING_DOWN if board.shutting_down else ""
        )
    holds = _holds(board, question)
    for name, entry in board.entries.items():
        faults = {} if holds(entry) else _faults(entry, question)
        spite = {"accept-queue": entry.verdict.kept} if question is Question.LIVE else {}
        for check in CHECKS:
            reason = faults.get(check) or spite.get(check, "")
            yield Check(f"{name}/{check}", check not in faults, reason)


def text(answer: Answer, details: Iterator[Check] | tuple[()] = ()) -> str:
    """Write an answer for people; the first line says it all."""
    lines = [answer.line]
    for check in details:
        said = f"[+]{check.name} ok" if check.ok else f"[-]{check.name} failed"
        lines.append(f"{said}: {check.reason}" if check.reason else said)
    return "\n".join(lines) + "\n"


def document(answer: Answer, details: Iterator[Check]) -> Json:
    """Write an answer for programs; `$defs/answer` of the schema."""
    return {
        answer.question.value: answer.ok,
        "reason": answer.reason,
        "stage": answer.stage,
        "target": answer.target,
        "message": answer.message,
        "checks": [plain(check) for check in details],
    }


def _holds(board: Board, question: Question) -> Callable[[Entry], bool]:
    match question:
        case Question.READY:
            return lambda entry: entry.verdict.ready
        case Question.LIVE:
            return board.is_live
        case Question.STARTED:
            return lambda entry: entry.verdict.started


def _because(reason: Reason | None, stage: Stage | None, message: str) -> str:
    return f"{reason}/{stage}: {message}" if stage else f"{reason}: {message}"


def _fault(entry: Entry) -> tuple[Reason, Stage | None, str]:
    """Return why an entry fails. Right after a graceful replacement of its listener a target may
    be healthy and ready, and yet not started: its verdict then has no reason of its own.
    """
    verdict = entry.verdict
    if verdict.reason is None:
        silence = f"{entry.target.name} has not answered since its present listener appeared"
        return Reason.STARTING, None, silence
    return verdict.reason, verdict.stage, verdict.message or f"{entry.target.name} not seen yet"


def _faults(entry: Entry, question: Question) -> dict[str, str]:
    """Return the checks that fail, each with its reason.

    The verdict has one reason. Being ready takes more than one thing, though, so what else is seen
    to be wrong is said as well; being live does not, so there the verdict's reason stands alone.
    """
    faults: dict[str, str] = {}
    if question is not Question.LIVE:
        if entry.sample is None:
            faults["listening"] = entry.unknown or "not seen yet"
        elif not entry.listeners:
            faults["listening"] = "nothing listens"
        if entry.round_trip is None:
            faults["round-trip"] = "none has ended yet"
        elif entry.round_trip.outcome is Outcome.FAILED:
            faults["round-trip"] = f"{entry.round_trip.stage}: {entry.round_trip.detail}"
    reason, stage, message = _fault(entry)
    faults[CHECK_OF[reason]] = _because(reason, stage, message)
    return faults


def nothing_tried(_target: str) -> tuple[()]:
    """Stand in for Evidence where no self-test was made."""
    return ()


def status(board: Board, about: About, loop_lag: float, evidence: Evidence = nothing_tried) -> Json:
    """Return everything known, as probe/api/status.schema.json has it. `loop_lag`: seconds."""
    now = _Now(board)
    return {
        "version": about.version,
        "view": about.view,
        "started_at": now.moment(about.began),
        "accepts_unknown": board.accepts_unknown or None,
        "loop_lag_seconds": round(loop_lag, 6),
        "shutting_down": board.shutting_down,
        "ready": board.ready,
        "live": board.live,
        "started": board.started,
        "policy": plain(about.policy),
        "targets": [
            {**_target(board, entry, now), "evidence": [plain(one) for one in evidence(name)]}
            for name, entry in board.entries.items()
        ],
    }


class _Now:
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


def _target(board: Board, entry: Entry, now: _Now) -> Json:
    target = entry.target
    return {
        "name": target.name,
        "port": target.port,
        "protocol": target.protocol,
        "host": target.host,
        "path": without_secrets(target.path),
        "service": target.service,
        "ready": board.is_ready(entry),
        "live": board.is_live(entry),
        "started": entry.verdict.started,
        "verdict": _verdict(entry.verdict, now),
        "observed": now.moment(entry.history[-1].at) if entry.history else None,
        "samples": entry.samples,
        "unknowns": entry.unknowns,
        "unknown": entry.unknown or None,
        "listeners": [_listener(listener) for listener in entry.listeners],
        "own_connection_queued_seconds": entry.own_queued_for,
        "round_trip": _round_trip(entry.round_trip, now) if entry.round_trip else None,
        "failures": [_round_trip(one, now) for one in entry.failures],
        "transitions": [_transition(one, now) for one in entry.transitions],
    }


def _verdict(verdict: Verdict, now: _Now) -> Json:
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
        "port": listener.port,
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


def _round_trip(round_trip: RoundTrip, now: _Now) -> Json:
    return {
        "begun": now.moment(round_trip.at),
        "outcome": round_trip.outcome,
        "stage": round_trip.stage,
        "detail": round_trip.detail,
        "status": round_trip.status,
        "accepted": round_trip.accepted,
        "phases_seconds": plain(round_trip.phases),
    }


def _transition(recorded: Recorded, now: _Now) -> Json:
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
