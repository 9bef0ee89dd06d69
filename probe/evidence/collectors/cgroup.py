"""The application's container as its cgroup (v2) describes it: throttling, memory, pressure.

The container sees its own cgroup at /sys/fs/cgroup, so it is read through /proc/PID/root, where
every step is taken without following a symbolic link, since the container may have put one there.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress

from probe.evidence.proc.files import Unavailable, read, reason
from probe.evidence.records.facts import CgroupFacts, Pressure

LIMIT = 1 << 14


def facts(pid: int) -> CgroupFacts:
    """The cgroup of a process's container. Raises Unavailable (another user; cgroup v1)."""
    directory = enter(pid)
    try:
        return describe(directory)
    finally:
        os.close(directory)


def oom_kills(pid: int) -> int | None:
    """Processes of its container that were killed for want of memory so far; None: not known."""
    try:
        directory = enter(pid)
    except Unavailable:
        return None
    try:
        return table(text(directory, "memory.events")).get("oom_kill")
    finally:
        os.close(directory)


def enter(pid: int) -> int:
    """A descriptor of the process's cgroup directory, as its own mounts show it.

    Where it shares our cgroup namespace (no container of its own: a service on a node), its mount
    shows the top of the tree and its own path is below. Raises Unavailable.
    """
    try:
        theirs, ours = (os.readlink(f"/proc/{who}/ns/cgroup") for who in (pid, "self"))  # noqa: PTH115
        path = ["sys", "fs", "cgroup"]
        if theirs == ours:
            path += own_path(pid).split("/")
        directory = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY)
        for step in filter(None, path):
            above = directory
            try:
                flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
                directory = os.open(step, flags, dir_fd=above)
            finally:
                os.close(above)
    except OSError as error:
        raise Unavailable(f"its /sys/fs/cgroup cannot be entered: {reason(error)}") from error
    return directory


def own_path(pid: int) -> str:
    """Its path in the v2 hierarchy, as seen from our cgroup namespace."""
    for line in read(f"/proc/{pid}/cgroup").decode(errors="replace").split("\n"):
        if line.startswith("0::"):
            return line[3:].removesuffix(" (deleted)")
    return ""


def describe(directory: int) -> CgroupFacts:
    """What the files of a cgroup directory say. Raises Unavailable where it is none of v2."""
    if not text(directory, "cgroup.controllers") and not text(directory, "cgroup.procs"):
        raise Unavailable("its /sys/fs/cgroup is not a cgroup of version 2")
    cpu = table(text(directory, "cpu.stat"))
    frozen = table(text(directory, "cgroup.events")).get("frozen")
    resources = ("cpu", "memory", "io")
    return CgroupFacts(
        cpu_seconds=seconds(cpu.get("usage_usec")),
        periods=cpu.get("nr_periods"),
        throttled=cpu.get("nr_throttled"),
        throttled_seconds=seconds(cpu.get("throttled_usec")),
        memory=number(text(directory, "memory.current")),
        memory_limit=number(text(directory, "memory.max")),
        memory_events=tuple(table(text(directory, "memory.events")).items()),
        pids=number(text(directory, "pids.current")),
        pids_limit=number(text(directory, "pids.max")),
        frozen=None if frozen is None else bool(frozen),
        pressure=pressures((name, text(directory, f"{name}.pressure")) for name in resources),
    )


def node_pressure() -> tuple[Pressure, ...]:
    """The same pressure for the whole node; () where the kernel keeps none."""
    found = []
    for name in ("cpu", "memory", "io"):
        with suppress(Unavailable):
            found.append((name, read(f"/proc/pressure/{name}", LIMIT).decode()))
    return pressures(found)


def text(directory: int, name: str) -> str:
    """A file of the cgroup, "" where there is none: which there are depends on its controllers."""
    try:
        return read(name, LIMIT, dir_fd=directory).decode(errors="replace")
    except Unavailable:
        return ""


def table(content: str) -> dict[str, int]:
    """Lines of "name number"."""
    rows = (line.split() for line in content.split("\n"))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def number(content: str) -> int | None:
    """A file that holds one number; None for "max" and for no file."""
    stripped = content.strip()
    return int(stripped) if stripped.isdecimal() else None


def seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / 1e6


def pressures(files: Iterable[tuple[str, str]]) -> tuple[Pressure, ...]:
    """The "some" line of each pressure file."""
    return tuple(
        Pressure(resource, *(float(average) for average in found.groups()))
        for resource, content in files
        if (found := SOME.search(content))
    )


SOME = re.compile(r"^some avg10=(\d+\.\d+) avg60=(\d+\.\d+) avg300=(\d+\.\d+)", re.MULTILINE)
