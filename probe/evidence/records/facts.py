"""What the collectors find out, as records of the report. Pure data."""

from enum import StrEnum
from typing import NamedTuple


class Pressure(NamedTuple):
    """Share of the last 10, 60 and 300 s, in percent, in which some task waited for a resource."""

    resource: str
    avg10: float
    avg60: float
    avg300: float


class CgroupFacts(NamedTuple):
    """The container's cgroup. Memory is in bytes; None where there is no limit or no such file.

    `periods` and `throttled` count the CPU quota's periods and those it was used up in;
    `throttled_seconds` is how long it was held back in all. `oom_kills` and the other memory
    events count since the container began.
    """

    cpu_seconds: float | None = None
    periods: int | None = None
    throttled: int | None = None
    throttled_seconds: float | None = None
    memory: int | None = None
    memory_limit: int | None = None
    memory_events: tuple[tuple[str, int], ...] = ()
    pids: int | None = None
    pids_limit: int | None = None
    frozen: bool | None = None
    pressure: tuple[Pressure, ...] = ()


class StateCount(NamedTuple):
    """How many connections are in one state, and how many of those no process has accepted."""

    state: str
    connections: int
    queued: int


class Peer(NamedTuple):
    """One connection, the server's side. `remote` is "" where peers are left out.

    `queued_for` is how long it has waited in the accept queue, in seconds, None once accepted;
    `quiet_for` how long ago its last data came; `unread` the bytes that nobody has read.
    """

    state: str
    remote: str
    queued_for: float | None
    quiet_for: float | None
    unread: int
    received: int | None


class Connections(NamedTuple):
    """All server-side connections of the port.

    `queued` are the oldest in the accept queue; `silent` the accepted clients that sent a request
    and have never got a byte, oldest first: suspects of what keeps the application busy, no more.
    `ended` counts the queued whose client has ended its side (CLOSE_WAIT and no descriptor):
    it may be gone, or may only have no more to say; `unclosed` the accepted of the same kind.
    """

    total: int
    states: tuple[StateCount, ...]
    queued: tuple[Peer, ...]
    silent: tuple[Peer, ...]
    ended: int
    unclosed: int


class CounterChange(NamedTuple):
    """One counter of the namespace: its value now, and how far it rose.

    `during` is the rise while the capture ran, `since_healthy` the rise since the target was last
    seen healthy, None where that is not known.
    """

    name: str
    value: int
    during: int
    since_healthy: int | None


class ContainerName(NamedTuple):
    """Which container a process runs in; "" for what its mounts and cgroup do not tell."""

    name: str = ""
    pod: str = ""
    """The pod's uid."""
    id: str = ""


class ProcessState(StrEnum):
    """The letter of /proc/PID/stat in words: proc(5)."""

    RUNNING = "running"
    SLEEPING = "sleeping"
    UNINTERRUPTIBLE = "in an uninterruptible sleep"
    STOPPED = "stopped"
    TRACED = "stopped by a tracer"
    ZOMBIE = "a zombie"
    DEAD = "dead"
    IDLE = "idle"
    OTHER = "in a state that is not known here"


class ProcessFacts(NamedTuple):
    """One process that owns a listener. Sizes are bytes, `age` is seconds.

    `descriptors` is None where they cannot be counted; `kinds` counts those that could be looked
    at ("socket", "file", "pipe", "epoll", "other"). `notes` says what could not be read.
    """

    pid: int
    comm: str
    state: ProcessState
    age: float
    threads: int
    resident: int
    descriptors: int | None
    descriptor_limit: int | None
    kinds: tuple[tuple[str, int], ...] = ()
    container: ContainerName = ContainerName()
    notes: tuple[str, ...] = ()


class Ending(NamedTuple):
    """How a process that accepted has ended, as far as that can be known.

    `status` is its exit status, `signal` the name of the signal that ended it; where it has
    neither, `unknown` says why. `oom_kills` counts the processes of its container that were killed
    for want of memory since it was healthy; None where that is not known.
    """

    pid: int
    comm: str
    status: int | None = None
    signal: str = ""
    unknown: str = ""
    oom_kills: int | None = None
