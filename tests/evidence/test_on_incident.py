"""The user's own command: run for real, ended for real."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.evidence import on_incident
from probe.evidence.capture.spawn import spawn
from tests.evidence.programs import Program
from tests.faults.harness import application, watched
from tests.support import until


def run(script: str, seconds: float = 10, limit: int = 1 << 20) -> on_incident.Ran:
    return asyncio.run(
        on_incident.run(
            ("sh", "-c", script, "sh", "/evidence/one"),
            variables={"PROBE_INCIDENT_ID": "one"},
            seconds=seconds,
            limit=limit,
        )
    )


def test_its_output_is_kept() -> None:
    ran = run('echo "$PROBE_INCIDENT_ID $1"; echo trouble >&2; read line || echo "no input"')
    assert ran == on_incident.Ran(True, b"one /evidence/one\ntrouble\nno input\n", "done")


def test_it_fails() -> None:
    assert run("echo no; exit 3") == on_incident.Ran(False, b"no\n", "exit code 3")


def test_it_can_not_be_started() -> None:
    ran = asyncio.run(on_incident.run(("/no/such/command",), variables={}, seconds=1))
    assert ran.note == "/no/such/command cannot be started: No such file or directory"
    assert not ran.ok


def test_it_runs_whatever_the_encoding_of_the_locale_lacks() -> None:
    script = (
        "import asyncio, sys\n"
        "from probe.evidence import on_incident\n"
        "assert sys.getfilesystemencoding() != 'utf-8'\n"
        "variables = {'PROBE_INCIDENT_LINE': 'ferm\\u00e9 \\u2026 \\udcff'}\n"
        "command = ('sh', '-c', 'echo \"$PROBE_INCIDENT_LINE\"')\n"
        "ran = asyncio.run(on_incident.run(command, variables=variables, seconds=10))\n"
        "print(ascii(ran.output.decode()), ran.note)\n"
    )
    poor = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **poor}, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("'ferm\\xe9 \\u2026 \\\\udcff\\n' done\n", "")


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM; "])
def test_it_is_late(tmp_path: Path, stubborn: str) -> None:
    """It is ended with all that it started, also what does not listen to SIGTERM."""
    began = time.monotonic()
    child = tmp_path / "child"
    ran = run(f"{stubborn}echo begun; sleep 60 & echo $! > {child}; wait", seconds=0.3)
    assert (ran.ok, ran.output, ran.note) == (False, b"begun\n", "ended after 0.3 s")
    assert time.monotonic() - began < 5
    until(lambda: gone(int(child.read_text())), "the end of its child")


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


TRACE = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0):  # PTRACE_SEIZE
    print("errno", ctypes.get_errno(), flush=True)
else:
    print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_that_somebody_traces_holds_nobody_up() -> None:
    """Its exit status is for the tracer first, and that one takes its time."""

    async def scenario() -> float:
        async with spawn(("sleep", "60"), env=os.environ) as spawned:
            tracer = Program((sys.executable, "-c", TRACE, str(spawned.process.pid)))
            try:
                if await asyncio.to_thread(tracer.line) != "ready":
                    pytest.skip("no right to trace")
                began = time.monotonic()
                os.kill(spawned.process.pid, signal.SIGKILL)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(spawned.wait(), 0.5)
                took = time.monotonic() - began
            finally:
                tracer.end()
            assert await asyncio.wait_for(spawned.wait(), 10) == -signal.SIGKILL
            return took

    assert asyncio.run(scenario()) < 5


def test_orphans_are_reaped_by_process_1() -> None:
    """What the command leaves behind in a session of its own, it leaves to us; we keep nothing."""
    script = """if True:
        import asyncio, os
        from pathlib import Path
        from probe.evidence import on_incident
        from probe.evidence.capture.spawn import reap_orphans

        def children():
            return Path("/proc/1/task/1/children").read_text().split()

        async def main():
            reap_orphans()
            leave = "setsid sleep 1 >&- 2>&- & "
            command = ("sh", "-c", f"{leave * 2} sleep 0.2; exit 3")
            ran = await on_incident.run(command, variables={}, seconds=5)
            print(os.getpid(), ran.note, len(children()))
            for _ in range(100):
                await asyncio.sleep(0.05)
                if not children():
                    break
            print(children())

        asyncio.run(main())
        """
    told = subprocess.run(
        ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if "unshare" in told.stderr:
        pytest.skip(told.stderr.strip())
    assert told.stdout.splitlines() == ["1 exit code 3 2", "[]"]


def test_the_sidecar_runs_it_beside_what_it_saved(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    script = """sh -c 'head -n 1 "$1/report.txt"; cat; echo "$PROBE_INCIDENT_DIR $HOME"' sh"""
    options = ("--evidence-dir", str(folder), "--on-incident", script)
    with application() as app, watched(app, *options) as running:
        app.tell("accept off")
        running.until(20, message=f"{app.port}: --on-incident: done")
        (incident,) = folder.glob("2*")
        output = incident / "on-incident.txt"
        until(lambda: output.exists() and output.read_text().endswith("]\n"), "its output")
    headline, where, end = output.read_text().splitlines()
    assert headline == (incident / "report.txt").read_text().splitlines()[0]
    assert where == f"{incident} {os.environ['HOME']}"
    assert end == "[done]"


def test_the_sidecar_ends_it_when_it_is_late(tmp_path: Path) -> None:
    options = ("--on-incident", "sleep 60", "--on-incident-timeout", "1s")
    with application() as app, watched(app, *options) as running:
        app.tell("accept off")
        late = running.until(20, message=f"{app.port}: --on-incident: ended after 1 s")
    assert late["level"] == "warning"


def test_it_never_stops_talking() -> None:
    began = time.monotonic()
    ran = run("yes", seconds=30, limit=100_000)
    assert len(ran.output) == 100_000
    assert ran.note == "ended after 100000 bytes of output"
    assert time.monotonic() - began < 5


def test_it_leaves_a_child_that_holds_its_output() -> None:
    script = "import os, time; os.setsid(); print('left', flush=True); time.sleep(60)"
    began = time.monotonic()
    ran = run(f'{sys.executable} -c "{script}" & echo $!', seconds=1.5)
    child, left = sorted(ran.output.split())
    try:
        assert left == b"left"
        assert ran.note == "ended after 1.5 s"
        assert time.monotonic() - began < 5
    finally:
        os.kill(int(child), signal.SIGKILL)
