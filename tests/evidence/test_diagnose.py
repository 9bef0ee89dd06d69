"""`probe diagnose` as a user runs it, beside real applications, healthy and broken."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from probe.evidence.proc.tasks import numbers
from probe.evidence.records.report import Report, typed
from probe.kernel import KernelView
from tests.conftest import fresh_namespace
from tests.evidence.identities import become, needs_other_users
from tests.evidence.programs import length, program, queued, server
from tests.faults.harness import Sidecar, application, sidecar
from tests.support import until

PORT, HEALTH = 8080, 8081
LISTEN = ("--listen", "127.0.0.1:9809")
WIDTH = 80


class Told:
    """What one `probe diagnose` printed, and how it ended."""

    def __init__(
        self,
        *words: str,
        port: int = PORT,
        wrapper: tuple[str, ...] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        command = (*wrapper, sys.executable, "-m", "probe", "diagnose", "--port", str(port), *words)
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, preexec_fn=prepare
        )
        self.status = ended.returncode
        self.text = ended.stdout
        self.errors = ended.stderr
        self.lines = ended.stdout.splitlines()
        self.flat = " ".join(ended.stdout.split())

    @property
    def headline(self) -> str:
        """The title, having seen that what there is would fit a terminal."""
        assert not self.errors
        assert max(map(len, self.lines)) <= WIDTH
        assert set(self.lines[1]) == {"="}
        return self.lines[0]

    def section(self, name: str) -> str:
        """The points below a heading, in one line."""
        _, _, rest = self.text.partition(f"\n{name}\n")
        return " ".join(rest.partition("\n\n")[0].split())


@contextmanager
def learnt(*options: str) -> Iterator[Sidecar]:
    """A sidecar that has found the application healthy, and learnt who accepts."""
    with sidecar("--port", str(PORT), *LISTEN, *options) as watching:
        watching.until(20, condition="healthy", ready=True)

        def knows() -> bool:
            (target,) = json.loads(watching.get("/evidence/baseline")[1])["targets"]
            return bool(target["baselines"])

        until(knows, "a baseline")
        yield watching


# --- the incident


def incident(classes: Path) -> tuple[str, ...]:
    options = ("-Xss256k", "-Xmx64m", "-cp", str(classes), "Incident")
    return ("java", *options, str(PORT), str(HEALTH), "5", "20")


def test_the_incident_beside_a_sidecar(
    view: KernelView, java_classes: Path, tmp_path: Path
) -> None:
    """The sidecar's memory names the thread; its evidence is pointed at; nobody connects again."""
    with program(*incident(java_classes)) as app, learnt("--evidence-dir", str(tmp_path)) as beside:
        assert app.tell("die") == "dead"
        with queued(view, PORT, 3):
            saved = beside.until(20, event="evidence")
            beside.until(20, reason="accept_queue_stalled", ready=False)
            before = length(view, PORT)
            told = Told("--jvm-attach")
            assert length(view, PORT) == before
    assert told.status == 1
    assert told.headline == "Port 8080: the thread that accepted connections has exited"
    assert told.lines[2].startswith("Looked at 20")
    assert "8080 accept queue stalled: 4 of 5 queued, nothing accepted for" in told.flat
    seen = told.section("What is seen")
    assert "The sidecar at 127.0.0.1:9809 says: unhealthy for" in seen
    assert "One of the connections in the queue is its own." in seen
    assert "our own" not in seen
    proof = told.section("What proves it")
    assert "`app-acceptor`, which accepted on this listener, has exited; process" in proof
    assert "the queue was last seen empty" in proof
    assert "who used to accept" not in told.flat
    assert f"`probe evidence show {saved['id']}`" in told.section("What to look at next")
    assert f"Threads as jvm has them: process {app.pid}" in told.text
    assert "JVM thread dump" in told.section("What can be found out from here")


def test_the_incident_with_nobody_beside_it(view: KernelView, java_classes: Path) -> None:
    """What nobody watched cannot be known: the finding stops short of it, and says what would."""
    with program(*incident(java_classes)) as app:
        app.tell("die")
        with queued(view, PORT, 3):
            told = Told()
            assert length(view, PORT) == 3
    assert told.status == 1
    assert told.headline == "Port 8080: nothing is accepted and no thread waits to accept"
    assert "3 queued, none accepted in" in told.section("What proves it")
    unknown = told.section("What is unknown")
    assert unknown.count("who used to accept: no sidecar was here to learn it") == 1
    assert "`probe diagnose --port 8080 --jvm-attach`" in told.section("What to look at next")
    assert "exited (" not in told.flat
    assert "The sidecar" not in told.flat


# --- other ways to be, without a sidecar


def test_healthy() -> None:
    with application("--port", str(PORT)) as app:
        told = Told()
    assert told.status == 0
    assert told.headline == "Port 8080: no fault is seen"
    assert re.search(r"8080 healthy: 0 of 5 queued, round trip [.\d]+ m?s\.", told.flat)
    assert "8080 healthy: 0 of 5 queued" in told.lines[2]
    assert f"process {app.process.pid}" in told.section("What is seen")
    assert told.section("What it means") == (
        "- Nothing here shows a fault: a thread waits to accept."
    )


def test_dead_without_traffic_is_left_with_one_entry_of_ours(view: KernelView) -> None:
    """And that one is not taken for a client's."""
    with application("--port", str(PORT)) as app:
        app.tell("die")
        told = Told()
        assert told.status == 1
        assert told.headline == "Port 8080: nothing is accepted and no thread waits to accept"
        assert re.search(r"round trip failed: queued: not accepted for [12][.\d]* s", told.flat)
        assert "That connection is our own, made for this report." in told.section("What is seen")
        assert "have left" not in told.flat
        for _ in range(2):
            again = Told()
            assert again.status == 1
            assert "8080 accept queue stalled: 1 of 5 queued" in again.flat
            assert length(view, PORT) == 1


def test_handlers_that_never_answer() -> None:
    with application("--port", str(PORT)) as app:
        app.tell("answer hang")
        told = Told("--round-trip-timeout", "500ms")
    assert told.status == 1
    assert told.headline == "Port 8080: requests are accepted and get no answer"
    assert "unanswered" in told.section("What proves it")
    assert "health checks such as ours are among them" in told.section("What proves it")


def test_nothing_listens() -> None:
    told = Told()
    assert told.status == 1
    assert told.headline == "Port 8080: nothing listens on port 8080"
    assert told.lines[2].endswith("8080 not listening.")
    assert "who used to accept" not in told.flat
    assert "What can be found out" not in told.text


def test_saturated_is_called_busy() -> None:
    with application("--port", str(PORT), "--backlog", "20") as app, crowd():
        app.tell("pace 0.1")
        told = Told()
    assert told.status == 1
    assert told.headline == "Port 8080: connections are accepted, but many wait in the queue"
    assert "busy, not dead: a restart would only drop those that wait" in told.flat


@contextmanager
def crowd() -> Iterator[None]:
    """More clients than a slow application can take, in this thread's network namespace."""
    flowing = threading.Event()
    ended = threading.Event()

    def arrive() -> None:
        clients = []
        while not ended.wait(0.01):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", PORT))
            clients.append(client)
            if len(clients) > 40:
                flowing.set()
                clients.pop(0).close()
        for client in clients:
            client.close()

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        assert flowing.wait(30)
        yield
    finally:
        ended.set()
        thread.join()


def test_stopped() -> None:
    with application("--port", str(PORT)) as app:
        app.stop()
        told = Told("--round-trip-timeout", "500ms")
    assert told.status == 1
    assert told.headline == "Port 8080: the process is stopped, frozen or not scheduled"
    assert f"of process {app.process.pid} are stopped by a signal" in told.flat
    assert "what stopped it" in told.section("What is unknown")


@pytest.mark.parametrize("status", [503, 404])
def test_the_answer_is_judged_as_check_judges_it(status: int) -> None:
    with application("--port", str(PORT)) as app:
        app.tell(f"answer ok {status}")
        told = Told()
    assert told.status == (1 if status == 503 else 0)
    assert told.headline == (
        "Port 8080: connections are accepted, but the answer is not a good one"
        if status == 503
        else "Port 8080: no fault is seen"
    )


@needs_other_users
def test_what_belongs_to_another_user_is_unknown(view: KernelView) -> None:
    """Seen as root without capabilities sees a process of another user: hardly."""
    with server("accept", PORT, UID="1000") as app, queued(view, PORT, 0):
        app.tell("break")
        with queued(view, PORT, 2):
            told = Told(prepare=partial(become, 0, 0))
    assert told.status == 1
    assert (
        told.headline
        == "Port 8080: nothing is accepted, and who should accept cannot be seen from here"
    )
    assert "no process in sight holds it" in told.flat
    assert "exited" not in told.section("What proves it")
    here = told.section("What can be found out from here")
    assert "Not available: listener to process:" in here
    assert f"process {app.pid} `" in here
    assert "runAsUser: 1000, runAsGroup: 1000" in here


def test_sock_diag_is_refused() -> None:
    """What then cannot be known is said: the limit, and whose connections wait."""
    refusing = (sys.executable, "-m", "tests.faults.refuse_sock_diag")
    with application("--port", str(PORT)):
        told = Told(wrapper=refusing)
    assert told.status == 0
    assert told.headline == "Port 8080: no fault is seen"
    assert "its limit is not known" in told.section("What is seen")


def test_an_answer_that_could_not_be_had() -> None:
    with application("--port", str(PORT)):
        told = Told("--host", "no.such.name.invalid")
    assert told.status == 3
    assert "could not tell: 8080" in told.flat
    assert told.headline == "Port 8080: nothing could be found out about who accepts"
    assert "no.such.name.invalid" in told.section("What is unknown")


# --- a sidecar beside it


def test_healthy_beside_a_sidecar() -> None:
    with application("--port", str(PORT)), learnt():
        told = Told()
    assert (told.status, told.headline) == (0, "Port 8080: no fault is seen")
    assert (
        "The sidecar at 127.0.0.1:9809 says: healthy, ready, live; 8080 healthy: 0 of 5 queued"
    ) in told.section("What is seen")


def test_a_sidecar_elsewhere_that_leaves_names_out() -> None:
    """It is asked where --listen says; what it was told to leave out, we leave out as well."""
    elsewhere = ("--listen", "127.0.0.1:9810")
    with application("--port", str(PORT)) as app, learnt(*elsewhere, "--evidence-redact") as beside:
        app.tell("die")
        beside.until(20, reason="accept_queue_stalled", ready=False)
        told = Told(*elsewhere)
    assert told.headline == "Port 8080: the thread that accepted connections has exited"
    assert "The sidecar at 127.0.0.1:9810 says" in told.flat
    assert "`acceptor`" not in told.flat
    assert "``" not in told.flat
    assert "peers and thread names: left out as configured" in told.flat


def test_a_sidecar_that_watches_another_port() -> None:
    with application("--port", str(PORT)), sidecar("--port", "9999", *LISTEN):
        told = Told()
    assert told.status == 0
    assert "the sidecar at 127.0.0.1:9809 watches 9999, and not 8080" in told.flat


class Unreadable(BaseHTTPRequestHandler):
    answer = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize("answer", [b"hello", b"[]", b'{"targets": [7]}', b'{"targets": 7}'])
def test_where_the_sidecar_would_be_is_something_else(answer: bytes) -> None:
    handler = type("Handler", (Unreadable,), {"answer": answer})
    with HTTPServer(("127.0.0.1", 9809), handler) as hidden:
        thread = threading.Thread(target=hidden.serve_forever)
        thread.start()
        try:
            with application("--port", str(PORT)):
                told = Told()
        finally:
            hidden.shutdown()
            thread.join()
    assert told.status == 0
    assert "what answers at 127.0.0.1:9809 is no sidecar of this version" in told.flat


# --- from a node


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a sidecar"])
def test_from_another_network_namespace(view: KernelView, beside: bool) -> None:
    """The view, the round trip, the children of the capture and the sidecar are those of there."""
    with fresh_namespace(), application("--port", str(PORT)) as app:
        if beside:
            with learnt() as watching:
                app.tell("die")
                watching.until(20, reason="accept_queue_stalled", ready=False)
                told = from_here(f"/proc/{app.process.pid}/ns/net")
        else:
            told = from_here(f"/proc/{app.process.pid}/ns/net")
    assert view.listeners(PORT) == ()
    if beside:
        assert told.headline == "Port 8080: the thread that accepted connections has exited"
        assert "The sidecar at 127.0.0.1:9809 says: unhealthy" in told.flat
    else:
        assert (told.status, told.headline) == (0, "Port 8080: no fault is seen")
    assert f"process {app.process.pid} `python" in told.section("What is seen")
    # Our own namespace has seen no connection at all.
    assert "PassiveOpens" in told.section("Counters of the network namespace")


def from_here(namespace: str) -> Told:
    """Diagnose from a namespace of its own, where there is nothing."""
    with fresh_namespace():
        return Told("--netns", namespace)


def test_process_ids_of_another_namespace_are_not_believed() -> None:
    """The sidecar's memory of who accepted is by ids that mean other processes here."""
    elsewhere = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run((*elsewhere, "true"), capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a /proc of another pid namespace")
    with application("--port", str(PORT)) as app, learnt() as beside:
        app.tell("accept off")
        beside.until(20, reason="accept_queue_stalled", ready=False)
        told = Told("--netns", "/proc/self/ns/net", wrapper=elsewhere)
    assert told.status == 1
    assert told.headline.endswith("who should accept cannot be seen from here")
    assert "exited" not in told.section("What proves it")
    assert "of another pid namespace" in told.section("What is unknown")
    assert "hostPID: true" in told.section("What can be found out from here")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("--netns", "/proc/self/ns/nett"),
            "--netns /proc/self/ns/nett: no such file or directory",
        ),
        (("--netns", "/proc/self/ns/pid"), "--netns /proc/self/ns/pid: is no network namespace"),
        (("--netns", "/etc/passwd"), "--netns /etc/passwd: is no network namespace"),
        (("--netns", "no-such-name"), "--netns no-such-name: no such file or directory"),
        (("--netns", "../no-such"), "--netns ../no-such: no such file or directory"),
        (("--netns", "ä/ö"), "--netns ä/ö: no such file or directory"),
        (("--netns", "4194304"), "--netns 4194304: no such process"),
        (("--pid", "4194304"), "--pid 4194304: no such process"),
    ],
)
def test_a_place_that_is_none(words: tuple[str, ...], line: str) -> None:
    told = Told(*words)
    assert (told.status, told.text, told.errors) == (2, "", f"probe: {line}\n")


def test_a_thread_is_no_process() -> None:
    with server("poll", PORT) as application:
        (thread,) = set(numbers(f"/proc/{application.pid}/task")) - {application.pid}
        told = Told("--pid", str(thread))
    assert (told.status, told.errors) == (2, f"probe: --pid {thread}: no such process\n")


def test_a_process_that_is_elsewhere() -> None:
    with fresh_namespace(), application("--port", str(PORT)) as app:
        pid = app.process.pid
        with fresh_namespace():
            told = Told("--pid", str(pid))
    assert (told.status, told.text) == (2, "")
    assert told.errors == (
        f"probe: --pid {pid}: it is in another network namespace; add --netns {pid}\n"
    )


@needs_other_users
def test_a_namespace_that_may_not_be_entered() -> None:
    told = Told("--netns", "/proc/self/ns/net", prepare=partial(become, 0, 0))
    assert (told.status, told.text) == (3, "")
    assert told.errors == (
        "probe: --netns /proc/self/ns/net: operation not permitted; it takes root on the node"
        " (CAP_SYS_ADMIN)\n"
    )


def test_the_process_that_was_asked_for() -> None:
    """Whoever holds the listener: what is told of processes is of that one."""
    with application("--port", str(PORT)) as holder, application("--port", "9999") as other:
        told = Told("--pid", str(other.process.pid))
    assert f"is held by process {holder.process.pid}" in told.flat
    assert told.section("Processes").startswith(f"{other.process.pid} python")
    assert str(holder.process.pid) not in told.section("Processes")


# --- in which form, and where


def test_json(view: KernelView) -> None:
    """An object a line for each target, with the whole report."""
    with application("--port", str(PORT)) as app:
        app.tell("accept off")
        with queued(view, PORT, 2):
            told = Told("--port", "9999", "--json")
    assert (told.status, told.errors) == (1, "")
    stuck, absent = map(json.loads, told.lines)
    assert stuck["status"] == absent["status"] == 1
    assert stuck["line"].startswith("accept_queue_stalled: 8080 accept queue stalled: 2 of 5")
    assert absent["line"] == "not_listening: 9999 not listening"
    assert absent["finding"] == "nothing listens on port 9999"
    assert [one["name"] for one in absent["patterns"]] == ["not_listening"]
    report = typed(Report, stuck["report"])
    assert (report.port, report.trigger, report.ours) == (PORT, "diagnose", False)
    assert report.connections
    assert len(report.connections.queued) == 2
    assert {one.name for one in report.access} > {"process namespace", "system calls"}


def test_several_targets_the_worst_decides() -> None:
    with application("--port", str(PORT)):
        told = Told("--target", "tcp://:9999")
    assert told.status == 1
    assert "\n\nPort 9999: nothing listens on port 9999\n" in told.text
    assert told.headline == "Port 8080: no fault is seen"


def test_kept_with_its_raw_dumps(tmp_path: Path) -> None:
    with application("--port", str(PORT)):
        told = Told("--evidence-dir", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert told.lines[-1] == f"Kept, with its raw dumps, in {folder}"
    assert (folder / "report.txt").read_text() + f"\n{told.lines[-1]}\n" == told.text
    report = typed(Report, json.loads((folder / "report.json").read_text()))
    assert report.access
    assert [dump.file for dump in report.dumps if dump.file] == sorted(
        path.name for path in folder.iterdir() if not path.name.startswith("report.")
    )


def test_a_directory_that_can_not_be_written_costs_the_directory_alone() -> None:
    with application("--port", str(PORT)):
        told = Told("--evidence-dir", "/absent/evidence")
    assert (told.status, told.headline) == (0, "Port 8080: no fault is seen")
    assert "a place to keep this: /absent/evidence: No such file or directory" in told.section(
        "What is unknown"
    )
    assert "Kept" not in told.text


def test_redacted(view: KernelView) -> None:
    with application("--port", str(PORT)) as app:
        app.tell("accept off")
        with queued(view, PORT, 2):
            told = Told("--evidence-redact")
    assert told.status == 1
    assert "127.0.0.1:" in told.flat
    assert told.flat.count("127.0.0.1:") == told.flat.count("127.0.0.1:8080")
    assert "peers and thread names: left out as configured" in told.flat


def test_a_capture_without_time_is_a_diagnosis_all_the_same() -> None:
    """Whatever the capture cannot have is told; the verdict is that of the look."""
    begun = time.monotonic()
    with application("--port", str(PORT)):
        told = Told("--evidence-deadline", "1s")
    assert told.status == 0
    assert time.monotonic() - begun < 30
    assert told.lines[2].startswith("Looked at")
