"""What a LISTEN dump says, held against sockets that are really there."""

import os
import socket
from pathlib import Path

import pytest

from probe.kernel.sockdiag import SockDiag
from tests.kernel.conftest import DUAL_STACK, REUSEPORT, V6ONLY, Options, Sockets, inode
from tests.support import until_equal

SO_COOKIE = 57


def length(view: SockDiag, port: int) -> int:
    return sum(listener.length for listener in view.listeners(port))


def test_no_listener_is_an_empty_tuple(view: SockDiag, sockets: Sockets) -> None:
    listening = sockets.listen().getsockname()[1]
    bound = sockets.keep(socket.socket())
    bound.bind(("127.0.0.1", 0))
    assert view.listeners(bound.getsockname()[1]) == ()
    assert [listener.port for listener in view.listeners()] == [listening]


def test_a_listener_is_told_by_its_cookie_and_inode(view: SockDiag, sockets: Sockets) -> None:
    sock = sockets.listen()
    (listener,) = view.listeners(sock.getsockname()[1])
    cookie = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
    assert listener.cookie == int.from_bytes(cookie, "little")
    assert listener.inode == inode(sock)
    assert listener.uid == os.getuid()


def test_a_successor_on_the_same_port_has_another_cookie(view: SockDiag, sockets: Sockets) -> None:
    first = sockets.listen()
    host, port = first.getsockname()
    (before,) = view.listeners(port)
    first.close()
    assert view.listeners(port) == ()
    sockets.listen(host, port)
    (after,) = view.listeners(port)
    assert after.cookie != before.cookie


def test_length_follows_connects_and_accepts(view: SockDiag, sockets: Sockets) -> None:
    sock = sockets.listen(backlog=5)
    host, port = sock.getsockname()
    assert length(view, port) == 0
    for count in (1, 2, 3):
        sockets.connect(host, port)
        until_equal(lambda: length(view, port), count)
    sockets.accept(sock)
    (listener,) = view.listeners(port)
    assert (listener.length, listener.limit, listener.drops) == (2, 5, 0)


def test_a_second_listen_changes_the_limit(view: SockDiag, sockets: Sockets) -> None:
    sock = sockets.listen(backlog=5)
    host, port = sock.getsockname()
    sockets.connect(host, port)
    until_equal(lambda: length(view, port), 1)
    for limit, full in ((2, False), (7, False), (0, True)):
        sock.listen(limit)
        (listener,) = view.listeners(port)
        assert (listener.length, listener.limit, listener.full) == (1, limit, full)


def test_somaxconn_caps_the_limit(view: SockDiag, sockets: Sockets) -> None:
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    port = sockets.listen(backlog=somaxconn + 1).getsockname()[1]
    assert view.listeners(port)[0].limit == somaxconn


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_full_queue_holds_one_more_than_its_limit(
    view: SockDiag, sockets: Sockets, limit: int
) -> None:
    host, port = sockets.listen(backlog=limit).getsockname()
    for _ in range(limit + 1):
        sockets.connect(host, port)
    until_equal(lambda: length(view, port), limit + 1)
    assert view.listeners(port)[0].full
    sockets.knock(host, port)
    until_equal(lambda: (view.listeners(port)[0].drops or 0) >= 1, expected=True)
    assert length(view, port) == limit + 1


def test_drops_start_anew_with_a_new_listener(view: SockDiag, sockets: Sockets) -> None:
    sock = sockets.listen(backlog=0)
    host, port = sock.getsockname()
    sockets.connect(host, port)
    sockets.knock(host, port)
    until_equal(lambda: (view.listeners(port)[0].drops or 0) >= 1, expected=True)
    sock.close()
    sockets.listen(host, port)
    assert view.listeners(port)[0].drops == 0


def test_each_member_of_a_reuseport_group_is_a_row(view: SockDiag, sockets: Sockets) -> None:
    first = sockets.listen(backlog=4, options=REUSEPORT)  # any of them has room for all four
    host, port = first.getsockname()
    group = [first] + [sockets.listen(host, port, backlog=n, options=REUSEPORT) for n in (5, 6, 7)]
    for _ in range(4):
        sockets.knock(host, port)
    until_equal(lambda: length(view, port), 4)
    rows = view.listeners(port)
    assert sorted((row.inode, row.limit) for row in rows) == sorted(
        (inode(sock), limit) for limit, sock in enumerate(group, start=4)
    )
    assert len({row.cookie for row in rows}) == 4


@pytest.mark.parametrize(
    ("host", "options", "family", "v6only"),
    [
        ("127.0.0.1", (), socket.AF_INET, None),
        ("0.0.0.0", (), socket.AF_INET, None),
        ("127.0.0.2", (), socket.AF_INET, None),
        ("::1", V6ONLY, socket.AF_INET6, True),
        ("::", V6ONLY, socket.AF_INET6, True),
        ("::", DUAL_STACK, socket.AF_INET6, False),
        ("::ffff:127.0.0.1", DUAL_STACK, socket.AF_INET6, False),
    ],
)
def test_what_a_listener_is_bound_to(
    view: SockDiag,
    sockets: Sockets,
    host: str,
    options: Options,
    family: int,
    v6only: bool | None,
) -> None:
    port = sockets.listen(host, options=options).getsockname()[1]
    (listener,) = view.listeners(port)
    assert (listener.address, listener.family, listener.v6only) == (host, family, v6only)


def test_both_families_on_one_port(view: SockDiag, sockets: Sockets) -> None:
    port = sockets.listen("0.0.0.0").getsockname()[1]
    sockets.listen("::", port, options=V6ONLY)
    assert sorted(listener.address for listener in view.listeners(port)) == ["0.0.0.0", "::"]


def test_a_link_local_listener_can_be_dialled_as_it_is_told(
    view: SockDiag, sockets: Sockets, link: str
) -> None:
    port = sockets.listen(f"fe80::1%{link}").getsockname()[1]
    (listener,) = view.listeners(port)
    assert listener.address == f"fe80::1%{socket.if_nametoindex(link)}"
    sockets.connect(listener.address, port)
    until_equal(lambda: length(view, port), 1)


def test_a_dump_of_many_datagrams_is_whole(view: SockDiag, sockets: Sockets) -> None:
    inodes = {inode(sockets.listen("127.0.0.1" if n % 2 else "::1")) for n in range(600)}
    assert {listener.inode for listener in view.listeners()} == inodes


def test_an_mptcp_listener_is_one_row(view: SockDiag, sockets: Sockets, mptcp: int) -> None:
    sock = sockets.listen(backlog=3, protocol=mptcp)
    host, port = sock.getsockname()
    sockets.connect(host, port)
    sockets.connect(host, port, mptcp)
    until_equal(lambda: length(view, port), 2)
    (listener,) = view.listeners(port)
    assert (listener.inode, listener.limit) == (inode(sock), 3)
    sockets.accept(sock)
    assert length(view, port) == 1
