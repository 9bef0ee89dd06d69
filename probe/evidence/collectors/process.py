"""A process as the kernel describes it: state, age, memory, descriptors against their limit,
and which container it belongs to. Nothing of its memory, environment or arguments is read.
"""

import os
import re
import time
from collections import Counter

from probe.evidence.proc.files import Unavailable, read, reason
from probe.evidence.proc.tasks import TICK, link, parse_status, stat
from probe.evidence.records.facts import Container, ProcessFacts, ProcessState

KINDS_LIMIT = 20_000
"""Descriptors whose kind is looked at: 3 to 5 us each."""

STATES = {
    "R": ProcessState.RUNNING,
    "S": ProcessState.SLEEPING,
    "D": ProcessState.UNINTERRUPTIBLE,
    "T": ProcessState.STOPPED,
    "t": ProcessState.TRACED,
    "Z": ProcessState.ZOMBIE,
    "X": ProcessState.DEAD,
    "I": ProcessState.IDLE,
}

CONTAINER = re.compile(rb"/pods/([^/]+)/containers/([^/ ]+)/[^/ ]+$")
"""kubelet's file behind a container's termination log, as its bind mount shows it."""

CONTAINER_ID = re.compile(rb"([0-9a-f]{64})(?:\.scope)?$", re.MULTILINE)


def facts(pid: int, start_time: int) -> ProcessFacts:
    """All that is known of a process. Raises Unavailable when it has gone, or was replaced."""
    try:
        seen = stat("/proc", pid)
    except OSError as error:
        raise Unavailable(f"it has gone: {reason(error)}") from error
    if seen.start_time != start_time:
        raise Unavailable("it has gone, and another process has its number now")
    status = parse_status(read(f"/proc/{pid}/status"))
    notes: list[str] = []
    descriptors, kinds = count_descriptors(pid, notes)
    return ProcessFacts(
        pid=pid,
        comm=seen.name,
        state=STATES.get(seen.state, ProcessState.OTHER),
        age=round(time.clock_gettime(time.CLOCK_BOOTTIME) - start_time * TICK, 1),
        threads=int(status[b"Threads"][0]),
        resident=int(status.get(b"VmRSS", [b"0"])[0]) * 1024,
        descriptors=descriptors,
        descriptor_limit=descriptor_limit(pid, notes),
        kinds=kinds,
        container=container(pid, notes),
        notes=tuple(notes),
    )


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


def container(pid: int, notes: list[str]) -> Container:
    """The container's name and pod from its termination log's mount, its id from its cgroup."""
    found = Container()
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
