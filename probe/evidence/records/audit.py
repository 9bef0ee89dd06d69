"""What the evidence is made of: records that pass between its modules and end up as JSON.

Data first, text second: every record can be turned into dicts and lists by `plain`. Times called
`at` are seconds on the monotonic clock; `start_time` is the kernel's (field 22 of /proc/PID/stat,
clock ticks since boot), which with a pid or thread id names one process or thread for good.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from probe.model import Listener
from probe.model import plain as plain


class ThreadState(StrEnum):
    """What a thread does about a listener, as far as its system calls tell."""

    WAITING = "waiting"
    """It sleeps until a connection can be accepted."""
    WATCHING = "watching"
    """Edge-triggered: it would be woken, but its user code may have stopped accepting long ago."""
    NOT_WAITING = "not_waiting"
    """It sleeps in, or does, something else."""
    STOPPED = "stopped"
    """Stopped by a signal or a tracer, or frozen: what it did before that is not looked at."""
    RUNNING = "running"
    """In every sample on a CPU or waiting for one: neither waiting nor proof of absence."""
    UNKNOWN = "unknown"


class QueueTrend(StrEnum):
    """What the accept queue did from the first sample to the last."""

    STUCK = "stuck"
    """Never empty, and everything that was queued at first is queued still."""
    DRAINING = "draining"
    """Something was taken out of it."""
    EMPTY = "empty"
    """Empty in every sample."""
    UNKNOWN = "unknown"


class Finding(StrEnum):
    """All that may ever be said from threads and queue together. 'Dead' is not among it."""

    SOMEBODY_WAITS = "somebody_waits"
    CONTRADICTION = "contradiction"
    STOPPED = "stopped"
    NOBODY_WAITS = "nobody_waits"
    BUSY = "busy"
    NOBODY_SEEN = "nobody_seen"
    NOT_ACCEPTING = "not_accepting"
    UNKNOWN = "unknown"

    @property
    def meaning(self) -> str:
        return _MEANING[self]


_MEANING = {
    Finding.SOMEBODY_WAITS: "a thread waits to accept",
    Finding.CONTRADICTION: (
        "a thread waits to accept and yet nothing queued is accepted: frozen or not scheduled"
    ),
    Finding.STOPPED: "no thread waits to accept: stopped or frozen",
    Finding.NOBODY_WAITS: "nothing is accepted and no thread waits to accept",
    Finding.BUSY: "connections are accepted, though no thread was seen to wait: busy, not a fault",
    Finding.NOBODY_SEEN: "no thread was seen to wait to accept; nothing is queued: it may be busy",
    Finding.NOT_ACCEPTING: "nothing is accepted; the cause cannot be seen from outside",
    Finding.UNKNOWN: "whether a thread waits to accept cannot be known",
}


class Owner(NamedTuple):
    """A process that holds a descriptor of the listener.

    `ns_pid` is its pid in its own pid namespace (what its own logs and tools call it), equal to
    `pid` where the two see the same. `uid` is the effective one. `parent` is a pid, 0 where it is
    not known.
    """

    pid: int
    start_time: int
    comm: str
    uid: int
    ns_pid: int
    fds: tuple[int, ...] = ()
    parent: int = 0


class ThreadSeen(NamedTuple):
    """One thread of an owner, with what was decided of it for one listener.

    `state` is the letter of /proc/PID/stat; `call` the system call by name, by number where we
    have no name, "" when it was in none; `how` says in which way it waits or watches
    ("accept4", "epoll_wait", "poll"); `why` gives the reason for the decision. State, wchan and
    call are those of the sample that decided. `seen` counts the samples that it was there in,
    `waited` those in which it was waiting; `cpu` is the CPU time in seconds that it used from the
    first to the last of them.
    """

    pid: int
    tid: int
    name: str
    state: str
    start_time: int
    wchan: str
    call: str
    decided: ThreadState
    how: str = ""
    why: str = ""
    seen: int = 1
    waited: int = 0
    cpu: float = 0.0


class ListenerAudit(NamedTuple):
    """What is known of one LISTEN socket. SO_REUSEPORT gives a port several.

    `waited` counts the samples in which some thread was waiting. `why` is one sentence with the
    figures; `queue_why` the same for the queue. `hidden` are sentences about processes that hold
    it, or may, and could not be watched. `head_queued_for` is how long, in seconds, the oldest in
    its queue has waited at the end; None where nothing is queued, or it may be another listener's.
    """

    listener: Listener
    owners: tuple[Owner, ...]
    threads: tuple[ThreadSeen, ...]
    queue: QueueTrend
    queue_why: str
    waited: int
    finding: Finding
    why: str
    hidden: tuple[str, ...] = ()
    head_queued_for: float | None = None


class Audit(NamedTuple):
    """Who accepts on a port, seen in `samples` samples over `seconds`, ended at `at`.

    `notes` are the limits of what was seen (a process that could not be read, one that died
    meanwhile). `cpu` is what the audit cost, in seconds of CPU time.
    """

    port: int
    at: float
    seconds: float
    samples: int
    listeners: tuple[ListenerAudit, ...]
    notes: tuple[str, ...] = ()
    cpu: float = 0.0


class BaselineEntry(NamedTuple):
    """A thread that was seen waiting on a listener while its target was healthy.

    Not `certain`: its system calls could not be read, only that it slept in accept().
    `last_alive` is when it was last seen alive (None: when it was learnt), and `waited` whether it
    waited then in the way that it was learnt to. `parent` is the process that had started its own.
    """

    pid: int
    process_start: int
    comm: str
    tid: int
    start_time: int
    name: str
    how: str
    certain: bool = True
    last_alive: float | None = None
    waited: bool = True
    parent: int = 0


class Baseline(NamedTuple):
    """Who accepted on one listener, told by its cookie, when its target was last healthy.

    `owners` are all processes that held it then, by pid and start time. `accepted` is the earliest
    moment at which the last accept that is proven can have been; None where none was proven since.
    `oom_kills` counts the processes of the owners' container that were killed for want of memory
    up to then; None where that could not be read.
    """

    port: int
    cookie: int
    address: str
    at: float
    entries: tuple[BaselineEntry, ...]
    owners: tuple[tuple[int, int], ...] = ()
    accepted: float | None = None
    oom_kills: int | None = None


class Change(StrEnum):
    """What became of a thread that accepted while all was well."""

    THREAD_EXITED = "thread_exited"
    """It accepted to the last, and has exited: see `acceptors.baseline` for what proves that."""
    PROCESS_EXITED = "process_exited"
    """The same of its whole process."""
    LEFT = "left"
    """It has exited, and somebody else may have accepted since: pools recycle and hand over."""
    NOT_WAITING = "not_waiting"
    STOPPED = "stopped"
    CANNOT_SEE = "cannot_see"


class Difference(NamedTuple):
    """One thread of the baseline that does not wait any more; `text` says it in a sentence.

    `now` is the thread as the audit saw it, None when it has exited or was not looked at.
    `last_seen_alive` is how long before the audit's end, in seconds, it was last seen alive; None
    where it lives.
    """

    change: Change
    entry: BaselineEntry
    now: ThreadSeen | None
    text: str
    last_seen_alive: float | None = None


class AccessKind(StrEnum):
    """What has to be possible before the evidence about an application can be had."""

    PROCESS_NAMESPACE = "process namespace"
    OWNER = "listener to process"
    SAME_USER = "same user and group"
    SYSTEM_CALLS = "system calls"
    POLL_SETS = "poll and select sets"
    EPOLL = "epoll and io_uring"
    JVM_DUMP = "JVM thread dump"
    PYTHON_STACKS = "Python stacks"


class Access(NamedTuple):
    """One kind of evidence: whether this pod allows it, why (not), what to change if not."""

    name: AccessKind
    available: bool
    why: str
    change: str = ""


def family(name: str) -> str:
    """A thread's name without its number: `http-nio-8080-exec-7` is one of many, `C2` is not."""
    return _NUMBER.sub("*", name)


_NUMBER = re.compile(r"(?<![A-Za-z\d])\d+")
