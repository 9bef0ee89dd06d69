"""/proc/net: the counters, and the fallback view held against sock_diag."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probe.kernel import CannotTell, Crowded, Interrupted, KernelView, Refused, sampler
from probe.kernel.procfs import Counters, NamespaceCounters, ProcNet, counter, parse
from probe.kernel.sockdiag import SockDiag
from probe.model import Connection, Listener, TcpState
from tests.kernel.conftest import DUAL_STACK, REUSEPORT, V6ONLY, Sockets, inode, name
from tests.support import until_equal

NET = Path("thread-self/net")


@pytest.fixture
def proc() -> Iterator[ProcNet]:
    with closing(ProcNet()) as opened:
        yield opened


@pytest.fixture
def walker() -> Iterator[ProcNet]:
    with closing(ProcNet(walk=True)) as opened:
        yield opened


@pytest.fixture
def counters() -> Iterator[Counters]:
    with closing(Counters()) as opened:
        yield opened


def as_proc_has_it(listener: Listener) -> Listener:
    return listener._replace(
        cookie=listener.inode,
        limit=None,
        drops=None,
        v6only=None,
        device=0,
        address=listener.address.partition("%")[0],
    )


def test_the_same_listeners_as_sock_diag(
    view: SockDiag, proc: ProcNet, sockets: Sockets, link: str
) -> None:
    assert proc.listeners() == ()
    port = name(sockets.listen("0.0.0.0", options=REUSEPORT))[1]
    sockets.listen("0.0.0.0", port, options=REUSEPORT)
    sockets.listen("::", port, options=V6ONLY)
    sockets.listen("::1")
    sockets.listen("::ffff:127.0.0.1", options=DUAL_STACK)
    sockets.listen(f"fe80::1%{link}")
    clients = [sockets.connect("127.0.0.1", port) for _ in range(3)]
    until_equal(lambda: sum(one.length for one in view.listeners(port)), len(clients))
    for asked in (port, None, 1):
        expected = [as_proc_has_it(one) for one in view.listeners(asked)]
        assert sorted(proc.listeners(asked)) == sorted(expected)


def test_the_same_connections_as_sock_diag(view: SockDiag, proc: ProcNet, sockets: Sockets) -> None:
    listener = sockets.listen("::", options=DUAL_STACK)
    port = listener.getsockname()[1]
    v4, v6 = sockets.connect("127.0.0.1", port), sockets.connect("::1", port)
    v4.send(b"hello")
    until_equal(lambda: sum(row.rqueue for row in view.connections(port)), 5)
    server = sockets.accept(listener)
    v6.shutdown(socket.SHUT_WR)
    until_equal(lambda: sorted(row.state for row in view.connections(port)), [1, 8])
    expected = {
        (row.state, row.family, row.local, row.remote, row.inode, row.rqueue, row.wqueue)
        for row in view.connections(port)
    }
    assert {
        (row.state, row.family, row.local, row.remote, row.inode, row.rqueue, row.wqueue)
        for row in proc.connections(port)
    } == expected
    assert sorted(row.queued for row in proc.connections(port)) == [False, True]
    assert inode(server) in {row.inode for row in proc.connections(port)}
    assert len({row.cookie for row in proc.connections(port)}) == 2


@pytest.mark.parametrize("dialled", ["127.0.0.1", "::ffff:127.0.0.1", "::1"])
def test_a_walking_lookup_follows_a_connection(
    walker: ProcNet, sockets: Sockets, dialled: str
) -> None:
    listener = sockets.listen("::", options=DUAL_STACK)
    port = listener.getsockname()[1]
    client = sockets.connect(dialled, port)
    ends = name(client), (dialled, port)

    def state() -> int | None:
        found = walker.lookup(*ends)
        return found and found.state

    until_equal(state, 1)
    queued = walker.lookup(*ends)
    server = sockets.accept(listener)
    accepted = walker.lookup(*ends)
    assert queued is not None
    assert accepted is not None
    assert (queued.queued, accepted.queued) == (True, False)
    assert accepted.inode == inode(server)
    assert accepted.cookie == queued.cookie
    client.close()
    server.close()
    until_equal(state, TcpState.LISTEN)
    listener.close()
    assert state() is None


def test_a_lookup_costs_too_much_unless_asked_for(proc: ProcNet, sockets: Sockets) -> None:
    here = name(sockets.listen())
    with pytest.raises(CannotTell, match="takes reading all"):
        proc.lookup(("127.0.0.1", 1), here)


def test_the_order_of_the_queue_is_unknown(proc: ProcNet) -> None:
    with pytest.raises(CannotTell, match="order"):
        proc.queued(80)
    with pytest.raises(CannotTell, match="order"):
        proc.head(80)


def test_listeners_are_read_no_further_than_the_first_other_row(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = sockets.listen(backlog=500)
    for _ in range(300):
        sockets.connect(*name(listener))
    size = 0

    def pread(*arguments: int) -> bytes:
        nonlocal size
        chunk = read(*arguments)
        size += len(chunk)
        return chunk

    read = os.pread
    monkeypatch.setattr(os, "pread", pread)
    with closing(ProcNet()) as proc:
        size = 0
        proc.connections(1)
        everything, size = size, 0
        (found,) = proc.listeners()
    assert found.length == 300
    assert size < everything / 4


def test_many_listeners(proc: ProcNet, sockets: Sockets) -> None:
    inodes = {inode(sockets.listen("127.0.0.1" if n % 2 else "::1")) for n in range(300)}
    assert {one.inode for one in proc.listeners()} == inodes


def test_counters_count(counters: Counters, view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen(backlog=1)
    host, port = name(listener)
    before = counters.read()
    for _ in range(2):
        sockets.connect(host, port)
    until_equal(lambda: view.listeners(port)[0].length, 2)
    assert counters.read() == before._replace(passive_opens=before.passive_opens + 2)
    assert counters.passive_opens() == before.passive_opens + 2
    sockets.knock(host, port)
    until_equal(lambda: counters.read().listen_overflows > before.listen_overflows, expected=True)
    after = counters.read()
    assert after.listen_drops - before.listen_drops == view.listeners(port)[0].drops


def test_accepts_are_passive_opens_less_the_queues(
    counters: Counters, view: SockDiag, sockets: Sockets
) -> None:
    listeners = [sockets.listen("::", options=DUAL_STACK), sockets.listen("127.0.0.1")]
    for listener in listeners * 3:
        sockets.connect("127.0.0.1", listener.getsockname()[1])
    until_equal(lambda: sum(one.length for one in view.listeners()), 6)
    for accepted in range(1, 4):
        sockets.accept(listeners[accepted % 2])
        queued = sum(one.length for one in view.listeners())
        assert counters.read().passive_opens - queued == accepted


def test_more_listeners_than_asked_for(
    view: SockDiag, proc: ProcNet, counters: Counters, sockets: Sockets
) -> None:
    """Of hundreds, so that the kernel's answer comes in pieces and is left in the middle."""
    ours, *_ = [sockets.listen("127.0.0.1") for _ in range(500)]
    host, port = name(ours)
    sockets.connect(host, port)
    kernel: KernelView
    for kernel in (view, proc):
        for most in (0, 1, 499):
            with pytest.raises(Crowded, match=f"more than {most} listeners"):
                kernel.listeners(most=most)
            (listener,) = kernel.listeners(port, most=1)
            assert listener.length == 1
        assert len(kernel.listeners(most=500)) == 500


def test_a_crowd_of_listeners_leaves_the_accepts_uncounted(
    view: SockDiag, counters: Counters, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "MANY", 3)
    monkeypatch.setattr(sampler, "RETRY", 0.0)
    told: list[str] = []
    ours, *others = [sockets.listen("127.0.0.1") for _ in range(3)]
    host, port = name(ours)
    watching = sampler.Sampler(view, counters, uncounted=told.append)
    sockets.connect(host, port)
    sockets.accept(ours)
    assert watching.sample(port).accepts == 1
    assert told == []

    others.append(sockets.listen("127.0.0.1"))
    for _ in range(3):
        crowded = watching.sample(port)
        assert (crowded.accepts, crowded.error) == (None, "")
        assert [listener.port for listener in crowded.listeners] == [port]
    why = "accepts are not counted: there are more than 3 listeners in this network namespace"
    assert told == [why]

    others.pop().close()
    sockets.connect(host, port)
    sockets.accept(ours)
    assert watching.sample(port).accepts == 2
    assert told == [why, ""]


GVISOR = b"TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPHPHits\n"
"""All of its netstat: the names and no values."""
NETSTAT = GVISOR + b"TcpExt: 1 22 333 4\nIpExt: InNoRoutes\nIpExt: 9\n"
SNMP = b"Ip: Forwarding\nIp: 1\nTcp: MaxConn PassiveOpens OutRsts\nTcp: -1 18446744073709551615 7\n"
TITLE = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt ...\n"
ROW = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000 1000 0 4242 1\n"


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a /proc of given files."""
    root = tmp_path_factory.mktemp("proc")
    (root / NET).mkdir(parents=True)

    def make(**files: bytes | None) -> str:
        wanted = {"snmp": SNMP, "netstat": NETSTAT, "tcp": TITLE + ROW, "tcp6": TITLE} | files
        for file, content in wanted.items():
            path = root / NET / file
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        return str(root)

    return make


def test_figures_are_found_by_their_names(fake: Callable[..., str]) -> None:
    with closing(Counters(fake())) as counters:
        assert counters.read() == NamespaceCounters(2**64 - 1, 22, 333)


def test_the_root_of_proc_is_the_callers(fake: Callable[..., str]) -> None:
    with closing(ProcNet(fake())) as proc:
        assert proc.listeners() == (
            Listener(socket.AF_INET, "127.0.0.1", 8080, 4242, 3, None, None, 4242, 1000),
        )


@pytest.mark.parametrize(
    "files",
    [
        {"netstat": GVISOR},
        {"netstat": b""},
        {"netstat": b"TcpExt: ListenOverflows\nTcpExt: 1\n"},
        {"netstat": GVISOR + b"TcpExt: 1 x 3 4\n"},
        {"netstat": GVISOR + b"TcpExt: 1\n"},
        {"netstat": None},
        {"snmp": b""},
        {"snmp": None},
    ],
)
def test_without_counters_proc_is_not_believed(
    fake: Callable[..., str], files: dict[str, bytes | None]
) -> None:
    with pytest.raises(Refused, match="net"):
        ProcNet(fake(**files))
    with pytest.raises(Refused, match="net"), closing(Counters(fake(**files))) as counters:
        counters.read()


def test_a_kernel_without_ipv6_has_no_tcp6(fake: Callable[..., str]) -> None:
    with closing(ProcNet(fake(tcp6=None))) as proc:
        assert [one.port for one in proc.listeners()] == [8080]
    with pytest.raises(Refused):
        ProcNet(fake(tcp=None))


@pytest.mark.parametrize(
    "tcp",
    [
        TITLE + ROW[:-1],
        TITLE + ROW[:40] + b"\n",
        TITLE + ROW.replace(b"0A", b"xx"),
        TITLE + ROW.replace(b"0100007F", b"0100007"),
        TITLE + b"\n" + ROW,
    ],
)
def test_a_spoilt_table_is_not_an_empty_one(fake: Callable[..., str], tcp: bytes) -> None:
    with closing(ProcNet(fake(tcp=tcp))) as proc, pytest.raises(Interrupted):
        proc.listeners()


@given(st.one_of(st.binary(), st.lists(st.sampled_from(ROW.split()), max_size=14).map(b" ".join)))
@example(ROW)
@settings(deadline=None)
def test_any_line_is_a_connection_or_cannot_tell(line: bytes) -> None:
    with suppress(CannotTell):
        connection, uid = parse(line)
        assert type(connection) is Connection
        assert type(uid) is int


@given(
    st.one_of(
        st.binary(), st.lists(st.sampled_from([*SNMP.split(b" ")]), max_size=14).map(b" ".join)
    )
)
@example(SNMP)
@settings(deadline=None)
def test_any_file_is_a_figure_or_cannot_tell(data: bytes) -> None:
    with suppress(CannotTell):
        assert type(counter(data, b"Tcp:", b"PassiveOpens")) is int
