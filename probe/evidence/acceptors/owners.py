"""Which processes hold a listener: the kernel's socket table has an inode, but no pid.

One look at every descriptor of every process answers that, at 5 to 7 us each, so what was found
is kept and looked at again with one readlink.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

from probe.evidence.proc.tasks import (
    TICK,
    Credentials,
    Gone,
    Stat,
    identity,
    link,
    numbers,
    socket_link,
    stat,
)
from probe.evidence.records.audit import Owner
from probe.model import Listener

EPOLL = "anon_inode:[eventpoll]"
RING = "anon_inode:[io_uring]"
KERNEL_THREAD = 0x200000
"""PF_KTHREAD of include/linux/sched.h: no process, and nothing open."""


class Descriptors(NamedTuple):
    """What a process has open, as far as accepting is concerned.

    `sockets` gives the descriptors of each inode that was asked for.
    """

    total: int
    sockets: dict[int, tuple[int, ...]]
    epolls: tuple[int, ...]
    rings: tuple[int, ...]


class Unreadable(NamedTuple):
    """A process whose descriptors may not be read."""

    pid: int
    name: str
    parent: int
    uid: int


class Holders(NamedTuple):
    """Who holds some sockets: by inode, its owners. `unreadable` could not be read.

    `descriptors` and `parents` are by pid, of owners only.
    """

    owners: dict[int, tuple[Owner, ...]]
    descriptors: dict[int, Descriptors]
    parents: dict[int, int]
    unreadable: tuple[Unreadable, ...]


class Owners:
    """Finds the owners of sockets and remembers who they were, and who was none.

    What changes behind its back is found out: a process that ended, a number that was given anew,
    a socket that was closed, a process that was born. Not found out until `forget`: a process that
    was looked at before and was handed the socket since by another one (SCM_RIGHTS).
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.proc = proc
        self._asked: frozenset[int] = frozenset()
        self._known: dict[int, tuple[int, Descriptors]] = {}

    def forget(self) -> None:
        self._known.clear()

    def find(self, inodes: Iterable[int]) -> Holders:
        """Everyone in sight who holds one of these sockets, each with its descriptors of it."""
        asked = frozenset(inodes)
        if not asked <= self._asked:
            self._asked = asked
            self.forget()
        owners: dict[int, list[Owner]] = {inode: [] for inode in asked}
        descriptors: dict[int, Descriptors] = {}
        parents: dict[int, int] = {}
        unreadable = []
        known, self._known = self._known, {}
        for pid in numbers(self.proc):
            try:
                seen = stat(self.proc, pid)
                if seen.flags & KERNEL_THREAD:
                    continue
                try:
                    files = self._descriptors(pid, seen, known)
                except PermissionError:
                    uid = identity(self.proc, pid).uids[1]
                    unreadable.append(Unreadable(pid, seen.name, seen.parent, uid))
                    continue
                self._known[pid] = (seen.start_time, files)
                if not (asked & files.sockets.keys()):
                    continue
                who = identity(self.proc, pid)
            except Gone:
                continue
            descriptors[pid], parents[pid] = files, seen.parent
            for inode in asked & files.sockets.keys():
                owners[inode].append(_owner(pid, seen, who, files.sockets[inode]))
        return Holders(
            owners={inode: tuple(found) for inode, found in owners.items()},
            descriptors=descriptors,
            parents=parents,
            unreadable=tuple(unreadable),
        )

    def _descriptors(
        self, pid: int, seen: Stat, known: dict[int, tuple[int, Descriptors]]
    ) -> Descriptors:
        """What is known of this very process and still holds; otherwise read anew."""
        start_time, files = known.get(pid, (None, None))
        if start_time == seen.start_time and files is not None:
            directory = f"{self.proc}/{pid}/fd"
            if all(
                link(f"{directory}/{fds[0]}") == socket_link(inode)
                for inode, fds in files.sockets.items()
            ):
                return files
        return self._scan(pid, seen)

    def _scan(self, pid: int, seen: Stat) -> Descriptors:
        directory = f"{self.proc}/{pid}/fd"
        fds = numbers(directory)
        if not fds and seen.state == "Z":
            # The first thread has ended and gave its table back; the others may live on with it.
            for tid in numbers(f"{self.proc}/{pid}/task"):
                directory = f"{self.proc}/{pid}/task/{tid}/fd"
                if fds := numbers(directory):
                    break
        wanted = {socket_link(inode): inode for inode in self._asked}
        sockets: dict[int, tuple[int, ...]] = {}
        epolls, rings = [], []
        for fd in fds:
            leads_to = link(f"{directory}/{fd}")
            if leads_to in wanted:
                inode = wanted[leads_to]
                sockets[inode] = (*sockets.get(inode, ()), fd)
            elif leads_to == EPOLL:
                epolls.append(fd)
            elif leads_to == RING:
                rings.append(fd)
        return Descriptors(len(fds), sockets, tuple(epolls), tuple(rings))


def youngest(listeners: Iterable[Listener], age: float, proc: str = "/proc") -> float | None:
    """The age, in seconds, of the youngest process that holds one of these listeners, of those that
    are younger than `age`; None where none is in sight.

    For each older process that is one read of its stat, whatever it has open. The clock of births
    is CLOCK_BOOTTIME (proc_pid_stat(5), starttime).
    """
    wanted = {socket_link(listener.inode) for listener in listeners}
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = None
    for pid in numbers(proc):
        try:
            seen = stat(proc, pid)
            lived = now - seen.start_time * TICK
            if lived > age or seen.flags & KERNEL_THREAD or (found is not None and lived >= found):
                continue
            directory = f"{proc}/{pid}/fd"
            if any(link(f"{directory}/{fd}") in wanted for fd in numbers(directory)):
                found = lived
        except (*Gone, PermissionError):
            continue
    return found


def _owner(pid: int, seen: Stat, who: Credentials, fds: tuple[int, ...]) -> Owner:
    return Owner(
        pid=pid,
        start_time=seen.start_time,
        comm=seen.name,
        uid=who.uids[1],
        ns_pid=who.ns_pid,
        fds=fds,
        parent=seen.parent,
    )


def relatives(holders: Holders, listener: Listener) -> tuple[Unreadable, ...]:
    """The unreadable processes that may well hold this listener too, by inheritance.

    That is the children of its owners, and the parent of an owner where it runs as the user who
    made the socket. Others could have been handed it only on purpose.
    """
    owners = {owner.pid for owner in holders.owners[listener.inode]}
    related: set[int] = {
        hidden.pid
        for hidden in holders.unreadable
        if listener.uid == hidden.uid and any(holders.parents[pid] == hidden.pid for pid in owners)
    }
    grown = True
    while grown:  # to grandchildren, whatever order the pids come in
        found = {
            hidden.pid
            for hidden in holders.unreadable
            if hidden.pid not in related and hidden.parent in owners | related
        }
        related |= found
        grown = bool(found)
    return tuple(hidden for hidden in holders.unreadable if hidden.pid in related)
