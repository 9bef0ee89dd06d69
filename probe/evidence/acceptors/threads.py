"""The threads of a process, and what each of them does about a listener.

A look is three reads (stat, wchan, syscall), about 40 us a thread; nothing stops the thread.
"""

from typing import NamedTuple

from probe.evidence.acceptors.waits import Decision, ProcessView, Undecidable
from probe.evidence.proc.tasks import Gone, Stat, numbers, parse_stat, read_once
from probe.evidence.records.audit import ThreadSeen, ThreadState

STOPPED_IN = frozenset(
    {"get_signal", "__refrigerator", "do_signal_stop", "ptrace_stop", "do_freezer_trap"}
)
"""Where a stopped, traced or frozen thread sleeps in the kernel."""
ACCEPTING_IN = "inet_csk_accept"
"""Where a thread in accept() on a TCP listener sleeps."""
IO_WORKER = 0x10
"""PF_IO_WORKER of include/linux/sched.h: a thread that the kernel runs for an io_uring."""
ON_CPU = "running"
COMPAT = 1 << 32
"""A 64-bit process has its stacks above; one below is a 32-bit one, with numbers of its own."""


class ThreadReading(NamedTuple):
    """One thread at one moment. `call` is "running", a name, a number in digits, or "" where
    `error` says why it cannot be known.
    """

    tid: int
    stat: Stat
    wchan: str
    call: str
    arguments: tuple[int, ...] = ()
    error: str = ""


def read_thread(directory: str, tid: int, names: dict[int, str] | None) -> ThreadReading:
    """One thread; `directory` is its process's /proc/PID/task. `names`: syscalls.table()."""
    path = f"{directory}/{tid}"
    seen = parse_stat(read_once(f"{path}/stat"))
    try:
        wchan = read_once(f"{path}/wchan").decode()
    except PermissionError:
        wchan = "0"
    try:
        call, arguments, error = parse_syscall(read_once(f"{path}/syscall"), names)
    except PermissionError as refused:
        call, arguments, error = "", (), f"its system call cannot be read: {refused.strerror}"
    except Gone:
        raise
    except OSError as failed:  # no such facility: CONFIG_HAVE_ARCH_TRACEHOOK is not everywhere
        call, arguments, error = "", (), f"its system call cannot be read: {failed.strerror}"
    return ThreadReading(tid, seen, "" if wchan == "0" else wchan, call, arguments, error)


def parse_syscall(line: bytes, names: dict[int, str] | None) -> tuple[str, tuple[int, ...], str]:
    """The call, its arguments, and why it cannot be known, of a line of /proc/PID/syscall.

    That is `running`, or `-1 SP PC` outside of any call, or `NUMBER ARG0 ... ARG5 SP PC`.
    """
    fields = line.split()
    if fields[0] == b"running" or fields[0] == b"-1":
        return ON_CPU, (), ""
    if names is None:
        return "", (), "the system calls of this machine's architecture are not known here"
    if int(fields[-2], 16) < COMPAT:
        return "", (), "a 32-bit process: its system calls have other numbers"
    call = names.get(int(fields[0]), fields[0].decode())
    arguments = tuple(int(field, 16) for field in fields[1:-2])
    if call == "restart_syscall":
        return call, arguments, "it resumes a system call that does not show"
    return call, arguments, ""


def read_threads(
    proc: str, pid: int, names: dict[int, str] | None, limit: int
) -> tuple[list[ThreadReading], int]:
    """The threads of a process, at most `limit` of them, and how many it has."""
    directory = f"{proc}/{pid}/task"
    tids = numbers(directory)
    seen = []
    for tid in tids[:limit]:
        try:
            one = read_thread(directory, tid, names)
        except Gone:
            continue
        if one.stat.state not in "ZX":
            seen.append(one)
    return seen, len(tids)


def decide(seen: ThreadReading, sight: ProcessView, inode: int) -> Decision:
    """What a thread does about the listener with this inode.

    In this order, since a stopped thread still shows the call that it was in: stopped, io_uring's
    own, what cannot be read, running, what its system call waits for.
    """
    if seen.stat.state in "Tt" or seen.wchan in STOPPED_IN:
        return Decision(ThreadState.STOPPED, why=_stopped_by(seen))
    if seen.stat.flags & IO_WORKER and seen.stat.name.startswith("iou-wrk-"):
        return Decision(ThreadState.UNKNOWN, "io_uring", "it does io_uring's work")
    if seen.error:
        if seen.wchan == ACCEPTING_IN:
            why = "it sleeps in accept(), on which listener cannot be seen"
            return Decision(ThreadState.UNKNOWN, "accept", why)
        return Decision(ThreadState.UNKNOWN, why=seen.error)
    if seen.call == ON_CPU:
        return Decision(ThreadState.RUNNING)
    try:
        decision = sight.awaited(seen.tid, seen.call, seen.arguments).get(inode)
    except Undecidable as why:
        return Decision(ThreadState.UNKNOWN, seen.call, str(why))
    if decision is None:
        return Decision(ThreadState.NOT_WAITING)
    return decision._replace(how=seen.call)


def _stopped_by(seen: ThreadReading) -> str:
    if seen.stat.state == "T":
        return "stopped by a signal"
    if seen.stat.state == "t":
        return "stopped by a tracer"
    return "frozen"


class ThreadSample(NamedTuple):
    """A thread in one sample, and what was decided of it then."""

    look: ThreadReading
    decision: Decision


_CLEAREST = (
    ThreadState.WAITING,
    ThreadState.WATCHING,
    ThreadState.UNKNOWN,
    ThreadState.NOT_WAITING,
    ThreadState.RUNNING,
)
"""Which sample tells most of a thread that was not stopped, nor gone in the end."""


def merge(pid: int, moments: list[ThreadSample], *, gone: bool) -> ThreadSeen:
    """One thread over all the samples that it was there in; `gone`: not in the last one.

    Waiting once is waiting. Stopped means in every sample; stopped in some of them leaves what
    it did before unknown, unless it was seen to wait. Not waiting means in every sample but those
    in which it was running.
    """
    first, last = moments[0].look, moments[-1].look
    waited = sum(moment.decision.decided is ThreadState.WAITING for moment in moments)
    decided = {moment.decision.decided for moment in moments}
    telling = moments[-1]
    if gone:
        decision = Decision(ThreadState.NOT_WAITING, why="it exited during the audit")
    elif decided == {ThreadState.STOPPED}:
        decision = telling.decision
    elif ThreadState.STOPPED in decided and not waited:
        decision = Decision(ThreadState.UNKNOWN, why="it was stopped for a part of the audit")
    else:
        clearest = next(kind for kind in _CLEAREST if kind in decided)
        telling = next(m for m in reversed(moments) if m.decision.decided is clearest)
        decision = telling.decision
    return ThreadSeen(
        pid=pid,
        tid=last.tid,
        name=last.stat.name,
        state=telling.look.stat.state,
        start_time=last.stat.start_time,
        wchan=telling.look.wchan,
        call=telling.look.call,
        decided=decision.decided,
        how=decision.how,
        why=decision.why,
        seen=len(moments),
        waited=waited,
        cpu=round(last.stat.cpu - first.stat.cpu, 3),
    )
