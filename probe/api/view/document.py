"""The document that the page and `probe watch` show. No I/O.

Names are those of /status where it has them; beside its figures there are sentences, and the last
ten minutes as lists. probe/api/view.schema.json has it all.
"""

from collections.abc import Iterable, Iterator
from math import ceil, inf
from operator import itemgetter
from typing import Any

from probe.api.answers import ask, by_urgency, hold_document
from probe.api.questions import Asked, Question
from probe.api.status import (
    Now,
    Sources,
    round_trip_document,
    target_document,
    verdict_document,
)
from probe.api.view.history import history, rate, spread, step_for, total
from probe.api.view.words import headline, next_events
from probe.model import WORST_FIRST, Condition, Listener, Protocol, Verdict, plain
from probe.sidecar.board import TRANSITIONS, Board, Entry, Recorded, SavedEvidence
from probe.sidecar.past import SECONDS, most_saturated

Json = dict[str, Any]

UNPROBED = 64
"""Listeners that nobody probes, at most."""

POOR_VIEWS = {
    "procfs": "limits and drops, and so saturation: sock_diag is refused",
    "nowhere": "accept queues: neither sock_diag nor /proc/net tells anything",
}


def view(sources: Sources, *, local: bool, seconds: int = SECONDS) -> Json:
    """Return what is to be seen, with the history of so many seconds.

    `local`: for who may enter the pod, who is told of the evidence and of other listeners too.
    """
    board, about = sources.board, sources.about
    now = Now(board)
    lag = sources.lag()
    step = step_for(len(board.entries))
    reach = ceil(2 * about.policy.interval)
    return {
        "version": about.version,
        "view": about.view,
        "at": now.moment(now.monotonic)["at"],
        "started_at": now.moment(about.began),
        **_standing(board, now, local=local),
        "answers": {question.value: ask(board, Asked(question)).line for question in Question},
        "held": hold_document(board),
        "last_incident": _last_incident(board, now, local=local),
        "next": [plain(event) for event in next_events(board, about)],
        "targets": [
            {
                **_target(board, entry, now),
                "history": history(entry.past, reach, now.monotonic, step, seconds),
            }
            for entry in board.entries.values()
        ],
        "transitions": _transitions(board, now, local=local),
        "unprobed": _unprobed(board, sources.listeners()) if local else None,
        "sidecar": {
            "loop_lag_seconds": round(lag.last, 6),
            "loop_lag_max_seconds": round(lag.worst, 6),
            "cannot_see": list(_unseen(sources, local=local)),
        },
        "policy": plain(about.policy),
    }


def _standing(board: Board, now: Now, *, local: bool) -> Json:
    """The verdict on the whole: that of the worst target, and since when."""
    deciding = sorted(board.deciding, key=by_urgency)
    verdict = deciding[0].verdict if deciding else None
    well = verdict is None or verdict.condition is Condition.HEALTHY
    since = max((entry.verdict.since for entry in deciding), default=now.monotonic)
    if verdict is not None and not well:
        since = verdict.since
    incident = None if verdict is None else verdict.incident
    return {
        "condition": Condition.UNKNOWN if verdict is None else verdict.condition,
        "ready": board.ready,
        "live": board.live,
        "started": board.started,
        "shutting_down": board.shutting_down,
        "headline": headline(board),
        "reason": "" if verdict is None or well else verdict.message,
        "since": now.moment(since),
        "incident": None if incident is None else now.moment(incident),
        "found": _found(_evidence(deciding[0], incident)) if deciding and local else None,
    }


def _target(board: Board, entry: Entry, now: Now) -> Json:
    trip, past = entry.round_trip, entry.past.columns()
    return {
        **target_document(board, entry),
        "verdict": verdict_document(entry.verdict, now),
        "observed": now.moment(entry.history[-1].at) if entry.history else None,
        "unknown": entry.unknown or None,
        "listeners": len(entry.listeners),
        "queue": _queue(entry),
        "own_connection_queued_seconds": entry.own_queued_for,
        "accepts_per_second": rate(past.accepts),
        "accepts_of": "target" if entry.target.socket else "namespace",
        "drops": {
            "last_10_minutes": total(past.drops),
            "per_second": rate(past.drops),
        },
        "accept_delay": spread(past.delays),
        "round_trip": {
            **spread(past.totals),
            "failed": len(past.stages) - past.stages.count(0),
            "outcome": trip and trip.outcome,
            "status": trip and trip.status,
            "detail": trip.detail if trip else "",
        },
        "last_failure": round_trip_document(entry.failures[-1], now) if entry.failures else None,
    }


def _queue(entry: Entry) -> Json | None:
    """That of the listener that decides."""
    if not entry.listeners:
        return None
    worst = most_saturated(entry.listeners)
    saturation = worst.saturation
    return {
        "length": worst.length,
        "limit": worst.limit,
        "saturation": None if saturation is None else round(saturation, 4),
        "full": worst.full,
    }


def _transitions(board: Board, now: Now, *, local: bool) -> list[Json]:
    """Of all targets, the newest first; with the evidence, for who may see it."""
    recorded = [(entry, one) for entry in board.entries.values() for one in entry.transitions]
    recorded.sort(key=lambda pair: pair[1].transition.at, reverse=True)
    return [
        {
            "when": now.moment(one.transition.at, one.wall),
            "target": one.transition.target,
            "before": one.transition.before.condition,
            "after": one.transition.after.condition,
            "text": one.transition.after.message,
            "ready": one.transition.after.ready,
            "live": one.transition.after.live,
            "evidence": _id(_evidence(entry, _incident(one))) if local else None,
        }
        for entry, one in recorded[:TRANSITIONS]
    ]


def _last_incident(board: Board, now: Now, *, local: bool) -> Json | None:
    """The last one that is over, of any target that the pod depends on."""
    over = [
        (one.transition.at, began, entry, one)
        for entry in board.deciding
        for one in entry.transitions
        if one.transition.after.incident is None
        and (began := one.transition.before.incident) is not None
    ]
    if not over:
        return None
    at, began, entry, ended = max(over, key=itemgetter(0))
    return {
        "target": entry.target.name,
        "began": now.moment(began),
        "ended": now.moment(at, ended.wall),
        "seconds": round(at - began, 1),
        "text": _at_worst(entry, ended).message,
        "found": _found(_evidence(entry, began)) if local else None,
    }


def _at_worst(entry: Entry, ended: Recorded) -> Verdict:
    """What was first said of an incident when it was at its worst, as far as that is still kept."""
    last = ended.transition.before
    said = (one.transition.after for one in entry.transitions)
    return min(
        (verdict for verdict in said if verdict.incident == last.incident),
        key=lambda verdict: WORST_FIRST.index(verdict.condition),
        default=last,
    )


def _evidence(entry: Entry, began: float | None) -> SavedEvidence | None:
    """What was saved of the incident of that beginning."""
    if began is None:
        return None
    others = (_incident(other) for other in entry.transitions)
    ends = min((other for other in others if other is not None and other > began), default=inf)
    return next((saved for saved in entry.evidence if began <= saved.at < ends), None)


def _id(saved: SavedEvidence | None) -> str | None:
    return saved and saved.id


def _found(saved: SavedEvidence | None) -> Json | None:
    return saved and {"id": saved.id, "text": saved.finding}


def _incident(recorded: Recorded) -> float | None:
    """When the incident began that a transition belongs to, or ends."""
    after, before = recorded.transition.after, recorded.transition.before
    return before.incident if after.incident is None else after.incident


def _unprobed(board: Board, listeners: Iterable[Listener] | None) -> list[Json] | None:
    """Who listens, and is no target: by port, the lowest first."""
    if listeners is None:
        return None
    watched = {entry.target.port for entry in board.entries.values()}
    found = {(one.port, one.address): one for one in listeners if one.port not in watched}
    return [
        {"port": port, "address": address, "length": one.length, "limit": one.limit}
        for (port, address), one in sorted(found.items())[:UNPROBED]
    ]


def _unseen(sources: Sources, *, local: bool) -> Iterator[str]:
    """What the sidecar cannot see, each with the reason."""
    board = sources.board
    if sources.about.view in POOR_VIEWS:
        yield POOR_VIEWS[sources.about.view]
    if board.accepts_unknown:
        yield board.accepts_unknown
    for name, entry in board.entries.items():
        if entry.unknown:
            yield f"{name}: {entry.unknown}"
        if entry.target.protocol is Protocol.QUEUE and not entry.target.discovered:
            yield f"{name}: whether it answers, since it is never asked"
        for access in sources.evidence(name) if local else ():
            tried = plain(access)
            if not tried["available"]:
                yield f"{name}: {tried['name']}: {tried['why']}"
