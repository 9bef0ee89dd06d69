"""Processes and threads as /proc shows them to anyone who shares the pid namespace.

Not by psutil, which has no wchan, system call, fdinfo or memory: a process of 2,000 threads must
cost microseconds a thread, and the resident sidecar reads some of this every second. Every function
takes the root of /proc. What is gone is a FileNotFoundError or a ProcessLookupError (`Gone` names
both); what may not be read is a PermissionError.
"""

import os
import time
from typing import NamedTuple

from probe.display import printable

Gone = (FileNotFoundError, ProcessLookupError)
TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds in the unit that /proc counts CPU time in."""
PAGE = 4096


def read(path: str, limit: int = 1 << 16) -> bytes:
    """The file's content, at most about `limit` bytes of it. /proc gives a page at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(fd, limit)
        while len(content) < limit and (more := os.read(fd, limit - len(content))):
            content += more
        return content
    finally:
        os.close(fd)


def read_once(path: str) -> bytes:
    """A file that is shorter than a page, in one read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, PAGE)
    finally:
        os.close(fd)


def text(name: bytes) -> str:
    """A name that the application chose (comm): whatever bytes it holds, printable."""
    return printable(name.decode("utf-8", "backslashreplace"))


class Stat(NamedTuple):
    """What we use of /proc/PID/stat; `cpu` is seconds of CPU time, `start_time` clock ticks."""

    name: str
    state: str
    parent: int
    flags: int
    cpu: float
    start_time: int


def parse_stat(line: bytes) -> Stat:
    """The name stands in parentheses and may hold any of them itself, so the last one counts."""
    name, rest = line[line.index(b"(") + 1 :].rsplit(b")", 1)
    fields = rest.split(None, 21)
    return Stat(
        name=text(name),
        state=fields[0].decode(),
        parent=int(fields[1]),
        flags=int(fields[6]),
        cpu=(int(fields[11]) + int(fields[12])) * TICK,
        start_time=int(fields[19]),
    )


def started(start_time: int) -> float:
    """A start time on the monotonic clock, in seconds, to a clock tick (10 ms)."""
    suspended = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return start_time * TICK - suspended


def ended(proc: str, pid: int, start_time: int) -> tuple[int | None, str]:
    """The wait status of a process that has ended, or None and why it cannot be known.

    Field 52 of /proc/PID/stat (fs/proc/array.c, do_task_stat), for as long as its parent has not
    waited for it; to those who may not look into it the kernel shows 0, as if all had been well.
    """
    try:
        line = read_once(f"{proc}/{pid}/stat")
        if parse_stat(line).start_time != start_time:
            return None, "another process has its number now"
        link(f"{proc}/{pid}/exe")  # a zombie has none; who may not look is told so
        return int(line.rsplit(b")", 1)[1].split()[49]), ""
    except Gone:
        return None, "nothing of it is left but what its parent knows"
    except PermissionError:
        return None, "it is another user's"


def stat(proc: str, pid: int) -> Stat:
    return parse_stat(read_once(f"{proc}/{pid}/stat"))


def alive(proc: str, pid: int, start_time: int, tid: int | None = None) -> bool:
    """Whether that very process (thread) is still there, and not another with its number.

    A zombie is not: it holds no descriptor and runs no code.
    """
    path = f"{proc}/{pid}/stat" if tid is None else f"{proc}/{pid}/task/{tid}/stat"
    try:
        now = parse_stat(read_once(path))
        if now.start_time != start_time:
            return False
        if tid is None and now.state in "ZX":  # the first thread may end before the others
            return bool(living_threads(proc, pid))
    except Gone:
        return False
    return now.state not in "ZX"


def living_threads(proc: str, pid: int) -> list[int]:
    """The threads of a process but those that are zombies."""
    living = []
    for tid in numbers(f"{proc}/{pid}/task"):
        try:
            if parse_stat(read_once(f"{proc}/{pid}/task/{tid}/stat")).state not in "ZX":
                living.append(tid)
        except Gone:
            continue
    return living


def parse_status(content: bytes) -> dict[bytes, list[bytes]]:
    """The lines of a `status` of /proc by their names, the words of each.

    Whatever a process calls itself stays in its own line: of a name, the kernel writes a newline
    in two characters (fs/proc/array.c, proc_task_name). All else it may hold, `Uid:` and a tab too.
    """
    lines = (line.partition(b":") for line in content.split(b"\n"))
    return {name: value.split() for name, _, value in lines}


class Credentials(NamedTuple):
    """Who a process is, from /proc/PID/status; ids as real, effective, saved, file system.

    `permitted` and `effective` are its sets of capabilities, a bit each.
    """

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    ns_pid: int
    permitted: int
    effective: int


def identity(proc: str, pid: int | str) -> Credentials:
    """`pid` may be "self"."""
    fields = parse_status(read(f"{proc}/{pid}/status"))
    uids, gids = (tuple(map(int, fields[key])) for key in (b"Uid", b"Gid"))
    namespaced = fields.get(b"NSpid") or fields[b"Pid"]
    return Credentials(
        uids=(uids[0], uids[1], uids[2], uids[3]),
        gids=(gids[0], gids[1], gids[2], gids[3]),
        ns_pid=int(namespaced[-1]),
        permitted=int(fields[b"CapPrm"][0], 16),
        effective=int(fields[b"CapEff"][0], 16),
    )


def numbers(directory: str) -> list[int]:
    """The entries of a directory that are numbers: pids of /proc, threads, descriptors."""
    with os.scandir(directory) as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def link(path: str) -> str:
    """Where a descriptor leads, "" when it is closed by now. PermissionError passes through."""
    try:
        return os.readlink(path)  # noqa: PTH115 - a Path would cost more than the system call
    except Gone:
        return ""


def pid_namespace(pid: int | str = "self", proc: str = "/proc") -> str:
    """The name of a process's own pid namespace: `pid:[4026531836]`."""
    return link(f"{proc}/{pid}/ns/pid")


def socket_link(inode: int) -> str:
    return f"socket:[{inode}]"
