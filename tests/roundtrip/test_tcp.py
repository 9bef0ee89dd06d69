"""The TCP exchange on bytes alone, and against banners and commands."""

import asyncio
import contextlib
import socket

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from probe.kernel import KernelView
from probe.model import Connection, Outcome, Protocol, Stage, Target, TcpState
from probe.roundtrip import address, aio, blocking
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.tcp import Tcp
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
        (b"", seen(state=TcpState.LISTEN), False),
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
    assert exchange.start() == send
    exchange.witness(connection)
    assert exchange.result == (Result() if good else None)
    assert exchange.finish() == b""


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
    assert exchange.result.frank.startswith(f'no "PONG" in {LIMIT} bytes: "xxx')
    exchange = tcp(expect=b"PONG")
    exchange.feed(b"x" * LIMIT + b"PONG")
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY


@pytest.mark.parametrize(
    ("data", "late", "closed"),
    [
        (b"", "no answer", "{} closed without a word"),
        (
            b"-LOADING dataset\r\nmore",
            r'{} "-LOADING dataset\r\n"',
            r'{} "-LOADING dataset\r\n", then closed',
        ),
        (b"\x15\3\3\0\2\2\x46", *(
            "{} a TLS alert (protocol version); the port speaks TLS: tcps://" + end
            for end in ("", ", then closed")
        )),
    ],
)  # fmt: skip
def test_another_answer_than_expected(data: bytes, late: str, closed: str) -> None:
    """Who wrote the target is told what was expected, and nobody else: it may be a password."""
    exchange = tcp(b"PING\r\n", b"+PONG")
    if data:
        exchange.feed(data)
    said = exchange.late()
    assert said.stage is (Stage.UNEXPECTED_REPLY if data else Stage.UNANSWERED)
    assert said.detail == late.format("not the expected answer but")
    assert not data or said.frank == late.format('no "+PONG" but')
    exchange.eof()
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY,
        closed.format("not the expected answer but"),
        frank=closed.format('no "+PONG" but'),
    )


@pytest.mark.parametrize(
    ("expect", "came", "shown"),
    [
        (b"+PONG\n", b"+PONG\r\n", r'no "+PONG\n" but "+PONG\r\n", then closed'),
        (b"OK ", b"OK", 'no "OK " but "OK", then closed'),
        (b"220 ", b"220-mail\r\n", r'no "220 " but "220-mail\r\n", then closed'),
        (b"\0\1", b"\0\2", r'no "\x00\x01" but "\x00\x02", then closed'),
        (b"a\r\nb", b"a\r\nc\r\nd", r'no "a\r\nb" but "a\r\n", then closed'),
        (b"\\x00", b"\0", r'no "\\x00" but "\x00", then closed'),
        ("caf\u00e9".encode(), b"caf\xe9", r'no "café" but "caf\xe9", then closed'),
    ],
)
def test_bytes_that_differ_look_different(expect: bytes, came: bytes, shown: str) -> None:
    exchange = tcp(expect=expect)
    exchange.feed(came)
    exchange.eof()
    assert exchange.result is not None
    assert exchange.result.frank == shown


@given(st.binary(min_size=1, max_size=200), st.binary(min_size=1, max_size=200), st.integers(0, 99))
def test_whatever_they_are(expect: bytes, came: bytes, same: int) -> None:
    expect, came = bytes(same) + expect, bytes(same) + came
    assume(expect not in came)
    exchange = tcp(expect=expect)
    exchange.feed(came)
    exchange.eof()
    assert exchange.result is not None
    wanted, _, got = exchange.result.frank.partition('" but "')
    assert f'no "{got}' != f'{wanted}", then closed', exchange.result.frank


SMTP = ((b"QUIT\r\n", b"221"),)


def talk(target: Target, *lines: bytes) -> tuple[Tcp, list[bytes]]:
    """What it says at first and after each line of the server."""
    exchange = Tcp(target, "127.0.0.1")
    return exchange, [exchange.start(), *(exchange.feed(line) for line in lines)]


def test_who_greets_is_not_interrupted() -> None:
    target = Target(25, Protocol.TCP, expect=b"220 ", then=SMTP)
    exchange, said = talk(target, b"220-mail.example\r\n", b"220 ready\r\n", b"221 bye\r\n")
    assert said == [b"", b"", b"QUIT\r\n", b""]
    assert exchange.result == Result()
    assert exchange.finish() == b""


def test_a_farewell_follows_success_and_is_not_waited_for() -> None:
    target = Target(25, Protocol.TCP, expect=b"220 ", then=((b"QUIT\r\n", b""),))
    exchange, said = talk(target, b"220 ready\r\n")
    assert (exchange.result, said) == (Result(), [b"", b""])
    assert exchange.finish() == b"QUIT\r\n"
    exchange, _ = talk(target, b"554 no\r\n")
    exchange.eof()
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY
    assert exchange.finish() == b""


def test_what_came_before_we_spoke_does_not_answer_us() -> None:
    target = Target(110, Protocol.TCP, expect=b"+OK", then=((b"NOOP\r\n", b"+OK"),))
    exchange, said = talk(target, b"+OK ready, +OK\r\n")
    assert (exchange.result, said[-1]) == (None, b"NOOP\r\n")
    assert exchange.late().detail == "not the expected answer but no answer"
    exchange.feed(b"-ERR\r\n")
    assert exchange.late().frank == r'no "+OK" but "-ERR\r\n"'
    exchange.feed(b"+OK\r\n")
    assert exchange.result == Result()


def test_two_expects_in_a_row_are_found_one_after_the_other() -> None:
    target = Target(1, Protocol.TCP, expect=b"a", then=((b"", b"a"),))
    assert talk(target, b"a")[0].result is None
    assert talk(target, b"ba", b"a")[0].result == Result()
    assert talk(target, b"aba")[0].result == Result()


@given(st.binary(max_size=60), st.lists(st.integers(0, 9), max_size=20))
def test_how_a_talk_is_cut_makes_no_difference(noise: bytes, cuts: list[int]) -> None:
    target = Target(1, Protocol.TCP, expect=b"aab", then=((b"", b"ab"), (b"x", b"")))
    stream = b"a" + noise + b"aab" + noise + b"ab"
    pieces, at = [], 0
    for cut in [*cuts, len(stream)]:
        pieces.append(stream[at : at + cut])
        at += cut
    exchange, _ = talk(target, *pieces)
    assert exchange.result == Result()


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
        assert result.detail.endswith(r' but "-ERR what?\r\n"')
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


def test_a_mail_server_that_refuses_who_speaks_first(trip: Trip) -> None:
    """As exim and Postfix do, so that spammers who cannot wait are told apart."""
    heard: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        connection.settimeout(0.05)
        try:
            early = connection.recv(100)
        except TimeoutError:
            early = b""
        connection.settimeout(10)
        if early:
            connection.sendall(b"554 synchronisation error\r\n")
            return
        connection.sendall(b"220 mail.example ESMTP\r\n")
        heard.append(connection.recv(100))
        connection.sendall(b"221 bye\r\n")

    with Application(handle) as application:
        asked = Target(application.port, Protocol.TCP, expect=b"220", then=SMTP)
        assert trip(asked).outcome is Outcome.OK
        assert trip(asked._replace(then=((b"QUIT\r\n", b""),))).outcome is Outcome.OK
        result = trip(asked._replace(send=b"QUIT\r\n", then=()))
        assert result.stage is Stage.UNEXPECTED_REPLY
        assert r'"554 synchronisation error\r\n"' in result.detail
    assert heard == [b"QUIT\r\n", b"QUIT\r\n"]


@pytest.mark.parametrize("read", [True, False], ids=["closed", "reset"])
def test_what_it_said_before_it_closed_is_the_reason(trip: Trip, read: bool) -> None:
    """A server at its limit says so and closes; what we sent then meets a closed connection."""

    def handle(connection: socket.socket) -> None:
        connection.recv(100 if read else 1)
        connection.sendall(b"-ERR max number of clients reached\r\n")

    with Application(handle) as application:
        target = Target(application.port, Protocol.TCP, send=b"PING\r\n", expect=b"+PONG")
        for _ in range(10):
            result = trip(target)
            assert result.stage is Stage.UNEXPECTED_REPLY
            assert result.detail.endswith(
                r' but "-ERR max number of clients reached\r\n", then closed'
            )


def test_what_was_expected_is_told_to_who_wrote_it_alone(view: KernelView) -> None:
    """It may be a password. The sidecar's messages go into logs, Events and recordings."""
    with Application(saying(b"-ERR no\r\n")) as application:
        target = Target(application.port, Protocol.TCP, expect=b"password")
        where = address(target, view.listeners(application.port))
        told = blocking.run(target, where, view, 0.2, frank=True)
        others = blocking.run(target, where, view, 0.2)
        result, _ = asyncio.run(aio.run(target, where, view, 0.2))
    assert told.detail == r'no "password" but "-ERR no\r\n"'
    assert result.detail == others.detail == r'not the expected answer but "-ERR no\r\n"'


def test_who_says_nothing_is_spoken_to_and_who_greets_late_is_not(trip: Trip) -> None:
    """The order of a lone pair may have meant nothing: redis does not greet."""
    heard: list[bytes] = []

    def answers(connection: socket.socket) -> None:
        if connection.recv(4096) == b"PING\r\n":
            connection.sendall(b"+PONG\r\n")

    def greets(connection: socket.socket) -> None:
        connection.settimeout(0.2)  # until then nothing may have been said
        with contextlib.suppress(TimeoutError):
            heard.append(connection.recv(4096))
        connection.sendall(b"+PONG\r\n")
        connection.settimeout(None)
        heard.append(connection.recv(4096))

    for handle in (answers, greets):
        with Application(handle) as application:
            target = Target(application.port, Protocol.TCP, expect=b"+PONG")
            result = trip(target._replace(then=((b"PING\r\n", b""),)), 1.0)
            assert result.outcome is Outcome.OK, (handle, result)
    assert heard == [b"PING\r\n"]
