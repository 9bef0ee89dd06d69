"""Unix sockets: who listens by which path, who waits in the queue, and what was accepted."""

import resource
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.kernel import CannotTell, Interrupted, Refused
from probe.kernel.sockdiag import Channel, parse
from probe.kernel.unixdiag import (
    NO_FILE,
    QUEUE,
    Row,
    UnixSampler,
    UnixView,
    decode,
    exact,
    listeners,
    taken,
)
from probe.model import TcpState
from tests.kernel.conftest import inode

BACKLOG = 5
NOBODY = 65534
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


class Server:
    """A listener on a unix socket, and clients of it."""

    def __init__(self, path: str, backlog: int = BACKLOG) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path if path[0] != "@" else "\0" + path[1:])
        self.socket.listen(backlog)
        self.clients: list[socket.socket] = []
        self.accepted: list[socket.socket] = []

    def connect(self, count: int = 1) -> socket.socket:
        for _ in range(count):
            client = socket.socket(socket.AF_UNIX)
            self.clients.append(client)
            client.setblocking(False)
            client.connect(self.socket.getsockname())
        return client

    def accept(self) -> socket.socket:
        self.accepted.append(self.socket.accept()[0])
        return self.accepted[-1]

    def close(self) -> None:
        for each in (self.socket, *self.clients, *self.accepted):
            each.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where paths are short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="probe-") as name:
        yield Path(name)


@pytest.fixture
def server(namespace: None, folder: Path) -> Iterator[Server]:
    with closing(Server(str(folder / "app.sock"))) as made:
        yield made


@pytest.fixture
def view(server: Server) -> Iterator[UnixView]:
    with closing(UnixView(server.path)) as opened:
        yield opened


def lookup(view: UnixView, client: socket.socket) -> tuple[int, int] | None:
    """The inode and the unread bytes of the server's side."""
    found = view.lookup(("", inode(client)), (view.path, 0))
    return None if found is None else (found.inode, found.rqueue)


def test_length_limit_and_order_of_a_queue_that_fills(server: Server, view: UnixView) -> None:
    (seen,) = view.listeners()
    assert (seen.address, seen.port, seen.length, seen.limit) == (server.path, 0, 0, BACKLOG)
    assert seen.inode == inode(server.socket)
    assert not seen.full
    server.connect(BACKLOG + 1)
    (full,) = view.listeners()
    assert (full.cookie, full.length, full.full) == (seen.cookie, BACKLOG + 1, True)
    with pytest.raises(BlockingIOError):
        server.connect()
    waiting = [inode(client) for client in server.clients[:-1]]
    assert [row.cookie for row in view.queued(0)] == waiting
    assert [row.cookie for row in view.head(0)] == waiting[:1]


def test_queued_then_accepted_unread_read_and_closed(server: Server, view: UnixView) -> None:
    client = server.connect()
    assert lookup(view, client) == (0, 0)
    client.send(b"hello")
    mine = server.accept()
    assert lookup(view, client) == (inode(mine), 5)
    mine.recv(10)
    assert lookup(view, client) == (inode(mine), 0)
    mine.close()
    assert lookup(view, client) is None


def test_a_listener_that_ends_takes_its_queue_along(server: Server, view: UnixView) -> None:
    client = server.connect()
    server.socket.close()
    assert lookup(view, client) is None
    assert view.listeners() == ()
    assert view.absence == "nobody listens on it"


def test_a_client_that_leaves_keeps_its_place(server: Server, view: UnixView) -> None:
    server.connect(3)
    server.clients[0].close()
    (seen,) = view.listeners()
    assert seen.length == 3
    assert len(view.queued(0)) == 2
    assert view.head(0) == ()
    assert [row.cookie for row in view.head(0, presumed=True)] == [inode(server.clients[1])]


def test_accepts_are_counted_by_the_queue_alone(server: Server, view: UnixView) -> None:
    sampler = UnixSampler(view)
    server.connect(4)
    before = sampler.sample(0).accepts
    assert before is not None
    server.clients[0].close()
    server.connect()
    assert sampler.sample(0).accepts == before
    server.accept()
    server.accept()
    server.connect()
    assert sampler.sample(0).accepts == before + 2
    # Nobody is left by whom it could be told whether it moved: it may have.
    for client in server.clients[:-1]:
        client.close()
    assert sampler.sample(0).accepts == before + 2
    server.clients[-1].close()
    assert sampler.sample(0).accepts == before + 3


def test_what_a_restart_would_cut_off(server: Server, view: UnixView) -> None:
    """A request that was read is worked on, as far as can be told; one that was not, by nobody."""
    sampler = UnixSampler(view)
    for said in (b"read", b"unread", b"left"):
        server.connect().send(said)
        server.accept()
    server.accepted[0].recv(10)
    server.accepted[2].recv(10)
    server.clients[2].close()
    view.listeners()
    work = sampler.work(0, (), (), 30.0)
    assert (work.accepted, work.working, work.served, work.resets) == (3, 1, 0, 0)
    server.accepted[1].close()
    assert sampler.work(0, (), (), 30.0).accepted == 2


def test_connections_are_the_queued_and_the_accepted(server: Server, view: UnixView) -> None:
    server.connect(2)
    mine = server.accept()
    view.listeners()
    assert [(row.inode, row.state) for row in view.connections(0)] == [
        (0, TcpState.ESTABLISHED),
        (inode(mine), TcpState.ESTABLISHED),
    ]
    server.clients[0].close()
    assert view.connections(0)[1].state == TcpState.CLOSE_WAIT


def test_abstract_sockets_have_no_file(namespace: None) -> None:
    with closing(Server("@probe")) as server, closing(UnixView("@probe")) as view:
        (seen,) = view.listeners()
        assert seen.address == "@probe"
        client = server.connect()
        assert lookup(view, client) == (0, 0)
        server.socket.close()
        assert view.listeners() == ()


def test_a_name_that_would_move_a_terminal_is_shown_as_it_is_written(folder: Path) -> None:
    """Whoever binds chooses it, and may rename the file then."""
    odd = folder / "\x1b[2J\n.sock"
    with closing(Server(str(odd))), closing(UnixView(str(folder / "app.sock"))) as view:
        odd.rename(folder / "app.sock")
        (seen,) = view.listeners()
        assert seen.address == f"{folder}/\\x1b[2J\\n.sock"


def test_another_listener_on_the_same_path(server: Server, view: UnixView) -> None:
    """As after a reload: the old one still listens, and nobody can come to it."""
    (old,) = view.listeners()
    Path(server.path).unlink()
    assert view.listeners() == ()
    assert view.absence == NO_FILE
    with closing(Server(server.path)) as successor:
        (new,) = view.listeners()
        assert new.cookie != old.cookie
        assert new.inode == inode(successor.socket)


def test_a_link_that_is_turned(server: Server, folder: Path) -> None:
    link = folder / "current"
    link.symlink_to(server.path)
    with closing(Server(str(folder / "b.sock"))) as other, closing(UnixView(str(link))) as view:
        (seen,) = view.listeners()
        assert seen.inode == inode(server.socket)
        link.unlink()
        link.symlink_to(other.path)
        (seen,) = view.listeners()
        assert seen.inode == inode(other.socket)


@pytest.mark.parametrize(
    ("make", "absence"),
    [
        (lambda path: None, NO_FILE),
        (lambda path: path.write_text(""), "it is no socket"),
        (lambda path: path.mkdir(), "it is no socket"),
        (lambda path: Server(str(path)).close(), "nobody listens on it"),
    ],
)
def test_paths_by_which_nobody_listens(folder: Path, make: object, absence: str) -> None:
    assert callable(make)
    make(folder / "app.sock")
    with closing(UnixView(str(folder / "app.sock"))) as view:
        assert view.listeners() == ()
        assert view.absence == absence


def test_a_path_in_a_circle_is_not_nobody(folder: Path) -> None:
    (folder / "app.sock").symlink_to(folder / "app.sock")
    with (
        closing(UnixView(str(folder / "app.sock"))) as view,
        pytest.raises(Refused, match=r"app\.sock: Too many levels of symbolic links"),
    ):
        view.listeners()


def test_a_folder_without_permission_is_not_nobody(server: Server, folder: Path) -> None:
    """The queue of a socket that nobody may connect to is told all the same."""
    Path(server.path).chmod(0)
    script = (
        "import os, sys\n"
        "from probe.kernel.unixdiag import UnixView\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try: print(UnixView(sys.argv[1]).listeners()[0].limit)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    def asked() -> str:
        command = [sys.executable, "-W", "ignore", "-c", script, server.path]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    folder.chmod(0o755)
    assert asked() == str(BACKLOG)
    folder.chmod(0o700)
    assert asked() == f"Refused {server.path}: Permission denied"


ELSEWHERE = f"""
import ctypes, socket, sys
libc = ctypes.CDLL(None)
assert not libc.unshare({CLONE_NEWNS})
assert not libc.mount(b"none", b"/", None, {MS_REC | MS_PRIVATE}, None)
assert not libc.mount(b"none", sys.argv[1].encode(), b"tmpfs", 0, None)
server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
server.bind(sys.argv[2])
server.listen({BACKLOG})
client.connect(sys.argv[2])
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def elsewhere(path: str) -> Iterator[None]:
    """A process in a mount namespace of its own that listens on this path there."""
    command = [sys.executable, "-c", ELSEWHERE, str(Path(path).parent), path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield
        process.communicate()


def test_a_socket_of_another_mount_namespace(namespace: None, folder: Path) -> None:
    """Nobody here can connect to it, so whether it listens by that path is known by its name."""
    path = str(folder / "app.sock")
    with (
        elsewhere(path),
        closing(UnixView(path)) as view,
        closing(UnixView(path, from_afar=True)) as afar,
    ):
        with pytest.raises(Refused, match="share its directory as a volume"):
            view.listeners()
        (seen,) = afar.listeners()
        assert (seen.address, seen.length, seen.limit) == (path, 1, BACKLOG)
        with (
            elsewhere(path),
            closing(UnixView(path, from_afar=True)) as two,
            pytest.raises(Refused, match="2 sockets are bound to"),
        ):
            two.listeners()
        with closing(Server(path)) as here:
            assert [one.inode for one in view.listeners()] == [inode(here.socket)]
            assert [one.inode for one in afar.listeners()] == [inode(here.socket)]


def test_the_queue_of_a_crowd(server: Server, folder: Path) -> None:
    """The kernel's exact answer ends at a page, a thousand clients; a dump's is 32 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        path = str(folder / "crowd.sock")
        with closing(Server(path, backlog=4000)) as crowd, closing(UnixView(path)) as view:
            crowd.connect(2500)
            (seen,) = view.listeners()
            assert seen.length == 2500
            assert [row.cookie for row in view.head(0)] == [inode(crowd.clients[0])]
            before = view.accepts
            crowd.accept()
            view.listeners()
            assert view.accepts == before + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_every_listener_of_the_namespace(server: Server) -> None:
    with closing(Server("@other")), closing(Channel()) as channel:
        assert [one.address for one in listeners(channel)] == [server.path, "@other"]


def test_an_inode_that_is_no_more(server: Server) -> None:
    client = server.connect()
    with closing(Channel()) as channel:
        number = inode(client)
        assert exact(channel, QUEUE, number) is not None
        assert exact(channel, QUEUE, number, cookie=1) is None
        client.close()
        assert exact(channel, QUEUE, number) is None


steps = st.lists(st.one_of(st.just("come"), st.just("accept"), st.integers(0, 5)), max_size=25)


@given(before=steps, after=steps)
def test_what_left_a_queue_is_told_right_or_not_at_all(
    before: list[str | int], after: list[str | int]
) -> None:
    """Whatever comes, is accepted, or gives up, in any order."""
    queue: list[int] = []
    made = accepted = 0

    def play(steps: list[str | int]) -> None:
        nonlocal made, accepted
        for step in steps:
            if step == "come":
                made += 1
                queue.append(made)
            elif step == "accept" and queue:
                del queue[0]
                accepted += 1
            elif isinstance(step, int) and step < len(queue):
                queue[step] = 0

    play(before)
    first, then = list(queue), accepted
    play(after)
    told = taken(first, queue)
    if {*first} & {*queue} - {0}:
        assert told == accepted - then
    else:
        assert told is None


def test_nothing_is_made_of_a_queue_that_ran_backwards() -> None:
    assert taken([7, 8], [1, 7]) is None


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=20)), max_size=6), st.binary())
def test_whatever_the_bytes_are(attributes: list[tuple[int, bytes]], tail: bytes) -> None:
    """A row or a CannotTell is what comes of them."""
    body = struct.pack("=BBBBIII", 1, 1, 10, 0, 7, 1, 0) + b"".join(
        struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in attributes
    )
    for payload in (body + tail, body[: len(tail)]):
        data = struct.pack("=IHHII", 16 + len(payload), 20, 0, 3, 0) + payload
        rows: list[Row] = []
        with suppress(CannotTell):
            assert parse(data, len(data), 3, decode, rows)
            assert rows


def test_half_a_row_is_interrupted() -> None:
    with pytest.raises(Interrupted):
        decode(bytes(15), 0, 15)
