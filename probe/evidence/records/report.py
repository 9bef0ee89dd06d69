"""The report of one incident as records: what the capture gathers and the store keeps.

`plain` (in records) turns them into JSON, `typed` turns that back. `schema` rises when a field
changes its meaning or goes; a new field does not raise it.
"""

import types
import typing
from enum import Enum, StrEnum
from functools import cache
from typing import Any, NamedTuple, TypeVar

from probe.evidence.records.audit import (
    Access,
    Baseline,
    Difference,
    Finding,
    Owner,
    QueueTrend,
    ThreadSeen,
    ThreadState,
)
from probe.evidence.records.facts import (
    CgroupFacts,
    Connections,
    CounterChange,
    Ending,
    Pressure,
    ProcessFacts,
)
from probe.model import Condition, Listener, Reason, Stage

SCHEMA = 1


class Carried(NamedTuple):
    """What later steps need of earlier ones, handed from one child to the next.

    `processes` are those that own the listener or did while it was healthy, by pid and start
    time; `counters` the namespace's at the beginning.
    """

    processes: tuple[tuple[int, int], ...] = ()
    counters: tuple[tuple[str, int], ...] = ()


class CaptureRequest(NamedTuple):
    """What the capture's child is asked for.

    `seconds` is the time for all: past that the child ends itself, should its parent have gone.
    `folder` is where raw dumps go, "" for nowhere; `pid` the one process to look at whoever owns
    the listener, 0 for those who do; `memory` the bytes of address space that the child may take.
    `host` is that of the target, "" for whatever listens on the port.
    """

    port: int
    host: str = ""
    steps: tuple[str, ...] = ()
    seconds: float = 10.0
    baselines: tuple[Baseline, ...] = ()
    healthy_counters: tuple[tuple[str, int], ...] = ()
    folder: str = ""
    redact: bool = False
    jvm_attach: bool = False
    pid: int = 0
    memory: int = 512 << 20
    carried: Carried = Carried()
    socket: str = ""
    """The path of a unix socket, in the place of a port."""


class Judgement(NamedTuple):
    """The verdict that led to the report; `lasting` is how long the incident had gone on, in s."""

    condition: Condition
    reason: Reason | None
    stage: Stage | None
    message: str
    ready: bool
    live: bool
    lasting: float | None = None


class SidecarState(NamedTuple):
    """What a sidecar that watches the port says while somebody else makes the report.

    `where` it was asked; `incident` is the id of what it kept of the incident that lasts, "" where
    there is none.
    """

    where: str
    judgement: Judgement
    incident: str = ""
    own_queued_for: float | None = None
    """Seconds that a connection of its own has been in the accept queue, None when it is not."""


class TimelineEntry(NamedTuple):
    """One observation from before the report, `ago` seconds earlier.

    `length` and `limit` are of the fullest listener; `accepts` is the rise of the namespace's
    accepts since the moment before. `round_trip` is its outcome or stage, "" when there was none.
    """

    ago: float
    length: int | None
    limit: int | None
    drops: int | None
    accepts: int | None
    round_trip: str = ""


class Recollection(NamedTuple):
    """What a sidecar remembers of one port, for a diagnosis that another process makes.

    `baselines` and `counters` are from when it was last healthy. Their process ids mean something
    in `pid_namespace` only. `redacted`: the names of threads were left out, and are to be.
    """

    port: int
    pid_namespace: str
    baselines: tuple[Baseline, ...]
    counters: tuple[tuple[str, int], ...]
    history: tuple[TimelineEntry, ...]
    redacted: bool = False
    socket: str = ""
    """The path of a unix socket, in the place of a port."""


class ThreadGroup(NamedTuple):
    """Threads that look the same from outside. Numbers in the name are replaced by '*'."""

    name: str
    state: str
    call: str
    decided: ThreadState
    threads: int
    tids: tuple[int, ...]
    """The first few."""


class ListenerFacts(NamedTuple):
    """A listener with who holds it and what they do about it.

    `accepting` are the threads that wait or watch (the first 20), `groups` all threads of the
    owners (60 groups at most), `more` the number of threads that no group shows. `stopped` are the
    pids of those owners of which every thread is stopped; `free` counts the threads, of all owners,
    that are not.
    """

    listener: Listener
    owners: tuple[Owner, ...]
    accepting: tuple[ThreadSeen, ...]
    groups: tuple[ThreadGroup, ...]
    more: int
    queue: QueueTrend
    queue_why: str
    waited: int
    finding: Finding
    why: str
    stopped: tuple[int, ...] = ()
    free: int = 0


class Acceptors(NamedTuple):
    """Who accepts on the port, and what changed since it was healthy.

    `known_from` is how long ago, in seconds, the acceptors were learnt while all was well; None
    when they never were, and then `differences` (60 at most) says nothing. `survivors` counts
    those that live and do not wait: busy, perhaps. `newcomers` hold the listener and did not then
    (the first 20); `endings` tell of the processes that accepted to the last and have exited.
    """

    seconds: float
    samples: int
    listeners: tuple[ListenerFacts, ...]
    differences: tuple[Difference, ...]
    survivors: int
    known_from: float | None
    notes: tuple[str, ...]
    newcomers: tuple[Owner, ...] = ()
    endings: tuple[Ending, ...] = ()


class StackGroup(NamedTuple):
    """Threads of a dump that are at the same place."""

    name: str
    state: str
    frame: str
    threads: int


class Stack(NamedTuple):
    """One thread of a dump in full: an acceptor, by which the rest is explained."""

    tid: int
    name: str
    state: str
    frames: tuple[str, ...]


class DumpFile(NamedTuple):
    """A thread dump by the runtime itself ("jvm") or by a reader of its memory ("py-spy").

    `acceptors` are the threads that accept, or did while all was well. `text` is its beginning
    (256 KB at most), `file` the raw dump in the incident's folder, "" where there is none. `took`
    is in seconds; a JVM stands still for a part of it.
    """

    pid: int
    kind: str
    threads: int
    groups: tuple[StackGroup, ...]
    size: int
    complete: bool
    took: float
    acceptors: tuple[Stack, ...] = ()
    text: str = ""
    file: str = ""


class Lack(StrEnum):
    """Missing evidence that the report draws a conclusion from."""

    FORMER_ACCEPTORS = "former_acceptors"
    """Who accepted while all was well is known to somebody, but not here."""
    JVM_NOT_ASKED = "jvm_not_asked"
    """It is a JVM, and those are asked for their threads only with --jvm-attach."""


class Missing(NamedTuple):
    """Evidence that could not be had: `what` and `why` are for people, `lack` is for programs."""

    what: str
    why: str
    lack: Lack | None = None


class Step(NamedTuple):
    """One step of the capture, and how long it took, in seconds."""

    name: str
    seconds: float


class Report(NamedTuple):
    """All that was found about one port at one moment; `at` is UTC in ISO 8601."""

    id: str
    at: str
    port: int
    trigger: str
    """"transition" or "diagnose"."""
    judgement: Judgement | None = None
    sidecar: SidecarState | None = None
    ours: bool = False
    """A connection of the one who reports is in the accept queue."""
    history: tuple[TimelineEntry, ...] = ()
    listeners: tuple[Listener, ...] = ()
    acceptors: Acceptors | None = None
    connections: Connections | None = None
    dumps: tuple[DumpFile, ...] = ()
    processes: tuple[ProcessFacts, ...] = ()
    cgroup: CgroupFacts | None = None
    counters: tuple[CounterChange, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    node_pressure: tuple[Pressure, ...] = ()
    missing: tuple[Missing, ...] = ()
    access: tuple[Access, ...] = ()
    """The self-test: what can be found out from where the report was made."""
    steps: tuple[Step, ...] = ()
    redacted: bool = False
    schema: int = SCHEMA
    socket: str = ""
    """The path of a unix socket, in the place of a port."""

    @property
    def place(self) -> str:
        """What it is about, in a sentence."""
        return self.socket or f"port {self.port}"


T = TypeVar("T")
_hints = cache(typing.get_type_hints)


def typed(hint: type[T], value: Any) -> T:
    """The record that `plain` made this JSON of. Raises ValueError, TypeError or KeyError.

    Fields it does not know are left out, missing ones take their defaults.
    """
    return typing.cast("T", _typed(hint, value))


def _typed(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return _typed(hint, value)
    if origin in (tuple, frozenset):
        return _collection(origin, arguments, value)
    if issubclass(hint, tuple):
        if not isinstance(value, dict):
            raise TypeError(f"{hint.__name__} cannot be made of {value!r}")
        return hint(**_fields(hint, value))
    if issubclass(hint, Enum):
        return hint(value)
    if hint is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, hint):
        raise TypeError(f"{value!r} is not of type {hint.__name__}")
    return value


def _collection(origin: Any, arguments: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    if origin is tuple and arguments[-1] is not Ellipsis:
        return tuple(_typed(one, item) for one, item in zip(arguments, value, strict=True))
    return origin(_typed(arguments[0], item) for item in value)


def _fields(record: Any, value: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record; what is wrong with one is told with its name."""
    fields = {}
    for name, hint in _hints(record).items():
        if name in value:
            try:
                fields[name] = _typed(hint, value[name])
            except (ValueError, TypeError) as error:
                raise TypeError(f"{name}: {error}") from None
        elif name not in record._field_defaults:
            raise TypeError(f"{name} is missing")
    return fields
