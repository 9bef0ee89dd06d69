"""Who accepted while all was well: the one witness that can tell of a thread that is gone.

A thread dump, or an audit, shows the threads that there are. Which of the missing ones served a
port, only who watched earlier can tell.

Threads and processes that accept end all the time while all is well: pools shrink, workers are
recycled, a reload hands the listener over. So that one of them has exited says nothing; that the
*last* one has is the finding. It is said (`Change.THREAD_EXITED`, `PROCESS_EXITED`) when all of
this holds, and otherwise `Change.LEFT`:

- There is no thread with that id and start time any more.
- It was seen alive at or after the last accept that is proven, or less than `NEAR` before it. The
  second is needed because an acceptor often dies at the very accept: nobody can look in between.
  Who is seen to be gone before an accept is out of it: the keeper strikes it out.
- It waited as it was learnt to when it was last seen alive. A thread of a pool that took its turn
  and then idles may end any time, and has not been the acceptor for long.
- Every process that holds the listener did so when it was learnt, and none of the others has
  started this one, and so may start another, or is of the same name, and so may be a sibling that
  is only busy.
- No thread of that process, of the same name but for its number, is younger than that last sight
  and older than the head of the queue: such a one may be its successor and have accepted since.

What remains: a thread of another name, or an older one, takes over and within a second accepts and
hangs. The other way round, whoever dies while a newcomer of its name is there is called LEFT.
"""

import time
from collections.abc import Iterable, Sequence
from socket import AF_INET, AF_INET6

from probe.evidence.acceptors import syscalls
from probe.evidence.acceptors.owners import Owners, relatives
from probe.evidence.acceptors.threads import ACCEPTING_IN, parse_syscall
from probe.evidence.proc.tasks import (
    TICK,
    Gone,
    Stat,
    alive,
    numbers,
    parse_stat,
    read_once,
    started,
)
from probe.evidence.records.audit import (
    Audit,
    Baseline,
    BaselineEntry,
    Change,
    Difference,
    ListenerAudit,
    Owner,
    ThreadSeen,
    ThreadState,
    family,
)
from probe.evidence.wording import called
from probe.kernel.hosts import reached
from probe.model import Listener

SLEEPS_IN_ACCEPT = "accept"
"""How a thread waits of which it is known only that it sleeps in accept(): see threads.decide."""

NEAR = 3.0
"""Seconds from when an acceptor was last seen waiting to an accept that is still laid to it."""

ASK_AGAIN = (0.01, 0.04)
"""Seconds until a thread that does not wait is asked again."""

WATCHED = 64
"""Threads of a baseline that are checked, at 40 us each; the rest cannot be proven gone."""


def learn(audit: Audit, before: Sequence[Baseline] = ()) -> tuple[Baseline, ...]:
    """The baseline of each listener of an audit that was made while its target was healthy.

    A thread that waited earlier and is only busy now is kept, as long as the listener is the same
    one and the thread is there. Where nobody waits, those that are gone are kept as well: the one
    who accepted may have died a moment ago. Of a new listener nothing old is kept. Where nobody
    waits and nobody is known from before, there is nothing to learn yet.
    """
    known = {baseline.cookie: baseline for baseline in before}
    learnt = []
    for listener in audit.listeners:
        owners = {owner.pid: owner for owner in listener.owners}
        waiting = {
            (thread.tid, thread.start_time): _entry(owners[thread.pid], thread, audit.at)
            for thread in listener.threads
            if _accepts(thread)
        }
        old = known.get(listener.listener.cookie)
        there = {(thread.tid, thread.start_time) for thread in listener.threads}
        entries = {
            (entry.tid, entry.start_time): entry._replace(last_alive=audit.at, waited=False)
            if (entry.tid, entry.start_time) in there
            else entry
            for entry in (old.entries if old else ())
            if (entry.tid, entry.start_time) in there or not waiting
        }
        if waiting or old is None:
            old = Baseline(
                port=audit.port,
                cookie=listener.listener.cookie,
                address=listener.listener.address,
                at=audit.at,
                entries=(),
                owners=tuple((owner.pid, owner.start_time) for owner in listener.owners),
            )
        if entries | waiting:
            learnt.append(old._replace(entries=tuple((waiting | entries | waiting).values())))
    return tuple(learnt)


def meant(baselines: Iterable[Baseline], hosts: tuple[str, ...]) -> tuple[Baseline, ...]:
    """Those of the listeners that `hosts` reach, or of all, whether they are there now or not."""
    return tuple(baseline for baseline in baselines if reached(hosts, (_listener(baseline),)))


def _listener(baseline: Baseline) -> Listener:
    """As much of the listener as tells which addresses reach it."""
    family = AF_INET6 if ":" in baseline.address else AF_INET
    return Listener(family, baseline.address, baseline.port, baseline.cookie, 0, None, None, 0, 0)


def _accepts(thread: ThreadSeen) -> bool:
    """Who waits on the listener, or at least sleeps in accept() on one of its process's."""
    return thread.decided is ThreadState.WAITING or (
        thread.decided is ThreadState.UNKNOWN and thread.how == SLEEPS_IN_ACCEPT
    )


def _entry(owner: Owner, thread: ThreadSeen, at: float) -> BaselineEntry:
    return BaselineEntry(
        pid=owner.pid,
        process_start=owner.start_time,
        comm=owner.comm,
        tid=thread.tid,
        start_time=thread.start_time,
        name=thread.name,
        how=thread.how,
        certain=thread.decided is ThreadState.WAITING,
        last_alive=at,
        parent=owner.parent,
    )


def check(entries: Iterable[BaselineEntry], *, proc: str = "/proc") -> list[bool | None]:
    """Of each thread: whether it waits as it was learnt to; None when it is gone.

    One read of its state and one of its system call, 40 us; nothing stops it. Who has just
    accepted is on a CPU, or waits for one or for its interpreter's lock, so those that do not wait
    are asked again, `ASK_AGAIN` seconds later: not for an event loop.
    """
    names, every = syscalls.table(), list(entries)
    seen = [_waits(proc, entry, names) for entry in every]
    for pause in ASK_AGAIN:
        if False not in seen:
            break
        time.sleep(pause)
        seen = [
            _waits(proc, entry, names) if waits is False else waits
            for entry, waits in zip(every, seen, strict=True)
        ]
    return seen


def _waits(proc: str, entry: BaselineEntry, names: dict[int, str] | None) -> bool | None:
    directory = f"{proc}/{entry.pid}/task/{entry.tid}"
    try:
        now = parse_stat(read_once(f"{directory}/stat"))
        if now.start_time != entry.start_time or now.state in "ZX":
            return None
        if not entry.certain:
            return read_once(f"{directory}/wchan").decode() == ACCEPTING_IN
        return parse_syscall(read_once(f"{directory}/syscall"), names)[0] == entry.how
    except Gone:
        return None
    except OSError:
        return False


def newcomers(baseline: Baseline, owners: Iterable[Owner]) -> tuple[Owner, ...]:
    """The owners of a listener that did not hold it when it was learnt."""
    known = {*baseline.owners, *((entry.pid, entry.process_start) for entry in baseline.entries)}
    return tuple(owner for owner in owners if (owner.pid, owner.start_time) not in known)


def differences(
    baseline: Baseline, audit: Audit, *, redact: bool = False, proc: str = "/proc"
) -> tuple[Difference, ...]:
    """What became of the threads that accepted on a listener, but for those that wait as before.

    That a thread has exited is asked of the kernel now, and said only when there is no thread with
    that id and start time any more. With `redact` no sentence names a thread; the records do.
    """
    listener = next(
        (listener for listener in audit.listeners if listener.listener.cookie == baseline.cookie),
        None,
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
                baseline,
                listener,
                audit,
                redact,
                proc,
            )
        )
    )


def _doubt(
    entry: BaselineEntry,
    baseline: Baseline,
    audit: Audit,
    listener: ListenerAudit | None,
    redact: bool,
) -> str:
    """Why it may not have been the last to accept, were it gone; "" where it was."""
    if listener is None:
        return "the port has another listener now" if audit.listeners else ""
    head = listener.head_queued_for
    return doubt(
        entry,
        baseline,
        owners=listener.owners,
        hidden=listener.hidden,
        threads=(
            (thread.pid, thread.tid, thread.name, thread.start_time) for thread in listener.threads
        ),
        until=audit.at - (head or 0.0),
        redact=redact,
    )


def doubt(
    entry: BaselineEntry,
    baseline: Baseline,
    *,
    owners: Sequence[Owner],
    hidden: Sequence[str],
    threads: Iterable[tuple[int, int, str, int]],
    until: float,
    redact: bool = False,
) -> str:
    """Why a thread that is gone may not have been the last to accept; "" where it is proven.

    `hidden` are sentences about owners that could not be watched; `threads` those of the owners,
    each by pid, thread id, name and start time; nothing was accepted after `until`. The rules are
    those at the head of this file. Pure.
    """
    last = _last_alive(entry, baseline)
    if baseline.accepted is not None and baseline.accepted > last + NEAR:
        return f"connections were accepted {baseline.accepted - last:.1f} s after that"
    if hidden:
        return hidden[0]
    if not owners:
        return "who holds the listener now cannot be seen"
    if new := newcomers(baseline, owners):
        return f"process {new[0].pid} `{new[0].comm}` has come to hold the listener since"
    for owner in owners:
        if owner.pid == entry.parent:
            return f"process {owner.pid} `{owner.comm}`, which started it, may start another"
        if owner.pid != entry.pid and owner.comm == entry.comm:
            return f"process {owner.pid} `{owner.comm}` holds the listener too, and may accept"
    if not any(owner.pid == entry.pid for owner in owners):
        return ""  # The whole process has gone, and no other is like it.
    if not entry.waited:
        return "it did not wait to accept then"
    return _successor(entry, baseline, threads, last, until, redact)


def _successor(
    entry: BaselineEntry,
    baseline: Baseline,
    threads: Iterable[tuple[int, int, str, int]],
    last: float,
    until: float,
    redact: bool,
) -> str:
    """Which thread of its process may have accepted in its place, begun from `last` to `until`."""
    acceptors = {(known.tid, known.start_time) for known in baseline.entries}
    for pid, tid, name, start_time in threads:
        if (
            pid == entry.pid
            and (tid, start_time) not in acceptors
            and (not entry.name or family(name) == family(entry.name))
            and last - 2 * TICK <= started(start_time) <= until
        ):
            return f"{called(tid, '' if redact else name)} has begun since"
    return ""


def _last_alive(entry: BaselineEntry, baseline: Baseline) -> float:
    return baseline.at if entry.last_alive is None else entry.last_alive


def exit_proven(
    baseline: Baseline, listener: Listener, until: float, *, proc: str = "/proc"
) -> bool | None:
    """Whether everyone who accepted on a listener has exited, the last to accept among them.

    False where one of them lives, None where it cannot be told. Nothing was accepted after `until`.
    Every descriptor in sight is looked at, 5 to 7 us each, and the threads of the owners, 20 us
    each: not for an event loop.
    """
    if any(alive(proc, entry.pid, entry.start_time, entry.tid) for entry in baseline.entries):
        return False
    holders = Owners(proc).find([listener.inode])
    owners = holders.owners[listener.inode]
    hidden = [
        f"process {relative.pid} `{relative.name}` cannot be read"
        for relative in relatives(holders, listener)
    ]
    threads = [
        (owner.pid, tid, seen.name, seen.start_time)
        for owner in owners
        for tid, seen in _threads(proc, owner.pid)
    ]
    proven = not all(
        doubt(entry, baseline, owners=owners, hidden=hidden, threads=threads, until=until)
        for entry in baseline.entries
    )
    return True if proven else None


def _threads(proc: str, pid: int) -> list[tuple[int, Stat]]:
    found = []
    try:
        for tid in numbers(f"{proc}/{pid}/task"):
            seen = parse_stat(read_once(f"{proc}/{pid}/task/{tid}/stat"))
            if seen.state not in "ZX":
                found.append((tid, seen))
    except Gone:
        pass
    return found


def _difference(
    entry: BaselineEntry,
    now: ThreadSeen | None,
    baseline: Baseline,
    listener: ListenerAudit | None,
    audit: Audit,
    redact: bool,
    proc: str,
) -> Difference | None:
    where = "this listener" if listener else "the former listener"
    did = f"accepted on {where}" if entry.certain else "slept in accept()"
    thread = called(entry.tid, "" if redact else entry.name)
    process = f"process {entry.pid} `{entry.comm}`"
    lives = alive(proc, entry.pid, entry.process_start)
    if not lives or not alive(proc, entry.pid, entry.start_time, entry.tid):
        change = Change.THREAD_EXITED if lives else Change.PROCESS_EXITED
        text = (
            f"{thread}, which {did}, has exited; {process} lives"
            if lives
            else f"{process}, whose {thread} {did}, has exited"
        )
        ago = max(round(audit.at - _last_alive(entry, baseline), 1), 0.0)
        text += f" (last seen alive {ago:.1f} s before)"
        if why := _doubt(entry, baseline, audit, listener, redact):
            change = Change.LEFT
            text += f"; whether it was the last to accept is not known: {why}"
        return Difference(change, entry, None, text, ago)
    who = f"{thread} of {process}, which {did},"
    if now is None:
        text = f"{who} lives, but was not looked at: its process does not hold the listener"
        return Difference(Change.CANNOT_SEE, entry, None, text)
    if _accepts(now):
        return None
    if now.decided is ThreadState.STOPPED:
        return Difference(Change.STOPPED, entry, now, f"{who} is {now.why}")
    if now.decided in (ThreadState.UNKNOWN, ThreadState.WATCHING):
        return Difference(Change.CANNOT_SEE, entry, now, f"{who} lives: {now.why}")
    doing = f"is in {now.call}" if now.call else f"is in state {now.state}"
    if now.decided is ThreadState.RUNNING:
        doing = "is running"
    return Difference(Change.NOT_WAITING, entry, now, f"{who} does not wait on it now: it {doing}")
