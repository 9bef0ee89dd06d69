"""Who is asked whether the server is well, and how each is started and heard.

kubelet's probes are our own code, by what pkg/probe and prober/worker.go do: a new connection for
each attempt, the time-out for the whole of it, a linger of 1 s, 200 to 399, failures counted in a
row, the phase of the period by chance. What is asked otherwise once a minute or by a rule with a
`for` (blackbox exporter) is asked on kubelet's shortest terms here: every second, three in a row.
"""

import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from bench.compare.servers import HEALTH, PORT, Running, Server, written
from bench.measure import TICK
from tests.faults.harness import Sidecar, sidecar

TIMEOUT = 1.0
"""kubelet's default, and what the others are given."""

Say = Callable[[str], None]
"""Hears each verdict: "" when all is well, otherwise the reason that the prober gives."""
Cpu = Callable[[], float]
"""CPU seconds so far."""
Watch = Callable[[Running, Say], AbstractContextManager[Cpu | None]]
Ask = Callable[[], str]
"""One attempt: "" when it succeeded, otherwise why not."""


class Prober(NamedTuple):
    """A row. `program` is what must be installed, `version` the command that tells its version."""

    watch: Watch
    about: str
    program: str = ""
    version: Sequence[str] = ()
    fits: Callable[[Server], bool] = lambda _: True

    @property
    def missing(self) -> str:
        """Why it cannot be asked here; "" when it can."""
        if self.program and shutil.which(self.program) is None:
            return f"{self.program} is not installed"
        return ""


# What they are made of


@contextmanager
def polled(ask: Ask, say: Say, period: float = 1.0, failures: int = 3) -> Iterator[None]:
    """Ask once a period; say what is so once it was so `failures` times, or well once."""
    ended = threading.Event()

    def run() -> None:
        failed, due = 0, time.monotonic() + random.uniform(0, period) - period
        while True:
            reason = ask()
            failed = failed + 1 if reason else 0
            if failed == 0 or failed >= failures:
                say(reason)
            due = max(due + period, time.monotonic())
            if ended.wait(due - time.monotonic()):
                return

    with in_thread(run, ended):
        yield


@contextmanager
def in_thread(run: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    """Run it meanwhile, in this thread's network namespace; it returns when it is told to end."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def cpu_of_family(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


@contextmanager
def process(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A prober's process, whose output is to be read."""
    with subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


# kubelet


def connects(port: int = PORT) -> str:
    """kubelet's tcpSocket."""
    try:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            linger(connection)
    except TimeoutError:
        return f"dial tcp 127.0.0.1:{port}: i/o timeout"
    except OSError as error:
        return f"dial tcp 127.0.0.1:{port}: {os.strerror(error.errno or 0).lower()}"
    return ""


def linger(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))


def gets(port: int, path: str = "/") -> str:
    """kubelet's httpGet. Its message has the address and the status, and no body."""
    deadline = time.monotonic() + TIMEOUT
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.connect()
        linger(connection.sock)
        headers = {"User-Agent": "kube-probe/1.34", "Accept": "*/*", "Connection": "close"}
        connection.request("GET", path, headers=headers)
        connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
        answer = connection.getresponse()
        answer.read(10 * 1024)
    except TimeoutError:
        return f'Get "http://127.0.0.1:{port}{path}": context deadline exceeded'
    except HTTPException as error:
        return f'Get "http://127.0.0.1:{port}{path}": {type(error).__name__}'
    except OSError as error:
        return f'Get "http://127.0.0.1:{port}{path}": {os.strerror(error.errno or 0).lower()}'
    finally:
        connection.close()
    well = 200 <= answer.status < 400
    return "" if well else f"HTTP probe failed with statuscode: {answer.status}"


def asks(server: Server) -> Ask:
    """kubelet's httpGet of the traffic port, or its exec of the client of another protocol."""
    talk = server.talk
    if talk is None:
        return lambda: gets(PORT)

    def ask() -> str:
        try:
            with socket.create_connection(("127.0.0.1", PORT), TIMEOUT) as connection:
                connection.sendall(talk.send)
                said = connection.recv(4096)
        except OSError as error:
            return f"command timed out after {TIMEOUT:g} s" if not error.errno else str(error)
        return "" if talk.expect in said else said.decode(errors="replace")

    return ask


def kubelet(ask: Callable[[Server], Ask], period: float) -> Watch:
    """A probe with this period; three failures in a row, as kubelet has it by default."""

    @contextmanager
    def watch(running: Running, say: Say) -> Iterator[None]:
        with polled(ask(running.server), say, period):
            yield

    return watch


# probe


def target(server: Server) -> tuple[str, str]:
    """The server as every command of `probe` is told of it."""
    if server.talk is None:
        return "--port", str(PORT)
    return "--target", server.talk.target


def started(running: Running) -> AbstractContextManager[Sidecar]:
    """A sidecar by its defaults, which keeps evidence."""
    evidence = running.place / "evidence"
    evidence.mkdir()
    return sidecar(*target(running.server), "--evidence-dir", str(evidence))


def serve(answer: str) -> Watch:
    """Hear what the sidecar's own /ready or /live says, from its log."""

    @contextmanager
    def watch(running: Running, say: Say) -> Iterator[Cpu]:
        ended = threading.Event()
        with started(running) as watching:

            def run() -> None:
                while not ended.is_set() and watching.process.poll() is None:
                    event = watching.next(0.5) or {}
                    if event.get("event") == "transition":
                        say("" if event[answer] else event["message"])

            with in_thread(run, ended):
                yield lambda: cpu_of_family(watching.process.pid)

    return watch


@contextmanager
def serve_by_kubelet(running: Running, say: Say) -> Iterator[Cpu]:
    """kubelet asks the sidecar's /ready as examples/k8s/quickstart has it: every 5 s, once."""
    with (
        started(running) as watching,
        polled(partial(gets, watching.port, "/ready"), say, 5.0, failures=1),
    ):
        yield lambda: cpu_of_family(watching.process.pid)


@contextmanager
def check_by_kubelet(running: Running, say: Say) -> Iterator[Cpu]:
    """kubelet's exec of `probe check`, by its defaults."""
    command = (sys.executable, "-m", "probe", "check", *target(running.server))
    with executed(command, say, 10.0) as cpu:
        yield cpu


@contextmanager
def executed(command: Sequence[str | Path], say: Say, period: float) -> Iterator[Cpu]:
    """kubelet's exec: the status decides, what is printed is the reason."""
    taken = 0.0

    def ask() -> str:
        nonlocal taken
        with process(*command) as child:
            assert child.stdout is not None
            told = child.stdout.read().strip()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        taken += usage.ru_utime + usage.ru_stime
        return "" if child.returncode == 0 else told or f"exit status {child.returncode}"

    with polled(ask, say, period):
        yield lambda: taken


# Others

BLACKBOX = (
    "blackbox_exporter" if shutil.which("blackbox_exporter") else ("prometheus-blackbox-exporter")
)
"""As its makers call it, or as Debian does."""
BLACKBOX_PORT = 9115


def blackbox(module: str) -> Watch:
    """The exporter is asked every second, and its probe_success is told after three in a row."""

    @contextmanager
    def watch(running: Running, say: Say) -> Iterator[Cpu]:
        timeout = f"{TIMEOUT:g}s"
        modules: dict[str, dict[str, object]] = {
            "connects": {"prober": "tcp", "timeout": timeout},
            "asks": {"prober": "http", "timeout": timeout},
        }
        if talk := running.server.talk:
            send, expect = (words.decode().strip() for words in (talk.send, talk.expect))
            exchange = {"query_response": [{"send": send}, {"expect": expect}]}
            modules["asks"] = {"prober": "tcp", "timeout": timeout, "tcp": exchange}
        settings = written(running.place / "blackbox.yml", json.dumps({"modules": modules}))
        address = f"127.0.0.1:{BLACKBOX_PORT}"
        url = f"http://{address}/probe?module={module}&target=127.0.0.1:{PORT}&debug=true"

        def ask() -> str:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    told = answer.read().decode()
            except OSError as error:
                return f"cannot ask the exporter: {error}"
            if "\nprobe_success 1\n" in told:
                return ""
            why = re.search(r'level=error .*?err="((?:[^"\\]|\\.)*)"', told)
            return why[1].replace("\\", "") if why else "probe_success 0"

        with process(
            BLACKBOX, "--config.file", settings, "--web.listen-address", address
        ) as exporter:
            while not running.view.listeners(BLACKBOX_PORT) and exporter.poll() is None:
                time.sleep(0.05)
            with polled(ask, say):
                yield lambda: cpu_of_family(exporter.pid)

    return watch


def monit(protocol: Callable[[Server], str]) -> Watch:
    """monit with cycles of a second, of which three in a row must fail."""

    @contextmanager
    def watch(running: Running, say: Say) -> Iterator[Cpu]:
        here = running.place
        text = f"""set daemon 1
set log /dev/stdout
set idfile {here}/monit.id
set statefile {here}/monit.state
set pidfile {here}/monit.pid
check host server with address 127.0.0.1
    if failed port {PORT} {protocol(running.server)} with timeout 1 second for 3 cycles then alert
"""
        settings = written(here / "monitrc", text)
        settings.chmod(0o600)
        with process("monit", "-I", "-c", settings) as daemon:

            def run() -> None:
                assert daemon.stdout is not None
                for line in daemon.stdout:  # of which those with a level are the log
                    if "] error " in line and "'server' failed" in line:
                        say(line.partition("'server' ")[2].strip())
                    elif "] info " in line and ("started" in line or "succeeded" in line):
                        say("")

            reading = threading.Thread(target=run)
            reading.start()
            try:
                yield lambda: cpu_of_family(daemon.pid)
            finally:
                daemon.kill()
                reading.join()

    return watch


@contextmanager
def goss(running: Running, say: Say) -> Iterator[Cpu]:
    """`goss validate` by exec every second: the port is reachable, and HTTP answers 200."""
    text = f"addr:\n  tcp://127.0.0.1:{PORT}:\n    reachable: true\n    timeout: 1000\n"
    if running.server.talk is None:
        text += f"http:\n  http://127.0.0.1:{PORT}/:\n    status: 200\n    timeout: 1000\n"
    settings = written(running.place / "goss.yaml", text)
    with executed(("goss", "--gossfile", settings, "validate", "--no-color"), say, 1.0) as cpu:
        yield cpu


def has_health(server: Server) -> bool:
    """Whether there is a health port to ask."""
    return server.health


OURS = (sys.executable, "-m", "probe", "--version")
PROBERS = {
    "probe /ready": Prober(
        serve("ready"), "`probe serve` by its defaults: what `/ready` says", version=OURS
    ),
    "probe /live": Prober(serve("live"), "the same: what `/live` says, that restarts"),
    "kubelet asks probe": Prober(
        serve_by_kubelet, "`/ready` by a readinessProbe of the quickstart: every 5 s, one failure"
    ),
    "kubelet exec probe check": Prober(
        check_by_kubelet, "`probe check` without a sidecar, every 10 s, three in a row"
    ),
    "tcpSocket 1 s": Prober(kubelet(lambda _: connects, 1.0), "kubelet, every 1 s, three in a row"),
    "httpGet 1 s": Prober(
        kubelet(asks, 1.0),
        "kubelet on the traffic port, every 1 s, three in a row; where there is no HTTP, an exec of"
        " the server's client",
    ),
    "health port 1 s": Prober(
        kubelet(lambda _: lambda: gets(HEALTH), 1.0),
        "kubelet's httpGet on the health port, every 1 s, three in a row",
        fits=has_health,
    ),
    "tcpSocket 10 s": Prober(kubelet(lambda _: connects, 10.0), "kubelet's defaults"),
    "httpGet 10 s": Prober(kubelet(asks, 10.0), "kubelet's defaults, on the traffic port"),
    "health port 10 s": Prober(
        kubelet(lambda _: lambda: gets(HEALTH), 10.0),
        "kubelet's defaults, on the health port",
        fits=has_health,
    ),
    "blackbox tcp": Prober(
        blackbox("connects"),
        "asked every 1 s, three in a row",
        BLACKBOX,
        (BLACKBOX, "--version"),
    ),
    "blackbox http": Prober(
        blackbox("asks"),
        "the same; where there is no HTTP, tcp with a query and its response",
        BLACKBOX,
    ),
    "monit tcp": Prober(
        monit(lambda _: "type tcp"),
        "cycles of 1 s, three in a row",
        "monit",
        ("monit", "--version"),
    ),
    "monit http": Prober(
        monit(lambda server: f"protocol {server.talk.monit if server.talk else 'http'}"),
        "the same, by the server's protocol",
        "monit",
    ),
    "goss": Prober(
        goss, "`goss validate`, every 1 s, three in a row", "goss", ("goss", "--version")
    ),
}
