"""CPU time of `probe check`, beside a Python that does nothing.

The commands take turns, so that what else the machine does falls on all of them alike.
"""

import sys
from pathlib import Path

import probe
from bench.measure import cpu_of, median, table
from tests.faults.harness import application, watched

ROUNDS = 60

AS_IN_THE_IMAGE = f"""
import sys
sys.path.insert(0, {str(Path(probe.__file__).parents[1])!r})
from probe.cli import main
sys.exit(main())
"""
"""What image/bundle.py writes, which has probe beside the standard library: run by `python -IS`.
The script that pip writes, which `probe` is here, may import `re` first."""


def main() -> None:
    """Print the median of each, and its ratio to `python -c pass`."""
    script = str(Path(sys.executable).with_name("probe"))
    place = "127.0.0.1:9809"
    with application() as app, watched(app, "--listen", place):
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "python -c 'import asyncio'": (sys.executable, "-c", "import asyncio"),
            "python -c 'import re'": (sys.executable, "-c", "import re"),
            "probe check --port": (script, "check", "--port", str(app.port)),
            f"probe check --sidecar {place}": (script, "check", "--sidecar", place),
            "probe check --sidecar": (script, "check", "--sidecar"),
            "the same in the image": (
                *(sys.executable, "-ISc", AS_IN_THE_IMAGE),
                *("check", "--sidecar"),
            ),
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
