"""Which container a process belongs to, and that container's first process, which its runtime
waits for.

In a pod that shares its process namespace, all containers' processes are in sight, and process 1 is
the pause container's. What a runtime puts into that namespace from outside, a container's first
process and whatever is executed in it later (a probe of kubelet, `kubectl exec`), has no parent
there: 0 in field 4 of proc_pid_stat(5). Whoever loses his parent is given to process 1, whichever
container he is of. So the tree alone does not tell. What does is the mount namespace, of which each
container has one, and which is joined by what is executed in it: the first process is the oldest of
those without a parent in there. (Measured with runc; so are the cgroups, but in a cgroup namespace
their names are relative to who reads them.)
"""

from typing import NamedTuple

from probe.evidence.proc.tasks import Gone, link, numbers, read, stat

PAUSE = 1
"""Process 1 of the namespace. Nobody inside can end it (pid_namespaces(7)), and all end with it."""


class Process(NamedTuple):
    """A process, told from its successors by its start time, in clock ticks since boot."""

    pid: int
    start_time: int
    comm: str

    def __str__(self) -> str:
        return f"process {self.pid} `{self.comm}`"


class UnclearContainer(Exception):
    """Why it cannot be said whose container it is, or which its first process is."""


def mounts(pid: int | str, proc: str = "/proc") -> str:
    """The container of a process, by its mount namespace; "" for who has gone. Who runs as another
    user is a PermissionError.
    """
    return link(f"{proc}/{pid}/ns/mnt")


def container_of(pid: int, proc: str = "/proc") -> str:
    """The container that a process was born in: it may have moved to a mount namespace of its own,
    but who has brought it here has not.
    """
    above = pid
    while (parent := stat(proc, above).parent) not in (0, PAUSE):
        above = parent
    return mounts(above, proc)


def first_process(container: str, member: int, proc: str = "/proc") -> Process:
    """The first process of a container, of which `member` is one. Raises UnclearContainer."""
    oldest: list[Process] = []
    for pid in sorted(numbers(proc)):
        try:
            seen = stat(proc, pid)
            if seen.parent:
                continue
            found = Process(pid, seen.start_time, seen.name)
            if not _is_in(container, found, member, proc):
                continue
        except Gone:
            continue
        if oldest and found.start_time > oldest[0].start_time:
            continue
        if oldest and found.start_time < oldest[0].start_time:
            oldest.clear()
        oldest.append(found)
    if not oldest:
        raise UnclearContainer("no process in sight is the first of its container")
    if len(oldest) > 1:
        both = " and ".join(map(str, oldest))
        raise UnclearContainer(
            f"{both} started at the same moment: which is the first cannot be told"
        )
    if oldest[0].pid == PAUSE:
        raise UnclearContainer(f"{oldest[0]} is process 1, which nobody in its namespace can end")
    return oldest[0]


def _is_in(container: str, process: Process, member: int, proc: str) -> bool:
    try:
        return mounts(process.pid, proc) == container
    except PermissionError:
        # Another user's. Whose cgroup it is in, everyone may read.
        groups = [read(f"{proc}/{pid}/cgroup") for pid in (process.pid, member)]
        if groups[0] == groups[1]:
            raise UnclearContainer(
                f"{process} runs as another user, and may be the first"
            ) from None
        return False
