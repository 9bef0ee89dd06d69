"""Who accepted while all was well: the one witness that can tell of a thread that is gone.

A thread dump, or an audit, shows the threads that there are. Which of the missing ones served a
port, only an earlier look can tell.
"""

from collections.abc import Sequence

from probe.evidence.proc.tasks import alive
from probe.evidence.records.audit import (
    Audit,
    Baseline,
    BaselineEntry,
    Change,
    Decided,
    Difference,
    ListenerAudit,
    Owner,
    ThreadSeen,
)

SLEEPS_IN_ACCEPT = "accept"
"""How a thread waits of which it is known only that it sleeps in accept(): see threads.decide."""


def learn(audit: Audit, before: Sequence[Baseline] = ()) -> tuple[Baseline, ...]:
    """The baseline of each listener of an audit that was made while its target was healthy.

    A thread that waited earlier and is only busy now is kept, as long as the listener is the same
    one and the thread is there. Of a new listener nothing old is kept. Where nobody waits and
    nobody is known from before, there is nothing to learn yet.
    """
    known = {baseline.cookie: baseline for baseline in before}
    learnt = []
    for one in audit.listeners:
        entries = {
            (entry.tid, entry.start_time): entry
            for entry in _still_there(known.get(one.listener.cookie), one)
        }
        owners = {owner.pid: owner for owner in one.owners}
        for thread in one.threads:
            if _accepts(thread):
                entry = _entry(owners[thread.pid], thread)
                entries[thread.tid, thread.start_time] = entry
        if entries:
            learnt.append(
                Baseline(
                    port=audit.port,
                    cookie=one.listener.cookie,
                    address=one.listener.address,
                    at=audit.at,
                    entries=tuple(entries.values()),
                )
            )
    return tuple(learnt)


def _accepts(thread: ThreadSeen) -> bool:
    """Who waits on the listener, or at least sleeps in accept() on one of its process's."""
    return thread.decided is Decided.WAITING or (
        thread.decided is Decided.UNKNOWN and thread.how == SLEEPS_IN_ACCEPT
    )


def _still_there(old: Baseline | None, now: ListenerAudit) -> list[BaselineEntry]:
    there = {(thread.tid, thread.start_time) for thread in now.threads}
    return [entry for entry in old.entries if (entry.tid, entry.start_time) in there] if old else []


def _entry(owner: Owner, thread: ThreadSeen) -> BaselineEntry:
    return BaselineEntry(
        pid=owner.pid,
        process_start=owner.start_time,
        comm=owner.comm,
        tid=thread.tid,
        start_time=thread.start_time,
        name=thread.name,
        how=thread.how,
        certain=thread.decided is Decided.WAITING,
    )


def differences(baseline: Baseline, audit: Audit, *, proc: str = "/proc") -> tuple[Difference, ...]:
    """What became of the threads that accepted on a listener, but for those that wait as before.

    That a thread has exited is asked of the kernel now, and said only when there is no thread with
    that id and start time any more.
    """
    listener = next(
        (one for one in audit.listeners if one.listener.cookie == baseline.cookie), None
    )
    seen = {
        (thread.tid, thread.start_time): thread for thread in (listener.threads if listener else ())
    }
    return tuple(
        difference
        for entry in baseline.entries
        if (
            difference := _difference(
                entry,
                seen.get((entry.tid, entry.start_time)),
                "this listener" if listener else "the former listener",
                proc,
            )
        )
    )


def _difference(
    entry: BaselineEntry, now: ThreadSeen | None, listener: str, proc: str
) -> Difference | None:
    did = f"accepted on {listener}" if entry.certain else "slept in accept()"
    thread = f"thread {entry.tid} `{entry.name}`"
    process = f"process {entry.pid} `{entry.comm}`"
    if not alive(proc, entry.pid, entry.process_start):
        text = f"{process}, whose {thread} {did}, has exited"
        return Difference(Change.PROCESS_EXITED, entry, None, text)
    if not alive(proc, entry.pid, entry.start_time, entry.tid):
        text = f"{thread}, which {did}, has exited; {process} lives"
        return Difference(Change.THREAD_EXITED, entry, None, text)
    who = f"{thread} of {process}, which {did},"
    if now is None:
        text = f"{who} lives, but was not looked at: its process does not hold the listener"
        return Difference(Change.CANNOT_SEE, entry, None, text)
    if _accepts(now):
        return None
    if now.decided is Decided.STOPPED:
        return Difference(Change.STOPPED, entry, now, f"{who} is {now.why}")
    if now.decided in (Decided.UNKNOWN, Decided.WATCHING):
        return Difference(Change.CANNOT_SEE, entry, now, f"{who} lives: {now.why}")
    doing = f"is in {now.call}" if now.call else f"is in state {now.state}"
    return Difference(Change.NOT_WAITING, entry, now, f"{who} does not wait on it now: it {doing}")
