"""What is wrong, and what happens next, in sentences for who has never seen this project. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from probe.api.answers import by_urgency
from probe.api.status import About
from probe.judge.outlook import Outlook, Prospect, outlook
from probe.model import Condition, OnStall, Reason, Stage, Verdict
from probe.sidecar.board import Board, Entry

WHAT_IS_WRONG = {
    Reason.STARTING: "{} has not answered yet",
    Reason.NOT_LISTENING: "nothing listens on {}",
    Reason.ACCEPT_QUEUE_SATURATED: "{} accepts connections too slowly",
    Reason.ACCEPT_QUEUE_STALLED: "{} accepts no connections",
    Reason.ROUND_TRIP_FAILED: "{} accepts no connections",
}
WHERE_IT_FAILS = {
    Stage.REFUSED: "{} refuses connections",
    Stage.SYN_DROPPED: "{} drops new connections",
    Stage.HANDSHAKE_INCOMPLETE: "{} does not complete the handshake",
    Stage.QUEUED: "{} accepts no connections",
    Stage.UNREAD: "{} does not read its requests",
    Stage.UNANSWERED: "{} does not answer",
    Stage.RESET: "{} resets connections",
    Stage.TLS: "{} fails at TLS",
    Stage.STATUS: "{} answers with an error",
    Stage.UNEXPECTED_REPLY: "{} answers something unexpected",
}

WHAT_FOLLOWS = {
    OnStall.RESTART: "/live fails, and kubelet restarts the container",
    OnStall.HOLD: "/live would fail, but is held: nothing is restarted",
    OnStall.TERMINATE: "the stalled container is ended, and starts again",
    OnStall.QUARANTINE: "the pod is set aside, and replaced",
    OnStall.EVICT: "the pod is deleted, and replaced",
    OnStall.EXIT: "the sidecar ends, and the containers of the pod are restarted",
}


class Event(NamedTuple):
    """Something that follows if nothing changes."""

    target: str | None
    """None: for all of them."""
    what: str
    """Of `Outlook`, or hold_ends, stays_ready, ends, nothing."""
    in_seconds: float | None
    """None: it is not a matter of time."""
    text: str


def headline(board: Board) -> str:
    """The verdict in a few words, without figures."""
    if board.shutting_down:
        return "Shutting down: not ready"
    deciding = sorted(board.deciding, key=by_urgency)
    if not deciding:
        return "Nothing is watched yet"
    verdict = deciding[0].verdict
    if verdict.condition is Condition.HEALTHY and board.ready and board.live:
        return "All is well: ready and live"
    return f"{_standing(board, verdict)}: {_what_is_wrong(verdict)}"


def _standing(board: Board, verdict: Verdict) -> str:
    if not board.ready:
        return "Not ready" if board.live else "Not ready and not live"
    if verdict.condition is Condition.SUSPECT:
        return "Ready, but suspect"
    by_hand = board.held is not None and board.held.ready
    return "Kept ready by hand" if by_hand else "Kept ready"


def _what_is_wrong(verdict: Verdict) -> str:
    if verdict.stage is not None:
        return WHERE_IT_FAILS[verdict.stage].format(verdict.target)
    return WHAT_IS_WRONG[verdict.reason or Reason.STARTING].format(verdict.target)


def next_events(board: Board, about: About) -> tuple[Event, ...]:
    """What follows, the most urgent first; never nothing."""
    if board.shutting_down:
        return (Event(None, "ends", None, "the sidecar ends"),)
    deciding = sorted(board.deciding, key=by_urgency)
    events = [
        *_of_hold(board, about),
        *(event for entry in deciding for event in _of_target(board, about, entry)),
    ]
    return tuple(events) or (Event(None, "nothing", None, "nothing is due"),)


def _of_hold(board: Board, about: About) -> Iterator[Event]:
    held = board.held
    if held is None:
        return
    due = any(not entry.verdict.live for entry in board.deciding)
    then = _what_follows(about) if due else "the verdicts decide again"
    left = round(held.until - board.clock(), 1)
    yield Event(None, "hold_ends", left, f"what holds /live good by hand ends: {then}")


def _of_target(board: Board, about: About, entry: Entry) -> Iterator[Event]:
    name, state = entry.target.name, entry.state
    kept = board.kept(entry)
    if kept:
        yield Event(name, "stays_ready", None, f"/ready stays good: {kept}")
    if not entry.verdict.live:
        yield _after_a_stall(board, about, entry)
    if state is None or state.at is None:
        return
    seen_ago = board.clock() - state.at
    policy = about.policy
    if entry.target.discovered:
        policy = policy._replace(live_after=float("inf"))  # as it is watched
    for prospect in outlook(state, policy):
        seconds = prospect.seconds
        left = None if seconds is None else round(max(seconds - seen_ago, 0.0), 1)
        yield Event(name, prospect.what, left, _sentence(about, prospect))


def _after_a_stall(board: Board, about: About, entry: Entry) -> Event:
    """What is under way once the verdict is not live."""
    name, first, last = entry.target.name, _ways(about)[0], _ways(about)[-1]
    if not board.is_live(entry):
        return Event(name, Outlook.NOT_LIVE, 0.0, WHAT_FOLLOWS[OnStall.RESTART])
    if board.held is not None:
        return Event(name, Outlook.STAYS_LIVE, None, "/live is held good by hand")
    if first is OnStall.RESTART:
        text = f"{_what_follows(about)}, as soon as the evidence is saved"
        return Event(name, Outlook.NOT_LIVE, None, text)
    if first is last is OnStall.HOLD:
        return Event(name, Outlook.STAYS_LIVE, None, "/live is held good: nothing is restarted")
    return Event(name, Outlook.STAYS_LIVE, None, f"under way: {_what_follows(about)}")


def _sentence(about: About, prospect: Prospect) -> str:
    match prospect.what:
        case Outlook.NOT_READY:
            return f"/ready fails, and traffic goes elsewhere, {prospect.text}"
        case Outlook.NOT_LIVE:
            return f"{_what_follows(about)}, {prospect.text}"
        case Outlook.STAYS_LIVE:
            return f"/live stays good: {prospect.text}"
        case Outlook.READY:
            return f"/ready becomes good {prospect.text}"


def _what_follows(about: About) -> str:
    return WHAT_FOLLOWS[_ways(about)[0]]


def _ways(about: About) -> tuple[OnStall, ...]:
    return about.on_stall or (OnStall.RESTART,)
