"""A target that is never asked: its accept queue alone is judged, and no connection is made."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from probe import exits
from probe.commands import once
from probe.kernel import KernelView, open_view
from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from probe.model import Policy, Protocol, Reason, Target
from tests.conftest import LOOPBACK

LIMIT = 0.3
"""Seconds for one check."""

ROUNDS = 1000
PORT = 3306
ADDRESS = "10.9.8.7"
"""Not loopback, whose errors MariaDB does not count, and with a name, without which none are."""

UNPROVEN = "and it cannot be seen whether that moves"


@pytest.fixture
def view() -> Iterator[KernelView]:
    opened = open_view()
    yield opened
    opened.close()


def judged(view: KernelView, target: Target, *, counted: bool = True) -> once.CheckResult:
    sampler = Sampler(view, once.counters() if counted else None)
    return once.at(target, Policy(), sampler, LIMIT)


def taken_in() -> int:
    """Connections that the namespace has taken in so far."""
    with closing(Counters()) as counters:
        return counters.passive_opens()


def test_a_queue_that_is_empty_is_healthy_and_what_is_unknown_is_said(view: KernelView) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        seen = judged(view, Target(PORT, Protocol.QUEUE))
        assert seen.status == exits.OK
        assert seen.line == (
            "3306 healthy: 0 of 128 queued, never asked, so whether it answers is not known"
        )


def test_a_queue_that_stands_is_stalled(view: KernelView) -> None:
    with (
        socket.create_server(("127.0.0.1", PORT)) as server,
        socket.create_connection(server.getsockname()),
    ):
        for counted in (True, False):
            seen = judged(view, Target(PORT, Protocol.QUEUE), counted=counted)
            assert (seen.status, seen.verdict.reason) == (
                exits.FAILED,
                Reason.ACCEPT_QUEUE_STALLED,
            )
        assert [one.length for one in view.listeners(PORT)] == [1]


def test_what_cannot_be_seen_is_neither(view: KernelView) -> None:
    """One that gave up by a reset is still in the queue, and nobody can see whether it moves."""
    with socket.create_server(("127.0.0.1", PORT)) as server:
        client = socket.create_connection(server.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
        client.close()
        seen = judged(view, Target(PORT, Protocol.QUEUE), counted=False)
        assert (seen.status, seen.line) == (
            exits.UNKNOWN,
            f"could not tell: 3306 1 of 128 queued, {UNPROVEN}",
        )


def test_nobody_there_and_another_network_namespace(view: KernelView) -> None:
    seen = judged(view, Target(PORT, Protocol.QUEUE))
    assert (seen.status, seen.verdict.reason) == (exits.FAILED, Reason.NOT_LISTENING)
    seen = judged(view, Target(PORT, Protocol.QUEUE, host="192.0.2.1"))
    assert (seen.status, seen.line) == (
        exits.UNKNOWN,
        "could not tell: 3306 192.0.2.1 is not of this network namespace, where no queue can be "
        "seen",
    )


MARIADB = """
mount --make-rprivate /
echo '{address} client.example' > {folder}/hosts
mount --bind {folder}/hosts /etc/hosts
exec mariadbd --no-defaults --user=root --datadir={folder}/data --socket={folder}/sock \
  --port={port} --bind-address={address} --max-connect-errors=10 --init-file={folder}/init.sql \
  --innodb-buffer-pool-size=8M
"""


@contextmanager
def mariadb(folder: Path, view: KernelView) -> Iterator[None]:
    """With a limit of ten broken handshakes, then their host is banned (max_connect_errors)."""
    if shutil.which("mariadbd") is None:
        pytest.skip("mariadbd is not installed")
    (folder / "init.sql").write_text("CREATE USER 'app'@'%';\n")
    options = [f"--datadir={folder}/data", "--user=root", "--skip-test-db"]
    install = ["mariadb-install-db", "--no-defaults", *options]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    script = MARIADB.format(folder=folder, address=ADDRESS, port=PORT)
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(["unshare", "-m", "sh", "-ec", script], stdout=log, stderr=log) as server,
    ):
        try:
            deadline = time.monotonic() + 60
            while not view.listeners(PORT):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait()


def greeting() -> bytes:
    """What MariaDB says first to somebody who then hangs up."""
    with socket.create_connection((ADDRESS, PORT), 10) as client:
        return client.recv(512)


def test_mariadb_does_not_ban_who_does_not_knock(tmp_path: Path, view: KernelView) -> None:
    with IPRoute() as routes:
        routes.addr("add", index=LOOPBACK, address=ADDRESS, prefixlen=32)
    with mariadb(tmp_path, view):
        before = taken_in()
        for _ in range(ROUNDS):
            seen = judged(view, Target(PORT, Protocol.QUEUE))
            assert seen.status == exits.OK, seen
        assert taken_in() == before
        assert b"MariaDB" in greeting()
        # Others knock, and are banned for it.
        knocks = [judged(view, Target(PORT, Protocol.TCP)).status for _ in range(12)]
        assert set(knocks) == {exits.OK}
        assert b"is blocked because of many connection errors" in greeting()
