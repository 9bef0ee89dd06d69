"""The TCP exchange on bytes alone, and against banners and commands."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.model import Connection, Outcome, Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.tcp import LISTEN, Tcp
from tests.roundtrip.application import Application, saying
from tests.roundtrip.conftest import Trip


def tcp(send: bytes = b"", expect: bytes = b"") -> Tcp:
    return Tcp(Target(6379, Protocol.TCP, send=send, expect=expect), "127.0.0.1")


def seen(
    *, state: int = 1, inode: int = 7, rqueue: int = 0, received: int | None = None
) -> Connection:
    end = ("127.0.0.1", 1)
    return Connection(state, 2, end, end, 1, inode, rqueue, 0, bytes_received=received)


@pytest.mark.parametrize(
    ("send", "connection", "good"),
    [
        (b"", seen(), True),
        (b"", seen(rqueue=5), True),
        (b"", seen(state=8), True),
        (b"", seen(inode=0), False),
        (b"", seen(inode=0, state=3), False),
        (b"", seen(state=LISTEN), False),
        (b"PING", seen(received=4), True),
        (b"PING", seen(received=None), True),
        (b"PING", seen(received=0), False),
        (b"PING", seen(received=4, rqueue=4), False),
        (b"PING", seen(received=3), False),
        (b"PING", seen(inode=0, received=4), False),
    ],
)
def test_without_expect_the_kernel_is_the_witness(
    send: bytes, connection: Connection, good: bool
) -> None:
    exchange = tcp(send)
    assert exchange.silent
    exchange.witness(connection)
    assert exchange.result == (Result() if good else None)


def test_the_witness_is_not_heard_when_an_answer_is_expected() -> None:
    exchange = tcp(b"PING", b"PONG")
    assert not exchange.silent
    exchange.witness(seen(received=4))
    assert exchange.result is None


def test_without_expect_a_byte_and_the_end_prove_as_much() -> None:
    exchange = tcp()
    exchange.feed(b"x")
    assert exchange.result == Result()
    exchange = tcp()
    exchange.eof()
    assert exchange.result == Result()


@given(
    st.binary(min_size=1, max_size=8),
    st.lists(st.binary(max_size=6), max_size=20),
    st.lists(st.binary(max_size=6), max_size=20),
)
def test_what_is_expected_is_found_wherever_it_is(
    expect: bytes, before: list[bytes], after: list[bytes]
) -> None:
    exchange = tcp(expect=expect)
    pieces = [*before, expect[:3], expect[3:], *after]
    for piece in pieces:
        exchange.feed(piece)
    assert exchange.result == Result()


@given(st.binary(min_size=1, max_size=3), st.lists(st.binary(max_size=5), max_size=30))
def test_and_only_if_it_is_there(expect: bytes, pieces: list[bytes]) -> None:
    exchange = tcp(expect=expect)
    for piece in pieces:
        exchange.feed(piece)
    assert (exchange.result == Result()) == (expect in b"".join(pieces))


def test_64_kib_without_it_are_enough() -> None:
    exchange = tcp(expect=b"PONG")
    for _ in range(100):
        exchange.feed(b"x" * 1000)
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY
    assert exchange.result.detail.startswith(f'no "PONG" in {LIMIT} bytes: "xxx')
    exchange = tcp(expect=b"PONG")
    exchange.feed(b"x" * LIMIT + b"PONG")
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY


@pytest.mark.parametrize(
    ("data", "late", "closed"),
    [
        (b"", Result(Stage.UNANSWERED, "no answer"), 'no "+PONG" but closed without a word'),
        (
            b"-LOADING dataset\r\nmore",
            Result(Stage.UNEXPECTED_REPLY, 'no "+PONG" but "-LOADING dataset"'),
            'no "+PONG" but "-LOADING dataset", then closed',
        ),
    ],
)
def test_another_answer_than_expected(data: bytes, late: Result, closed: str) -> None:
    exchange = tcp(b"PING\r\n", b"+PONG")
    if data:
        exchange.feed(data)
    assert exchange.late() == late
    exchange.eof()
    assert exchange.result == Result(Stage.UNEXPECTED_REPLY, closed)


# --- real sockets


@pytest.mark.parametrize(
    "banner", [b"220 mail ESMTP\r\n", b"SSH-2.0-x\r\n", b"\x4a\0\0\0\x0a8.0.36\0"]
)
def test_a_banner(trip: Trip, banner: bytes) -> None:
    with Application(saying(banner)) as application:
        result = trip(Target(application.port, Protocol.TCP, expect=banner[:5]))
        assert result.outcome is Outcome.OK
        assert result.phases.first_byte is not None
        result = trip(Target(application.port, Protocol.TCP))
        assert result.outcome is Outcome.OK


def test_send_and_expect(trip: Trip) -> None:
    def handle(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(b"+PONG\r\n" if data == b"PING\r\n" else b"-ERR what?\r\n")

    with Application(handle) as application:
        target = Target(application.port, Protocol.TCP, send=b"PING\r\n", expect=b"PONG")
        assert trip(target).outcome is Outcome.OK
        result = trip(target._replace(send=b"PINGPING\r\n"), 0.2)
        assert result.stage is Stage.UNEXPECTED_REPLY
        assert result.detail == 'no "PONG" but "-ERR what?"'
        assert trip(target._replace(expect=b"")).outcome is Outcome.OK


def test_more_to_send_than_fits_into_the_socket(trip: Trip) -> None:
    size = 8 << 20

    def handle(connection: socket.socket) -> None:
        left = size
        while left:
            left -= len(connection.recv(1 << 16))
        connection.sendall(b"thanks")

    with Application(handle) as application:
        target = Target(application.port, Protocol.TCP, send=bytes(size), expect=b"thanks")
        assert trip(target, 5.0).outcome is Outcome.OK


def test_the_application_sees_the_end_and_no_reset_although_its_banner_was_not_asked_for(
    trip: Trip,
) -> None:
    """A reset would be counted: MySQL blocks a host after a hundred of those."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"\x4a\0\0\0\x0a8.0.36\0")
        assert connection.recv(100) == b""
        connection.sendall(b"a late word")

    with Application(handle) as application:
        for _ in range(20):
            assert trip(Target(application.port, Protocol.TCP)).outcome is Outcome.OK
