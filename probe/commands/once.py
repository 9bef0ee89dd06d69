"""One look at a target and one round trip to it, judged like the sidecar's, within a time limit.

A dead application must not be filled by those who look once, one connection each time: a queue
that is not empty is looked at again before anything is sent, and where it does not move there is
no connection at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from probe import judge
from probe.imports.typing_lite import NamedTuple
from probe.kernel import CannotTell, KernelView
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Front, Sampler
from probe.model import (
    Listener,
    Observation,
    Outcome,
    Policy,
    Reason,
    RoundTrip,
    Target,
    Verdict,
)
from probe.roundtrip import blocking

HEALTHY = 0
UNHEALTHY = 1
UNKNOWN = 3
"""Exit statuses; 2 is for usage and configuration."""

LOOK_AGAIN = 1 / 3
"""The share of the time limit that a suspicious queue is looked at before the round trip."""

PAUSE = 0.02
"""Seconds between two looks."""


def frankly(
    target: Target, listeners: Iterable[Listener], view: KernelView, timeout: float
) -> RoundTrip:
    """Ask on behalf of who wrote the target, and is told what it expects."""
    return blocking.run(target, listeners, view, timeout, frank=True)


class Seen(NamedTuple):
    """What a look at one target came to: the exit status it stands for, and why in one line."""

    status: int
    line: str
    verdict: Verdict


def worst(statuses: Iterable[int]) -> int:
    """The exit status for several targets."""
    return max(statuses, key=(HEALTHY, UNKNOWN, UNHEALTHY).index)


def counters() -> Counters | None:
    """The namespace's counters; None where it does not tell them."""
    try:
        return Counters()
    except CannotTell:
        return None


def at(
    target: Target,
    policy: Policy,
    sampler: Sampler,
    limit: float,
    ask: Callable[[Target, Iterable[Listener], KernelView, float], RoundTrip] = blocking.run,
) -> Seen:
    """Judge one target within `limit` seconds. `ask` makes the round trip, where one may be."""
    begun = time.monotonic()
    looking = limit * LOOK_AGAIN
    policy = policy._replace(
        interval=looking,
        saturated_for=looking,
        stalled_for=looking,
        timeout=limit,
        failure_threshold=1,
        success_threshold=1,
    )
    sample = sampler.sample(target.port)
    state, _ = judge.step(judge.initial(target, begun), Observation(begun, sample), policy)
    front = Front(sampler.view, target.port, presumed=True)
    while any(watch.length and not watch.accepted for watch in state.watches):
        # Something is queued, and nothing yet says that it moves.
        if state.verdict.reason in (Reason.ACCEPT_QUEUE_STALLED, Reason.ACCEPT_QUEUE_SATURATED):
            return _seen(state.verdict)
        if time.monotonic() - begun > 2 * looking:
            break
        time.sleep(PAUSE)
        sample = sampler.sample(target.port)
        at_front = front.look()
        if not at_front:
            front.find()
        sample = sample._replace(front=at_front)
        state, _ = judge.step(state, Observation(time.monotonic(), sample), policy)
    if sample.listeners or sample.error:
        rest = begun + limit - time.monotonic()
        result = ask(target, sample.listeners, sampler.view, rest)
        if result.outcome is Outcome.UNKNOWN:
            line = f"could not tell: {target.name} {result.detail}"
            return Seen(UNKNOWN, line, state.verdict)
        state, _ = judge.step(state, Observation(time.monotonic(), round_trip=result), policy)
    return _seen(state.verdict)


def _seen(verdict: Verdict) -> Seen:
    if verdict.ready:
        return Seen(HEALTHY, verdict.message, verdict)
    return Seen(UNHEALTHY, f"{verdict.reason}: {verdict.message}", verdict)
