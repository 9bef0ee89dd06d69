"""The truth table: what may be said of a listener from its threads and its queue together. Pure."""

from collections import Counter
from typing import NamedTuple

from probe.display import plural
from probe.evidence.records.audit import Finding, Owner, QueueTrend, ThreadSeen, ThreadState
from probe.evidence.wording import called

SHOWN = 5
"""Processes that a sentence names."""


class ListenerSeen(NamedTuple):
    """All that a conclusion about one listener is drawn from.

    `waited` counts the samples, of `samples`, in which some thread waited. `edge`: an epoll
    instance watches the listener edge-triggered, whether or not a thread sleeps on it. `gaps` are
    the reasons why an acceptor may exist that was not seen. `nobody`: why there is no owner.
    """

    owners: tuple[Owner, ...]
    threads: tuple[ThreadSeen, ...]
    queue: QueueTrend
    queue_why: str
    waited: int
    samples: int
    edge: bool = False
    gaps: tuple[str, ...] = ()
    nobody: str = ""


def conclude(seen: ListenerSeen) -> tuple[Finding, str]:
    """What may be said, and a sentence with the figures."""
    if not seen.owners:
        return Finding.UNKNOWN, seen.nobody
    waiting = [thread for thread in seen.threads if thread.decided is ThreadState.WAITING]
    if waiting:
        return _somebody(seen, waiting)
    stopped = [thread for thread in seen.threads if thread.decided is ThreadState.STOPPED]
    if stopped and {thread.pid for thread in seen.threads} == {thread.pid for thread in stopped}:
        return Finding.STOPPED, f"{_stopped(seen, stopped)}; the queue: {seen.queue_why}"
    unknown = [thread for thread in seen.threads if thread.decided is ThreadState.UNKNOWN]
    if seen.gaps or unknown or not seen.threads:
        return Finding.UNKNOWN, _unknowns(seen, unknown)
    return _nobody(seen)


def _somebody(seen: ListenerSeen, waiting: list[ThreadSeen]) -> tuple[Finding, str]:
    who = f"{_named(waiting)} in {waiting[0].how}"
    often = f"in {seen.waited} of {seen.samples} samples"
    if seen.queue is not QueueTrend.STUCK:
        why = f"{who} waits to accept, {often}; the queue: {seen.queue_why}"
        return Finding.SOMEBODY_WAITS, why
    if seen.waited == seen.samples:
        return Finding.CONTRADICTION, f"{who} waits to accept, {often}, and yet {seen.queue_why}"
    return Finding.UNKNOWN, f"{who} was seen to wait {often}, and yet {seen.queue_why}"


def _nobody(seen: ListenerSeen) -> tuple[Finding, str]:
    """Every thread was decoded and none waits. Those of one process may be stopped, and then it is
    what the others do that counts: they were free to accept.
    """
    stopped = [thread for thread in seen.threads if thread.decided is ThreadState.STOPPED]
    nobody = _none_waits([thread for thread in seen.threads if thread not in stopped])
    if stopped:
        nobody = f"{_stopped(seen, stopped)}; {nobody}"
    if seen.queue is QueueTrend.DRAINING:
        return Finding.BUSY, f"{seen.queue_why}; {nobody}"
    running = [thread for thread in seen.threads if thread.decided is ThreadState.RUNNING]
    starved = [thread for thread in running if thread.seen > 1 and not thread.cpu]
    unseen = ""
    if watching := [thread for thread in seen.threads if thread.decided is ThreadState.WATCHING]:
        unseen = f"{_named(watching)} watches it edge-triggered, which tells nothing of its code"
    elif seen.edge:
        unseen = "an epoll instance watches it edge-triggered, which tells nothing of its code"
    elif starved:
        unseen = f"{_named(starved)} wants a CPU and got none"
    if seen.queue is QueueTrend.STUCK and unseen:
        return Finding.NOT_ACCEPTING, f"{seen.queue_why}; {unseen}"
    if seen.queue is QueueTrend.STUCK:
        return Finding.NOBODY_WAITS, f"{seen.queue_why}, and {nobody}"
    if running and not unseen:  # it may accept over and over without ever waiting
        unseen = f"{_named(running)} was running in every sample"
    if seen.queue is QueueTrend.EMPTY and not unseen:
        return Finding.NOBODY_SEEN, f"{nobody}; the queue: {seen.queue_why}"
    return Finding.UNKNOWN, f"{unseen or nobody}; the queue: {seen.queue_why}"


def _none_waits(threads: list[ThreadSeen]) -> str:
    pids = sorted({thread.pid for thread in threads})
    whose = f"process {pids[0]}"
    if len(pids) > 1:
        whose = f"processes {', '.join(map(str, pids[:SHOWN]))}"
        if len(pids) > SHOWN:
            whose += f" and {len(pids) - SHOWN} more"
    if len(threads) == 1:
        return f"the only thread of {whose} does not wait to accept"
    return f"none of {len(threads)} threads of {whose} waits to accept"


def _stopped(seen: ListenerSeen, stopped: list[ThreadSeen]) -> str:
    """How many of which process's threads are stopped, and by what."""
    every = Counter(thread.pid for thread in seen.threads)
    said = []
    for pid, count in Counter(thread.pid for thread in stopped).most_common(SHOWN):
        why = next(thread.why for thread in stopped if thread.pid == pid)
        if every[pid] == 1:
            threads = "the only thread"
        elif count == every[pid]:
            threads = f"all {count} threads"
        else:
            threads = f"{count} of {every[pid]} threads"
        said.append(f"{threads} of process {pid} {'is' if count == 1 else 'are'} {why}")
    return "; ".join(said)


def _unknowns(seen: ListenerSeen, unknown: list[ThreadSeen]) -> str:
    """What stands in the way of a finding, the most frequent reason first."""
    reasons = [
        f"{plural(count, 'thread', 'threads')}: {why}"
        for why, count in Counter(thread.why for thread in unknown).most_common(3)
    ]
    if not seen.threads:
        reasons.append("no thread could be seen")
    return f"{'; '.join([*seen.gaps[:3], *reasons])}; the queue: {seen.queue_why}"


def _named(threads: list[ThreadSeen]) -> str:
    first = threads[0]
    more = f" and {len(threads) - 1} more" if len(threads) > 1 else ""
    return f"{called(first.tid, first.name)} of process {first.pid}{more}"
