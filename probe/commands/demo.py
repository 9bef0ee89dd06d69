"""`probe demo`: the incident, shown end to end with the embedded application.

Three questions are put to it once a second: its own health port, a bare TCP connect (what a
tcpSocket probe does), and the sidecar's /ready. Then its accept thread dies.
"""

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple, cast

from probe import exits
from probe.commands.colour import BOLD, GREEN, RED, YELLOW, paint
from probe.config import Config
from probe.evidence.records.report import Report, typed
from probe.evidence.report.patterns import conclude
from probe.evidence.report.text import WIDTH, proven
from probe.evidence.store import RECORD

HEALTHY_FOR = 4
"""Seconds before the accept thread dies."""

LIVE_AFTER = 10
"""Seconds of stall until /live fails; the default of `probe serve` is 30."""

PATIENCE = 45
"""Seconds after which the demo has failed."""

READY = "ready"


def run(config: Config) -> int:
    """Show it. Exit 0 when the sidecar found what there is to find, 1 when not."""
    with ExitStack() as stack:
        app = _start(stack, "probe.commands.demo_app")
        port, health = (int(word) for word in app.out.readline().split())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="probe-demo-"))
        sidecar = _start(
            stack,
            "probe",
            "serve",
            *("--port", str(port), "--listen", "127.0.0.1:0", "--evidence-dir", folder),
            *("--live-after", f"{LIVE_AFTER}s", "--log-format", "json"),
        )
        answers = _await_serving(sidecar.err)
        print(f"An application listens on port {port}; its health port is {health}.")
        print("Once a second, three questions are asked. Only one of them is the right one.\n")
        print(f"{'':>6}  {'health port':<12} {'TCP connect':<12} sidecar")
        if not _timeline(app, port, health, answers):
            print("\nThe sidecar did not find it.")
            return exits.FAILED
        _show_evidence(Path(folder))
        return exits.OK


class Child(NamedTuple):
    """The pipes of a process that ends with the demo."""

    stdin: IO[str]
    out: IO[str]
    err: IO[str]


def _start(stack: ExitStack, module: str, *arguments: str) -> Child:
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    pipes = (process.stdin, process.stdout, process.stderr)
    return Child(*(cast("IO[str]", pipe) for pipe in pipes))


def _await_serving(log: IO[str]) -> int:
    """Return the sidecar's port, once it says that it serves; go on draining its log."""
    for line in log:
        fields = json.loads(line)
        if fields.get("event") == "serving":
            threading.Thread(target=lambda: log.read(), daemon=True).start()
            return int(fields["port"])
    raise SystemExit("probe: the sidecar did not start")


def _timeline(app: Child, port: int, health: int, answers: int) -> bool:
    """Ask once a second until /live has failed; return whether it did."""
    begun = time.monotonic()
    found = last = 0.0
    second = 0
    while True:
        second += 1
        time.sleep(max(begun + second - time.monotonic(), 0))
        status, ready = _get(answers, "/ready")
        live, _ = _get(answers, "/live")
        _row(second, _get(health, "/health")[0], _connect(port), _sidecar(status, live, ready))
        if second == HEALTHY_FOR:
            app.stdin.write("break\n")
            app.stdin.flush()
            _between(app.out.readline().strip())
            _between("the process lives on, and so do its health port and its listener")
        if status == 503 and second > HEALTHY_FOR:
            found = found or second
        if live == 503:
            last = last or second
        if (last and second >= last + 2) or second >= PATIENCE:
            break
    if not last:
        return False
    print(f"\n/ready has failed since second {found:.0f}, /live since {last:.0f}:\n")
    print(textwrap.fill(_get(answers, "/ready")[1], WIDTH))
    return True


def _show_evidence(folder: Path) -> None:
    """Print the finding, of a report that has much more."""
    print("\nBefore /live failed, the evidence was saved:\n")
    for record in sorted(folder.glob(f"*/{RECORD}")):
        report = typed(Report, json.loads(record.read_text()))
        headline, *lines = proven(report, conclude(report))
        print("\n".join([paint(headline, BOLD), *lines]))
    print("\nBeside your own application: probe serve --port PORT")


def _row(second: int, health: str | int, connect: str, sidecar: str) -> None:
    answer = paint(sidecar, GREEN if sidecar == READY else RED)
    print(f"{second:>4} s  {health!s:<12} {connect:<12} {answer}", flush=True)


def _between(line: str) -> None:
    print(f"{'':>6}  {paint(line, YELLOW)}")


def _sidecar(status: str | int, live: str | int, body: str) -> str:
    reason = body.partition("\n")[0].removeprefix("not ready: ").partition(":")[0]
    if status == 200:
        return READY
    return f"not ready: {reason}{'' if live == 200 else '; not live'}"


def _get(port: int, path: str) -> tuple[str | int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError as error:
        return type(error).__name__, ""
    finally:
        connection.close()


def _connect(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return "connected"
    except OSError as error:
        return type(error).__name__
