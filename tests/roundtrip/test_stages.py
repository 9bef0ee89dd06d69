"""Every stage at which a round trip can end, raised with real sockets, for each driver."""

import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from probe.kernel import Blind, KernelView
from probe.model import Outcome, Phases, Protocol, RoundTrip, Stage, Target
from probe.roundtrip import attempt as attempts
from probe.roundtrip.exchange import LIMIT
from probe.roundtrip.protocols import PROTOCOLS
from tests.roundtrip.application import (
    RESET,
    Application,
    answer,
    listen,
    port_of,
    replying,
    request,
    saying,
    until_closed,
)
from tests.roundtrip.conftest import Trip

LATE = 0.2
"""Seconds: the time-out where there will be no answer."""


def idle(connection: socket.socket) -> None:
    """Neither read nor answer until the client leaves: it reads nothing, so poll for the end."""
    while True:
        seen = connection.recv(1, socket.MSG_PEEK)
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        if not seen or info[0] != 1:  # no longer ESTABLISHED
            return
        time.sleep(0.01)


def read_only(connection: socket.socket) -> None:
    until_closed(connection)


def assert_failed(result: RoundTrip, stage: Stage, detail: str, *, accepted: bool) -> None:
    assert (result.outcome, result.stage, result.accepted) == (Outcome.FAILED, stage, accepted)
    assert result.detail == detail


def entries(view: KernelView, port: int) -> int:
    """Connections of the port, and what waits in its queue without a row."""
    return max(len(view.connections(port)), sum(one.length for one in view.listeners(port)))


# --- good


def test_an_answer(trip: Trip) -> None:
    with Application(replying(answer())) as application:
        result = trip(Target(application.port))
    assert result[1:-1] == (Outcome.OK, None, "", 200, True)
    phases = result.phases
    assert phases.tls is None
    assert None not in (phases.connect, phases.accept, phases.first_byte, phases.total)
    assert 0 <= (phases.accept or 0) <= (phases.total or 0)
    assert 0 < (phases.connect or 0) < (phases.total or 0) < 1
    assert result.at <= time.monotonic()


@pytest.mark.parametrize(
    "protocol", [Protocol.TCP, Protocol.HTTP], ids=["by lookup", "beside the exchange"]
)
def test_the_accept_delay(trip: Trip, protocol: Protocol) -> None:
    delay = 0.15

    with listen() as listener, ExitStack() as stack:

        def accept_late() -> None:
            select.select([listener], [], [], 10)
            time.sleep(delay)
            connection, _ = listener.accept()
            with connection:
                if protocol is Protocol.HTTP:
                    request(connection)
                    time.sleep(0.2)
                    connection.sendall(answer())
                until_closed(connection)

        thread = threading.Thread(target=accept_late)
        thread.start()
        stack.callback(thread.join)
        result = trip(Target(port_of(listener), protocol))
    assert result.outcome is Outcome.OK
    assert delay / 2 < (result.phases.accept or 0) < delay + 0.5
    if protocol is Protocol.HTTP:
        assert result.phases.first_byte is not None
        assert result.phases.accept is not None
        assert result.phases.accept < result.phases.first_byte


def test_the_application_sees_no_reset_however_much_it_sends(trip: Trip) -> None:
    """A page of 300 KiB counts after 64 KiB; the rest is read, not thrown back."""
    with Application(replying(answer(b"x" * 300_000))) as application:
        assert trip(Target(application.port)).outcome is Outcome.OK


# --- before the application


def test_refused(trip: Trip) -> None:
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        port = port_of(not_listening)
        result = trip(Target(port))
    assert_failed(result, Stage.REFUSED, f"127.0.0.1:{port}: Connection refused", accepted=False)


def test_refused_and_not_connected_to_ourselves(trip: Trip) -> None:
    """A port of the ephemeral range that nobody listens on may be the one we connect from."""
    port = 40001
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{port} {port}")
    for protocol in (Protocol.TCP, Protocol.HTTP):
        result = trip(Target(port, protocol))
        assert result.stage is Stage.REFUSED, result


def test_syn_dropped(trip: Trip, view: KernelView) -> None:
    with listen(backlog=1) as listener, ExitStack() as stack:
        port = port_of(listener)
        for _ in range(2):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        result = trip(Target(port), LATE)
        assert_failed(
            result, Stage.SYN_DROPPED, "no answer to our SYN: 2 of 1 queued", accepted=False
        )
        assert result.phases.connect is None
        assert 0 < (result.phases.total or 0) < LATE + 1
        assert entries(view, port) == 2


def test_no_answer_from_nowhere(trip: Trip) -> None:
    with IPRoute() as routes:
        routes.link("add", ifname="nowhere", kind="veth", peer="nobody")
        index = routes.link_lookup(ifname="nowhere")[0]
        for name in ("nowhere", "nobody"):
            routes.link("set", ifname=name, state="up")
        routes.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        result = trip(Target(80, host="192.0.2.9"), LATE)
    assert_failed(
        result,
        Stage.SYN_DROPPED,
        "no answer to our SYN, and no listener in this network namespace",
        accepted=False,
    )


@contextmanager
def slow_loopback() -> Iterator[None]:
    """Packets of one direction wait for those of the other: handshakes overlap."""
    with IPRoute() as routes:
        try:
            routes.tc("add", "tbf", index=1, handle=0x10000, rate=15000, burst=1600, limit=100_000)
        except NetlinkError as error:
            pytest.skip(f"this kernel has no token bucket filter: {error}")
        yield


@contextmanager
def overflowing(backlog: int) -> Iterator[int]:
    """A port whose queue fills up between our SYN and the end of our handshake."""
    with listen(backlog=backlog) as listener, ExitStack() as stack:
        there = ("127.0.0.1", port_of(listener))
        for _ in range(backlog):
            stack.enter_context(socket.create_connection(there))
        stack.enter_context(slow_loopback())
        ballast = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        ballast.bind(("127.0.0.1", 0))
        for _ in range(8):
            # Half a second's worth for the filter, so that our SYN is in line before it is free.
            ballast.sendto(bytes(1000), ballast.getsockname())
        other = stack.enter_context(socket.socket())
        other.setblocking(False)
        other.connect_ex(there)
        yield there[1]


@pytest.mark.parametrize(
    ("backlog", "detail"),
    [(2, "not ended for "), (0, "the end of our handshake was dropped: 1 queued")],
    ids=["request kept", "syn cookie"],
)
def test_handshake_incomplete(trip: Trip, backlog: int, detail: str) -> None:
    """With a backlog this small the kernel keeps no half-open connection: it sends a cookie."""
    with overflowing(backlog) as port:
        result = trip(Target(port), 1.5)
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.HANDSHAKE_INCOMPLETE)
    assert result.detail.startswith(detail)
    assert not result.accepted
    assert result.phases.connect is not None


def test_deferred_accept_without_a_word_from_us(trip: Trip) -> None:
    """What we wait for, and what the application waits for, will never come."""
    with listen() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
        result = trip(Target(port_of(listener), Protocol.TCP, expect=b"220"), LATE)
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.HANDSHAKE_INCOMPLETE)
    assert result.detail.endswith("s, retransmits: 0")


def test_queued(trip: Trip) -> None:
    for protocol in PROTOCOLS:
        target_tls = protocol is Protocol.GRPC
        with listen() as listener:
            result = trip(Target(port_of(listener), protocol, tls=target_tls, verify=False), LATE)
        assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.QUEUED), protocol
        assert result.detail.startswith("not accepted for 0.")
        assert not result.accepted
        assert result.phases.accept is None
        assert result.phases.connect is not None


def test_reset_in_the_queue(trip: Trip) -> None:
    """The listener is closed while we wait: restarted, perhaps."""
    listener = listen()
    timer = threading.Timer(0.1, listener.close)
    timer.start()
    result = trip(Target(port_of(listener)))
    timer.join()
    assert_failed(
        result,
        Stage.RESET,
        "connection reset by peer before it was seen to be accepted",
        accepted=False,
    )


def test_abort_on_overflow(trip: Trip) -> None:
    """The kernel resets, instead of ignoring, a handshake that ends when the queue is full."""
    Path("/proc/sys/net/ipv4/tcp_abort_on_overflow").write_text("1")
    with overflowing(backlog=2) as port:
        result = trip(Target(port))
    assert_failed(
        result,
        Stage.RESET,
        "connection reset by peer before it was seen to be accepted",
        accepted=False,
    )


# --- in the application


def test_unread(trip: Trip) -> None:
    with Application(idle) as application:
        result = trip(Target(application.port, path="/"), LATE)
    assert (result.outcome, result.stage, result.accepted) == (Outcome.FAILED, Stage.UNREAD, True)
    assert re.fullmatch(r"accepted, but \d+ bytes of ours unread for 0\.\d+ s", result.detail)
    assert result.phases.accept is not None
    assert result.phases.first_byte is None


def test_unread_is_not_enough_for_tcp_with_send(trip: Trip) -> None:
    with Application(idle) as application:
        result = trip(Target(application.port, Protocol.TCP, send=b"PING"), LATE)
    assert result.stage is Stage.UNREAD
    assert result.detail.startswith("accepted, but 4 bytes of ours unread for 0.")


def test_unanswered(trip: Trip) -> None:
    with Application(read_only) as application:
        result = trip(Target(application.port), LATE)
        assert_failed(result, Stage.UNANSWERED, f"no answer within {LATE} s", accepted=True)
        result = trip(Target(application.port, Protocol.GRPC), LATE)
        assert_failed(result, Stage.UNANSWERED, f"no answer within {LATE} s", accepted=True)
        result = trip(Target(application.port, Protocol.TCP, expect=b"+PONG"), LATE)
        assert_failed(result, Stage.UNANSWERED, f"no answer within {LATE} s", accepted=True)


def test_half_an_answer(trip: Trip) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with Application(saying(head + bytes(512))) as application:
        result = trip(Target(application.port), LATE)
    assert_failed(
        result,
        Stage.UNANSWERED,
        "answer stopped after 512 of 1000 bytes of the body",
        accepted=True,
    )
    assert result.status == 200
    assert result.phases.first_byte is not None


def test_closed_without_an_answer(trip: Trip) -> None:
    with Application(lambda connection: bool(request(connection))) as application:
        result = trip(Target(application.port))
    assert_failed(result, Stage.UNEXPECTED_REPLY, "closed, no answer", accepted=True)


def reset_now(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_reset_on_accept(trip: Trip) -> None:
    with Application(reset_now) as application:
        for protocol in (Protocol.HTTP, Protocol.GRPC):
            result = trip(Target(application.port, protocol))
            assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.RESET)


def test_reset_instead_of_an_answer(trip: Trip) -> None:
    def handle(connection: socket.socket) -> None:
        request(connection)
        time.sleep(0.05)
        reset_now(connection)

    with Application(handle) as application:
        result = trip(Target(application.port))
    assert_failed(
        result,
        Stage.RESET,
        "connection reset by peer after it was accepted, before any answer",
        accepted=True,
    )


@pytest.mark.parametrize("protocol", [Protocol.HTTP, Protocol.GRPC, Protocol.TCP])
def test_reset_in_the_middle_of_an_answer(trip: Trip, protocol: Protocol) -> None:
    """However it ends, what came is told; `reset` is for what ended before a word."""
    said = {
        Protocol.HTTP: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(512),
        Protocol.GRPC: bytes(3) + b"\4" + bytes(5),
        Protocol.TCP: b"-ERR",
    }

    def handle(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(said[protocol])
        time.sleep(0.05)
        reset_now(connection)

    with Application(handle) as application:
        result = trip(Target(application.port, protocol, send=b"PING", expect=b"PONG"))
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.UNEXPECTED_REPLY)
    assert {
        Protocol.HTTP: "closed after 512 of 1000 bytes of the body",
        Protocol.GRPC: "closed after 9 bytes: no headers, no trailers",
        Protocol.TCP: 'but "-ERR", then closed',
    }[protocol] in result.detail


def test_a_status_counts_although_the_rest_is_missing(trip: Trip) -> None:
    def handle(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(answer(b"no database\n" + bytes(100), "503 No")[:-50])
        time.sleep(0.05)
        reset_now(connection)

    with Application(handle) as application:
        result = trip(Target(application.port))
    assert_failed(result, Stage.STATUS, 'HTTP 503, not 100 to 499: "no database"', accepted=True)


def test_an_answer_before_a_reset_is_an_answer(trip: Trip) -> None:
    """A server that closes without having read the request: the kernel resets after the answer."""
    with Application(lambda connection: connection.sendall(answer())) as application:
        for _ in range(20):
            assert trip(Target(application.port)).outcome is Outcome.OK


def test_a_bad_status(trip: Trip) -> None:
    with Application(replying(answer(b"db is down\n", "503 No"))) as application:
        result = trip(Target(application.port))
    assert_failed(result, Stage.STATUS, 'HTTP 503, not 100 to 499: "db is down"', accepted=True)
    assert result.status == 503


def test_not_http(trip: Trip) -> None:
    with Application(saying(b"SSH-2.0-OpenSSH_9.2p1\r\n")) as application:
        result = trip(Target(application.port))
    assert_failed(
        result,
        Stage.UNEXPECTED_REPLY,
        'not an HTTP/1 answer: "SSH-2.0-OpenSSH_9.2p1"',
        accepted=True,
    )


# --- hostile


class Raises:
    """An exchange with a defect in it."""

    result = None
    secured = answered = silent = False
    secrets = ()

    def start(self) -> bytes:
        return b"hello"

    def feed(self, data: bytes) -> bytes:
        raise UnicodeDecodeError("utf-8", b"\xff\x1b", 0, 1, "\x1b[2J" + "x" * 1000)

    eof = so_far = late = finish = witness = feed


@pytest.mark.parametrize("word", [b"anything", b""], ids=["fed", "closed"])
def test_what_an_exchange_raises_is_an_answer_that_is_none(
    trip: Trip, monkeypatch: pytest.MonkeyPatch, word: bytes
) -> None:
    """Were it unknown, an application that answers so would stay ready for ever."""
    monkeypatch.setattr(attempts, "exchange", lambda *_: Raises())
    with Application(
        saying(word) if word else lambda connection: connection.recv(5)
    ) as application:
        result = trip(Target(application.port))
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.UNEXPECTED_REPLY)
    assert result.detail.startswith("an answer that we cannot read: ")
    assert result.detail.isprintable()
    assert len(result.detail) <= attempts.LONGEST_DETAIL + 1


@pytest.mark.parametrize("piece", [b"X: y\r\n" * 1000, b"\r\n" * 3000, bytes(range(256)) * 20])
def test_floods_end(trip: Trip, piece: bytes) -> None:
    """Whatever comes without end is refused, soon, and without reading it all."""
    sent = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent
        request(connection)
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                sent += connection.send(piece)
        except OSError:
            pass

    with Application(flood) as application:
        began = time.monotonic()
        result = trip(Target(application.port, path="/"), 5.0)
        assert time.monotonic() - began < 2
    assert result.outcome is (Outcome.OK if piece[0] == 13 else Outcome.FAILED)
    assert sent < 16 << 20


def test_slow_bytes_end_with_the_time_out(trip: Trip) -> None:
    def trickle(connection: socket.socket) -> None:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * LIMIT:
                connection.sendall(bytes((byte,)))
                time.sleep(0.001)
        except OSError:
            pass

    with Application(trickle) as application:
        result = trip(Target(application.port), LATE)
    assert result.stage is Stage.UNANSWERED
    assert result.detail.endswith("bytes of the header")
    assert 0 < (result.phases.total or 0) < LATE + 1


# --- what we could not ask


def test_no_local_port(trip: Trip) -> None:
    with listen() as listener, socket.socket() as client:
        client.bind(("127.0.0.1", 0))
        only = port_of(client)
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{only} {only}")
        result = trip(Target(port_of(listener)))
    assert (result.outcome, result.stage) == (Outcome.UNKNOWN, None)
    assert result.detail.startswith("could not connect to 127.0.0.1:")
    assert result.phases == Phases(total=result.phases.total)


def test_no_route(trip: Trip) -> None:
    result = trip(Target(80, host="203.0.113.1"))
    assert result.outcome is Outcome.UNKNOWN
    assert result.detail == "could not connect to 203.0.113.1:80: Network is unreachable"


# --- when the kernel cannot be asked

BLIND = Blind("sock_diag: Operation not permitted")


def test_blind_the_answer_still_counts(trip: Trip) -> None:
    with Application(replying(answer())) as application:
        result = trip(Target(application.port), by=BLIND)
    assert result.outcome is Outcome.OK
    assert result.accepted


def test_blind_silence_is_unanswered_and_says_what_is_not_known(trip: Trip) -> None:
    with listen() as listener:
        result = trip(Target(port_of(listener)), LATE, by=BLIND)
    assert_failed(
        result,
        Stage.UNANSWERED,
        "no answer; cannot tell whether it was accepted: sock_diag: Operation not permitted",
        accepted=False,
    )


def test_blind_a_connection_alone_proves_nothing(trip: Trip) -> None:
    """The handshake is the kernel's work: whether the application accepted cannot be told."""
    with listen() as listener:
        result = trip(Target(port_of(listener), Protocol.TCP), LATE, by=BLIND)
    assert (result.outcome, result.stage) == (Outcome.UNKNOWN, None)
    assert result.detail == (
        "cannot tell whether it was accepted: sock_diag: Operation not permitted"
    )


def test_blind_a_banner_proves_that_it_was_accepted(trip: Trip) -> None:
    with Application(saying(b"220 ready\r\n")) as application:
        result = trip(Target(application.port, Protocol.TCP), by=BLIND)
    assert result.outcome is Outcome.OK


def test_blind_a_syn_that_nobody_answers(trip: Trip) -> None:
    with listen(backlog=0) as listener:
        port = port_of(listener)
        with socket.create_connection(("127.0.0.1", port)):
            result = trip(Target(port), LATE, by=BLIND)
    assert_failed(
        result,
        Stage.SYN_DROPPED,
        "no answer to our SYN (sock_diag: Operation not permitted)",
        accepted=False,
    )
