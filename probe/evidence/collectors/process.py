"""A process as the kernel describes it: state, age, memory, descriptors against their limit,
and which container it belongs to. Nothing of its memory, environment or arguments is read.

State, memory, and whether it is still the same process are told by psutil. Not so its name, which
psutil completes from the arguments; nor the number of its threads, for which psutil takes what a
hostile name says (as for uids and gids); nor the limit of descriptors, which others see in a file.
"""

import os
import re
import time
from collections import Counter

import psutil

from probe.evidence.proc.files import Unavailable, read, reason
from probe.evidence.proc.tasks import TICK, Gone, link, numbers, stat
from probe.evidence.records.facts import ContainerName, ProcessFacts, ProcessState

KINDS_LIMIT = 20_000
"""Descriptors whose kind is looked at: 3 to 5 us each."""

STATES = {
    psutil.STATUS_RUNNING: ProcessState.RUNNING,
    psutil.STATUS_SLEEPING: ProcessState.SLEEPING,
    psutil.STATUS_DISK_SLEEP: ProcessState.UNINTERRUPTIBLE,
    psutil.STATUS_STOPPED: ProcessState.STOPPED,
    psutil.STATUS_TRACING_STOP: ProcessState.TRACED,
    psutil.STATUS_ZOMBIE: ProcessState.ZOMBIE,
    psutil.STATUS_DEAD: ProcessState.DEAD,
    psutil.STATUS_IDLE: ProcessState.IDLE,
}

CONTAINER = re.compile(rb"/pods/([^/]+)/containers/([^/ ]+)/[^/ ]+$")
"""kubelet's file behind a container's termination log, as its bind mount shows it."""

CONTAINER_ID = re.compile(rb"([0-9a-f]{64})(?:\.scope)?$", re.MULTILINE)


def facts(pid: int, start_time: int) -> ProcessFacts:
    """All that is known of a process. Raises Unavailable when it has gone, or was replaced."""
    try:
        process = psutil.Process(pid)
        seen = stat("/proc", pid)
        if seen.start_time != start_time:
            raise Unavailable("it has gone, and another process has its number now")
        state, memory = process.status(), process.memory_info()
        threads = len(numbers(f"/proc/{pid}/task"))
        notes: list[str] = []
        descriptors, kinds = count_descriptors(pid, notes)
        found = ProcessFacts(
            pid=pid,
            comm=seen.name,
            state=STATES.get(state, ProcessState.OTHER),
            age=round(time.clock_gettime(time.CLOCK_BOOTTIME) - start_time * TICK, 1),
            threads=threads,
            resident=memory.rss,
            descriptors=descriptors,
            descriptor_limit=descriptor_limit(pid, notes),
            kinds=kinds,
            container=container(pid, notes),
            notes=tuple(notes),
        )
    except (psutil.NoSuchProcess, *Gone):
        raise Unavailable("it has gone") from None
    except (psutil.AccessDenied, PermissionError):
        raise Unavailable("it may not be looked at") from None
    if not process.is_running():
        raise Unavailable("it went while it was looked at")
    return found


def count_descriptors(pid: int, notes: list[str]) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    """How many descriptors are open, and of which kinds.

    Since Linux 6.2 the size of /proc/PID/fd is their number, for everyone; their kinds are shown
    to the same user only.
    """
    directory = f"/proc/{pid}/fd"
    counted: int | None = None
    kinds: Counter[str] = Counter()
    try:
        counted = os.stat(directory).st_size or None  # noqa: PTH116 - no pathlib in the child
        names = os.listdir(directory)  # noqa: PTH208
        seen = (kind(link(f"{directory}/{name}")) for name in names[:KINDS_LIMIT])
        kinds = Counter(filter(None, seen))
        counted = len(names)
    except OSError as error:
        notes.append(f"its descriptors cannot be looked at: {reason(error)}")
    return counted, tuple(kinds.most_common())


def kind(target: str) -> str:
    """What a descriptor is, by its link in /proc; "" when it is closed by now. No path is kept."""
    head = target.partition(":")[0]
    if target.startswith("/"):
        return "file"
    if head in ("socket", "pipe", ""):
        return head
    return "epoll" if target == "anon_inode:[eventpoll]" else "other"


def descriptor_limit(pid: int, notes: list[str]) -> int | None:
    """RLIMIT_NOFILE's soft value, which makes accept() fail with EMFILE; None when unlimited."""
    try:
        for line in read(f"/proc/{pid}/limits").split(b"\n"):
            if line.startswith(b"Max open files"):
                soft = line.split()[3]
                return int(soft) if soft.isdigit() else None
    except Unavailable as error:
        notes.append(str(error))
    return None


def container(pid: int, notes: list[str]) -> ContainerName:
    """The container's name and pod from its termination log's mount, its id from its cgroup."""
    found = ContainerName()
    try:
        for line in read(f"/proc/{pid}/mountinfo", 1 << 20).split(b"\n"):
            # The fourth field is the mount's root: its source within the node's file system.
            if mount := CONTAINER.search(line.split(b" ", 4)[3] if line else b""):
                found = found._replace(pod=mount[1].decode(), name=mount[2].decode())
                break
        if ids := CONTAINER_ID.search(read(f"/proc/{pid}/cgroup")):
            found = found._replace(id=ids[1].decode())
    except Unavailable as error:
        notes.append(str(error))
    return found
