"""What it costs to have: memory and CPU time of idle probers side by side, and of one check.

Each prober watches an application that is well, once a second; blackbox exporter, which does
nothing by itself, is scraped once a second. Two of each run beside each other, as on a node with
several pods, so that pages of files that both have read are told apart from what is private.
`PROBE=/probe/bin/probe` measures that command, such as the image's, instead of this clone's.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.compare.probers import in_thread
from bench.measure import FIGURES, median, table

SETTLE, MEASURE = 20.0, 60.0
"""Seconds: until who accepts is learnt, and then of measurement."""

ROUNDS = 40
PORT = 8080
DAY = 86_400


class Memory(NamedTuple):
    """MiB of one process: all that is mapped and there, and what is no other's."""

    resident: float
    private: float


class Idle(NamedTuple):
    """A prober that has nothing to tell: `cpu` is its share of one core."""

    name: str
    memory: Memory
    cpu: float


class Once(NamedTuple):
    """A command, from its start to its end: `cpu` in seconds."""

    name: str
    cpu: float


class Quiet(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def memory_of(pid: int) -> Memory:
    """What /proc/PID/smaps_rollup has, see proc(5)."""
    figures = dict.fromkeys(("Rss", "Private_Clean", "Private_Dirty"), 0.0)
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, figure, _ = line.split()
        if name.rstrip(":") in figures:
            figures[name.rstrip(":")] = int(figure) / 1024
    return Memory(figures["Rss"], figures["Private_Clean"] + figures["Private_Dirty"])


def cpu_of(pid: int) -> float:
    """Seconds of all threads that there are, to the nanosecond (/proc/PID/task/TID/schedstat)."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as reply:
        answer: bytes = reply.read()
    return answer


@contextmanager
def running(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[int]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def scraped(url: str) -> Iterator[None]:
    """Ask for this page once a second."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(1):
            with suppress(OSError):
                get(url)

    with in_thread(scrape, ended):
        yield


def probers(folder: Path, ours: Sequence[str]) -> dict[str, Callable[[int], Sequence[str]]]:
    """Commands that watch the application, of each prober that is here; each takes a number that
    tells it from the other of its kind.
    """
    found: dict[str, Callable[[int], Sequence[str]]] = {
        "probe serve": lambda number: (
            *(*ours, "serve", "--port", str(PORT)),
            *("--listen", f"127.0.0.1:{9809 + number}"),
        )
    }
    if blackbox := which("prometheus-blackbox-exporter") or which("blackbox_exporter"):
        modules = folder / "blackbox.yml"
        modules.write_text("modules: {http_2xx: {prober: http, timeout: 1s}}\n")
        found["blackbox exporter"] = lambda number: (
            *(blackbox, f"--config.file={modules}"),
            f"--web.listen-address=127.0.0.1:{9115 + number}",
        )
    if monit := which("monit"):

        def with_rules(number: int) -> Sequence[str]:
            rules = folder / f"monitrc-{number}"
            files = (f"set {name} {folder}/{name}-{number}" for name in ("idfile", "statefile"))
            check = f"check host app with address 127.0.0.1\n  if failed port {PORT} protocol http"
            check += ' request "/" status = 204 then alert'
            rules.write_text("\n".join(("set daemon 1", *files, check, "")))
            rules.chmod(0o600)
            return (monit, "-I", "-c", str(rules), "-p", str(folder / f"pid-{number}"))

        found["monit"] = with_rules
    return found


def idle(name: str, command: Callable[[int], Sequence[str]], environment: dict[str, str]) -> Idle:
    with ExitStack() as stack:
        pids = [stack.enter_context(running(command(number), environment)) for number in (0, 1)]
        if name == "blackbox exporter":
            target = f"module=http_2xx&target=http://127.0.0.1:{PORT}/"
            for number in (0, 1):
                stack.enter_context(scraped(f"http://127.0.0.1:{9115 + number}/probe?{target}"))
        time.sleep(SETTLE)
        before, began = cpu_of(pids[0]), time.monotonic()
        time.sleep(MEASURE)
        cpu = (cpu_of(pids[0]) - before) / (time.monotonic() - began)
        return Idle(name, memory_of(pids[0]), cpu)


def asked(command: Callable[[int], Sequence[str]], environment: dict[str, str]) -> list[Idle]:
    """The sidecar's memory, by what it has been asked for."""
    told = []
    with ExitStack() as stack:
        pids = [stack.enter_context(running(command(number), environment)) for number in (0, 1)]
        time.sleep(SETTLE)
        for name, path in (("/metrics", "/metrics"), ("a page", "/evidence")):
            for number in (0, 1):
                for _ in range(50):
                    get(f"http://127.0.0.1:{9809 + number}{path}")
            told.append(Idle(f"probe serve, asked for {name}", memory_of(pids[0]), 0.0))
    return told


def once(commands: Mapping[str, Sequence[str]], environment: dict[str, str]) -> list[Once]:
    """Medians of commands that take turns, so that what else the machine does falls on all."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            taken[name].append(usage.ru_utime + usage.ru_stime)
    return [Once(name, median(cpu)) for name, cpu in taken.items()]


def main() -> None:
    """Print a table of the idle, and one of commands; keep the figures as JSON."""
    ours = os.environ.get("PROBE", "").split()
    python = str(Path(ours[0]).with_name("python3")) if ours else sys.executable
    ours = ours or [str(Path(sys.executable).with_name("probe"))]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with TemporaryDirectory() as folder:
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = folder  # Else it is who may write there who is fast.
        found = probers(Path(folder), ours)
        with running(found["probe serve"](0), environment):
            time.sleep(SETTLE)
            get("http://127.0.0.1:9809/evidence")  # Now its byte code is there.
        at_rest = [idle(name, command, environment) for name, command in found.items()]
        at_rest[1:1] = asked(found["probe serve"], environment)
        with running(found["probe serve"](0), environment):
            time.sleep(SETTLE)
            commands = {
                "python -c pass": (python, "-c", "pass"),
                f"probe check --port {PORT}": (*ours, "check", "--port", str(PORT)),
                "probe check --sidecar": (*ours, "check", "--sidecar"),
            }
            if curl := which("curl"):
                commands["curl"] = (curl, "-s", f"http://127.0.0.1:{PORT}/")
            if ss := which("ss"):
                commands["ss -ltn"] = (ss, "-ltn")
            ends = once(commands, environment)
    server.shutdown()
    server.server_close()
    rows: list[Sequence[str]] = [("idle", "RSS", "private", "CPU of one core", "CPU time a day")]
    for one in at_rest:
        share = (f"{one.cpu:.2%}", f"{one.cpu * DAY:.0f} s") if one.cpu else ("", "")
        rows.append((one.name, *(f"{mib:.1f} MiB" for mib in one.memory), *share))
    table(rows)
    print()
    told: list[Sequence[str]] = [("command", "CPU time", "ratio")]
    told += [(end.name, f"{end.cpu * 1e3:.1f} ms", f"{end.cpu / ends[0].cpu:.2f}") for end in ends]
    table(told)
    kept = {
        "idle": [one._asdict() | {"memory": one.memory._asdict()} for one in at_rest],
        "once": [end._asdict() for end in ends],
    }
    (FIGURES / "footprint.json").write_text(json.dumps(kept, indent=1) + "\n")
