"""From observations to verdicts. Pure: no I/O and no clock, so that an incident replays exactly.

`step` takes one observation at a time. What it holds on to:

- A listener is told by its cookie. A new cookie starts with a clean slate.
- *Idle* is time, in one piece, for which it is proven that something was queued and nothing
  accepted. Two things prove it of the time between two samples: no accept in the whole namespace,
  or the same connection at the head of the queue (it is first in, first out). A shorter queue, a
  new head or an accepted connection of ours prove the contrary and set stalled to zero. Without
  proof, stalled stands still; a later proof that does not reach back to where it stands begins anew,
  since in between something may have been accepted.
- What could not be seen neither fails nor heals: it leaves the state as it was.
"""

from __future__ import annotations

from collections.abc import Iterable

from probe.imports.typing_lite import NamedTuple
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Policy,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Transition,
    Verdict,
    Work,
)

MAX_GAP = 2
"""Intervals. Samples further apart prove nothing of the time between: we may have been frozen."""

WEIGHED_AHEAD = 5.0
"""Seconds before liveness would fail at which it begins to matter what a restart would cost."""

LEAST_GAP = 1.0
"""Seconds that samples may be apart at any interval: so late is a sidecar that is short of CPU."""


class Watch(NamedTuple):
    """One listener under watch, told by its cookie; times on the clock of the observations."""

    cookie: int
    length: int
    limit: int | None
    accepted: bool = False
    """It has been seen to accept, ever."""
    high_since: float | None = None
    """Since when every sample found it at `saturated_at` or above."""
    low_since: float | None = None
    """Since when every sample found it below `recovered_below`."""
    saturated: bool = False
    waiting_since: float | None = None
    """Since when its queue was neither empty nor shorter than before, which may be full and moving.
    """
    stalled_for: float = 0.0
    stalled_until: float = 0.0
    """Up to when stalled is counted."""


class State(NamedTuple):
    """All that the judge remembers of one target between two observations."""

    verdict: Verdict
    remembered: frozenset[int] = frozenset()
    """Cookies of listeners that an earlier life of ours saw accept."""
    at: float | None = None
    watches: tuple[Watch, ...] = ()
    watched_since: float | None = None
    """When the present listener, or the first of the present group, was first seen."""
    sampled_at: float | None = None
    accepts: int | None = None
    accepts_at: float = 0.0
    head: tuple[int, ...] = ()
    head_at: float = 0.0
    """When the head was last seen, as `accepts_at` is for the accepts."""
    absent: int = 0
    """Samples in a row that found no listener."""
    absent_since: float | None = None
    failures: int = 0
    successes: int = 0
    failing_since: float | None = None
    round_trip: RoundTrip | None = None
    """The last one that told something about the present listener."""
    proven: bool = False
    """The round trip works: proven by a good one, until enough in a row fail."""
    started: bool = False
    accepted_at: float | None = None
    """The latest moment since which something is known to have been accepted."""
    work: Work | None = None
    """What the last walk of this stall has seen of what a restart would cost."""
    work_at: float = 0.0
    places: Work | None = None
    """The last walk since which no listener of the port can have accepted: a measure for the next.
    """
    broken_at: float | None = None
    """When a listener of the port may last have accepted."""
    freed_at: float | None = None
    """When a place was first seen that had become free since then, and was not taken."""
    at_work: int = 0
    """Requests that were worked on before it was."""


class Opinion(NamedTuple):
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
        state = _weigh(state, observation.work, at)
    if observation.sample is not None and not observation.sample.error:
        state = _see(state, observation, observation.sample, policy)
    if observation.round_trip is not None:
        state = _hear(state, observation.round_trip, policy)
    if observation.own_queued_for is not None:
        state = _wait(state, observation.own_queued_for, failures, policy)
    verdict = _verdict(state, policy, at)
    before = state.verdict
    state = state._replace(verdict=verdict)
    if _outline(before) == _outline(verdict):
        return state, None
    return state, Transition(verdict.target, at, before, verdict)


# --- what a sample tells


def _see(state: State, observation: Observation, sample: Sample, policy: Policy) -> State:
    at = observation.at
    if not sample.listeners:
        return _apply_absence(state, at, policy)
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
    progress = _progress(state, observation, sample, known)
    still_since = _still(state, sample, known)
    ours = observation.accepted or (
        observation.round_trip is not None and observation.round_trip.accepted
    )
    watches = tuple(
        _watch(
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
        state = state._replace(accepted_at=_later(state.accepted_at, state.sampled_at))
    return _keep_work(state, watches, known, at)._replace(
        watches=watches,
        sampled_at=at,
        accepts=state.accepts if sample.accepts is None else sample.accepts,
        accepts_at=state.accepts_at if sample.accepts is None else at,
        head=sample.head or state.head,
        head_at=at if sample.head else state.head_at,
        absent=0,
        absent_since=None,
    )


def _keep_work(
    state: State, watches: tuple[Watch, ...], known: dict[int, Watch], at: float
) -> State:
    """Forget what is no longer a measure: of the work once nothing stalls, and of the places once
    any listener of the port may have accepted, since a connection is nobody's in particular.
    """
    if not any(watch.stalled_for for watch in watches):
        state = state._replace(work=None)
    if all(
        watch.stalled_for and watch.stalled_for >= known[watch.cookie].stalled_for
        for watch in watches
    ):
        return state
    return state._replace(places=None, freed_at=None, broken_at=at)


def _apply_absence(state: State, at: float, policy: Policy) -> State:
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
        absent_since=at if state.absent_since is None else state.absent_since,
        proven=state.proven and not gone,
        started=state.started and not gone,
    )


# How a stall is proven, between two samples.
#
# An accept queue is first in, first out, and becomes shorter only when the application accepts or
# closes the listener. So a shorter queue is an accept, and so is another head. That nothing was
# accepted takes proof as well, since a queue of the same length may have moved: that no accept was
# made in the whole namespace (connections that came in, less those that are queued, count them), or
# that all that could be the head are queued still. Neither is had from one sample; what proves a
# time proves it from the moment when its measure was taken, so `_still` gives that moment.


def _progress(
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


def _still(state: State, sample: Sample, known: dict[int, Watch]) -> dict[int, float]:
    """Tell, by cookie, since when a listener has provably accepted nothing; absent: no proof.

    With several listeners on a port (SO_REUSEPORT) children can't be attributed. The oldest
    queued one is the head of its own queue all the same, so while it stays, some listener that has
    had a queue throughout accepts nothing: the one that has waited longest, or has the longest.
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
        stuck = min(waiting, key=lambda one: (known[one.cookie].waiting_since or 0, -one.length))
        since[stuck.cookie] = min(state.head_at, since.get(stuck.cookie, state.head_at))
    return since


def furthest(policy: Policy) -> float:
    """Seconds that two samples may be apart."""
    return max(MAX_GAP * policy.interval, LEAST_GAP)


def _watch(
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


# --- what a round trip tells


def _hear(state: State, round_trip: RoundTrip, policy: Policy) -> State:
    if round_trip.outcome is Outcome.UNKNOWN:
        return state
    if state.watched_since is not None and round_trip.at < state.watched_since:
        return state  # It spoke to the listener before this one.
    if round_trip.accepted:
        state = state._replace(
            watches=_credit(state.watches),
            accepted_at=_later(state.accepted_at, round_trip.at),
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
    return _fail(state._replace(round_trip=round_trip), state.failures + 1, round_trip.at, policy)


def _later(one: float | None, other: float | None) -> float | None:
    return max((at for at in (one, other) if at is not None), default=None)


def _wait(state: State, own_queued_for: float, before: int, policy: Policy) -> State:
    """Count what our own queued connection has waited: no second one is made while it waits.

    However long it has waited at once, that is one failure more than `before` this observation: no
    single one makes a healthy target unready.
    """
    failures = min(int(own_queued_for / policy.timeout), before + 1)
    if failures <= state.failures or state.at is None:
        return state
    return _fail(state, failures, state.at - own_queued_for, policy)


def _fail(state: State, failures: int, since: float, policy: Policy) -> State:
    return state._replace(
        successes=0,
        failures=failures,
        failing_since=since if state.failing_since is None else state.failing_since,
        proven=state.proven and failures < policy.failure_threshold,
    )


def _credit(watches: tuple[Watch, ...]) -> tuple[Watch, ...]:
    """A connection of ours was accepted: by the only listener, or one that has no queue."""
    if len(watches) == 1:
        return (watches[0]._replace(accepted=True, stalled_for=0.0),)
    return tuple(watch._replace(accepted=True) if watch.length == 0 else watch for watch in watches)


# --- what a walk tells


def weighs(state: State, policy: Policy) -> bool:
    """Whether it matters by now what a restart would cost: once a stall is one, to have a measure,
    and from shortly before liveness would fail of it.
    """
    return any(
        watch.accepted
        and watch.stalled_for
        and (
            watch.stalled_for >= policy.live_after - WEIGHED_AHEAD
            or (state.work is None and watch.stalled_for >= policy.stalled_for)
        )
        for watch in state.watches
    )


# Why a stall may be no fault, and what tells.
#
# That nothing is accepted is proven, and says nothing of why. An application at a limit of its own
# stops accepting until one of its connections ends, and so does a pool while every worker is at
# work: a restart would cut them all off and help nobody. What was accepted can be seen, and the
# kernel tells of each connection when data last went either way.
#
# Two things are not to be taken for a limit: that who accepted is gone, and that a connection ended
# and nobody took its place. That it ended is told by counting. While nothing is accepted, accepted
# connections can only become fewer, in two ways: the application closes one, or it is reset, of
# which the application may know nothing yet. The kernel counts the resets of the whole namespace:
# as many as left beyond those, the application closed.


def _weigh(state: State, work: Work, at: float) -> State:
    """Take what a walk saw, and see whether a place has become free since the one before.

    If there are more connections than before, the walk before has missed some, as a walk can of a
    table that changes, and what it proved is void.
    """
    last = state.places
    ended = 0 if last is None else last.accepted - work.accepted
    if last is not None and work.resets is not None and last.resets is not None:
        closed = ended - max(work.resets - last.resets, 0)
        if closed > 0 and state.freed_at is None:
            state = state._replace(freed_at=at, at_work=last.working)
    if ended < 0:
        state = state._replace(freed_at=None)
    return state._replace(work=work, work_at=at, places=last if work.resets is None else work)


def _kept(state: State, policy: Policy) -> str:
    """Why a target stays live whose stall has lasted for `live_after`, and until when; "" if not.

    It is a matter of the time that was seen, as the stall is: of the last sample.
    """
    due = [
        watch
        for watch in state.watches
        if watch.accepted and watch.stalled_for >= policy.live_after
    ]
    work = state.work
    if not due or work is None or work.acceptors_gone:
        return ""
    after, limit = seconds(policy.live_after), seconds(policy.live_after_busy)
    since = (state.sampled_at or 0.0) - state.work_at
    busy = all(watch.stalled_for < policy.live_after_busy for watch in due)
    free = _free_for(state) >= policy.live_after
    if busy and work.youngest_owner is not None:
        age = seconds(work.youngest_owner + since)
        return f"a process that holds the listener is {age} old and may be starting, until {limit}"
    if not free and work.sent_ago is not None and work.sent_ago + since < policy.live_after:
        served = _count(max(work.served, 1), "connection is", "connections are")
        until = f"none is for {after} or a free place is not taken for {after}"
        return f"{served} served, until {until}"
    # As many at work as before: what ended was no worker's, but an idle keep-alive connection, say.
    if busy and work.working and (not free or 0 < state.at_work <= work.working):
        return f"{_count(work.working, 'request is', 'requests are')} worked on, until {limit}"
    return ""


def _aside(state: State, policy: Policy, *, live: bool, kept: str) -> str:
    """What the message says of liveness, where that takes saying."""
    if live:
        return f"; live: {kept}" if kept else ""
    free = _free_for(state)
    return f"; a place has been free for {seconds(free)}" if free >= policy.live_after else ""


def _free_for(state: State) -> float:
    """Seconds for which a place has been free and was not taken, as far as that is proven."""
    if state.freed_at is None or state.sampled_at is None:
        return 0.0
    return state.sampled_at - state.freed_at


# --- what follows


def _verdict(state: State, policy: Policy, at: float) -> Verdict:
    before = state.verdict
    kept = _kept(state, policy)
    live = not _dead(state, policy, at, kept=bool(kept))
    opinion = _unhealthy(state, policy, at)
    ready = opinion is None and state.proven
    if opinion is None:
        opinion = _suspect(state, policy, at) if state.proven else _starting(state, at)
    if opinion is None:
        opinion = Opinion(Condition.HEALTHY, message=_well(state))
    incident = before.incident if before.incident is not None else at
    same = (opinion.condition, opinion.reason) == (before.condition, before.reason)
    return Verdict(
        before.target,
        opinion.condition,
        opinion.reason,
        opinion.stage,
        opinion.message + _aside(state, policy, live=live, kept=kept),
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
            f"{name} not listening{lasting}",
        )
    stalled = [watch for watch in state.watches if watch.stalled_for >= policy.stalled_for]
    if stalled:
        return Opinion(Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_STALLED, _stalled(state, stalled))
    saturated = [watch for watch in state.watches if watch.saturated]
    if saturated:
        return Opinion(
            Condition.UNHEALTHY, Reason.ACCEPT_QUEUE_SATURATED, _saturated(state, saturated, at)
        )
    if state.failures >= policy.failure_threshold:
        return Opinion(Condition.UNHEALTHY, Reason.ROUND_TRIP_FAILED, _failed(state), _stage(state))
    return None


def _suspect(state: State, policy: Policy, at: float) -> Opinion | None:
    name = state.verdict.target
    if state.absent:
        return Opinion(Condition.SUSPECT, Reason.NOT_LISTENING, f"{name} not listening")
    stalled = [watch for watch in state.watches if watch.stalled_for >= policy.stalled_for / 3]
    if stalled:
        return Opinion(Condition.SUSPECT, Reason.ACCEPT_QUEUE_STALLED, _stalled(state, stalled))
    high = [
        watch
        for watch in state.watches
        if watch.high_since is not None and at - watch.high_since >= policy.saturated_for / 2
    ]
    if high:
        return Opinion(
            Condition.SUSPECT, Reason.ACCEPT_QUEUE_SATURATED, _saturated(state, high, at)
        )
    if state.failures:
        return Opinion(Condition.SUSPECT, Reason.ROUND_TRIP_FAILED, _failed(state), _stage(state))
    return None


def _starting(state: State, at: float) -> Opinion:
    name = state.verdict.target
    if state.failures:
        return Opinion(Condition.UNKNOWN, Reason.STARTING, f"{name} starting: {_failed(state)}")
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


# --- in words


def seconds(duration: float) -> str:
    """Write a duration for people: `350 ms`, `1.5 s`, `12 s`."""
    if duration < 1:
        return f"{duration * 1000:.0f} ms"
    return f"{duration:.1f} s" if duration < 10 and duration % 1 >= 0.05 else f"{duration:.0f} s"


def _count(number: int, singular: str, several: str) -> str:
    return f"{number} {singular if number == 1 else several}"


def _queue(watch: Watch) -> str:
    return f"{watch.length} of {'?' if watch.limit is None else watch.limit} queued"


def _stalled(state: State, watches: list[Watch]) -> str:
    worst = max(watches, key=lambda watch: watch.stalled_for)
    return (
        f"{state.verdict.target} accept queue stalled: {_queue(worst)}, "
        f"nothing accepted for {seconds(worst.stalled_for)}{_share(state, watches)}"
    )


def _saturated(state: State, watches: list[Watch], at: float) -> str:
    worst = max(watches, key=lambda watch: watch.length / max(watch.limit or 1, 1))
    lasting = "" if worst.high_since is None else f" for {seconds(at - worst.high_since)}"
    return (
        f"{state.verdict.target} accept queue saturated: {_queue(worst)}{lasting}"
        f"{_share(state, watches)}"
    )


def _share(state: State, watches: list[Watch]) -> str:
    if len(state.watches) == 1:
        return ""
    return f" ({len(watches)} of {len(state.watches)} listeners)"


def _failed(state: State) -> str:
    round_trip = state.round_trip
    if round_trip is None or round_trip.stage is None:
        return f"{state.verdict.target} round trip failed: our connection is still queued"
    times = f", {state.failures} times in a row" if state.failures > 1 else ""
    return (
        f"{state.verdict.target} round trip failed: {round_trip.stage}: {round_trip.detail}{times}"
    )


def _stage(state: State) -> Stage | None:
    return Stage.QUEUED if state.round_trip is None else state.round_trip.stage


def _well(state: State) -> str:
    parts = [_queue(watch) for watch in state.watches[:1]]
    if len(state.watches) > 1:
        parts = [f"{sum(watch.length for watch in state.watches)} queued"]
        parts.append(f"{len(state.watches)} listeners")
    if state.round_trip is not None and state.round_trip.phases.total is not None:
        parts.append(f"round trip {seconds(state.round_trip.phases.total)}")
    return f"{state.verdict.target} healthy: {', '.join(parts)}" if parts else "healthy"
