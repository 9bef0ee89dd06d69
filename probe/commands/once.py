"""A few samples of a target and one round trip to it, judged as the sidecar does, in a time limit.

A dead application must not be filled by those who ask once, one connection each time: a queue
that is not empty is sampled again before anything is sent, and where it does not move there is
no connection at all.

What is of another network namespace has no queue that could be seen: the round trip alone
judges it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from probe import exits, judge
from probe.imports.typing_lite import NamedTuple
from probe.kernel import Blind, CannotTell, KernelView
from probe.kernel.hosts import Elsewhere, NoAddress, find
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Head, Sampler
from probe.model import (
    Condition,
    Observation,
    Outcome,
    Policy,
    Protocol,
    RoundTrip,
    Sample,
    Target,
    Verdict,
)
from probe.roundtrip import Address, address, blocking

WATCHED_SHARE = 1 / 3
"""The share of the time limit that a suspicious queue is watched before the round trip."""

LEAST_SHARE = 1 / 10
"""The share of the time limit without which nobody is asked: who got no CPU would leave a
connection in the queue, and learn nothing by it."""

PAUSE = 0.02
"""Seconds between two samples."""


def frankly(target: Target, where: Address, view: KernelView, timeout: float) -> RoundTrip:
    """Ask on behalf of who wrote the target, and is told what it expects."""
    return blocking.run(target, where, view, timeout, frank=True)


class CheckResult(NamedTuple):
    """What the check of one target came to: the exit status it stands for, and why in one line."""

    status: int
    line: str
    state: judge.State
    """What the judge has seen and thinks."""

    @property
    def verdict(self) -> Verdict:
        return self.state.verdict

    @property
    def suspect(self) -> bool:
        """Whether it is healthy, and perhaps not for long."""
        return self.verdict.ready and self.verdict.condition is Condition.SUSPECT


def worst(statuses: Iterable[int]) -> int:
    """The exit status for several targets."""
    return max(statuses, key=(exits.OK, exits.UNKNOWN, exits.FAILED).index)


def counters() -> Counters | None:
    """The namespace's counters; None where it does not tell them."""
    try:
        return Counters()
    except CannotTell:
        return None


Ask = Callable[[Target, Address, KernelView, float], RoundTrip]
"""Makes a round trip of at most so many seconds to what listens there."""


def at(
    target: Target,
    policy: Policy,
    sampler: Sampler,
    limit: float,
    ask: Ask = blocking.run,
) -> CheckResult:
    """Judge one target within `limit` seconds. `ask` makes the round trip, where one may be.

    `sampler` is of ports; what is told of a unix socket comes from one of its own.
    """
    if not target.socket:
        return _at(target, policy, sampler, limit, ask)
    from probe.kernel.unixdiag import open_sampler  # not loaded for nothing

    own = open_sampler(target)
    try:
        return _at(target, policy, own, limit, ask)
    finally:
        own.view.close()


def _at(target: Target, policy: Policy, sampler: Sampler, limit: float, ask: Ask) -> CheckResult:
    unasked = target.protocol is Protocol.QUEUE
    begun = time.monotonic()
    watched = limit * WATCHED_SHARE
    policy = policy._replace(
        interval=watched,
        saturated_for=watched,
        stalled_for=watched,
        timeout=limit,
        failure_threshold=1,
        success_threshold=1,
    )
    state = judge.initial(target, begun)
    try:
        hosts = find(target.host, limit)
    except Elsewhere as why:
        if unasked:
            return _unknown(target, f"{why}, where no queue can be seen", state)
        return _remote(target, why, begun + limit, ask, state, policy)
    except NoAddress as why:
        return _unknown(target, str(why), state)
    state, sample = _watch(target, policy, sampler, hosts, state)
    if state.verdict.condition is Condition.UNHEALTHY:
        return _seen(state)
    if unasked:
        return _unasked(target, sample, state)
    if sample.listeners or sample.error:
        rest = begun + limit - time.monotonic()
        if rest < limit * LEAST_SHARE:
            return _unknown(
                target, f"was not asked: there was no CPU for {limit - rest:.2g} s", state
            )
        where = address(target, sample.listeners, hosts)
        result = ask(target, where, sampler.view, rest)
        if result.outcome is Outcome.UNKNOWN:
            return _unknown(target, result.detail, state)
        state, _ = judge.step(state, Observation(time.monotonic(), round_trip=result), policy)
    return _seen(state)


def _watch(
    target: Target,
    policy: Policy,
    sampler: Sampler,
    hosts: tuple[str, ...],
    state: judge.State,
) -> tuple[judge.State, Sample]:
    """Take a sample; and more, while something is queued and nothing yet says that it moves."""
    unasked = target.protocol is Protocol.QUEUE
    begun = time.monotonic()
    sample = sampler.sample(target.port, hosts)
    state, _ = judge.step(state, Observation(begun, sample, unasked=unasked), policy)
    head = Head(sampler.view, target.port, presumed=True)
    while (
        any(watch.length and not watch.accepted for watch in state.watches)
        and state.verdict.condition is not Condition.UNHEALTHY
        and time.monotonic() - begun <= 2 * policy.stalled_for
    ):
        time.sleep(PAUSE)
        sample = sampler.sample(target.port, hosts)
        cookies = head.verify()
        if not cookies:
            head.find(hosts)
        sample = sample._replace(head=cookies)
        observed = Observation(time.monotonic(), sample, unasked=unasked)
        state, _ = judge.step(state, observed, policy)
    return state, sample


def _unasked(target: Target, sample: Sample, state: judge.State) -> CheckResult:
    """What the queue alone tells: nothing, while it is neither seen to move nor proven to stand."""
    if sample.error:
        return _unknown(target, sample.error, state)
    for watch in state.watches:
        if watch.length and not watch.accepted:
            limit = "?" if watch.limit is None else watch.limit
            why = f"{watch.length} of {limit} queued, and it cannot be seen whether that moves"
            return _unknown(target, why, state)
    return _seen(state)


def _remote(
    target: Target, why: Elsewhere, deadline: float, ask: Ask, state: judge.State, policy: Policy
) -> CheckResult:
    """Judge what is elsewhere by its answer, at the first of its addresses that gives a good one.

    Of a tcp target from which nothing is expected, that is the handshake: who accepts is not seen.
    """
    view = Blind(str(why))
    for left, host in zip(range(len(why.hosts), 0, -1), why.hosts, strict=True):
        share = (deadline - time.monotonic()) / left
        where = address(target, (), (host,))._replace(remote=True)
        result = ask(target, where, view, share)
        if result.outcome is Outcome.OK:
            break
    if result.outcome is Outcome.UNKNOWN:
        return _unknown(target, result.detail, state)
    state, _ = judge.step(state, Observation(time.monotonic(), round_trip=result), policy)
    seen = _seen(state)
    return seen._replace(line=f"{seen.line} ({why}: judged by the round trip alone)")


def _unknown(target: Target, why: str, state: judge.State) -> CheckResult:
    return CheckResult(exits.UNKNOWN, f"could not tell: {target.name} {why}", state)


def _seen(state: judge.State) -> CheckResult:
    verdict = state.verdict
    if verdict.ready:
        return CheckResult(exits.OK, verdict.message, state)
    return CheckResult(exits.FAILED, f"{verdict.reason}: {verdict.message}", state)
