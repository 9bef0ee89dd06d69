"""The commands as a user runs them: what they print, how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from tests.faults.harness import application, sidecar, watched


def probe(*words: str, seconds: float = 30) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "probe", *words],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def told(*words: str) -> tuple[int, str]:
    """The exit status and the one line on stdout."""
    ended = probe(*words)
    assert ended.stderr == ""
    (line,) = ended.stdout.splitlines()
    return ended.returncode, line


# --- check


def test_check_healthy() -> None:
    with application() as app:
        code, line = told("check", "--port", str(app.port))
    assert code == 0
    assert line.startswith(f"{app.port} healthy: 0 of 5 queued, round trip ")


def test_check_nobody_listens() -> None:
    assert told("check", "--port", "8080") == (1, "not_listening: 8080 not listening")


def test_check_never_adds_a_second_entry_to_a_dead_queue() -> None:
    with application("--late") as app, sidecar("--port", "1") as looking:
        first = told("check", "--port", str(app.port))
        assert first[0] == 1
        assert "round_trip_failed: " in first[1]
        assert "queued: not accepted" in first[1]
        for _ in range(3):
            code, line = told("check", "--port", str(app.port))
            assert code == 1
            assert line.startswith(
                f"accept_queue_stalled: {app.port} accept queue stalled: 1 of 5 queued, nothing "
            )
        assert looking.process.poll() is None


def test_check_a_slow_queue_is_looked_at_again_and_asked() -> None:
    with application("--backlog", "128") as app:
        app.tell("pace 0.02")
        clients = [socket.create_connection(("127.0.0.1", app.port)) for _ in range(10)]
        code, line = told("check", "--port", str(app.port))
        for client in clients:
            client.close()
    assert (code, line.split()[1]) == (0, "healthy:")


def test_check_ends_within_its_time() -> None:
    with application() as app:
        app.tell("answer hang")
        begun = time.monotonic()
        code, line = told("check", "--port", str(app.port), "--timeout", "500ms")
        taken = time.monotonic() - begun
    assert (code, line.split()[0]) == (1, "round_trip_failed:")
    assert "unanswered" in line
    assert taken < 3  # with the start of Python on a busy machine


def test_check_several_targets_names_the_bad_one() -> None:
    with application() as good, application() as bad:
        bad.tell("answer status 500")
        code, line = told("check", "--port", str(good.port), "--port", str(bad.port))
    assert code == 1
    assert line.startswith(f"round_trip_failed: {bad.port} round trip failed: status: HTTP 500")


def test_check_could_not_tell() -> None:
    with application() as app:
        code, line = told("check", "--port", str(app.port), "--host", "no.such.name.invalid")
    assert (code, line.partition(":")[0]) == (3, "could not tell")


def test_check_sidecar() -> None:
    with application() as app, watched(app) as running:
        place = f"127.0.0.1:{running.port}"
        assert told("check", "--sidecar", place) == (0, "ready")
        assert told("check", "--sidecar", place, "--live") == (0, "live")
        app.tell("accept off")
        running.until(6, reason="accept_queue_stalled", ready=False)
        code, line = told("check", "--sidecar", place)
        assert code == 1
        assert line.startswith("not ready: accept_queue_stalled: ")
        assert told("check", "--sidecar", place, "--live") == (0, "live")


def test_check_sidecar_that_is_not_there() -> None:
    assert told("check", "--sidecar", "127.0.0.1:9809") == (
        3,
        "could not tell: sidecar at 127.0.0.1:9809: Connection refused",
    )


@pytest.mark.parametrize("answer", ["status 200", "status 503"])
def test_check_sidecar_where_somebody_else_answers(answer: str) -> None:
    with application() as app:
        app.tell(f"answer {answer}")
        place = f"127.0.0.1:{app.port}"
        line = f"could not tell: {place} does not answer like a sidecar"
        assert told("check", "--sidecar", place) == (3, line)


@pytest.mark.parametrize(
    ("listen", "asked"), [(":9900", "127.0.0.1:9900"), ("127.0.0.2:9901", "127.0.0.2:9901")]
)
def test_a_check_asks_where_this_environment_says_that_the_sidecar_listens(
    listen: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_LISTEN", listen)
    assert told("check", "--sidecar") == (
        3,
        f"could not tell: sidecar at {asked}: Connection refused",
    )
    with application() as app, sidecar("--listen", listen, "--port", str(app.port)) as watching:
        watching.until(10, condition="healthy", ready=True)
        assert told("check", "--sidecar") == (0, "ready")


def test_a_check_asks_where_the_file_says_that_the_sidecar_listens(tmp_path: Path) -> None:
    file = tmp_path / "probe.yaml"
    file.write_text("listen: '[::]:9902'\nport: 8080\n")
    line = "could not tell: sidecar at [::1]:9902: Connection refused"
    assert told("check", "--sidecar", "--config", str(file)) == (3, line)
    line = "could not tell: sidecar at 127.0.0.1:9903: Connection refused"
    assert told("check", "--sidecar", "127.0.0.1:9903", "--config", str(file)) == (3, line)


# --- wait


def test_wait_becomes_the_command() -> None:
    with application() as app:
        ended = probe("wait", "--port", str(app.port), "--", "sh", "-c", "echo mine; exit 7")
    assert ended.returncode == 7
    assert ended.stdout == "mine\n"
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{app.port} healthy: ")


def test_wait_until_it_is_there() -> None:
    with application("--late") as app:
        waiting = subprocess.Popen(
            [sys.executable, "-m", "probe", "wait", "--port", str(app.port)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(3)
        app.tell("accept on")
        out, _ = waiting.communicate(timeout=10)
    assert waiting.returncode == 0
    assert "healthy" in out


def test_wait_in_vain() -> None:
    ended = probe("wait", "--port", "8080", "--timeout", "1s")
    assert ended.returncode == 1
    assert ended.stdout == "not healthy within 1 s: not_listening: 8080 not listening\n"


def test_wait_in_vain_for_a_command_says_so_on_stderr() -> None:
    ended = probe("wait", "--port", "8080", "--timeout", "100ms", "--", "echo", "mine")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "not healthy within 0.1 s: not_listening: 8080 not listening\n"


def test_wait_for_no_such_command() -> None:
    with application() as app:
        ended = probe("wait", "--port", str(app.port), "--", "/no/such/command")
    assert ended.returncode == 127
    assert ended.stderr.splitlines()[1:] == ["probe: /no/such/command: No such file or directory"]


def test_wait_leaves_the_command_no_signal_of_its_own() -> None:
    """Python ignores SIGPIPE; the command must not."""
    with application() as app:
        command = ("grep", "SigIgn", "/proc/self/status")
        ended = probe("wait", "--port", str(app.port), "--", *command)
    (ignored,) = ended.stdout.splitlines()
    standard = (1 << 31) - 1  # above are those that the C library keeps for itself
    assert int(ignored.split()[1], 16) & standard == 0


def test_wait_runs_the_command_when_nothing_can_be_printed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with application() as app, Path("/dev/full").open("wb") as full:
        words = ("wait", "--port", str(app.port), "--", "touch", str(mark))
        command = [sys.executable, "-m", "probe", *words]
        subprocess.run(command, stdout=full, stderr=full, timeout=30, check=True)
    assert mark.exists()


def test_wait_ends_at_sigterm_as_process_1_too() -> None:
    """As an entrypoint it is that; the kernel has no default action for process 1."""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    with subprocess.Popen(
        [*namespace, sys.executable, "-m", "probe", "wait", "--port", "8080"],
        stdout=subprocess.DEVNULL,
    ) as waiting:
        children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children")
        try:
            deadline = time.monotonic() + 10
            while not catches(signal.SIGTERM, children.read_text().split()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(int(children.read_text()), signal.SIGTERM)
            assert waiting.wait(5) == 128 + signal.SIGTERM
        finally:
            waiting.kill()


def catches(number: signal.Signals, pids: list[str]) -> bool:
    return any(
        int(line.split()[1], 16) >> number - 1 & 1
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigCgt")
    )


def test_wait_interrupted() -> None:
    waiting = subprocess.Popen(
        [sys.executable, "-m", "probe", "wait", "--port", "8080"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(2)
    waiting.send_signal(signal.SIGINT)
    assert waiting.communicate(timeout=10) == ("", "")
    assert waiting.returncode == 130


# --- audit


def test_audit() -> None:
    with application("--backlog", "7") as app:
        lines = probe("audit").stdout.splitlines()
        row = lines[1].split(maxsplit=7)
        assert row[:7] == [str(app.port), "127.0.0.1", "loopback", "0", "7", "0", "no"]
        assert row[7] == f"{Path(sys.executable).resolve().name} ({app.process.pid})" or (
            str(app.process.pid) in row[7]
        )
        assert lines[-1] == f"Nothing probes {app.port}: a sidecar would with --port for each."
        (only,) = probe("audit", "--json", "--port", str(app.port)).stdout.splitlines()
        seen = json.loads(only)
        assert (seen["port"], seen["limit"], seen["probed"]) == (app.port, 7, True)
        assert seen["from_outside"] is False


def test_audit_knows_what_a_sidecar_watches() -> None:
    with application() as app, watched(app, "--listen", "127.0.0.1:9809"):
        assert "Nothing probes" not in probe("audit").stdout


def test_audit_tells_what_is_reached_from_outside() -> None:
    """With a link beside `lo`: what listens everywhere is, what listens on loopback is not."""
    with (
        IPRoute() as routes,
        socket.create_server(("0.0.0.0", 8080)),
        socket.create_server(("127.0.0.1", 8081)),
    ):
        routes.link("add", ifname="link0", kind="veth", peer="link1")
        index = socket.if_nametoindex("link0")
        routes.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        routes.link("set", index=index, state="up")
        _, outside, loopback, *_ = probe("audit").stdout.splitlines()
    assert outside.split()[:3] == ["8080", "0.0.0.0", "outside"]
    assert loopback.split()[:3] == ["8081", "127.0.0.1", "loopback"]


def test_audit_tells_of_unix_sockets_too() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = f"{folder}/app.sock"
        server.bind(path)
        server.listen(7)
        title, row, _, advice = probe("audit").stdout.splitlines()
        assert title.startswith("PORT")
        assert row.split()[:7] == ["unix", path, "path", "0", "7", "-", "no"]
        assert str(os.getpid()) in row
        assert advice == (
            f"Nothing probes {path}: a sidecar would with --target unix://PATH for each."
        )
        told = probe("audit", "--json", "--target", f"queue+unix://{path}").stdout
        assert json.loads(told)["probed"] is True


def test_audit_of_nothing() -> None:
    assert probe("audit").stdout == "Nothing listens here.\n"


# --- what others wrote, and a terminal


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A server that says the same to everybody; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def http(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.mark.parametrize("words", [("check",), ("wait", "--timeout", "300ms"), ("diagnose",)])
@pytest.mark.parametrize("body", ["fermé".encode(), b"maintenance " * 9], ids=["letters", "long"])
def test_an_answer_that_cannot_be_written_costs_no_verdict(
    words: tuple[str, ...], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with answering(http(b"503 No", body)) as port:
        ended = probe(*words, "--port", str(port))
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "HTTP 503" in ended.stdout
    assert ended.stdout.isascii()


def test_whatever_answers_for_a_sidecar_moves_no_cursor() -> None:
    body = b"not ready: \x1b]0;x\x07\x1b[2J\n"
    with answering(http(b"503 X", body)) as port:
        place = f"127.0.0.1:{port}"
        asked = [
            probe("check", "--sidecar", place),
            probe("evidence", "list", "--listen", place),
            probe("evidence", "show", "20261120T101112Z-8080-x", "--listen", place),
            probe("audit", "--listen", place),
        ]
    assert [ended.returncode for ended in asked] == [1, 1, 1, 0]
    for ended in asked:
        assert (ended.stdout + ended.stderr).replace("\n", "").isprintable()
    assert asked[0].stdout == "not ready: \\x1b]0;x\\x07\\x1b[2J\n"


NAMED = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"\\x1b[2J\\nERROR", 0, 0, 0)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    with client:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
"""


def test_a_processs_name_moves_no_cursor_and_forges_no_line() -> None:
    with subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE, text=True) as app:
        try:
            assert app.stdout
            port = app.stdout.readline().strip()
            asked = [probe("audit"), probe("diagnose", "--port", port)]
            with sidecar("--port", port) as watching:
                watching.until(10, condition="healthy", ready=True)
                while "holds it" not in watching.events[-1]["message"]:
                    assert watching.next(10), "no word of who holds the listener"
                said = [event["message"] for event in watching.events]
        finally:
            app.kill()
    for ended in asked:
        assert ended.returncode == 0
        assert ended.stdout.replace("\n", "").isprintable()
        assert "\\x1b[2J\\nERROR" in ended.stdout
    assert all(message.isprintable() for message in said)


# --- replay, demo, and the end of a pipe


def test_a_recording_replays_to_the_same_transitions(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    with application() as app, watched(app, "--record", str(path)) as running:
        app.tell("accept off")
        running.until(6, reason="accept_queue_stalled", ready=False)
        app.tell("accept on")
        running.until(4, condition="healthy", ready=True)
        logged = [event for event in running.events if event.get("event") == "transition"]
    ended = probe("replay", str(path))
    *transitions, last = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert [line.split()[2] for line in transitions] == [one["condition"] for one in logged]
    assert last.startswith(f"{app.port} ends healthy: ")


def test_replay_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "nonsense"
    path.write_text("nonsense\n")
    ended = probe("replay", str(path))
    assert ended.returncode == 2
    assert ended.stderr == f"probe: {path}:1: not the header of a recording: it is no JSON\n"


def test_replay_prints_what_a_terminal_can_show(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    header = Path("docs/stall.jsonl").read_text().splitlines()[0]
    listener = {"family": 2, "address": "127.0.0.1", "port": 8080, "cookie": 1, "length": 0}
    listener |= {"limit": 5, "drops": 0, "inode": 1, "uid": 0}
    trip = {"outcome": "failed", "stage": "status", "detail": "\x1b[2J\nforged", "at": 1.0}
    lines = [
        {"target": "8080", "at": at, "sample": {"listeners": [listener]}, "round_trip": trip}
        for at in (1.0, 2.0, 3.0)
    ]
    path.write_text("\n".join([header, *map(json.dumps, lines)]))
    ended = probe("replay", str(path))
    assert (ended.returncode, ended.stderr) == (1, "")
    assert all(line.isprintable() for line in ended.stdout.splitlines())
    assert "forged" not in [line.split()[0] for line in ended.stdout.splitlines()]
    assert "\\x1b[2J\\nforged" in ended.stdout


@pytest.mark.slow
def test_demo() -> None:
    ended = probe("demo", seconds=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    rows = [line for line in ended.stdout.splitlines() if " s  200 " in line]
    assert rows[-1].split(maxsplit=4)[2:] == [
        *("200", "connected"),
        "not ready: accept_queue_stalled; not live",
    ]
    assert "`app-acceptor`, which accepted on this listener, has" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_a_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with application():
        ended = subprocess.run(
            [sys.executable, "-m", "probe", "audit"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize(
    "words", [("lint", "examples/k8s/quickstart"), ("watch", "--once", "--port", "{}")]
)
def test_without_a_standard_output_the_status_is_the_answer(words: tuple[str, ...]) -> None:
    with application() as app:
        asked = [word.format(app.port) for word in words]
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "probe", *asked],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, "")


# --- serve


def test_serve_on_an_address_in_use() -> None:
    with application() as app, socket.create_server(("127.0.0.1", 9809)):
        ended = probe("serve", "--port", str(app.port), "--listen", "127.0.0.1:9809")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.endswith(
        "cannot listen on 127.0.0.1:9809: the address is already in use; choose another with "
        "--listen"
    )


def test_serve_says_that_it_is_shutting_down_and_ends() -> None:
    with application() as app, watched(app, "--drain", "3s") as running:
        running.process.terminate()
        running.until(5, message="not ready any more: shutting down")
        status, body = running.get("/ready")
        assert (status, body.splitlines()[0]) == (
            503,
            "not ready: shutting_down: the sidecar is shutting down",
        )
        assert running.get("/live")[0] == 200
        assert running.process.wait(10) == 0


def test_a_second_signal_ends_at_once() -> None:
    with application() as app, watched(app, "--drain", "60s") as running:
        running.process.terminate()
        running.until(5, message="not ready any more: shutting down")
        running.process.terminate()
        assert running.process.wait(5) == 1
