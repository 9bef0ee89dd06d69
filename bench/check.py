"""CPU time of `probe check`, beside a Python that does nothing.

The commands take turns, so that what else the machine does falls on all of them alike.
"""

import sys
from pathlib import Path

from bench.measure import cpu_of, median, table
from tests.faults.harness import application, watched

ROUNDS = 40


def main() -> None:
    """Print the median of each, and its ratio to `python -c pass`."""
    probe = str(Path(sys.executable).with_name("probe"))
    with application() as app, watched(app) as sidecar:
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "python -c 'import asyncio'": (sys.executable, "-c", "import asyncio"),
            "probe check --port": (probe, "check", "--port", str(app.port)),
            "probe check --sidecar": (*(probe, "check", "--sidecar", f"127.0.0.1:{sidecar.port}"),),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                times[name].append(cpu_of(command))
    base = median(times["python -c pass"])
    rows = [("command", "CPU", "ratio")]
    for name, taken in times.items():
        rows.append((name, f"{median(taken) * 1000:.1f} ms", f"{median(taken) / base:.2f}"))
    table(rows)
