"""The steps of a capture: each gathers some fields of the report. They run in the child.

What a step cannot have is said in `CaptureWork.missing`, or raised and said there by the caller; a
step never leaves out in silence what it was asked for.
"""

import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.baseline import differences, meant, newcomers
from probe.evidence.acceptors.baseline import learn as learn_from
from probe.evidence.collectors import cgroup, jvm, network, pyspy
from probe.evidence.proc.files import Unavailable, reason
from probe.evidence.proc.tasks import ended, stat
from probe.evidence.records.audit import (
    Audit,
    Baseline,
    Change,
    Difference,
    ListenerAudit,
    Owner,
    ThreadState,
    family,
)
from probe.evidence.records.facts import Ending
from probe.evidence.records.report import (
    Acceptors,
    CaptureRequest,
    DumpFile,
    Lack,
    ListenerFacts,
    Missing,
    Stack,
    StackGroup,
    ThreadGroup,
)
from probe.evidence.store import write
from probe.kernel import KernelView
from probe.kernel.hosts import NoAddress, find, reached
from probe.model import Listener

GROUPS = 60
ACCEPTING = 20
TIDS = 5
PROCESSES = 8
DUMPS = 3
STACKS = 5
CHANGES = 60
GRAVITY = tuple(Change)
EXITED = (Change.THREAD_EXITED, Change.PROCESS_EXITED, Change.LEFT)
ENDINGS = 5
NEWCOMERS = 20
BUDGET = 2.5
"""Seconds after which the audit begins no further sample: many threads, or little CPU for us."""

NAME_PATIENCE = 1.0
"""Seconds that the resolver may take over the target's host."""

TEXT_LIMIT = 256 << 10
"""Bytes of a dump in the record; the raw one is longer."""


class CaptureWork:
    """One capture under way: the request, the view, and what later steps need of earlier ones."""

    def __init__(self, request: CaptureRequest, view: KernelView) -> None:
        self.request = request
        self.view = view
        self.processes: dict[int, int] = {}
        """Pid and start time of those worth a look, in the order of their worth; of the one that
        was asked for alone, if one was.
        """
        if request.pid:
            with suppress(OSError):
                self.processes[request.pid] = stat("/proc", request.pid).start_time
        else:
            self.processes.update(request.carried.processes)
            for baseline in request.baselines:
                for entry in baseline.entries:
                    self.processes.setdefault(entry.pid, entry.process_start)
        self._hosts: tuple[str, ...] | None = None
        self.counters = dict(request.carried.counters)
        self.missing: list[Missing] = []

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses that the target's host stands for; () for no host. Raises Unavailable."""
        if self._hosts is None:
            try:
                self._hosts = find(self.request.host, NAME_PATIENCE)
            except NoAddress as error:
                raise Unavailable(str(error)) from None
        return self._hosts

    def listeners(self) -> tuple[Listener, ...]:
        """Those that the target means."""
        return reached(self.hosts, self.view.listeners(self.request.port))

    def without(self, what: str, error: BaseException) -> None:
        """Put on record that something could not be had."""
        self.missing.append(Missing(what, reason(error)))


Step = Callable[[CaptureWork], dict[str, Any]]
"""Gathers some fields of the report, by name. Whatever it raises becomes a Missing."""


def queue(work: CaptureWork) -> dict[str, Any]:
    """The listeners' queues, and the counters to compare with at the end."""
    with suppress(Unavailable):
        work.counters = work.counters or network.counters()
    return {"listeners": work.listeners()}


def acceptors(work: CaptureWork) -> dict[str, Any]:
    """Who holds the listeners, whether anyone waits to accept, and what changed since healthy."""
    baselines, redact = meant(work.request.baselines, work.hosts), work.request.redact
    seen = audit(work.view, work.request.port, work.hosts, budget=BUDGET, redact=redact)
    every = [
        difference
        for baseline in baselines
        for difference in differences(baseline, seen, redact=redact)
    ]
    changed = tuple(
        sorted(every, key=lambda difference: GRAVITY.index(difference.change))[:CHANGES]
    )
    if redact:
        seen, changed = nameless(seen, changed)
    if not work.request.pid:
        owners = (owner for listener in seen.listeners for owner in listener.owners)
        work.processes = {owner.pid: owner.start_time for owner in owners} | work.processes
    return {
        "acceptors": Acceptors(
            seconds=seen.seconds,
            samples=seen.samples,
            listeners=tuple(listener_facts(listener) for listener in seen.listeners),
            differences=changed,
            survivors=sum(difference.change not in EXITED for difference in every),
            known_from=max((seen.at - baseline.at for baseline in baselines), default=None),
            notes=seen.notes,
            newcomers=came(seen, baselines),
            endings=endings(seen, baselines, changed),
        )
    }


def came(seen: Audit, baselines: Iterable[Baseline]) -> tuple[Owner, ...]:
    """The owners of the listeners that did not hold them while all was well."""
    known = {baseline.cookie: baseline for baseline in baselines}
    found = {
        owner.pid: owner
        for listener in seen.listeners
        if listener.listener.cookie in known
        for owner in newcomers(known[listener.listener.cookie], listener.owners)
    }
    return tuple(found.values())[:NEWCOMERS]


def endings(
    seen: Audit, baselines: Iterable[Baseline], changed: Iterable[Difference]
) -> tuple[Ending, ...]:
    """How the processes that accepted to the last have ended."""
    entries = {
        difference.entry.pid: difference.entry
        for difference in changed
        if difference.change is Change.PROCESS_EXITED
    }
    # Of a container's memory anyone in it can tell, and who holds the listener still is.
    living = [owner.pid for listener in seen.listeners for owner in listener.owners]
    before = next(
        (baseline.oom_kills for baseline in baselines if baseline.oom_kills is not None), None
    )
    now = cgroup.oom_kills(living[0]) if living and entries else None
    kills = None if now is None or before is None else max(now - before, 0)
    return tuple(
        ending(pid, entry.process_start, entry.comm)._replace(oom_kills=kills)
        for pid, entry in [*entries.items()][:ENDINGS]
    )


def ending(pid: int, start_time: int, comm: str) -> Ending:
    status, why = ended("/proc", pid, start_time)
    if status is None:
        return Ending(pid, comm, unknown=why)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        named = number in signal.valid_signals() and number < signal.SIGRTMIN
        return Ending(
            pid, comm, signal=signal.Signals(number).name if named else f"signal {number}"
        )
    return Ending(pid, comm, status=os.WEXITSTATUS(status))


def connections(work: CaptureWork) -> dict[str, Any]:
    """The port's connections by state, the queued and the silent ones by age."""
    every = work.view.connections(work.request.port, work.hosts)
    return {"connections": network.summarise(every, redact=work.request.redact)}


def dumps(work: CaptureWork) -> dict[str, Any]:
    """What the runtime of each owner says of its threads. After the audit: a tracer disturbs it."""
    found = []
    for pid in [*work.processes][:DUMPS]:
        for kind, take in (("jvm", java), ("py-spy", python)):
            try:
                if dump := take(work, pid):
                    found.append(dump)
            except (Unavailable, OSError, MemoryError) as error:
                work.without(f"{kind} dump of process {pid}", error)
    return {"dumps": found}


def java(work: CaptureWork, pid: int) -> DumpFile | None:
    """The JVM's own thread dump, None when the process is no JVM."""
    if not jvm.is_hotspot(pid):
        return None
    if not work.request.jvm_attach:
        why = "it is a JVM, and those are asked only with --jvm-attach"
        work.missing.append(Missing(f"jvm dump of process {pid}", why, Lack.JVM_NOT_ASKED))
        return None
    began = time.monotonic()
    taken = jvm.thread_dump(pid, seconds=3)
    took = time.monotonic() - began
    file = keep(work, f"jvm-{pid}.txt", taken.text)  # first: it stays, whatever is made of it
    threads = jvm.threads(taken.text)
    stacks = ((thread.name, thread.state, thread.frame) for thread in threads)
    return DumpFile(
        pid=pid,
        kind="jvm",
        threads=len(threads),
        groups=stack_groups(stacks, redact=work.request.redact),
        size=len(taken.text),
        complete=taken.complete,
        took=round(took, 4),
        acceptors=java_stacks(work, pid, threads),
        text=cut(work, taken.text),
        file=file,
    )


def python(work: CaptureWork, pid: int) -> DumpFile | None:
    """The stacks of a Python process, None when it is none."""
    if not pyspy.is_python(pid):
        return None
    began = time.monotonic()
    threads = pyspy.dump(pid, seconds=3)
    took = time.monotonic() - began
    text = "\n".join(
        f'"{thread.name}" tid={thread.tid} {"active" if thread.active else "idle"}\n'
        + "".join(f"    at {frame}\n" for frame in thread.frames)
        for thread in threads
    ).encode()
    stacks = (
        (
            thread.name,
            "active" if thread.active else "idle",
            thread.frames[0] if thread.frames else "",
        )
        for thread in threads
    )
    return DumpFile(
        pid=pid,
        kind="py-spy",
        threads=len(threads),
        groups=stack_groups(stacks, redact=work.request.redact),
        size=len(text),
        complete=True,
        took=round(took, 4),
        acceptors=tuple(
            Stack(thread.tid, "" if work.request.redact else thread.name, "", thread.frames)
            for thread in threads
            if thread.tid in acceptor_tids(work, pid)
        ),
        text=cut(work, text),
        file=keep(work, f"py-spy-{pid}.txt", text),
    )


def java_stacks(
    work: CaptureWork, pid: int, threads: Iterable[jvm.JavaThread]
) -> tuple[Stack, ...]:
    """The whole stacks of those threads that accepted while all was well, and are there still."""
    inner: dict[int, int] = {}
    for tid in acceptor_tids(work, pid):
        with suppress(Unavailable):
            inner[jvm.inner_tid(pid, tid)] = tid
    return tuple(
        Stack(
            inner[thread.inner_tid],
            "" if work.request.redact else thread.name,
            thread.state,
            thread.stack,
        )
        for thread in threads
        if thread.inner_tid in inner
    )


def acceptor_tids(work: CaptureWork, pid: int) -> list[int]:
    """The threads of a process that the baseline knows to accept."""
    entries = (entry for baseline in work.request.baselines for entry in baseline.entries)
    return [entry.tid for entry in entries if entry.pid == pid][:STACKS]


def processes(work: CaptureWork) -> dict[str, Any]:
    """State, age, memory, descriptors and container of each owner, alive or of the baseline."""
    from probe.evidence.collectors import process  # psutil, which no other step needs

    found = []
    for pid, start_time in [*work.processes.items()][:PROCESSES]:
        try:
            found.append(process.facts(pid, start_time))
        except Unavailable as error:
            work.without(f"process {pid}", error)
    return {"processes": found}


def container(work: CaptureWork) -> dict[str, Any]:
    """The cgroup of the first owner; owners of one listener share a container."""
    if not work.processes:
        raise Unavailable("no process is known to own the listener")
    return {"cgroup": cgroup.facts(next(iter(work.processes)))}


def network_and_node(work: CaptureWork) -> dict[str, Any]:
    """How far the namespace's counters rose, its sysctls, and the node's pressure."""
    healthy = dict(work.request.healthy_counters)
    return {
        "counters": network.changes(work.counters, network.counters(), healthy),
        "sysctls": network.sysctls(),
        "node_pressure": cgroup.node_pressure(),
    }


def learn(work: CaptureWork) -> dict[str, Any]:
    """For the baseline: who accepts while all is well; and the JVM's socket opened beforehand."""
    seen = audit(work.view, work.request.port, work.hosts, budget=BUDGET)
    owners = [owner.pid for listener in seen.listeners for owner in listener.owners]
    kills = cgroup.oom_kills(owners[0]) if owners else None
    if work.request.jvm_attach:
        for pid in set(owners):
            try:
                if jvm.is_hotspot(pid):
                    jvm.prepare(pid, seconds=2)
            except Unavailable as error:
                work.without(f"attaching to process {pid}", error)
    return {
        "baselines": tuple(
            baseline._replace(oom_kills=kills)
            for baseline in learn_from(seen, work.request.baselines)
        ),
        "counters": tuple(network.counters().items()),
    }


STEPS: dict[str, Step] = {
    "queue": queue,
    "acceptors": acceptors,
    "connections": connections,
    "dumps": dumps,
    "processes": processes,
    "container": container,
    "network": network_and_node,
    "learn": learn,
}


def nameless(seen: Audit, changed: tuple[Difference, ...]) -> tuple[Audit, tuple[Difference, ...]]:
    """The same without the names of threads, which their sentences were made without."""
    listeners = tuple(
        audited._replace(threads=tuple(thread._replace(name="") for thread in audited.threads))
        for audited in seen.listeners
    )
    return seen._replace(listeners=listeners), tuple(
        difference._replace(
            entry=difference.entry._replace(name=""),
            now=difference.now and difference.now._replace(name=""),
        )
        for difference in changed
    )


def listener_facts(listener: ListenerAudit) -> ListenerFacts:
    """An audited listener with its threads grouped, so that 2,000 of them are 60 rows at most."""
    grouped: dict[tuple[str, str, str, ThreadState], list[int]] = defaultdict(list)
    for thread in listener.threads:
        grouped[family(thread.name), thread.state, thread.call, thread.decided].append(thread.tid)
    groups = [
        ThreadGroup(*looks, threads=len(tids), tids=tuple(tids[:TIDS]))
        for looks, tids in sorted(grouped.items(), key=lambda item: -len(item[1]))
    ]
    stopped = [thread for thread in listener.threads if thread.decided is ThreadState.STOPPED]
    free = [thread for thread in listener.threads if thread.decided in FREE]
    every = {thread.pid for thread in listener.threads if thread.decided is not ThreadState.STOPPED}
    accepting = [
        thread
        for thread in listener.threads
        if thread.decided in (ThreadState.WAITING, ThreadState.WATCHING)
    ]
    return ListenerFacts(
        listener=listener.listener,
        owners=listener.owners,
        accepting=tuple(accepting[:ACCEPTING]),
        groups=tuple(groups[:GROUPS]),
        more=sum(group.threads for group in groups[GROUPS:]),
        queue=listener.queue,
        queue_why=listener.queue_why,
        waited=listener.waited,
        finding=listener.finding,
        why=listener.why,
        stopped=tuple(sorted({thread.pid for thread in stopped} - every)),
        free=len(free),
    )


FREE = frozenset(
    {ThreadState.WAITING, ThreadState.WATCHING, ThreadState.NOT_WAITING, ThreadState.RUNNING}
)
"""What is decided of a thread that was seen not to be stopped."""


def stack_groups(stacks: Iterable[tuple[str, str, str]], *, redact: bool) -> tuple[StackGroup, ...]:
    """The threads of a dump (name, state, frame) by where they are, the most frequent first."""
    places = Counter(
        ("" if redact else family(name), state, frame) for name, state, frame in stacks
    )
    return tuple(StackGroup(*place, threads=count) for place, count in places.most_common(GROUPS))


def cut(work: CaptureWork, content: bytes) -> str:
    """The beginning of a dump for the record; "" where names are left out, which it shows."""
    return "" if work.request.redact else content[:TEXT_LIMIT].decode(errors="replace")


def keep(work: CaptureWork, name: str, content: bytes) -> str:
    """Write a raw dump into the incident's folder; its name, or "" where it is not kept."""
    if not work.request.folder or work.request.redact:
        return ""
    try:
        folder = os.open(work.request.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            write(folder, name, content)
        finally:
            os.close(folder)
    except OSError as error:
        work.without(f"the raw dump {name}", error)
        return ""
    return name
