"""Who accepts on a unix socket: threads that wait on it, and those of one that is stuck.

Debian: php-fpm, nodejs.
"""

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from probe import exits
from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.baseline import differences, learn
from probe.evidence.records.audit import Change, Finding, ListenerAudit, QueueTrend
from probe.evidence.store import parse_id
from probe.kernel.unixdiag import UnixView
from tests.evidence.programs import program
from tests.php import php_fpm
from tests.support import until

SERVERS = {
    "asyncio": (
        sys.executable,
        "-c",
        "import asyncio, sys\n"
        "async def serve():\n"
        "    server = await asyncio.start_unix_server(lambda r, w: w.close(), sys.argv[1])\n"
        "    print('ready', flush=True)\n"
        "    await server.serve_forever()\n"
        "asyncio.run(serve())\n",
    ),
    "accept": (
        sys.executable,
        "-c",
        "import socket, sys\n"
        "server = socket.socket(socket.AF_UNIX)\n"
        "server.bind(sys.argv[1])\n"
        "server.listen()\n"
        "print('ready', flush=True)\n"
        "while True: server.accept()[0].close()\n",
    ),
    "node": (
        "node",
        "-e",
        "require('net').createServer(c => c.end())"
        ".listen(process.argv[1], () => console.log('ready'))",
    ),
}

DEAF = (
    "import socket, sys\n"
    "server = socket.socket(socket.AF_UNIX)\n"
    "server.bind(sys.argv[1])\n"
    "server.listen(7)\n"
    "print('ready', flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def path(namespace: None) -> Iterator[str]:
    """Short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        Path(folder).chmod(0o755)
        yield f"{folder}/app.sock"


@pytest.fixture
def view(path: str) -> Iterator[UnixView]:
    with closing(UnixView(path)) as opened:
        yield opened


def one(view: UnixView) -> ListenerAudit:
    (listener,) = audit(view, 0).listeners
    return listener


@pytest.mark.parametrize("name", SERVERS)
def test_who_waits_is_seen(path: str, view: UnixView, name: str) -> None:
    with program(*SERVERS[name], path):
        seen = one(view)
        assert (seen.finding, seen.queue) == (Finding.SOMEBODY_WAITS, QueueTrend.EMPTY)
        assert seen.listener.address == path


def test_the_workers_of_php_fpm(path: str, view: UnixView) -> None:
    """Each waits in accept() itself; the master holds the listener and does not."""
    command = php_fpm(Path(path).parent, path, children=2)
    try:
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("php-fpm is not installed")
    with server:
        try:
            until(lambda: bool(view.listeners()), "php-fpm")
            until(lambda: len(one(view).owners) == 3 and one(view).waited > 0, "two workers")
            seen = audit(view, 0)
            (listener,) = seen.listeners
            assert listener.finding is Finding.SOMEBODY_WAITS
            (baseline,) = learn(seen)
            assert len(baseline.entries) == 2
            assert server.pid not in {entry.pid for entry in baseline.entries}
            assert not [
                one.change
                for one in differences(baseline, audit(view, 0))
                if one.change in (Change.THREAD_EXITED, Change.PROCESS_EXITED)
            ]
        finally:
            server.terminate()


def test_a_queue_that_is_stuck_is_told_with_who_holds_it(path: str, view: UnixView) -> None:
    with program(sys.executable, "-c", DEAF, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        seen = one(view)
        assert (seen.finding, seen.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
        assert seen.head_queued_for is None  # The kernel does not tell.
        told = subprocess.run(
            [sys.executable, "-m", "probe", "diagnose", "--json", "--target", f"unix://{path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == exits.FAILED, told.stderr
        diagnosis = json.loads(told.stdout)
        report = diagnosis["report"]
        assert (report["socket"], report["port"]) == (path, 0)
        assert diagnosis["line"].startswith(f"accept_queue_stalled: {path} accept queue stalled")
        assert report["listeners"][0]["length"] == 1
        assert report["connections"]["queued"][0]["remote"].startswith("socket:[")
        assert report["acceptors"]["listeners"][0]["finding"] == "nobody_waits"
        known = parse_id(report["id"])
        assert known is not None
        assert (known.place, known.why) == ("unix.app.sock", "diagnose")
