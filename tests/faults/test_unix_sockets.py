"""Servers on unix sockets that stop accepting, as people run them, and what the sidecar says.

Debian: php-fpm, puma, uwsgi-core, uwsgi-plugin-python3. gunicorn comes with the test requirements.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from probe.kernel.unixdiag import UnixView
from probe.model import Protocol, Target
from probe.roundtrip.fastcgi import FastCgi
from tests.faults.harness import Sidecar, sidecar
from tests.php import php_fpm

STALLED = {"reason": "accept_queue_stalled", "ready": False}
HEALTHY = {"condition": "healthy", "ready": True, "live": True}
SOON = (
    *("--interval", "200ms", "--stalled-for", "600ms", "--round-trip-timeout", "500ms"),
    *("--live-after", "1s", "--live-after-busy", "2s", "--evidence-deadline", "1s"),
)
"""As by default, but sooner."""

WSGI = """
def application(environ, start_response):
    start_response("204 No Content", [])
    return []
"""

Command = Callable[[Path, str], list[str]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where paths are short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="probe-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def gunicorn(folder: Path, path: str) -> list[str]:
    (folder / "app.py").write_text(WSGI)
    options = ["--bind", f"unix:{path}", "--workers", "2", "--chdir", str(folder)]
    return [sys.executable, "-m", "gunicorn", *options, "app:application"]


def uwsgi(*socket_of: str) -> Command:
    def command(folder: Path, path: str) -> list[str]:
        (folder / "app.py").write_text(WSGI)
        options = [*socket_of, path, "--wsgi-file", str(folder / "app.py"), "--processes", "2"]
        return ["uwsgi", "--plugin", "python3", *options, "--master", "--die-on-term"]

    return command


def puma(folder: Path, path: str) -> list[str]:
    (folder / "puma.rb").write_text(f'app {{ |_| [204, {{}}, []] }}\nbind "unix://{path}"\n')
    return ["puma", "-C", str(folder / "puma.rb"), "-e", "production"]


SERVERS: dict[str, tuple[Command, str]] = {
    "php-fpm": (php_fpm, "fastcgi+unix://{}?path=/ping"),
    "gunicorn": (gunicorn, "http+unix://{}"),
    "uwsgi": (uwsgi("--http-socket"), "http+unix://{}?path=/"),
    "uwsgi that speaks uwsgi": (uwsgi("--socket"), "unix://{}"),
    "puma": (puma, "http+unix://{}"),
    "puma, never asked": (puma, "queue+unix://{}"),
}


@contextmanager
def running(folder: Path, command: list[str], path: str) -> Iterator[int]:
    """The server, from when it listens until the end of the block; the id of its process group."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with (folder / "output").open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    deadline = time.monotonic() + 30
    try:
        while not os.path.exists(path):  # noqa: PTH110 - a socket, perhaps
            assert server.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.01)
        yield server.pid
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextmanager
def watched(target: str, *options: str) -> Iterator[Sidecar]:
    with sidecar("--target", target, *SOON, *options) as watching:
        watching.until(20, condition="healthy", ready=True)
        yield watching


def test_a_pool_at_work_is_not_restarted_before_it_has_had_its_time(folder: Path) -> None:
    """Its one worker waits for something slow, as it would in every replica at the same time."""
    path, script = str(folder / "app.sock"), folder / "slow.php"
    script.write_text("<?php sleep(60);")
    slow = FastCgi(Target(0, Protocol.FASTCGI, path=str(script), socket=path), "")
    command = php_fpm(folder, path, children=1)
    with (
        running(folder, command, path),
        watched(SERVERS["php-fpm"][1].format(path)) as probe,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(path)
        client.sendall(slow.start())
        probe.until(10, **STALLED)
        event = probe.until(10, **STALLED, live=True)
        assert "; live: 1 request is worked on, until 2 s" in event["message"]
        probe.until(10, reason="accept_queue_stalled", live=False)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_stopped_and_goes_on(folder: Path, name: str) -> None:
    command, target = SERVERS[name]
    path = str(folder / "app.sock")
    unasked = target.startswith("queue")
    with (
        running(folder, command(folder, path), path) as group,
        watched(target.format(path)) as probe,
        closing(UnixView(path)) as view,
        socket.socket(socket.AF_UNIX) as client,
    ):
        os.killpg(group, signal.SIGSTOP)
        os.waitpid(group, os.WUNTRACED)  # until every thread of it stands still
        if unasked:
            client.connect(path)
        event = probe.until(10, **STALLED)
        assert event["message"].startswith(f"{path} accept queue stalled: 1 of ")
        assert probe.get(f"/ready/{path}")[0] == probe.get("/ready")[0] == 503
        (told,) = probe.status()["targets"]
        assert (told["name"], told["socket"], told["port"]) == (path, path, None)
        assert (told["listeners"][0]["address"], told["listeners"][0]["length"]) == (path, 1)
        metrics = probe.get("/metrics")[1]
        assert f'acceptprobe_accept_queue_length{{target="{path}"}} 1.0' in metrics
        if not unasked:
            probe.until(10, reason="accept_queue_stalled", live=False)
        assert [one.length for one in view.listeners()] == [1]  # however long the fault lasts
        os.killpg(group, signal.SIGCONT)
        probe.until(10, **HEALTHY)
        assert "acceptprobe_namespace_accepts_total 0.0" in metrics
