"""The capture with the real child and real applications, and all that is in its way."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from probe.evidence.capture import parent as capture
from probe.evidence.collectors import network
from probe.evidence.records.audit import Baseline, Change, Finding, plain
from probe.evidence.records.report import CaptureRequest, Lack, Missing, Report, typed
from probe.evidence.report.patterns import recognise
from probe.evidence.report.text import text
from probe.kernel import KernelView
from tests.evidence.identities import needs_other_users
from tests.evidence.programs import length, program, queued, server
from tests.support import until

PORT, HEALTH = 8080, 8081
BARE = Report("20261122T084958Z-8080-suspect", "2026-11-22T08:49:58+00:00", PORT, "diagnose")


def take(request: CaptureRequest, seconds: float = 20) -> Report:
    return asyncio.run(capture.capture(BARE, request, seconds=seconds))


def learn(*, jvm_attach: bool = False) -> tuple[Baseline, ...]:
    gathered = asyncio.run(
        capture.gather(
            CaptureRequest(PORT, jvm_attach=jvm_attach), seconds=20, steps={"learn": 20.0}
        )
    )
    assert gathered.missing == ()
    return typed(tuple[Baseline, ...], gathered.sections["baselines"])


def incident(classes: Path, threads: int = 20) -> tuple[str, ...]:
    options = ("-Xss256k", "-Xmx64m", "-cp", str(classes), "Incident")
    return ("java", *options, str(PORT), str(HEALTH), "5", str(threads))


@contextmanager
def clients(view: KernelView) -> Iterator[None]:
    """Four that wait in the queue with a request, two that have left it, one that is dropped."""
    with ExitStack() as stack:
        for number in range(6):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", PORT)))
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            if number % 3 == 0:
                client.close()
        late = stack.enter_context(socket.socket())
        late.setblocking(False)
        late.connect_ex(("127.0.0.1", PORT))
        until(lambda: length(view, PORT) == 6, "a full queue")
        until(lambda: sum(one.state == 8 for one in view.connections(PORT)) == 2, "two to leave")
        yield


def test_the_incident(view: KernelView, java_classes: Path, tmp_path: Path) -> None:
    with program(*incident(java_classes)) as application:
        known = learn(jvm_attach=True)
        request = CaptureRequest(
            PORT,
            baselines=known,
            healthy_counters=tuple(network.counters().items()),
            folder=str(tmp_path),
            jvm_attach=True,
        )
        assert application.tell("die") == "dead"
        with clients(view):
            report = take(request)
    assert [step.name for step in report.steps] == list(capture.STEPS), report.missing

    assert [(one.length, one.limit) for one in report.listeners] == [(6, 5)]
    assert report.acceptors
    (acceptors,) = report.acceptors.listeners
    assert acceptors.finding is Finding.NOBODY_WAITS
    assert [one.pid for one in acceptors.owners] == [application.pid]
    (gone,) = report.acceptors.differences
    assert gone.change is Change.THREAD_EXITED
    assert gone.entry.name == "app-acceptor"

    assert report.connections
    assert (len(report.connections.queued), report.connections.ended) == (6, 2)
    assert report.connections.queued[0].queued_for is not None

    (dump,) = report.dumps
    raw = (tmp_path / f"jvm-{application.pid}.txt").read_text()
    assert dump.file == f"jvm-{application.pid}.txt"
    assert dump.text == raw
    assert "app-acceptor" not in raw
    assert '"health-acceptor"' in raw
    assert [(one.name, one.threads) for one in dump.groups[:1]] == [("worker-*", 20)]

    assert [one.pid for one in report.processes] == [application.pid]
    assert report.processes[0].descriptors
    assert dict(report.sysctls)["net.ipv4.tcp_abort_on_overflow"] == "0"
    assert next(one for one in report.counters if one.name == "ListenOverflows").value > 0

    assert [one.name for one in recognise(report)][:3] == [
        "acceptor_gone",
        "overflow",
        "ended_in_queue",
    ]
    told = text(report)
    assert told.startswith("Port 8080: the thread that accepted connections has exited\n")
    assert f"jvm-{application.pid}.txt: the whole thread dump" in told
    assert typed(Report, json.loads(json.dumps(plain(report)))) == report


def test_two_thousand_threads(
    view: KernelView, java_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the deadline, the loop of the parent undisturbed, the record small."""
    with program(*incident(java_classes, 2000)) as application:
        known = learn(jvm_attach=True)
        application.tell("die")
        with queued(view, PORT, 5):
            application.tell("held")
            request = CaptureRequest(PORT, baselines=known, folder=str(tmp_path), jvm_attach=True)
            began = time.monotonic()
            gathered, lag = asyncio.run(with_loop_lag(request))
            took = time.monotonic() - began
            held = int(application.tell("held")) / 1000
    report = capture.assemble(BARE, gathered)
    assert recognise(report)[0].name == "acceptor_gone"
    (dump,) = report.dumps
    assert dump.size > 2_000_000
    assert dump.threads > 2000
    assert len(dump.text) == 256 << 10
    assert (tmp_path / dump.file).stat().st_size == dump.size
    assert took < 10
    record = len(json.dumps(plain(report)))
    assert record < 400_000
    with capsys.disabled():
        print(
            f"\n2,000 threads: capture {took:.2f} s, record {record / 1000:.0f} kB, the application"
            f" held up for at most {held:.0f} ms, the parent's loop for {lag * 1000:.1f} ms"
        )


async def with_loop_lag(request: CaptureRequest) -> tuple[capture.Gathered, float]:
    """The capture, and by how much the loop's timers came late meanwhile."""
    task = asyncio.create_task(capture.gather(request, seconds=20))
    worst = 0.0
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.005)
        worst = max(worst, time.monotonic() - before - 0.005)
    return await task, worst


def test_a_python_application(view: KernelView) -> None:
    """Owners, threads and finding without any dump; a JVM is not even looked for."""
    with server("accept", PORT) as application:
        known = learn()
        assert application.tell("break") == "break"
        with queued(view, PORT, 3):
            report = take(CaptureRequest(PORT, baselines=known))
    assert recognise(report)[0].name == "acceptor_gone"
    assert all(dump.kind == "py-spy" for dump in report.dumps)
    assert not any(missing.what.startswith("jvm") for missing in report.missing)


def test_a_jvm_is_asked_only_when_that_is_allowed(java_classes: Path) -> None:
    with program(*incident(java_classes)) as application:
        report = take(CaptureRequest(PORT))
        assert report.dumps == ()
        why = "it is a JVM, and those are asked only with --jvm-attach"
        assert (
            Missing(f"jvm dump of process {application.pid}", why, Lack.JVM_NOT_ASKED)
            in report.missing
        )
        assert not Path(f"/tmp/.java_pid{application.pid}").exists()


def test_names_and_peers_are_left_out(view: KernelView, java_classes: Path, tmp_path: Path) -> None:
    with program(*incident(java_classes)) as application:
        known = learn(jvm_attach=True)
        application.tell("die")
        with clients(view):
            request = CaptureRequest(
                PORT, baselines=known, folder=str(tmp_path), jvm_attach=True, redact=True
            )
            report = take(request)
    assert recognise(report)[0].name == "acceptor_gone"
    written = json.dumps(plain(report)) + text(report)
    for name in ("app-acceptor", "health-acceptor", "worker-", "heartbeat"):
        assert name not in written
    assert report.connections
    assert {peer.remote for peer in report.connections.queued} == {""}
    assert list(tmp_path.iterdir()) == []
    assert report.redacted
    assert "left out as configured" in text(report)


SECRET = "hunter2-never-to-be-seen"


def test_no_argument_no_environment_no_local(view: KernelView, tmp_path: Path) -> None:
    script = (
        "import socket, threading\n"
        f"password = '{SECRET}'\n"
        f"listener = socket.create_server(('127.0.0.1', {PORT}))\n"
        "def serve(token):\n    threading.Event().wait()\n"
        "threading.Thread(target=serve, args=(password,), daemon=True).start()\n"
        "print('ready', flush=True)\n"
        "input()\n"
    )
    with (
        program(sys.executable, "-c", script, f"--password={SECRET}", TOKEN=SECRET),
        queued(view, PORT),
    ):
        report = take(CaptureRequest(PORT, folder=str(tmp_path)))
    assert report.acceptors
    assert report.acceptors.listeners[0].finding is Finding.NOBODY_WAITS
    files = [path.read_text() for path in tmp_path.iterdir()]
    assert SECRET not in "".join((json.dumps(plain(report)), text(report), *files))


HOARDER = f"""
import resource, socket, sys
most = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
keep = [socket.create_server(("127.0.0.1", {PORT}))]
try:
    while True:
        keep.append(socket.socket())
except OSError:
    print("ready", flush=True)
sys.stdin.read()
"""


def test_twenty_thousand_descriptors(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with program(sys.executable, "-W", "ignore", "-c", HOARDER) as application:
        report = take(CaptureRequest(PORT))
        took = time.monotonic() - began
    assert recognise(report)[0].name == "out_of_descriptors"
    assert report.processes[0].pid == application.pid
    assert report.processes[0].descriptors == report.processes[0].descriptor_limit
    assert took < 10
    with capsys.disabled():
        print(f"\n{report.processes[0].descriptors} descriptors: capture {took:.2f} s")


def test_nothing_listens() -> None:
    report = take(CaptureRequest(PORT))
    assert recognise(report)[0].name == "not_listening"
    assert Missing("container", "no process is known to own the listener") in report.missing


def test_the_application_dies_meanwhile(view: KernelView, tmp_path: Path) -> None:
    """Its process of healthy time is looked for, and its end is part of the report."""
    with server("accept", PORT) as application:
        known = learn()
        application.process.kill()
        application.process.wait()
        report = take(CaptureRequest(PORT, baselines=known))
    assert recognise(report)[0].name == "not_listening"
    (missing,) = (one for one in report.missing if one.what == f"process {application.pid}")
    assert missing.why.startswith("it has gone")


@needs_other_users
def test_another_user_sees_less_and_says_so(view: KernelView) -> None:
    with server("accept", PORT) as application, ExitStack() as stack:
        application.tell("break")
        stack.enter_context(queued(view, PORT, 3))
        script = (
            "from probe.evidence.capture import child\n"
            "from tests.evidence.identities import SIDECAR, become\n"
            "become(SIDECAR, SIDECAR)\n"
            "child.main()\n"
        )
        gathered = asyncio.run(
            capture.gather(
                CaptureRequest(PORT, pid=application.pid),
                seconds=20,
                command=(sys.executable, "-c", script),
            )
        )
    report = capture.assemble(BARE, gathered)
    assert report.connections
    assert len(report.connections.queued) >= 3
    assert report.acceptors
    assert report.acceptors.listeners[0].finding is Finding.UNKNOWN
    assert [one.pid for one in report.processes] == [application.pid]
    assert {missing.what for missing in report.missing} >= {"container"}


def test_a_child_that_is_stopped_is_replaced() -> None:
    """The real child, wedged in the middle by SIGSTOP: its step is lost, the rest is not."""

    def wedge() -> None:
        """Between two samples of the audit it sleeps."""
        until(lambda: any(asleep(child) for child in children()), "the child's sleep")
        os.kill(next(child for child in children() if asleep(child)), signal.SIGSTOP)

    def asleep(child: int) -> bool:
        try:
            return b"nanosleep" in Path(f"/proc/{child}/wchan").read_bytes()
        except OSError:
            return False

    async def wedged() -> capture.Gathered:
        steps = {**capture.STEPS, "acceptors": 1.0}
        task = asyncio.create_task(capture.gather(CaptureRequest(PORT), seconds=20, steps=steps))
        await asyncio.to_thread(wedge)
        return await task

    with server("accept", PORT) as application:
        others = {application.pid}

        def children() -> set[int]:
            listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            return {int(pid) for pid in listed.split()} - others

        gathered = asyncio.run(wedged())
    assert gathered.missing[0] == Missing("acceptors", "it took longer than its 1 s")
    assert gathered.children == 2
    report = capture.assemble(BARE, gathered)
    assert report.listeners
    assert report.connections
    assert report.sysctls


def test_the_memory_limit_is_hit(java_classes: Path) -> None:
    """A dump that needs more memory than the capture may have costs itself alone."""
    with program(*incident(java_classes, 2000)):
        report = take(CaptureRequest(PORT, jvm_attach=True, memory=30 << 20))
    assert report.dumps == ()
    assert report.listeners
    assert report.sysctls
    assert any("more memory than the capture may use" in one.why for one in report.missing)


def test_a_full_disk_costs_the_raw_dump(java_classes: Path, tmp_path: Path) -> None:
    mount = ("mount", "-t", "tmpfs", "-o", "size=16k", "none", str(tmp_path))
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("no right to mount: run as root or through unshare -Urnm")
    try:
        with program(*incident(java_classes)) as application:
            report = take(CaptureRequest(PORT, jvm_attach=True, folder=str(tmp_path)))
    finally:
        subprocess.run(("umount", str(tmp_path)), check=True)
    (dump,) = report.dumps
    assert dump.file == ""
    assert len(dump.text) == dump.size
    what = f"the raw dump jvm-{application.pid}.txt"
    assert Missing(what, "No space left on device") in report.missing


def test_the_child_is_modest(view: KernelView) -> None:
    """It ends first when memory runs short, dumps no core and takes what CPU is left."""
    script = (
        "import json, resource, os\n"
        "from probe.evidence.capture import child\n"
        "from probe.evidence.records.report import CaptureRequest\n"
        "child.confine(CaptureRequest(8080))\n"
        "print(open('/proc/self/oom_score_adj').read().strip(), os.nice(0),"
        " resource.getrlimit(resource.RLIMIT_AS)[0] >> 20,"
        " resource.getrlimit(resource.RLIMIT_CORE)[0])\n"
    )
    told = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True
    ).stdout
    assert told == "1000 3 512 0\n"
