"""What several benchmarks measure with."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")

FIGURES = Path(__file__).parents[1] / "docs/figures"
"""Where figures and plots are kept that the documentation shows."""


def cpu_of(command: Sequence[str]) -> float:
    """Run a command; return the CPU seconds, user and system, that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_of_call(call: Callable[[], object], times: int) -> float:
    """Return the CPU seconds of this process that one call takes, on the average of `times`."""
    before = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - before) / times


def cpu_of_process(pid: int) -> float:
    """Return the CPU seconds that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_of(pid: int) -> float:
    """Return the MiB that a process holds in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a Markdown table; the first is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |", flush=True)
        if number == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
