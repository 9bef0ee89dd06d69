"""A share of one core: what a pod's CPU limit is to the processes in it.

Of a cgroup, of version 2 or 1, where one can be made; otherwise the lowest priority, which only
counts beside others that want the core.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from tests.support import until

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000
"""Microseconds; Kubernetes sets the same."""

_numbers = count(1)


@contextmanager
def share(cores: float) -> Iterator[tuple[str, ...]]:
    """The beginning of a command that is to have this much of a core, with all it starts."""
    quota = round(cores * PERIOD)
    if (ROOT / "cgroup.controllers").exists():
        parent, limits = ROOT, {"cpu.max": f"{quota} {PERIOD}"}
    else:
        parent = ROOT / "cpu"
        limits = {"cpu.cfs_period_us": f"{PERIOD}", "cpu.cfs_quota_us": f"{quota}"}
    folder = parent / f"accept-probe-{os.getpid()}-{next(_numbers)}"
    try:
        folder.mkdir()
    except OSError:
        yield ("nice", "-n", "19")
        return
    try:
        for name, limit in limits.items():
            (folder / name).write_text(limit)
    except OSError:
        folder.rmdir()
        yield ("nice", "-n", "19")
        return
    try:
        yield ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(folder / "cgroup.procs"))
    finally:
        until(lambda: not (folder / "cgroup.procs").read_text(), "the end of a share's processes")
        folder.rmdir()


def waited(pid: int) -> float:
    """Seconds for which the first thread of a process, of a sidecar its loop, could have run and
    had no core so far (the kernel's Documentation/scheduler/sched-stats.rst).
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
