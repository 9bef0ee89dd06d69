"""The truth table: what may be said of a listener from its threads and its queue together. Pure."""

from collections import Counter
from typing import NamedTuple

from probe.evidence.records.audit import Decided, Finding, Owner, QueueAxis, ThreadSeen


class Seen(NamedTuple):
    """All that a conclusion about one listener is drawn from.

    `waited` counts the samples, of `samples`, in which some thread waited. `edge`: an epoll
    instance watches the listener edge-triggered, whether or not a thread sleeps on it. `gaps` are
    the reasons why an acceptor may exist that was not seen. `nobody`: why there is no owner.
    """

    owners: tuple[Owner, ...]
    threads: tuple[ThreadSeen, ...]
    queue: QueueAxis
    queue_why: str
    waited: int
    samples: int
    edge: bool = False
    gaps: tuple[str, ...] = ()
    nobody: str = ""


def conclude(seen: Seen) -> tuple[Finding, str]:
    """What may be said, and a sentence with the figures."""
    if not seen.owners:
        return Finding.UNKNOWN, seen.nobody
    waiting = [one for one in seen.threads if one.decided is Decided.WAITING]
    if waiting:
        return _somebody(seen, waiting)
    stopped = [one for one in seen.threads if one.decided is Decided.STOPPED]
    if stopped:
        by_process = Counter(one.pid for one in stopped)
        who = ", ".join(f"{count} threads of process {pid}" for pid, count in by_process.items())
        return Finding.STOPPED, f"{who}: {stopped[0].why}; the queue: {seen.queue_why}"
    unknown = [one for one in seen.threads if one.decided is Decided.UNKNOWN]
    if seen.gaps or unknown or not seen.threads:
        return Finding.UNKNOWN, _unknowns(seen, unknown)
    return _nobody(seen)


def _somebody(seen: Seen, waiting: list[ThreadSeen]) -> tuple[Finding, str]:
    who = f"{_named(waiting)} in {waiting[0].how}"
    often = f"in {seen.waited} of {seen.samples} samples"
    if seen.queue is not QueueAxis.STUCK:
        why = f"{who} waits to accept, {often}; the queue: {seen.queue_why}"
        return Finding.SOMEBODY_WAITS, why
    if seen.waited == seen.samples:
        return Finding.CONTRADICTION, f"{who} waits to accept, {often}, and yet {seen.queue_why}"
    return Finding.UNKNOWN, f"{who} was seen to wait {often}, and yet {seen.queue_why}"


def _nobody(seen: Seen) -> tuple[Finding, str]:
    """Every thread was decoded and none waits."""
    pids = ", ".join(str(owner.pid) for owner in seen.owners)
    nobody = f"none of {len(seen.threads)} threads of process {pids} waits to accept"
    if len(seen.threads) == 1:
        nobody = f"the only thread of process {pids} does not wait to accept"
    if seen.queue is QueueAxis.DRAINING:
        return Finding.BUSY, f"{seen.queue_why}; {nobody}"
    running = [one for one in seen.threads if one.decided is Decided.RUNNING]
    starved = [one for one in running if one.seen > 1 and not one.cpu]
    unseen = ""
    if watching := [one for one in seen.threads if one.decided is Decided.WATCHING]:
        unseen = f"{_named(watching)} watches it edge-triggered, which tells nothing of its code"
    elif seen.edge:
        unseen = "an epoll instance watches it edge-triggered, which tells nothing of its code"
    elif starved:
        unseen = f"{_named(starved)} wants a CPU and got none"
    if seen.queue is QueueAxis.STUCK and unseen:
        return Finding.NOT_ACCEPTING, f"{seen.queue_why}; {unseen}"
    if seen.queue is QueueAxis.STUCK:
        return Finding.NOBODY_WAITS, f"{seen.queue_why}, and {nobody}"
    if running and not unseen:  # it may accept over and over without ever waiting
        unseen = f"{_named(running)} was running in every sample"
    if seen.queue is QueueAxis.EMPTY and not unseen:
        return Finding.NOBODY_SEEN, f"{nobody}; the queue: {seen.queue_why}"
    return Finding.UNKNOWN, f"{unseen or nobody}; the queue: {seen.queue_why}"


def _unknowns(seen: Seen, unknown: list[ThreadSeen]) -> str:
    """What stands in the way of a finding, the most frequent reason first."""
    reasons = [
        f"{count} threads: {why}" for why, count in Counter(t.why for t in unknown).most_common(3)
    ]
    if not seen.threads:
        reasons.append("no thread could be seen")
    return f"{'; '.join([*seen.gaps[:3], *reasons])}; the queue: {seen.queue_why}"


def _named(threads: list[ThreadSeen]) -> str:
    first = threads[0]
    more = f" and {len(threads) - 1} more" if len(threads) > 1 else ""
    return f"thread {first.tid} `{first.name}` of process {first.pid}{more}"
