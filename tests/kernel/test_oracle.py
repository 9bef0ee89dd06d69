"""The codec against another decoder of the same sockets: pyroute2's, which this project leaves to
reports because it costs ten times more and takes a failed dump for an empty one.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroute2 import DiagSocket

from probe.kernel.sockdiag import SockDiag
from probe.model import Connection, Listener
from tests.kernel.conftest import DUAL_STACK, V6ONLY, Options, Sockets

FAMILIES = (socket.AF_INET, socket.AF_INET6)
INFO, SKMEMINFO = 1 << 1, 1 << 6
LISTENING = 1 << 10
CHILDREN = 0xFFE & ~(1 << 2 | 1 << 7 | LISTENING)
DROPS = 8

Row = Any


@pytest.fixture
def oracle(namespace: None) -> Iterator[DiagSocket]:
    with DiagSocket() as opened:
        opened.bind()
        yield opened


def dump(oracle: DiagSocket, states: int, extensions: int, port: int) -> list[Row]:
    return [
        row
        for family in FAMILIES
        for row in oracle.get_sock_stats(
            family=family, states=states, extensions=extensions, sport=port
        )
    ]


def words(text: str) -> list[int]:
    """An attribute that pyroute2 gives as 01:02:.. in words of the machine."""
    data = bytes.fromhex(text.replace(":", ""))
    return list(memoryview(data).cast("I"))


def as_listener(row: Row) -> Listener:
    v6only = row.get_attr("INET_DIAG_SKV6ONLY")
    return Listener(
        row["idiag_family"],
        row["idiag_src"],
        row["idiag_sport"],
        row["idiag_cookie"],
        row["idiag_rqueue"],
        row["idiag_wqueue"],
        words(row.get_attr("INET_DIAG_SKMEMINFO"))[DROPS],
        row["idiag_inode"],
        row["idiag_uid"],
        None if v6only is None else bool(v6only),
    )


def as_connection(row: Row) -> Connection:
    info = row.get_attr("INET_DIAG_INFO") or {}
    ages = (info.get(f"tcpi_last_{what}") for what in ("data_sent", "data_recv", "ack_recv"))
    return Connection(
        row["idiag_state"],
        row["idiag_family"],
        (row["idiag_src"], row["idiag_sport"]),
        (row["idiag_dst"], row["idiag_dport"]),
        row["idiag_cookie"],
        row["idiag_inode"],
        row["idiag_rqueue"],
        row["idiag_wqueue"],
        row["idiag_retrans"],
        info.get("tcpi_bytes_sent"),
        info.get("tcpi_bytes_received"),
        *(None if age is None else age / 1000 for age in ages),
    )


def ages(row: Connection) -> tuple[float, float, float]:
    return (row.last_data_sent or 0, row.last_data_received or 0, row.last_ack_received or 0)


def ageless(rows: Iterable[Connection]) -> dict[int, Connection]:
    return {
        row.cookie: row._replace(last_data_sent=0, last_data_received=0, last_ack_received=0)
        for row in rows
    }


class Port(NamedTuple):
    """A listener, and what became of each of its clients."""

    host: str
    options: Options
    backlog: int
    clients: list[tuple[str, bytes]]


FATES = ("queued", "left", "accepted", "read", "answered", "ended")
PORTS = st.builds(
    lambda bound, backlog, clients: Port(bound[0], bound[1], backlog, clients),
    st.sampled_from(
        [("127.0.0.1", ()), ("0.0.0.0", ()), ("::1", V6ONLY), ("::", V6ONLY), ("::", DUAL_STACK)]
    ),
    st.integers(0, 8),
    st.lists(st.tuples(st.sampled_from(FATES), st.binary(min_size=1, max_size=99)), max_size=5),
)


def play(sockets: Sockets, port: Port) -> int:
    """Make it happen. The accepted ones come first, as the queue lets no other order be."""
    clients = sorted(port.clients, key=lambda client: client[0] in ("queued", "left"))
    listener = sockets.listen(port.host, backlog=len(clients), options=port.options)
    number: int = listener.getsockname()[1]
    dialled = "::1" if port.options == V6ONLY else "127.0.0.1"
    for fate, data in clients:
        client = sockets.connect(dialled, number)
        client.sendall(data)
        if fate == "left":
            client.close()
        if fate in ("queued", "left"):
            continue
        server = sockets.accept(listener)
        if fate != "accepted":
            server.recv(len(data))
        if fate == "answered":
            server.sendall(data)
        if fate == "ended":
            server.close()
            client.recv(1)
            client.close()
    listener.listen(port.backlog)
    return number


@given(ports=st.lists(PORTS, min_size=1, max_size=3))
@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_both_tell_the_same(view: SockDiag, oracle: DiagSocket, ports: list[Port]) -> None:
    with closing(Sockets()) as sockets:
        for number in [play(sockets, port) for port in ports]:
            same_listeners(view, oracle, number)
            same_connections(view, oracle, number)
        assert {one.cookie: one for one in view.listeners()} == {
            row["idiag_cookie"]: as_listener(row) for row in dump(oracle, LISTENING, SKMEMINFO, 0)
        }


def same_listeners(view: SockDiag, oracle: DiagSocket, number: int) -> None:
    theirs = [as_listener(row) for row in dump(oracle, LISTENING, SKMEMINFO, number)]
    assert list(view.listeners(number)) == theirs
    assert len(theirs) == 1


def same_connections(view: SockDiag, oracle: DiagSocket, number: int) -> None:
    """Ages go on while we ask: theirs are between ours of before and after."""
    while True:
        before = {row.cookie: row for row in view.connections(number)}
        theirs = [as_connection(row) for row in dump(oracle, CHILDREN, INFO, number)]
        after = {row.cookie: row for row in view.connections(number)}
        if ageless(before.values()) == ageless(after.values()):
            break  # no packet is on its way any more
    assert ageless(theirs) == ageless(after.values())
    for row in theirs:
        early, late = ages(before[row.cookie]), ages(after[row.cookie])
        assert all(a <= b <= c for a, b, c in zip(early, ages(row), late, strict=True))
        found = view.lookup(row.remote, row.local)
        assert found is not None
        assert ageless([found]) == ageless([row])
