"""What a round trip tells, and how long a connection of ours has waited for its turn."""

from __future__ import annotations

from probe.judge.state import State, Watch, later
from probe.model import Outcome, Policy, RoundTrip


def apply_round_trip(state: State, round_trip: RoundTrip, policy: Policy) -> State:
    if round_trip.outcome is Outcome.UNKNOWN:
        return state
    if state.watched_since is not None and round_trip.at < state.watched_since:
        return state  # It spoke to the listener before this one.
    if round_trip.accepted:
        state = state._replace(
            watches=_credit_accept(state.watches),
            accepted_at=later(state.accepted_at, round_trip.at),
            places=None,
            freed_at=None,
            broken_at=state.at,
        )
    if round_trip.outcome is Outcome.OK:
        successes = state.successes + 1
        good = successes >= policy.success_threshold
        return state._replace(
            round_trip=round_trip,
            successes=successes,
            failures=0,
            failing_since=None,
            proven=state.proven or good,
            started=state.started or good,
        )
    return _count_failures(
        state._replace(round_trip=round_trip), state.failures + 1, round_trip.at, policy
    )


def apply_own_wait(state: State, own_queued_for: float, before: int, policy: Policy) -> State:
    """Count what our own queued connection has waited: no second one is made while it waits.

    However long it has waited at once, that is one failure more than `before` this observation: no
    single one makes a healthy target unready.
    """
    failures = min(int(own_queued_for / policy.timeout), before + 1)
    if failures <= state.failures or state.at is None:
        return state
    return _count_failures(state, failures, state.at - own_queued_for, policy)


def _count_failures(state: State, failures: int, since: float, policy: Policy) -> State:
    return state._replace(
        successes=0,
        failures=failures,
        failing_since=since if state.failing_since is None else state.failing_since,
        proven=state.proven and failures < policy.failure_threshold,
    )


def _credit_accept(watches: tuple[Watch, ...]) -> tuple[Watch, ...]:
    """A connection of ours was accepted: by the only listener, or one that has no queue."""
    if len(watches) == 1:
        return (watches[0]._replace(accepted=True, stalled_for=0.0),)
    return tuple(watch._replace(accepted=True) if watch.length == 0 else watch for watch in watches)
