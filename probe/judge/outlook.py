"""What follows for one target if nothing changes. Pure.

It says when a rule of the judge will be met, and by what it would not be: no more than the rules
themselves, so it promises nothing that `step` would not do.
"""

from __future__ import annotations

from enum import StrEnum

from probe.display import plural
from probe.imports.typing_lite import NamedTuple
from probe.judge.state import State, Watch
from probe.judge.wording import seconds
from probe.model import Condition, Policy, Reason, Stage


class Outlook(StrEnum):
    """What a target will be; STAYS_LIVE: what does not follow although it is not well."""

    READY = "ready"
    NOT_READY = "not_ready"
    NOT_LIVE = "not_live"
    STAYS_LIVE = "stays_live"


class Prospect(NamedTuple):
    """One thing that follows; `text` says on what condition, as the end of a sentence."""

    what: Outlook
    seconds: float | None
    """Until then, from the last observation on; None: that depends on what is not a matter of time.
    """
    text: str


def outlook(state: State, policy: Policy) -> tuple[Prospect, ...]:
    """What is due, the most urgent first; nothing while all is well."""
    verdict = state.verdict
    at = state.at or 0.0
    if verdict.condition is Condition.HEALTHY:
        return ()
    if verdict.condition is Condition.SUSPECT:
        return (_not_ready(state, policy, at),)
    if verdict.condition is Condition.UNKNOWN and verdict.reason is Reason.STARTING:
        text = f"after {_good(policy.success_threshold - state.successes)}"
        return (Prospect(Outlook.READY, None, text),)
    if not verdict.live:
        return (_ready(state, policy, at),)
    return (_not_live(state, policy, at), _ready(state, policy, at))


def _not_ready(state: State, policy: Policy, at: float) -> Prospect:
    """How a suspicion becomes a fault."""
    left: float | None = None
    match state.verdict.reason:
        case Reason.ACCEPT_QUEUE_STALLED:
            left = policy.stalled_for - max(watch.stalled_for for watch in state.watches)
            unless = "unless it accepts a connection first"
        case Reason.ACCEPT_QUEUE_SATURATED:
            high = [watch.high_since for watch in state.watches if watch.high_since is not None]
            left = policy.saturated_for - (at - min(high, default=at))
            unless = f"unless the queue falls below {policy.saturated_at:.0%} of its limit first"
        case Reason.NOT_LISTENING:
            samples = plural(policy.failure_threshold - state.absent, "more sample")
            return Prospect(Outlook.NOT_READY, None, f"after {samples} without a listener")
        case _:
            trips = plural(policy.failure_threshold - state.failures, "more failed round trip")
            return Prospect(Outlook.NOT_READY, None, f"after {trips}")
    return Prospect(Outlook.NOT_READY, max(left, 0.0), unless)


def _ready(state: State, policy: Policy, at: float) -> Prospect:
    """What it takes to be in service again."""
    good = _good(max(policy.success_threshold - state.successes, 1))
    match state.verdict.reason:
        case Reason.ACCEPT_QUEUE_STALLED:
            return Prospect(Outlook.READY, None, f"once it accepts connections, after {good}")
        case Reason.ACCEPT_QUEUE_SATURATED:
            saturated = [watch for watch in state.watches if watch.saturated]
            low = [watch.low_since for watch in saturated if watch.low_since is not None]
            below = f"{policy.recovered_below:.0%} of its limit"
            if saturated and len(low) == len(saturated):
                left = max(policy.recovered_for - (at - max(low)), 0.0)
                return Prospect(Outlook.READY, left, f"if the queue stays below {below}")
            lasting = seconds(policy.recovered_for)
            return Prospect(Outlook.READY, None, f"once the queue was below {below} for {lasting}")
        case Reason.NOT_LISTENING:
            return Prospect(Outlook.READY, None, f"once something listens, after {good}")
    return Prospect(Outlook.READY, None, f"after {good}")


def _not_live(state: State, policy: Policy, at: float) -> Prospect:
    """When a restart would be asked for, or why it will not be."""
    verdict = state.verdict
    if verdict.kept:
        return Prospect(Outlook.STAYS_LIVE, None, verdict.kept)
    stalled = [watch for watch in state.watches if watch.stalled_for >= policy.stalled_for / 3]
    if stalled:
        return _not_live_of_a_stall(stalled, policy)
    since: float | None = None
    match verdict.reason:
        case Reason.NOT_LISTENING:
            why = "nothing listens, which asks for a restart with --live-on vanished alone"
            unless = "unless something listens first"
            if "vanished" in policy.live_on:
                why = "nothing has listened yet"
                since = state.absent_since if state.watched_since is not None else None
        case Reason.ROUND_TRIP_FAILED:
            why = "a round trip that fails asks for no restart"
            unless = "unless a round trip is good first"
            if "unanswered" in policy.live_on and state.started and _is_unanswered(state):
                since = state.failing_since
        case _:
            why = "connections are accepted, and a restart would only cut them off"
            unless = ""
    if since is None:
        return Prospect(Outlook.STAYS_LIVE, None, why)
    return Prospect(Outlook.NOT_LIVE, max(policy.live_after - (at - since), 0.0), unless)


def _not_live_of_a_stall(stalled: list[Watch], policy: Policy) -> Prospect:
    proven = [watch.stalled_for for watch in stalled if watch.accepted]
    if not proven:
        why = "it was never seen to accept anything, so it may be initialising"
        return Prospect(Outlook.STAYS_LIVE, None, why)
    left = policy.live_after - max(proven)
    if left == float("inf"):
        return Prospect(Outlook.STAYS_LIVE, None, "it was found, and nobody asked for a restart")
    unless = "unless it accepts a connection first, or is seen at work"
    return Prospect(Outlook.NOT_LIVE, max(left, 0.0), unless)


def _is_unanswered(state: State) -> bool:
    return state.verdict.stage in (Stage.UNREAD, Stage.UNANSWERED)


def _good(count: int) -> str:
    return plural(max(count, 1), "good round trip")
