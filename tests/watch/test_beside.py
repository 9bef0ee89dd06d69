"""`probe watch` beside a running sidecar, through a real incident, with a terminal and without."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.harness import Lines, Sidecar, application, sidecar, watched
from tests.watch.terminal import terminal, watch

EVIDENCE = "^> 20.*-accept_queue_stalled"


def place(running: Sidecar) -> str:
    return f"127.0.0.1:{running.port}"


def once(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        watch("--once", *words),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )


@contextmanager
def printing(*words: str) -> Iterator[tuple[Lines, "subprocess.Popen[bytes]"]]:
    """It, with a pipe for a terminal."""
    process = subprocess.Popen(
        watch(*words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    try:
        yield Lines(process.stdout.fileno()), process
    finally:
        process.kill()
        process.communicate()


def test_an_incident_its_evidence_and_a_restart_of_the_sidecar(tmp_path: Path) -> None:
    kept = ("--evidence-dir", str(tmp_path), "--stalled-for", "1s")
    with (
        application() as app,
        watched(app, *kept) as running,
        terminal(*watch("--sidecar", place(running))) as shown,
    ):
        port = running.port
        shown.until_shown("All is well")
        assert f"at 127.0.0.1:{port} by sock_diag" in shown.screen[0]
        app.tell("accept off")
        shown.until_shown(f"^Not ready: {app.port} accepts no connections")
        shown.until_shown(r"Next, in \d+ s: /live fails")
        shown.until_shown("Found: .*nothing is accepted and no thread waits to accept")
        shown.type("e")
        shown.until_shown("^> 20.*-accept_queue_stalled")
        shown.type("\r")
        shown.until_shown(f"^Port {app.port}: nothing is accepted and no thread waits to accept")
        shown.type("qq")
        shown.until_shown("^TRANSITIONS")
        shown.type("d")
        # Beside what is seen here there is what only the sidecar knows.
        shown.until_shown(f"The sidecar at 127.0.0.1:{port} says: unhealthy for")
        shown.type("q")
        running.process.kill()
        shown.until_shown(f"^No news for .*: no sidecar answers at 127.0.0.1:{port}")
        app.tell("accept on")
        with sidecar("--port", str(app.port), "--listen", f"127.0.0.1:{port}", *kept):
            shown.until_shown("sidecar  restarted  the sidecar was restarted, and answers")
            shown.until_shown("^All is well")
            # What happened before is remembered here, if not there.
            shown.until_shown(rf"  {app.port} +unhealthy  not ready: accept queue stalled")
            shown.type("q")
            assert shown.ended() == 0
            assert shown.attributes() == shown.before


def test_lines_for_a_pipe() -> None:
    with (
        application() as app,
        watched(app, "--stalled-for", "1s") as running,
        printing("--sidecar", place(running)) as (lines, process),
    ):
        first = lines.next(20) or ""
        assert first[20:].startswith(f"  healthy    ready live          {app.port} healthy: 0 of")
        app.tell("accept off")
        told = [(lines.next(20) or "").split()[1:4] for _ in range(2)]
        assert told == [["suspect", "ready", "live"], ["unhealthy", "not-ready", "live"]]
        running.process.kill()
        assert "  sidecar    " in (lines.next(20) or "")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_whoever_reads_no_more_ends_it() -> None:
    """Although nothing is to be said for hours."""
    with (
        application() as app,
        watched(app) as running,
        printing("--sidecar", place(running)) as (lines, process),
    ):
        assert lines.next(20)
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdout = None
        assert process.wait(20) == 141
        assert process.stderr.read() == b""


def test_json_for_programs() -> None:
    with application() as app, watched(app) as running:
        with printing("--sidecar", place(running), "--format", "json") as (lines, _):
            documents = [json.loads(lines.next(20) or "") for _ in range(2)]
        whole = once("--sidecar", place(running), "--format", "json")
    for document in documents:
        (target,) = document["targets"]
        assert target["name"] == str(app.port)
        assert "history" not in target
        assert document["headline"] == "All is well: ready and live"
    (line,) = whole.stdout.splitlines()
    assert "h" in json.loads(line)["targets"][0]["history"]["condition"]


def test_once() -> None:
    with application() as app, watched(app, "--stalled-for", "1s") as running:
        told = once("--sidecar", place(running))
        assert (told.returncode, told.stderr) == (0, "")
        lines = told.stdout.splitlines()
        assert lines[1].startswith("All is well: ready and live, since ")
        assert any(line.startswith(f"  {app.port} ") for line in lines)
        assert lines[-1].endswith("ms")
        assert "\x1b" not in told.stdout
        app.tell("accept off")
        running.until(20, condition="unhealthy", ready=False)
        told = once("--sidecar", place(running))
        assert (told.returncode, told.stderr) == (1, "")
        assert told.stdout.splitlines()[1].startswith(f"Not ready: {app.port} accepts no connect")


def test_without_a_sidecar_once() -> None:
    with application() as app:
        told = once("--port", str(app.port))
    assert (told.returncode, told.stderr) == (0, "")
    assert f"  {app.port}   healthy " in told.stdout
    assert once("--port", "1").returncode == 1


def test_nobody_is_there() -> None:
    for words in ([], ["--once"], ["--format", "json"]):
        told = subprocess.run(
            watch(*words), capture_output=True, text=True, timeout=30, check=False
        )
        assert (told.returncode, told.stdout) == (3, "")
        assert told.stderr == (
            "probe: no sidecar answers at 127.0.0.1:9809; with --port or --target none is needed\n"
        )


def test_what_is_elsewhere_cannot_be_watched() -> None:
    told = once("--port", "80", "--host", "192.0.2.1")
    assert (told.returncode, told.stdout) == (2, "")
    assert "whose listeners are all that watch can watch" in told.stderr


def test_a_diagnosis_is_for_who_is_beside_the_application() -> None:
    """Through `kubectl port-forward` the sidecar is told from anywhere, and the application is not
    here: something that hands on stands for it.
    """
    with application() as app, watched(app) as running:
        relay = (
            "import socket, sys, threading\n"
            "def pump(a, b):\n"
            "    while data := a.recv(65536): b.sendall(data)\n"
            "    b.shutdown(socket.SHUT_WR)\n"
            "with socket.create_server(('127.0.0.1', 0)) as listener:\n"
            "    print(listener.getsockname()[1], flush=True)\n"
            "    while True:\n"
            "        near, _ = listener.accept()\n"
            "        far = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "        for pair in ((near, far), (far, near)):\n"
            "            threading.Thread(target=pump, args=pair, daemon=True).start()\n"
        )
        command = (*watch()[:1], "-c", relay, str(running.port))
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert forward.stdout
        try:
            port = forward.stdout.readline().decode().strip()
            with terminal(*watch("--sidecar", f"127.0.0.1:{port}")) as shown:
                shown.until_shown("All is well")
                shown.type("d")
                shown.until_shown("The application is not here")
                shown.until_shown(f"kubectl exec POD -c probe -- probe diagnose --port {app.port}")
                shown.type("q")
                shown.type("e")
                shown.until_shown("no incident was kept")
        finally:
            forward.kill()
            forward.communicate()
