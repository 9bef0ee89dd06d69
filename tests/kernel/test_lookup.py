"""One connection from its handshake to its end, as exact lookups and dumps tell of it."""

import socket
import struct
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from probe.kernel.sockdiag import SockDiag
from probe.model import Connection
from tests.kernel.conftest import (
    DUAL_STACK,
    REUSEPORT,
    V6ONLY,
    Address,
    Options,
    Sockets,
    inode,
    name,
)
from tests.support import until_equal

ESTABLISHED, SYN_RECV, TIME_WAIT, CLOSE_WAIT, LISTEN = 1, 3, 6, 8, 10

BOUND_TO_LO: Options = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"),)


def server_side(view: SockDiag, client: socket.socket) -> Connection:
    host, port = client.getpeername()[:2]
    found = view.lookup(name(client), (host, port))
    assert found is not None
    return found


def is_older(view: SockDiag, client: socket.socket, seconds: float) -> bool:
    return (server_side(view, client).last_data_sent or 0) > seconds


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_none_where_nothing_listens(view: SockDiag, sockets: Sockets) -> None:
    sock = sockets.listen()
    here = name(sock)
    assert view.lookup(("127.0.0.1", 1), here) is not None
    sock.close()
    assert view.lookup(("127.0.0.1", 1), here) is None
    assert view.lookup(("::1", 1), ("::1", here[1])) is None


@pytest.mark.parametrize(
    ("bound", "options", "dialled"),
    [
        ("127.0.0.1", (), "127.0.0.1"),
        ("0.0.0.0", (), "127.0.0.2"),
        ("::1", V6ONLY, "::1"),
        ("::", DUAL_STACK, "::1"),
        ("::", DUAL_STACK, "127.0.0.1"),
        ("::", DUAL_STACK, "::ffff:127.0.0.1"),
        ("0.0.0.0", (), "::ffff:127.0.0.1"),
        ("::ffff:127.0.0.1", DUAL_STACK, "127.0.0.1"),
    ],
)
def test_queued_then_accepted_then_gone(
    view: SockDiag, sockets: Sockets, bound: str, options: Options, dialled: str
) -> None:
    listener = sockets.listen(bound, options=options)
    port = listener.getsockname()[1]
    client = sockets.connect(dialled, port)
    ends = name(client), (dialled, port)

    def state() -> int | None:
        found = view.lookup(*ends)
        return found and found.state

    until_equal(state, ESTABLISHED)
    queued = server_side(view, client)
    assert queued.queued
    assert queued.inode == 0
    assert queued.local[1] == port
    assert queued.remote[1] == ends[0][1]

    server = sockets.accept(listener)
    accepted = server_side(view, client)
    assert not accepted.queued
    assert accepted.inode == inode(server)
    assert accepted.cookie == queued.cookie

    client.close()
    until_equal(state, CLOSE_WAIT)
    assert not view.lookup(*ends).queued  # type: ignore[union-attr]
    server.close()
    until_equal(state, LISTEN)
    listener.close()
    assert state() is None


@pytest.mark.parametrize(
    ("bound", "options", "dialled"),
    [
        ("0.0.0.0", (), "127.0.0.1"),
        ("0.0.0.0", BOUND_TO_LO, "127.0.0.1"),
        ("::", DUAL_STACK, "127.0.0.1"),
        ("fe80::1%link0", V6ONLY, "fe80::1%link0"),
    ],
)
@pytest.mark.usefixtures("link")
def test_the_ends_of_a_row_find_it_again(
    view: SockDiag, sockets: Sockets, bound: str, options: Options, dialled: str
) -> None:
    port = sockets.listen(bound, options=options).getsockname()[1]
    sockets.connect(dialled, port)
    until_equal(lambda: len(view.queued(port)), 1)
    (row,) = view.queued(port)
    found = view.lookup(row.remote, row.local)
    assert found is not None
    assert (found.cookie, found.local, found.remote) == (row.cookie, row.local, row.remote)


def test_a_listener_bound_to_loopback_needs_no_zone(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen("0.0.0.0", options=BOUND_TO_LO)
    client = sockets.connect("127.0.0.1", name(listener)[1])
    until_equal(lambda: server_side(view, client).queued, expected=True)


@pytest.mark.parametrize("numeric", [True, False])
def test_a_zone_by_name_or_number(
    view: SockDiag, sockets: Sockets, link: str, *, numeric: bool
) -> None:
    zone = socket.if_nametoindex(link) if numeric else link
    port = sockets.listen(f"fe80::1%{link}").getsockname()[1]
    client = sockets.connect(f"fe80::1%{link}", port)
    found = view.lookup(name(client), (f"fe80::1%{zone}", port))
    assert found is not None
    assert found.queued


@pytest.mark.parametrize(
    ("client", "server"),
    [
        ("127.0.0.1", "::1"),
        ("::1", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "::1%nowhere"),
    ],
)
def test_what_are_not_two_addresses_is_the_callers_mistake(
    view: SockDiag, client: str, server: str
) -> None:
    with pytest.raises(ValueError, match="not two addresses of one family"):
        view.lookup((client, 1), (server, 1))


def test_bytes_unread_read_and_answered(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen()
    client = sockets.connect(*name(listener))
    server = sockets.accept(listener)
    client.send(b"GET /")
    until_equal(lambda: server_side(view, client).rqueue, 5)
    assert server_side(view, client).bytes_received == 5
    server.recv(5)
    assert server_side(view, client).rqueue == 0
    assert server_side(view, client).bytes_sent == 0
    server.send(b"HTTP/1.1")
    assert server_side(view, client).bytes_sent == 8


def test_a_client_that_leaves_while_queued_still_waits(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen()
    client = sockets.connect(*name(listener))
    client.send(b"hello")
    client.shutdown(socket.SHUT_WR)
    until_equal(lambda: server_side(view, client).state, CLOSE_WAIT)
    left = server_side(view, client)
    assert left.queued
    assert left.rqueue == len(b"hello") + 1  # a FIN counts as a byte
    assert view.queued(name(listener)[1])[0].cookie == left.cookie
    sockets.accept(listener)
    assert not server_side(view, client).queued


def test_a_client_that_resets_while_queued_has_no_row(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen()
    here = name(listener)
    client = sockets.connect(*here)
    there = name(client)
    until_equal(lambda: len(view.queued(here[1])), 1)
    reset(client)
    until_equal(lambda: view.queued(here[1]), ())
    found = view.lookup(there, here)
    assert found is not None
    assert (found.state, found.inode, found.rqueue, found.wqueue) == (LISTEN, inode(listener), 1, 5)
    assert (found.bytes_sent, found.last_data_sent) == (None, None)
    assert view.listeners(here[1])[0].length == 1


def test_a_dropped_syn_finds_the_listener(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen(backlog=1)
    here = name(listener)
    for _ in range(2):
        sockets.connect(*here)
    until_equal(lambda: view.listeners(here[1])[0].length, 2)
    dropped = sockets.knock(*here)
    until_equal(lambda: (view.listeners(here[1])[0].drops or 0) > 0, expected=True)
    found = view.lookup(name(dropped), here)
    assert found is not None
    assert found.state == LISTEN
    assert found.rqueue > found.wqueue
    assert not found.queued


def test_a_deferred_accept_is_an_unfinished_handshake(view: SockDiag, sockets: Sockets) -> None:
    deferred: Options = ((socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30),)
    listener = sockets.listen(options=deferred)
    client = sockets.connect(*name(listener))
    waiting = server_side(view, client)
    assert (waiting.state, waiting.retransmits, waiting.queued) == (SYN_RECV, 0, False)
    assert view.listeners(name(listener)[1])[0].length == 0
    client.send(b"x")
    until_equal(lambda: server_side(view, client).queued, expected=True)


def test_a_closed_connection_lingers_in_time_wait(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen()
    client = sockets.connect(*name(listener))
    ends = name(client), name(listener)
    sockets.accept(listener).close()
    assert client.recv(1) == b""
    client.close()

    def states() -> tuple[int | None, list[int]]:
        found = view.lookup(*ends)
        return found and found.state, [row.state for row in view.connections(ends[1][1])]

    until_equal(states, (TIME_WAIT, [TIME_WAIT]))
    (row,) = view.connections(ends[1][1])
    assert not row.queued
    assert (row.bytes_sent, row.last_data_sent) == (None, None)


def test_queued_gives_the_oldest_first(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen(backlog=10)
    here = name(listener)
    clients: list[Address] = []
    for _ in range(5):
        client = sockets.connect(*here)
        clients.append(name(client))
        until_equal(partial(is_older, view, client, 0.05), expected=True)
    until_equal(lambda: [row.remote for row in view.queued(here[1])], clients)
    sockets.accept(listener)
    until_equal(lambda: [row.remote for row in view.queued(here[1])], clients[1:])


def test_the_front_has_all_that_may_be_the_head(view: SockDiag, sockets: Sockets) -> None:
    listener = sockets.listen(backlog=10)
    here = name(listener)
    assert view.head(here[1]) == ()
    burst = [sockets.connect(*here) for _ in range(4)]
    until_equal(lambda: len(view.queued(here[1])), len(burst))
    head = name(burst[0])
    assert head in {row.remote for row in view.head(here[1])}
    until_equal(partial(is_older, view, burst[-1], 0.3), expected=True)
    sockets.connect(*here)
    until_equal(lambda: len(view.queued(here[1])), len(burst) + 1)
    until_equal(lambda: {row.remote for row in view.head(here[1])}, {name(sock) for sock in burst})


def test_the_front_is_unknown_behind_a_connection_that_was_reset(
    view: SockDiag, sockets: Sockets
) -> None:
    """It has no row, but its place in the queue: the next one to be seen is not the head."""
    listener = sockets.listen(backlog=10)
    here = name(listener)
    first, second = sockets.connect(*here), sockets.connect(*here)
    until_equal(lambda: len(view.head(here[1])), 2)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    until_equal(lambda: [row.remote for row in view.queued(here[1])], [name(second)])
    assert view.head(here[1]) == ()
    assert [row.remote for row in view.head(here[1], presumed=True)] == [name(second)]
    sockets.accept(listener)
    assert [row.remote for row in view.head(here[1])] == [name(second)]


class Meanwhile(SockDiag):
    """Somebody comes right before a walk of a queue, if asked to, and somebody right after it."""

    def __init__(self, come: Callable[[], object], *, before: bool) -> None:
        super().__init__()
        self._come = come
        self._before = before

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        if self._before:
            self._come()
        walked = super().queued(port, hosts)
        self._come()
        return walked


@pytest.mark.parametrize("before", [False, True])
def test_the_front_is_known_while_clients_keep_coming(
    view: SockDiag, sockets: Sockets, *, before: bool
) -> None:
    """There are more places than rows, but none that is as old as the head."""
    listener = sockets.listen(backlog=10)
    here = name(listener)
    first = sockets.connect(*here)
    until_equal(partial(is_older, view, first, 0.3), expected=True)
    with closing(Meanwhile(lambda: sockets.connect(*here), before=before)) as busy:
        assert [row.remote for row in busy.head(here[1])] == [name(first)]


@pytest.mark.parametrize("before", [False, True])
def test_the_front_is_unknown_behind_a_reset_one_while_clients_keep_coming(
    view: SockDiag, sockets: Sockets, *, before: bool
) -> None:
    """There may be as many rows as there were places, but one of them is new."""
    listener = sockets.listen(backlog=10)
    here = name(listener)
    first, second = sockets.connect(*here), sockets.connect(*here)
    until_equal(partial(is_older, view, second, 0.3), expected=True)
    reset(first)
    until_equal(lambda: len(view.queued(here[1])), 1)
    with closing(Meanwhile(lambda: sockets.connect(*here), before=before)) as busy:
        assert busy.head(here[1]) == ()


def test_connections_are_those_of_the_port_on_its_own_side(
    view: SockDiag, sockets: Sockets
) -> None:
    listener, other = sockets.listen("::", options=DUAL_STACK), sockets.listen("0.0.0.0")
    port = listener.getsockname()[1]
    v4, v6 = sockets.connect("127.0.0.1", port), sockets.connect("::1", port)
    sockets.connect(*name(other))
    until_equal(lambda: len(view.connections(port)), 2)
    sockets.accept(listener)
    rows = view.connections(port)
    assert {row.remote[1] for row in rows} == {name(v4)[1], name(v6)[1]}
    assert {row.local for row in rows} == {("::ffff:127.0.0.1", port), ("::1", port)}
    assert [row.queued for row in sorted(rows, key=lambda row: row.inode)] == [True, False]


def test_a_reuseport_member_that_takes_a_connection_keeps_it(
    view: SockDiag, sockets: Sockets
) -> None:
    first = sockets.listen(options=REUSEPORT)
    group = [first, sockets.listen(*name(first), options=REUSEPORT)]
    client = sockets.connect(*name(first))
    until_equal(lambda: server_side(view, client).queued, expected=True)
    lengths = {row.inode: row.length for row in view.listeners(name(first)[1])}
    (taker,) = [sock for sock in group if lengths[inode(sock)] == 1]
    server = sockets.accept(taker)
    assert server_side(view, client).inode == inode(server)


@pytest.mark.parametrize("both", [False, True], ids=["tcp client", "mptcp client"])
def test_children_of_an_mptcp_listener(
    view: SockDiag, sockets: Sockets, mptcp: int, *, both: bool
) -> None:
    listener = sockets.listen(protocol=mptcp)
    client = sockets.connect(*name(listener), mptcp if both else 0)
    until_equal(lambda: server_side(view, client).queued, expected=True)
    server = sockets.accept(listener)
    assert server_side(view, client).inode == inode(server)
    client.send(b"hello")
    until_equal(lambda: server_side(view, client).bytes_received, 5)
    # MPTCP takes what arrives out of the TCP connection, whether the application reads it or not.
    assert server_side(view, client).rqueue == (0 if both else 5)
