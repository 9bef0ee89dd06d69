"""From observations to verdicts. Pure: no I/O and no clock, so that an incident replays exactly.

`step` takes one observation at a time; docs/verdict.md tells it in words. What it holds on to:

- A listener is told by its cookie. A new cookie starts with a clean slate.
- A stall is time, in one piece, for which it is proven that something was queued and nothing
  accepted (`samples` says what proves it). A sign of the contrary ends it. Without proof either way
  it stands still; a later proof that does not reach back to where it stands begins anew, since in
  between something may have been accepted.
- What could not be seen neither fails nor heals: it leaves the state as it was.

`samples`, `round_trips` and `cost` take what was observed into the `state`; what follows from that
is here, and said by `wording`.
"""

from __future__ import annotations

from collections.abc import Iterable

from probe.imports.typing_lite import NamedTuple
from probe.judge import wording
from probe.judge.cost import apply_work, aside, kept_for, weighs
from probe.judge.round_trips import apply_own_wait, apply_round_trip
from probe.judge.samples import apply_sample, furthest
from probe.judge.state import State
from probe.judge.wording import seconds
from probe.model import Condition, Observation, Policy, Reason, Stage, Target, Transition, Verdict

__all__ = ["State", "furthest", "initial", "seconds", "step", "weighs"]


class Opinion(NamedTuple):
    """What is thought of a target, before what it means for being ready and live."""

    condition: Condition
    reason: Reason | None = None
    message: str = ""
    stage: Stage | None = None


def initial(target: Target, at: float = 0.0, remembered: Iterable[int] = ()) -> State:
    """Return the state before the first observation: not ready, but live.

    `remembered` holds cookies of listeners that were seen to accept before we were restarted.
    """
    verdict = Verdict(target.name, message=f"{target.name} starting", since=at)
    return State(verdict, frozenset(remembered))


def step(state: State, observation: Observation, policy: Policy) -> tuple[State, Transition | None]:
    """Take one observation; return the new state, and the transition if there was one.

    An observation older than the last one is ignored: time never runs backwards.
    """
    at = observation.at
    if state.at is not None and at < state.at:
        return state, None
    state = state._replace(at=at)
    failures = state.failures
    if observation.work is not None:
        state = apply_work(state, observation.work, at)
    if observation.sample is not None and not observation.sample.error:
        state = apply_sample(state, observation, observation.sample, policy)
    if observation.round_trip is not None:
        state = apply_round_trip(state, observation.round_trip, policy)
    if observation.own_queued_for is not None:
        state = apply_own_wait(state, observation.own_queued_for, failures, policy)
    verdict = _verdict(state, policy, at)
    before = state.verdict
    state = state._replace(verdict=verdict)
    if _outline(before) == _outline(verdict):
        return state, None
    return state, Transition(verdict.target, at, before, verdict)


# --- what follows


def _verdict(state: State, policy: Policy, at: float) -> Verdict:
    before = state.verdict
    kept = kept_for(state, policy)
    live = not _dead(state, policy, at, kept=bool(kept))
    opinion = _unhealthy(state, policy, at)
    ready = opinion is None and state.proven
    if opinion is None:
        opinion = _suspect(state, policy, at) if state.proven else _starting(state, at)
    if opinion is None:
        opinion = Opinion(Condition.HEALTHY, message=wording.healthy(state))
    incident = before.incident if before.incident is not None else at
    same = (opinion.condition, opinion.reason) == (before.condition, before.reason)
    return Verdict(
        before.target,
        opinion.condition,
        opinion.reason,
        opinion.stage,
        opinion.message + aside(state, policy, live=live, kept=kept),
        since=before.since if same else at,
        incident=incident
        if opinion.condition in (Condition.SUSPECT, Condition.UNHEALTHY)
        else None,
        ready=ready,
        live=live,
        started=state.started,
        kept=kept if live else "",
    )


def _unhealthy(state: State, policy: Policy, at: float) -> Opinion | None:
    name = state.verdict.target
    if state.absent >= policy.failure_threshold and state.absent_since is not None:
        lasting = f" for {seconds(at - state.absent_since)}" if at > state.absent_since else ""
        # Before it was ever seen to listen, that is a late start and no incident.
        never = state.watched_since is None
        return Opinion(
            Condition.UNKNOWN if never else Condition.UNHEALTHY,
            Reason.NOT_LISTENING,
            f"{name} not listening{lasting}{wording.instead(state)}",
        )
    stalled = [watch for watch in state.watches if watch.stalled_for >= policy.stalled_for]
    if stalled:
        return Opinion(
            Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_STALLED, wording.stalled(state, stalled)
        )
    saturated = [watch for watch in state.watches if watch.saturated]
    if saturated:
        return Opinion(
            Condition.UNHEALTHY,
            Reason.ACCEPT_QUEUE_SATURATED,
            wording.saturated(state, saturated, at),
        )
    if state.failures >= policy.failure_threshold:
        return Opinion(
            Condition.UNHEALTHY, Reason.ROUND_TRIP_FAILED, wording.failed(state), _stage(state)
        )
    return None


def _suspect(state: State, policy: Policy, at: float) -> Opinion | None:
    name = state.verdict.target
    if state.absent:
        message = f"{name} not listening{wording.instead(state)}"
        return Opinion(Condition.SUSPECT, Reason.NOT_LISTENING, message)
    stalled = [watch for watch in state.watches if watch.stalled_for >= policy.stalled_for / 3]
    if stalled:
        return Opinion(
            Condition.SUSPECT, Reason.ACCEPT_QUEUE_STALLED, wording.stalled(state, stalled)
        )
    high = [
        watch
        for watch in state.watches
        if watch.high_since is not None and at - watch.high_since >= policy.saturated_for / 2
    ]
    if high:
        return Opinion(
            Condition.SUSPECT, Reason.ACCEPT_QUEUE_SATURATED, wording.saturated(state, high, at)
        )
    if state.failures:
        return Opinion(
            Condition.SUSPECT, Reason.ROUND_TRIP_FAILED, wording.failed(state), _stage(state)
        )
    return None


def _starting(state: State, at: float) -> Opinion:
    name = state.verdict.target
    if state.failures:
        return Opinion(
            Condition.UNKNOWN, Reason.STARTING, f"{name} starting: {wording.failed(state)}"
        )
    return Opinion(Condition.UNKNOWN, Reason.STARTING, f"{name} starting: no good round trip yet")


def _dead(state: State, policy: Policy, at: float, *, kept: bool) -> bool:
    """Whether a restart is due: a lasting stall of a listener that has accepted before, unless it
    is `kept` for what that would cost.
    """
    lasting = any(
        watch.accepted and watch.stalled_for >= policy.live_after for watch in state.watches
    )
    if lasting and not kept:
        return True
    if "vanished" in policy.live_on and state.watched_since is not None:
        since = state.absent_since
        if since is not None and at - since >= policy.live_after:
            return True
    if "unanswered" in policy.live_on and state.started and state.failing_since is not None:
        return (
            state.failures >= policy.failure_threshold
            and _stage(state) in (Stage.UNREAD, Stage.UNANSWERED)
            and at - state.failing_since >= policy.live_after
        )
    return False


def _stage(state: State) -> Stage | None:
    return Stage.QUEUED if state.round_trip is None else state.round_trip.stage


def _outline(verdict: Verdict) -> tuple[object, ...]:
    """What makes a difference worth telling; figures in the message do not."""
    return (
        verdict.condition,
        verdict.reason,
        verdict.stage,
        verdict.ready,
        verdict.live,
        verdict.started,
        bool(verdict.kept),
    )
