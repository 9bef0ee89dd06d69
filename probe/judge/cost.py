"""What a walk tells of the work that a restart would cut off, and when that keeps a target live."""

from __future__ import annotations

from probe.display import plural
from probe.judge.state import State, Watch
from probe.judge.wording import seconds
from probe.model import Policy, Work

WEIGHED_AHEAD = 5.0
"""Seconds before liveness would fail at which it begins to matter what a restart would cost."""


def weighs(state: State, policy: Policy) -> bool:
    """Whether it matters by now what a restart would cost: once a stall is one, to have a measure,
    and from shortly before liveness would fail of it. Where nothing is ever asked, a walk is also
    how it is learnt that a listener accepts, by one when it is new and another when it stalls.
    """
    if state.unasked and state.begun_with is None:
        return True
    return any(
        (watch.accepted or state.unasked)
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


def apply_work(state: State, work: Work, at: float) -> State:
    """Take what a walk saw, and see whether a place has become free since the one before.

    If there are more connections than before, the walk before has missed some, as a walk can of a
    table that changes, and what it proved is void.
    """
    if state.unasked:
        state = _learn_from_growth(state, work)
    last = state.places
    ended = 0 if last is None else last.accepted - work.accepted
    if last is not None and work.resets is not None and last.resets is not None:
        closed = ended - max(work.resets - last.resets, 0)
        if closed > 0 and state.freed_at is None:
            state = state._replace(freed_at=at, at_work=last.working)
    if ended < 0:
        state = state._replace(freed_at=None)
    return state._replace(work=work, work_at=at, places=last if work.resets is None else work)


def _learn_from_growth(state: State, work: Work) -> State:
    """Credit a listener with an accept if it was alone, there was no accepted connection when it
    was new, and now there is. Had there been one, it might be that of a listener before it.
    """
    if state.begun_with is None:
        return state._replace(begun_with=work.accepted)
    if state.begun_with == 0 and work.accepted and len(state.watches) == 1:
        return state._replace(watches=(state.watches[0]._replace(accepted=True),))
    return state


def keep_work(
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


def kept_for(state: State, policy: Policy) -> str:
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
    if not free and work.sent_ago is not None and work.sent_ago < policy.live_after:
        if work.sent_ago + since < policy.live_after:
            served = plural(max(work.served, 1), "connection is", "connections are")
            until = f"none is for {after} or a free place is not taken for {after}"
            return f"{served} served, until {until}"
        # Walks come far more often, unless the machine has no CPU for them: then it is not known
        # who is served, and nobody has been silent.
        if policy.live_after / 2 < since < policy.live_after_busy:
            served = plural(max(work.served, 1), "connection was", "connections were")
            return (
                f"{served} served when that could be seen, {seconds(since)} ago, until {limit} ago"
            )
    # As many at work as before: what ended was no worker's, but an idle keep-alive connection, say.
    if busy and work.working and (not free or 0 < state.at_work <= work.working):
        return f"{plural(work.working, 'request is', 'requests are')} worked on, until {limit}"
    return ""


def aside(state: State, policy: Policy, *, live: bool, kept: str) -> str:
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
