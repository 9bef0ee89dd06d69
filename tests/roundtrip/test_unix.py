"""Round trips by unix sockets: the stages, the connection that is held, and real servers.

Debian: php-fpm. What is not installed is skipped.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from probe import exits
from probe.commands import once
from probe.kernel import Blind, KernelView, open_view
from probe.kernel.sampler import Sampler
from probe.kernel.unixdiag import UnixView
from probe.model import Outcome, Policy, Protocol, Reason, RoundTrip, Stage, Target
from probe.roundtrip import Attempt, address, blocking
from tests.php import PING, php_fpm
from tests.roundtrip.test_grpc import plain, served
from tests.support import require_runnable, until

NOBODY = 65534
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture
def path(namespace: None) -> Iterator[str]:
    """Short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="probe-") as folder:
        Path(folder).chmod(0o755)
        yield f"{folder}/app.sock"


@contextmanager
def listening(path: str, backlog: int = 5) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(backlog)
        yield server


def trip(target: Target, timeout: float = 0.3, view: KernelView | None = None) -> RoundTrip:
    with closing(view or UnixView(target.socket)) as asked:
        return blocking.run(target, address(target, ()), asked, timeout)


@contextmanager
def serving(path: str, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """One connection after the other, each given to `serve` and closed."""

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                with suppress(OSError):
                    serve(connection)
                if over.is_set():
                    return

    over = threading.Event()
    with listening(path) as server:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(path)
            thread.join()


def until_closed(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def read_and_wait(connection: socket.socket) -> None:
    connection.recv(4096)
    until_closed(connection)


def answer(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(ANSWER)


def wait_unread(connection: socket.socket) -> None:
    time.sleep(0.5)  # longer than the round trip may take


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.HTTP])
def test_queued_and_held(path: str, protocol: Protocol) -> None:
    """Until it is accepted: it is not closed before, and no second one is needed to see it."""
    target = Target(0, protocol, socket=path)
    with listening(path) as server, closing(UnixView(path)) as view:
        attempt = Attempt(target, address(target, ()), view, time.monotonic(), 0.2)
        while (result := attempt.step()) is None:
            time.sleep(0.01)
        assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.QUEUED)
        assert result.detail.startswith("not accepted for 0.")
        assert attempt.lingers
        assert attempt.poll(time.monotonic())
        with server.accept()[0]:
            assert not attempt.poll(time.monotonic())
        assert attempt.accepted


def test_held_until_its_listener_ends(path: str) -> None:
    target = Target(0, Protocol.TCP, socket=path)
    with closing(UnixView(path)) as view:
        with listening(path):
            attempt = Attempt(target, address(target, ()), view, time.monotonic(), 0.1)
            while attempt.step() is None:
                time.sleep(0.01)
            assert attempt.poll(time.monotonic())
        assert not attempt.poll(time.monotonic())
        assert not attempt.accepted


@pytest.mark.parametrize(
    ("protocol", "serve", "stage"),
    [
        (Protocol.TCP, until_closed, None),
        (Protocol.HTTP, answer, None),
        (Protocol.HTTP, read_and_wait, Stage.UNANSWERED),
        (Protocol.HTTP, wait_unread, Stage.UNREAD),
        (Protocol.FASTCGI, answer, Stage.UNEXPECTED_REPLY),
    ],
)
def test_stages(
    path: str, protocol: Protocol, serve: Callable[[socket.socket], None], stage: Stage | None
) -> None:
    with serving(path, serve):
        result = trip(Target(0, protocol, socket=path))
        assert (result.stage, result.accepted) == (stage, True), result
        assert result.outcome is (Outcome.FAILED if stage else Outcome.OK)


def test_who_hangs_up_at_once_resets(path: str) -> None:
    """As TCP's does, if there was something to read."""
    with serving(path, lambda connection: None):
        result = trip(Target(0, socket=path))
    assert result.stage in {Stage.RESET, Stage.UNEXPECTED_REPLY}, result


def test_the_host_of_a_request_is_localhost(path: str) -> None:
    heard = []

    def listen(connection: socket.socket) -> None:
        heard.append(connection.recv(4096))
        connection.sendall(ANSWER)

    with serving(path, listen):
        trip(Target(0, path="/healthz", socket=path))
    assert heard[0].startswith(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")


def test_grpc(path: str) -> None:
    """As CSI drivers and other plugins of kubelet speak it."""
    with served(plain) as port, forwarding(path, port):
        result = trip(Target(0, Protocol.GRPC, socket=path), 5.0)
        assert result.outcome is Outcome.OK, result


@contextmanager
def forwarding(path: str, port: int) -> Iterator[None]:
    """By the unix socket to the port, for one connection."""

    def forward() -> None:
        with server.accept()[0] as near, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=copy, args=(far, near))
            back.start()
            copy(near, far)
            back.join()

    def copy(source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    with listening(path) as server:
        thread = threading.Thread(target=forward)
        thread.start()
        yield
        thread.join()


def test_what_connect_says_of_the_application(path: str) -> None:
    target = Target(0, Protocol.TCP, socket=path)
    blind = Blind("not asked")
    assert trip(target, view=blind).detail == f"{path}: there is no such file"
    with listening(path, backlog=0):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            full = trip(target, view=blind)
        assert (full.stage, full.detail) == (Stage.REFUSED, f"{path}: its accept queue is full")
    refused = trip(target, view=blind)
    assert (refused.stage, refused.detail) == (Stage.REFUSED, f"{path}: Connection refused")


def test_a_socket_of_another_type_says_nothing_of_the_application(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        result = trip(Target(0, Protocol.TCP, socket=path))
    assert result.outcome is Outcome.UNKNOWN
    assert result.detail == f"could not connect to {path}: Protocol wrong type for socket"


def test_whether_it_was_accepted_where_nothing_can_be_seen(path: str) -> None:
    with serving(path, until_closed):
        result = trip(Target(0, Protocol.TCP, socket=path), view=Blind("no unix_diag"))
    assert (result.outcome, result.detail) == (
        Outcome.UNKNOWN,
        "cannot tell whether it was accepted: no unix_diag",
    )


# --- a check


@pytest.fixture
def ports(namespace: None) -> Iterator[Sampler]:
    with closing(open_view()) as view:
        yield Sampler(view, None)


def test_ten_in_a_row_leave_a_dead_application_with_one_entry(path: str, ports: Sampler) -> None:
    """Though the first of them has left its queue when the second looks at it."""
    target = Target(0, Protocol.TCP, socket=path)
    with listening(path, backlog=128), closing(UnixView(path)) as view:
        first = once.at(target, Policy(), ports, 0.3)
        assert (first.status, first.verdict.stage) == (exits.FAILED, Stage.QUEUED)
        for _ in range(9):
            seen = once.at(target, Policy(), ports, 0.3)
            assert (seen.status, seen.verdict.reason) == (
                exits.FAILED,
                Reason.ACCEPT_QUEUE_STALLED,
            )
        assert [one.length for one in view.listeners()] == [1]


def test_who_may_not_connect_cannot_tell(path: str) -> None:
    """Its queue is seen all the same."""
    nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    require_runnable(nobody)
    with listening(path):
        Path(path).chmod(0o600)

        def check(url: str) -> tuple[int, str]:
            command = [*nobody, sys.executable, "-m", "probe", "check", "--target", url + path]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
            return told.returncode, told.stdout.strip()

        assert check("unix://") == (
            exits.UNKNOWN,
            f"could not tell: {path} could not connect to {path}: Permission denied",
        )
        assert check("queue+unix://")[0] == exits.OK


# --- php-fpm


@contextmanager
def pool(path: str, listen: str, more: str) -> Iterator[None]:
    folder = Path(path).parent
    log = folder / "log"
    log.unlink(missing_ok=True)
    command = php_fpm(folder, listen, children=1, more=more)
    if shutil.which(command[0]) is None:
        pytest.skip("php-fpm is not installed")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: log.exists() and "ready to handle" in log.read_text(), "php-fpm")
            yield
        finally:
            server.terminate()


@pytest.mark.parametrize("by", ["unix", "port"])
def test_php_fpm_and_its_ping_page(path: str, by: str, ports: Sampler) -> None:
    where = path if by == "unix" else "127.0.0.1:9000"
    target = Target(0, Protocol.FASTCGI, socket=path)
    if by == "port":
        target = Target(9000, Protocol.FASTCGI)

    def asked(page: str) -> once.CheckResult:
        return once.at(target._replace(path=page), Policy(), ports, 5.0)

    script = Path(path).with_name("health.php")
    script.write_text("<?php http_response_code(503); echo 'no database';")
    with pool(path, where, PING):
        assert asked("").status == exits.OK
        assert asked("/ping").status == exits.OK
        unknown = asked("/nowhere.php")
        assert (unknown.status, unknown.verdict.stage) == (exits.FAILED, Stage.STATUS)
        assert 'status: status 404, not 200 to 399: "Primary script unknown"' in unknown.line
        assert 'status 503, not 200 to 399: "no database"' in asked(str(script)).line
    with pool(path, where, ""):  # no ping.path: its 404 is a worker's answer
        assert asked("").status == exits.OK
        assert asked("/ping").status == exits.FAILED
