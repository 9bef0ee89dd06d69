"""The answers to the three questions, in words and in JSON, as the board has them. No I/O."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from probe.api.questions import Asked, Question
from probe.display import printable, utc
from probe.model import WORST_FIRST, Condition, Hold, Outcome, Protocol, Reason, Stage, plain
from probe.sidecar.board import Board, Entry

NAMED = 16
"""Targets that one line names at most, beside the worst."""

CHECKS = ("listening", "accept-queue", "round-trip")
QUEUE_CHECKS = CHECKS[:2]
"""Of a target that is never asked."""

CHECK_OF = {
    Reason.STARTING: "round-trip",
    Reason.NOT_LISTENING: "listening",
    Reason.ACCEPT_QUEUE_SATURATED: "accept-queue",
    Reason.ACCEPT_QUEUE_STALLED: "accept-queue",
    Reason.ROUND_TRIP_FAILED: "round-trip",
}

SHUTTING_DOWN = "the sidecar is shutting down"


class NoTarget(Exception):
    """What is asked about is no target of ours. str() says so, and what there is, in one line."""


class Fault(NamedTuple):
    """Why the answer is no: what one target says, or, without a target, the sidecar itself."""

    target: str | None
    reason: Reason
    stage: Stage | None
    message: str

    @property
    def code(self) -> str:
        return f"{self.reason}/{self.stage}" if self.stage else self.reason


class Answer(NamedTuple):
    """The answer to a question about `targets` of them; yes where there are no faults."""

    question: Question
    targets: int
    faults: tuple[Fault, ...] = ()
    """The worst first."""
    warnings: tuple[Fault, ...] = ()
    """Of those that are suspect or saturated, whether that makes the answer no or not yet."""
    kept: str = ""
    """Why the answer is yes although a target is not well."""
    held: str = ""
    """That somebody holds what is asked about, and what would be said without that."""

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def line(self) -> str:
        word = self.question if self.ok else f"not {self.question}"
        why = self.kept if self.ok else said_of(self.faults, self.targets)
        said = "; ".join(filter(None, (why, self.held)))
        return f"{word}: {said}" if said else word


def said_of(faults: Sequence[Fault], targets: int) -> str:
    """The worst in full, and the names of the others, of so many targets."""
    worst, *others = faults
    line = f"{worst.code}: {worst.message}"
    if not others:
        return line
    named = [f"{fault.target} {fault.code}" for fault in others[:NAMED]]
    if len(others) > NAMED:
        named.append(f"{len(others) - NAMED} others")
    return f"{line}; {len(others)} more of {targets} targets: {', '.join(named)}"


class Check(NamedTuple):
    """One line of a verbose answer; `reason` is why it is not ok, or why it is in spite of all."""

    name: str
    ok: bool
    reason: str = ""


def ask(board: Board, asked: Asked) -> Answer:
    """Answer a question. Raises NoTarget."""
    entries = meant(board, asked)
    ready = asked.question is Question.READY
    if ready and board.shutting_down:
        fault = Fault(None, Reason.SHUTTING_DOWN, None, SHUTTING_DOWN)
        return Answer(asked.question, len(entries), (fault,))
    holds = _holds(board, asked.question)
    entries.sort(key=by_urgency)
    return Answer(
        asked.question,
        len(entries),
        tuple(_fault(entry) for entry in entries if not holds(entry)),
        tuple(_fault(entry) for entry in entries if _is_degraded(entry)),
        next(filter(None, map(board.kept, entries)), "") if ready else "",
        _told_of_hold(board.held, asked.question, entries),
    )


def by_urgency(entry: Entry) -> tuple[int, float]:
    """A key that sorts the worst to the front, and of those what has lasted longest."""
    return WORST_FIRST.index(entry.verdict.condition), entry.verdict.since


def checks(board: Board, asked: Asked) -> Iterator[Check]:
    """Answer a question check by check, of every target that is meant. Raises NoTarget."""
    if asked.question is Question.READY:
        yield Check(
            "shutdown", not board.shutting_down, SHUTTING_DOWN if board.shutting_down else ""
        )
    holds = _holds(board, asked.question)
    for entry in meant(board, asked):
        faults = {} if holds(entry) else _failed_checks(entry, asked.question)
        spite = _spite(board, entry, asked.question)
        for check in CHECKS if _is_asked(entry) else QUEUE_CHECKS:
            reason = faults.get(check) or spite.get(check, "")
            yield Check(f"{entry.target.name}/{check}", check not in faults, reason)
    if asked.target is None:
        for name in sorted(asked.excluded):
            there = "" if name in board.entries else ", and there is no such target"
            yield Check(printable(name), ok=True, reason=f"excluded{there}")


def text(answer: Answer, details: Iterable[Check] = (), *, warn: bool = False) -> str:
    """Write an answer for people; the first line says it all, but for a warning where one may
    follow.
    """
    lines = [answer.line]
    if warn and answer.ok:
        lines += [f"warning: {fault.code}: {fault.message}" for fault in answer.warnings[:NAMED]]
    for check in details:
        said = f"[+]{check.name} ok" if check.ok else f"[-]{check.name} failed"
        lines.append(f"{said}: {check.reason}" if check.reason else said)
    return "\n".join(lines) + "\n"


def document(
    answer: Answer, details: Iterator[Check], held: dict[str, Any] | None
) -> dict[str, Any]:
    """Write an answer for programs; `$defs/answer` of the schema. `held`: see `hold_document`."""
    worst = answer.faults[0] if answer.faults else None
    return {
        answer.question.value: answer.ok,
        "reason": worst and worst.reason,
        "stage": worst and worst.stage,
        "target": worst and worst.target,
        "message": worst.message if worst else answer.kept,
        "failing": [fault.target for fault in answer.faults if fault.target],
        "degraded": [fault.target for fault in answer.warnings],
        "held": held,
        "checks": [plain(check) for check in details],
    }


def hold_document(board: Board) -> dict[str, Any] | None:
    """Write the hold that lasts now; `$defs/hold` of the schema."""
    held = board.held
    return held and {
        "until": utc(held.ends),
        "seconds_left": round(held.until - board.clock(), 3),
        "ready": held.ready,
    }


def meant(board: Board, asked: Asked) -> list[Entry]:
    """The targets that a question is about. Raises NoTarget."""
    if asked.target is None:
        return [entry for entry in board.deciding if entry.target.name not in asked.excluded]
    entry = board.entries.get(asked.target)
    if entry is None:
        named = ", ".join(list(board.entries)[:NAMED])
        more = ", ..." if len(board.entries) > NAMED else ""
        raise NoTarget(f"no target {printable(asked.target)} here, but {named}{more}")
    return [entry]


def _holds(board: Board, question: Question) -> Callable[[Entry], bool]:
    match question:
        case Question.READY:
            return board.may_serve
        case Question.LIVE:
            return board.is_live
        case Question.STARTED:
            return lambda entry: entry.verdict.started


def _is_asked(entry: Entry) -> bool:
    return entry.target.protocol is not Protocol.QUEUE


def _spite(board: Board, entry: Entry, question: Question) -> dict[str, str]:
    """Return what is wrong by check, and why the answer is yes in spite of it."""
    if _is_held(board.held, question) and not _by_verdict(entry, question):
        failed = _failed_checks(entry, question)
        return {check: f"held by hand, in spite of {why}" for check, why in failed.items()}
    match question:
        case Question.LIVE:
            return {"accept-queue": entry.verdict.kept}
        case Question.READY if entry.verdict.reason is not None:
            return {CHECK_OF[entry.verdict.reason]: board.kept(entry)}
    return {}


def _told_of_hold(hold: Hold | None, question: Question, entries: Iterable[Entry]) -> str:
    """Say until when it lasts, and what would be said without it; "" where there is none."""
    if hold is None:
        return ""
    until = f"held by hand until {utc(hold.ends)}"
    if not _is_held(hold, question):
        return f"live is {until}"
    entries = tuple(entries)
    faults = [_fault(entry) for entry in entries if not _by_verdict(entry, question)]
    without = f"; without that not {question}: {said_of(faults, len(entries))}" if faults else ""
    return until + without


def _is_held(hold: Hold | None, question: Question) -> bool:
    """Whether the answer to this question is what somebody wants it to be."""
    if hold is None:
        return False
    return question is Question.LIVE or (question is Question.READY and hold.ready)


def _by_verdict(entry: Entry, question: Question) -> bool:
    """What the verdict alone says."""
    return entry.verdict.ready if question is Question.READY else entry.verdict.live


def _is_degraded(entry: Entry) -> bool:
    """Whether it would be better to send its traffic elsewhere, where there is a choice."""
    return (
        entry.verdict.condition is Condition.SUSPECT
        or entry.verdict.reason is Reason.ACCEPT_QUEUE_SATURATED
    )


def _fault(entry: Entry) -> Fault:
    """Return why an entry fails. Right after a graceful replacement of its listener a target may
    be healthy and ready, and yet not started: its verdict then has no reason of its own.
    """
    name, verdict = entry.target.name, entry.verdict
    if verdict.reason is None:
        silence = f"{name} has not answered since its present listener appeared"
        return Fault(name, Reason.STARTING, None, silence)
    return Fault(name, verdict.reason, verdict.stage, verdict.message or f"{name} not seen yet")


def _failed_checks(entry: Entry, question: Question) -> dict[str, str]:
    """Return the checks that fail, each with its reason.

    The verdict has one reason. Being ready takes more than one thing, though, so what else is seen
    to be wrong is said as well; being live does not, so there the verdict's reason stands alone.
    """
    failed: dict[str, str] = {}
    if question is not Question.LIVE:
        if entry.sample is None:
            failed["listening"] = entry.unknown or "not seen yet"
        elif not entry.listeners:
            failed["listening"] = "nothing listens"
        if not _is_asked(entry):
            pass  # None is ever made.
        elif entry.round_trip is None:
            failed["round-trip"] = "none has ended yet"
        elif entry.round_trip.outcome is Outcome.FAILED:
            failed["round-trip"] = f"{entry.round_trip.stage}: {entry.round_trip.detail}"
    fault = _fault(entry)
    failed[CHECK_OF[fault.reason]] = f"{fault.code}: {fault.message}"
    return failed
