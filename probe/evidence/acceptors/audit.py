"""The acceptor audit: does anyone wait to accept on a listener, and does its queue move?

Two witnesses are asked, several times within a second: the system calls of the owners' threads,
and the cookies of the queued connections. Neither is enough. A thread that is not waiting may be
handling a request; a queue that is full may be draining. Together they allow the findings of
`records.Finding` and no others, and where something could not be read, 'unknown' it is.
"""

import contextlib
import os
import time

from probe.evidence.acceptors import syscalls
from probe.evidence.acceptors.conclusion import ListenerSeen, conclude
from probe.evidence.acceptors.owners import Descriptors, Holders, Owners, relatives
from probe.evidence.acceptors.queues import Queues
from probe.evidence.acceptors.threads import ThreadSample, decide, merge, read_threads
from probe.evidence.acceptors.waits import EpollInstances, ProcessView
from probe.evidence.proc.tasks import Gone, alive
from probe.evidence.records.audit import (
    Audit,
    Finding,
    ListenerAudit,
    Owner,
    ThreadSeen,
    ThreadState,
)
from probe.kernel import KernelView
from probe.model import Listener

MAX_THREADS = 10_000
"""Threads of one process that are looked at; each costs 40 us a sample."""


def audit(
    view: KernelView,
    port: int,
    hosts: tuple[str, ...] = (),
    *,
    proc: str = "/proc",
    owners: Owners | None = None,
    samples: int = 5,
    pause: float = 0.15,
    budget: float = 5.0,
    redact: bool = False,
) -> Audit:
    """Look at the listeners of a port, `samples` times with `pause` seconds between: at those that
    `hosts` reach, or at every one.

    When `budget` seconds are used up no further sample is begun, but two there are always.
    `owners` keeps what an earlier audit found. With `redact` no sentence names a thread; the
    records do. Raises CannotTell where not even the listeners can be listed. A process that ends
    meanwhile is a part of the answer.
    """
    began, used = time.monotonic(), time.thread_time()
    queues = Queues(view, port, hosts)
    if not queues.listeners:
        where = f"{' and '.join(hosts)}, port {port}" if hosts else f"{port}"
        return Audit(port, began, 0.0, 0, (), (f"nothing listens on {where}",))
    inodes = [listener.inode for listener in queues.listeners]
    owners = owners or Owners(proc)
    holders = owners.find(inodes)
    processes = {
        owner.pid: AuditedProcess(proc, owner, holders.descriptors[owner.pid])
        for found in holders.owners.values()
        for owner in found
    }
    names, epolls = syscalls.table(), EpollInstances()
    taken = 0
    while taken < samples and (taken < 2 or time.monotonic() - began < budget):
        if taken:
            time.sleep(pause)
            queues.read()
        for process in processes.values():
            process.sample(taken, names, epolls)
        taken += 1
    for process in processes.values():
        process.find_edges(epolls)
    queues.finish()
    newcomers = owners.find(inodes)
    listeners = tuple(
        _one(listener, queues, holders, newcomers, processes, taken, redact)
        for listener in queues.listeners
    )
    ended = time.monotonic()
    return Audit(
        port=port,
        at=ended,
        seconds=round(ended - began, 3),
        samples=taken,
        listeners=listeners,
        notes=_notes(processes, holders),
        cpu=round(time.thread_time() - used, 4),
    )


def _one(
    listener: Listener,
    queues: Queues,
    holders: Holders,
    newcomers: Holders,
    processes: dict[int, "AuditedProcess"],
    samples: int,
    redact: bool,
) -> ListenerAudit:
    """What the samples come to for one listener."""
    inode = listener.inode
    found = [processes[owner.pid] for owner in holders.owners[inode]]
    there = [process for process in found if not process.ended]
    unreadable = [
        f"process {hidden.pid} `{hidden.name}` may hold it too and cannot be read"
        for hidden in relatives(holders, listener)
    ]
    came = [
        f"process {owner.pid} `{owner.comm}` came to hold it during the audit"
        for owner in newcomers.owners[inode]
        if owner.pid not in processes
    ]
    gaps = [*unreadable, *(gap for process in there for gap in process.gaps), *came]
    waited = set().union(*(process.waited.get(inode, set()) for process in there))
    axis, queue_why = queues.axis(listener)
    threads = tuple(thread for process in there for thread in process.threads(inode, samples))
    seen = ListenerSeen(
        owners=tuple(process.owner for process in there),
        threads=tuple(thread._replace(name="") for thread in threads) if redact else threads,
        queue=axis,
        queue_why=queue_why,
        waited=len(waited),
        samples=samples,
        edge=any(inode in process.edges for process in there),
        gaps=tuple(gaps),
        nobody=_why_nobody(bool(found), len(holders.unreadable)),
    )
    finding, why = conclude(seen)
    if inode in queues.closed:
        finding, why = Finding.UNKNOWN, "the listener was closed during the audit"
    return ListenerAudit(
        listener=listener,
        owners=seen.owners,
        threads=threads,
        queue=axis,
        queue_why=queue_why,
        waited=seen.waited,
        finding=finding,
        why=why,
        hidden=(*unreadable, *came),
        head_queued_for=queues.head_queued_for(listener),
    )


def _why_nobody(ended: bool, unreadable: int) -> str:
    if ended:
        return "the process that held it ended during the audit"
    if unreadable:
        return f"no process in sight holds it, but {unreadable} could not be read"
    return "no process in sight holds it; the process namespace may not be shared"


def _notes(processes: dict[int, "AuditedProcess"], holders: Holders) -> tuple[str, ...]:
    notes = [
        f"process {process.owner.pid} `{process.owner.comm}` ended during the audit"
        for process in processes.values()
        if process.ended
    ]
    # Whoever has us look, the sidecar, keeps itself private: it is no gap.
    if unreadable := [hidden for hidden in holders.unreadable if hidden.pid != os.getppid()]:
        first = ", ".join(f"{hidden.pid} `{hidden.name}`" for hidden in unreadable[:5])
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        notes.append(f"processes whose descriptors cannot be read: {first}{more}")
    return tuple(notes)


class AuditedProcess:
    """An owner while it is watched, and what its threads did about its listeners."""

    def __init__(self, proc: str, owner: Owner, files: Descriptors) -> None:
        self._proc = proc
        self.owner = owner
        self._files = files
        self.ended = False
        self.gaps: list[str] = []
        """Why an acceptor may be there that does not show."""
        self.waited: dict[int, set[int]] = {}
        """By inode, the samples in which some thread waited."""
        self.edges: set[int] = set()
        """The listeners that an epoll instance of it watches edge-triggered."""
        self._moments: dict[tuple[int, int], dict[int, list[ThreadSample]]] = {}
        """By thread id and start time, then by inode."""
        self._last_seen: dict[tuple[int, int], int] = {}

    def sample(self, sample: int, names: dict[int, str] | None, epolls: EpollInstances) -> None:
        """Look at every thread once. Who is gone, or another by its number, has ended."""
        if self.ended or not self._alive():
            self.ended = True
            return
        pid, inodes = self.owner.pid, frozenset(self._files.sockets)
        try:
            with ProcessView(self._proc, pid, self._files, inodes, epolls) as sight:
                seen, total = read_threads(self._proc, pid, names, MAX_THREADS)
                for reading in seen:
                    thread = (reading.tid, reading.stat.start_time)
                    self._last_seen[thread] = sample
                    moments = self._moments.setdefault(thread, {})
                    for inode in inodes:
                        decision = decide(reading, sight, inode)
                        moments.setdefault(inode, []).append(ThreadSample(reading, decision))
                        if decision.decided is ThreadState.WAITING:
                            self.waited.setdefault(inode, set()).add(sample)
                self._gap(sight.ring())
                if total > MAX_THREADS:
                    self._gap(f"of its {total} threads {MAX_THREADS} were looked at")
        except Gone:
            self.ended = not self._alive()

    def find_edges(self, epolls: EpollInstances) -> None:
        """Once is enough: what an epoll instance watches edge-triggered it watches for good."""
        if self.ended:
            return
        inodes = frozenset(self._files.sockets)
        with (
            contextlib.suppress(*Gone),
            ProcessView(self._proc, self.owner.pid, self._files, inodes, epolls) as sight,
        ):
            self.edges = sight.edges()

    def threads(self, inode: int, samples: int) -> list[ThreadSeen]:
        """What each thread did about a listener, but for those that came, did not wait and went."""
        seen = []
        for thread, moments in self._moments.items():
            gone = self._last_seen[thread] < samples - 1
            merged = merge(self.owner.pid, moments[inode], gone=gone)
            if not gone or merged.waited:
                seen.append(merged)
        return seen

    def _alive(self) -> bool:
        return alive(self._proc, self.owner.pid, self.owner.start_time)

    def _gap(self, why: str) -> None:
        said = f"process {self.owner.pid} `{self.owner.comm}`: {why}"
        if why and said not in self.gaps:
            self.gaps.append(said)
