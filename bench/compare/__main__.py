"""`python -m bench.compare`: measure, and write a page, its figures and its plots.

It takes root, or `unshare -Urn`, for network namespaces. `--from FILE` writes the page and the
plots again, out of the figures of an earlier run.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from bench.compare.cells import Cell, rounds
from bench.compare.faults import FAULTS
from bench.compare.probers import PROBERS
from bench.compare.report import Results, Run, brief, page, plot_of_found, plot_of_queue
from bench.compare.servers import SERVERS, Missing


def main(words: Sequence[str] | None = None) -> None:
    """Measure what the words on the command line say, or everything."""
    options = parsed(words)
    if options.read:
        write(read(options.read), options.out)
        return
    missing = missing_servers(options.servers) | {
        name: PROBERS[name].missing for name in options.probers if PROBERS[name].missing
    }
    for name, why in missing.items():
        print(f"left out: {name}: {why}", flush=True)
    pairs = [
        (server, fault)
        for server in options.servers
        if server not in missing
        for fault in SERVERS[server].faults
        if fault in options.faults
    ]
    blocks = [(*pair, run) for run, pair in product(range(options.runs), pairs)]
    probers = [name for name in options.probers if name not in missing]
    if not blocks or not probers:
        raise SystemExit("nothing is left to measure")
    begun = time.monotonic()
    cells: list[Cell] = []
    for done, measured in enumerate(rounds(blocks, probers, options.seconds, options.at_once), 1):
        cells += measured
        failed = sum(bool(cell.error) for cell in measured)
        note = f", {failed} of which could not be measured" if failed else ""
        total = -(-len(blocks) // options.at_once)
        print(f"round {done} of {total}: {len(measured)} cells{note}", flush=True)
    given = sys.argv[1:] if words is None else words
    command = shlex.join(("python", "-m", "bench.compare", *given)) if given else "make compare"
    facts = about(options, missing, {server for server, _ in pairs}, probers)
    minutes = {"minutes": (time.monotonic() - begun) / 60}
    write(Run(command, facts | minutes, cells), options.out)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """The options; each mistake names what there is."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    for name, known in (("servers", SERVERS), ("faults", FAULTS), ("probers", PROBERS)):
        parser.add_argument(
            f"--{name}", type=one_of(known), default=list(known), help="a list with ';' between"
        )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="that a fault lasts")
    parser.add_argument("--at-once", type=int, default=4, help="faults beside each other")
    parser.add_argument("--out", type=Path, default=Path("build/compare"), help="a directory")
    parser.add_argument("--from", dest="read", type=Path, help="figures of an earlier run")
    return parser.parse_args(words)


def one_of(known: Iterable[str]) -> Any:
    """Names out of those that are known, as argparse takes a type."""

    def names(text: str) -> list[str]:
        given = [name.strip() for name in text.split(";")]
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are: {'; '.join(known)}")
        return given

    return names


def missing_servers(names: Sequence[str]) -> dict[str, str]:
    """Those that are not installed here, and what of them is not."""
    missing = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="compare-") as place:
            try:
                SERVERS[name].command(Path(place))
            except Missing as why:
                missing[name] = str(why)
    return missing


def about(
    options: argparse.Namespace,
    missing: Mapping[str, str],
    servers: Iterable[str],
    probers: Iterable[str],
) -> dict[str, Any]:
    """What the reader of the figures must know."""
    cores = len(os.sched_getaffinity(0))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"Linux {platform.release().partition('-')[0]}, {cores} cores,"
        f" Python {platform.python_version()}, load average {os.getloadavg()[2]:.0f}",
        "cores": cores,
        "runs": options.runs,
        "seconds": round(options.seconds),
        "at_once": options.at_once,
        "missing": dict(missing),
        "servers": {name: version(SERVERS[name].version) for name in servers},
        "versions": {
            name: version(PROBERS[name].version) for name in probers if PROBERS[name].version
        },
    }


def version(command: Sequence[str]) -> str:
    """The first line of what it says, shortened."""
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    line = (told.stdout.strip() or told.stderr.strip() or "unknown").splitlines()[0]
    return line.removeprefix("This is ").partition(" (")[0][:60]


def read(figures: Path) -> Run:
    """What a run has kept."""
    kept = json.loads(figures.read_text())
    return Run(kept["command"], kept["about"], [Cell(**cell) for cell in kept["cells"]])


def kept(run: Run) -> str:
    """The same as JSON, a cell in each line, of which what is not so by default."""
    cells = []
    for cell in run.cells:
        fields = cell._asdict().items()
        said = {
            name: round(value, 2) if isinstance(value, float) else value
            for name, value in fields
            if value != Cell._field_defaults.get(name, ...)
        }
        cells.append(json.dumps(said, separators=(",", ":")))
    whole = json.dumps({"command": run.command, "about": run.about, "cells": []}, indent=1)
    return whole.replace('"cells": []', '"cells": [\n' + ",\n".join(cells) + "\n]") + "\n"


def write(run: Run, out: Path) -> None:
    """Write the page, the figures and the plots; print the table."""
    (out / "figures").mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(kept(run))
    run = read(out / "comparison.json")
    results = Results(run.cells)
    (out / "comparison.md").write_text(page(run))
    seconds = float(run.about["seconds"])
    (out / "figures/comparison-found.svg").write_text(plot_of_found(results, seconds))
    if queue := plot_of_queue(results, seconds):
        (out / "figures/comparison-queue.svg").write_text(queue)
    print(brief(results))
    print(f"\nThe whole of it: {out / 'comparison.md'}, and its figures beside it.")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing is written")
