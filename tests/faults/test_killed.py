"""SIGKILL in every phase of a sidecar's work, and a restart: the verdict, the files, the queue."""

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from probe.evidence.store import RECORD, REPORT, parse_id
from probe.kernel import open_view
from probe.sidecar import recording
from tests.faults.harness import App, Sidecar, application, sidecar
from tests.faults.test_faults import HEALTHY, STALLED
from tests.support import until

pytestmark = pytest.mark.slow

SWIFT = (
    *("--interval", "250ms", "--stalled-for", "1s", "--live-after", "2s"),
    *("--evidence-cooldown", "0s"),
)


class Call(NamedTuple):
    """Where it is killed: see killed.py. `broken`: the application accepts nothing by then."""

    call: str
    part: str
    broken: bool = True


CALLS = {
    "in a sample": Call("socket.send", "sockdiag.py"),
    "before it connects": Call("socket.connect_ex", "attempt.py"),
    "as it records": Call("FileIO.write", "recording.py"),
    "as a capture begins": Call("subprocess.Popen", "capture.child"),
    "before the report is written": Call("open", REPORT),
    "between the files of an incident": Call("open", RECORD),
    "before the incident has its name": Call("os.rename", "-accept_queue_stalled"),
    "before it writes what has accepted": Call("open", "accepted.new", broken=False),
    "before what has accepted has its name": Call("os.rename", "accepted.new", broken=False),
}


def waits(app: App, probe: Sidecar, folder: Path) -> bool:
    """Its connection is in the queue."""
    del probe, folder
    return queued(app.port) > 0


def captures(app: App, probe: Sidecar, folder: Path) -> bool:
    """The child of a capture is at work."""
    del app
    return any(folder.glob(".*")) and bool(children(probe.process.pid))


SIGHTS: dict[str, Callable[[App, Sidecar, Path], bool]] = {
    "while its connection waits": waits,
    "while a capture is made": captures,
}


@pytest.mark.parametrize("phase", [*CALLS, *SIGHTS])
def test_killed_and_restarted(phase: str, tmp_path: Path) -> None:
    with application("--backlog", "16") as app:
        killed_and_restarted(app, phase, tmp_path, *SWIFT)


def killed_and_restarted(app: App, phase: str, folder: Path, *options: str) -> float:
    """From a healthy application to a healthy application, with all that is promised between.

    Returns the seconds from the restart, or from the fault if that comes later, to the verdict.
    """
    evidence = folder / "evidence"
    files = ("--evidence-dir", str(evidence), "--record", str(folder / "recording"))
    every = ("--port", str(app.port), *files, *options)
    orphans = killed(app, phase, folder, every)
    before = queued(app.port)
    require_whole(folder)
    unfinished = {*evidence.glob(".*"), *evidence.glob("*.new")}
    with sidecar(*every) as probe:
        if not breaks(phase):
            probe.until(20, **HEALTHY)
            app.tell("accept off")
        began = time.monotonic()
        probe.until(20, **STALLED)
        took = time.monotonic() - began
        probe.until(40, reason=STALLED["reason"], live=False)
        assert queued(app.port) <= before + 1
        app.tell("accept on")
        probe.until(20, **HEALTHY)
        require_whole(folder)
        assert not unfinished.intersection(evidence.iterdir()), "what the killed one left"
    until(lambda: not any(map(runs, orphans)), "the end of the children of the killed one")
    return took


def killed(app: App, phase: str, folder: Path, options: Sequence[str]) -> list[int]:
    """Start a sidecar, break the application where that belongs to the phase, and see it killed.

    Returns the children that it had by then, where that is known.
    """
    evidence, armed = folder / "evidence", folder / "armed"
    call = CALLS.get(phase)
    wrapper = [] if call is None else [sys.executable, "-m", "tests.faults.killed", str(armed)]
    left: list[int] = []
    if call is not None:
        wrapper += call[:2]
        if not call.broken:
            armed.touch()
    with sidecar(*options, wrapper=wrapper) as probe:
        if breaks(phase):
            probe.until(20, **HEALTHY)
            until((evidence / "accepted.json").exists, "what has accepted")
            app.tell("accept off")
            armed.touch()
        if call is None:
            until(lambda: SIGHTS[phase](app, probe, evidence), phase)
            left = children(probe.process.pid)
            probe.process.kill()
        assert probe.process.wait(30) == -signal.SIGKILL
    armed.unlink()
    return left


def breaks(phase: str) -> bool:
    """Whether the application is broken when the sidecar is killed."""
    return phase in SIGHTS or CALLS[phase].broken


def queued(port: int) -> int:
    with closing(open_view()) as view:
        return sum(listener.length for listener in view.listeners(port))


def children(pid: int) -> list[int]:
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for each in lists for child in each.read_text().split()]


def runs(pid: int) -> bool:
    """Whether it has not ended; who would reap it may be long in doing so."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def require_whole(folder: Path) -> None:
    """Every file that has its final name is all there."""
    for incident in (folder / "evidence").iterdir():
        if incident.suffix == ".json":
            assert json.loads(incident.read_text())["cookies"]
        elif parse_id(incident.name):
            assert (incident / REPORT).read_text().endswith("\n")
            assert json.loads((incident / RECORD).read_text())["id"] == incident.name
    for _ in recording.read(folder / "recording")[1]:
        pass
