"""What a sample tells: who listens, how long each queue is, and what was accepted or was not.

How a stall is proven, between two samples: an accept queue is first in, first out, and becomes
shorter only when the application accepts or closes the listener. So a shorter queue is an accept,
and so is another head. That nothing was accepted takes proof as well, since a queue of the same
length may have moved: that no accept was made in the whole namespace (connections that came in,
less those that are queued, count them), or that all that could be the head are queued still.
Neither is had from one sample; what proves a time proves it from the moment when its measure was
taken, so `_still_since` gives that moment.
"""

from __future__ import annotations

from probe.judge.cost import keep_work
from probe.judge.state import State, Watch, later
from probe.model import Listener, Observation, Policy, Sample

MAX_GAP = 2
"""Intervals. Samples further apart prove nothing of the time between: we may have been frozen."""

LEAST_GAP = 1.0
"""Seconds that samples may be apart at any interval: so late is a sidecar that is short of CPU."""


def apply_sample(state: State, observation: Observation, sample: Sample, policy: Policy) -> State:
    at = observation.at
    if not sample.listeners:
        return _apply_absence(state, at, sample.absence, policy)
    known = {watch.cookie: watch for watch in state.watches}
    present = {listener.cookie for listener in sample.listeners}
    if known.keys() != present:
        state = state._replace(head=())  # What was queued at another is no measure for these.
    if known.keys().isdisjoint(present):
        # The one we knew has gone. A ready target stays so over a graceful replacement;
        # anything worse than that does not pass to its successor.
        state = state._replace(
            watched_since=at,
            failures=0,
            successes=0,
            failing_since=None,
            round_trip=None,
            proven=state.proven and state.verdict.ready,
            started=False,
            begun_with=None,
        )
        known = {}
    apart = at - state.sampled_at if state.sampled_at is not None else 0.0
    frozen = apart > furthest(policy)
    if frozen:
        # Of that time nothing counts: what was known at its beginning is known at its end.
        state = state._replace(
            accepts_at=state.accepts_at + apart,
            head_at=state.head_at + apart,
            work_at=state.work_at + apart,
            freed_at=None if state.freed_at is None else state.freed_at + apart,
        )
        known = {
            cookie: watch._replace(stalled_until=watch.stalled_until + apart)
            for cookie, watch in known.items()
        }
    progress = _accepting(state, observation, sample, known)
    still_since = _still_since(state, sample, known)
    ours = observation.accepted or (
        observation.round_trip is not None and observation.round_trip.accepted
    )
    watches = tuple(
        _next_watch(
            listener,
            known.get(listener.cookie),
            listener.cookie in progress,
            still_since.get(listener.cookie),
            at,
            policy,
            frozen=frozen,
            accepted=listener.cookie in state.remembered
            or (
                ours
                and listener.cookie in known
                and (len(sample.listeners) == 1 or listener.length == 0)
            ),
        )
        for listener in sample.listeners
    )
    if progress or observation.accepted:
        state = state._replace(accepted_at=later(state.accepted_at, state.sampled_at))
    return keep_work(state, watches, known, at)._replace(
        watches=watches,
        sampled_at=at,
        accepts=state.accepts if sample.accepts is None else sample.accepts,
        accepts_at=state.accepts_at if sample.accepts is None else at,
        head=sample.head or state.head,
        head_at=at if sample.head else state.head_at,
        absent=0,
        absent_since=None,
        unasked=observation.unasked,
        proven=state.proven or observation.unasked,
        started=state.started or observation.unasked,
    )


def _apply_absence(state: State, at: float, absence: str, policy: Policy) -> State:
    absent = state.absent + 1
    gone = absent >= policy.failure_threshold
    return state._replace(
        watches=(),
        work=None,
        places=None,
        freed_at=None,
        sampled_at=at,
        accepts=None,
        head=(),
        absent=absent,
        absence=absence,
        absent_since=at if state.absent_since is None else state.absent_since,
        proven=state.proven and not gone,
        started=state.started and not gone,
    )


def _accepting(
    state: State, observation: Observation, sample: Sample, known: dict[int, Watch]
) -> frozenset[int]:
    """Tell, by cookie, which listeners have certainly accepted since the last sample."""
    moved = {
        listener.cookie
        for listener in sample.listeners
        if listener.cookie in known and listener.length < known[listener.cookie].length
    }
    changed = sample.head and state.head and sample.head != state.head
    if len(sample.listeners) == 1 and (changed or observation.accepted):
        moved.add(sample.listeners[0].cookie)
    return frozenset(moved & known.keys())


def _still_since(state: State, sample: Sample, known: dict[int, Watch]) -> dict[int, float]:
    """Tell, by cookie, since when a listener has provably accepted nothing; absent: no proof.

    With several listeners on a port (SO_REUSEPORT) children cannot be attributed. The oldest
    queued one is the head of its own queue all the same, so while it stays, some listener that has
    had a queue throughout accepts nothing: the one that has waited longest. Of several that have
    waited as long it is the one that it was before, since they overtake one another as clients
    come, and at first the one with the longest queue.
    """
    since: dict[int, float] = {}
    waiting = [
        listener
        for listener in sample.listeners
        if listener.length and listener.cookie in known and known[listener.cookie].length
    ]
    if sample.accepts is not None and state.accepts is not None and sample.accepts <= state.accepts:
        since.update((listener.cookie, state.accepts_at) for listener in waiting)
    if sample.head and sample.head == state.head and waiting:
        stuck = min(
            waiting,
            key=lambda listener: (
                known[listener.cookie].waiting_since or 0,
                -known[listener.cookie].stalled_for,
                -listener.length,
            ),
        )
        since[stuck.cookie] = min(state.head_at, since.get(stuck.cookie, state.head_at))
    return since


def furthest(policy: Policy) -> float:
    """Seconds that two samples may be apart."""
    return max(MAX_GAP * policy.interval, LEAST_GAP)


def _next_watch(
    listener: Listener,
    last: Watch | None,
    progress: bool,
    still_since: float | None,
    at: float,
    policy: Policy,
    *,
    frozen: bool,
    accepted: bool,
) -> Watch:
    watch = last or Watch(listener.cookie, listener.length, listener.limit)
    saturation = listener.saturation
    high = low = None
    if saturation is not None:
        if saturation >= policy.saturated_at:
            high = at if watch.high_since is None or frozen else watch.high_since
        if saturation < policy.recovered_below:
            low = at if watch.low_since is None or frozen else watch.low_since
    saturated = watch.saturated
    if high is not None and at - high >= policy.saturated_for:
        saturated = True
    elif low is not None and at - low >= policy.recovered_for:
        saturated = False
    waiting_since = None
    if listener.length:
        waiting_since = at if progress else watch.waiting_since or at
    stalled, until = watch.stalled_for, watch.stalled_until
    if progress or not (listener.length and last and last.length):
        stalled, until = 0.0, at
    elif still_since is not None:
        if still_since > until:
            stalled, until = 0.0, still_since
        # However much is proven at once: no single sample makes a healthy target unready.
        stalled, until = stalled + min(at - until, furthest(policy)), at
    return Watch(
        listener.cookie,
        listener.length,
        listener.limit,
        accepted=watch.accepted or accepted or progress,
        high_since=high,
        low_since=low,
        saturated=saturated,
        waiting_since=waiting_since,
        stalled_for=stalled,
        stalled_until=until,
    )
