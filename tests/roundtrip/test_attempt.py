"""The one-connection rule: what is held, until when, and what it leaves behind."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probe.kernel import Blind, KernelView
from probe.model import Connection, Outcome, Protocol, Stage, Target
from probe.roundtrip import Attempt, address
from probe.roundtrip.attempt import BLIND_WAIT
from tests.roundtrip.application import RESET, answer, listen, open_sockets, port_of, request
from tests.roundtrip.test_stages import overflowing
from tests.support import until

TIMEOUT = 0.1

Start = Callable[..., Attempt]


@pytest.fixture
def start(view: KernelView) -> Iterator[Start]:
    """Make an attempt and drive it until it has a result."""
    attempts: list[Attempt] = []

    def start(target: Target, timeout: float = TIMEOUT, by: KernelView = view) -> Attempt:
        where = address(target, view.listeners(target.port))
        attempt = Attempt(target, where, by, time.monotonic(), timeout)
        attempts.append(attempt)
        while attempt.step() is None:
            wait(attempt)
        return attempt

    yield start
    for attempt in attempts:
        attempt.close()


def wait(attempt: Attempt) -> None:
    poll = select.poll()
    poll.register(attempt, attempt.events)
    poll.poll(max(attempt.wake - time.monotonic(), 0) * 1000 + 1)


def length(view: KernelView, port: int) -> int:
    return sum(listener.length for listener in view.listeners(port))


def test_a_queued_connection_is_held_until_accepted(start: Start, view: KernelView) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)))
        assert attempt.result is not None
        assert attempt.result.stage is Stage.QUEUED
        for _ in range(3):
            assert attempt.lingers
            assert attempt.poll(time.monotonic())
            assert not attempt.accepted
        assert length(view, port_of(listener)) == 1
        with listener.accept()[0] as connection:
            assert not attempt.poll(time.monotonic())
            assert attempt.accepted
            assert not attempt.lingers
            connection.settimeout(10)
            request(connection)
            assert connection.recv(1) == b"", "closed, not reset"
        assert not attempt.result.accepted, "the round trip has failed all the same"


def test_a_reset_that_our_own_send_is_told_of_shows_nobody_who_accepted(view: KernelView) -> None:
    """It comes between the end of the handshake, when the clock is read, and our first word."""
    closing: list[socket.socket] = []

    def clock() -> float:
        for listener in closing:
            listener.close()
        return time.monotonic()

    with listen() as listener:
        target = Target(port_of(listener))
        where = address(target, view.listeners(target.port))
        attempt = Attempt(target, where, view, time.monotonic(), TIMEOUT, clock)
        closing.append(listener)
        result = attempt.step()
    assert result is not None
    assert (result.stage, result.accepted) == (Stage.RESET, False)
    assert result.detail == "connection reset by peer before it was seen to be accepted"


def test_held_closed_and_not_accepted_leaves_one_entry(start: Start, view: KernelView) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)))
        attempt.close()
        attempt.close()
        assert not attempt.lingers
        assert not attempt.poll(time.monotonic())
        assert length(view, port_of(listener)) == 1


def test_an_answer_that_comes_at_last_ends_the_hold_without_a_lookup(start: Start) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)), by=Blind("no sock_diag"))
        assert attempt.lingers
        with listener.accept()[0] as connection:
            assert attempt.poll(time.monotonic()), "accepted, but who could tell?"
            request(connection)
            connection.sendall(answer())
            until(lambda: not attempt.poll(time.monotonic()))
        assert attempt.accepted


def test_closing_is_accepting(start: Start) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)), by=Blind("no sock_diag"))
        connection, _ = listener.accept()
        request(connection)
        connection.close()
        until(lambda: not attempt.poll(time.monotonic()))
        assert attempt.accepted


def test_a_reset_is_not(start: Start) -> None:
    listener = listen()
    attempt = start(Target(port_of(listener)))
    assert attempt.lingers
    listener.close()
    until(lambda: not attempt.poll(time.monotonic()))
    assert not attempt.accepted
    assert not attempt.lingers


def test_accepted_and_reset_between_two_polls_is_not_taken_for_accepted(start: Start) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)))
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()
        assert not attempt.poll(time.monotonic())
        assert not attempt.accepted


def test_a_hold_that_nobody_can_judge_ends(start: Start) -> None:
    with listen() as listener:
        attempt = start(Target(port_of(listener)), by=Blind("no sock_diag"))
        assert attempt.poll(time.monotonic() + BLIND_WAIT - 1)
        assert not attempt.poll(time.monotonic() + BLIND_WAIT + 1)
        assert not attempt.accepted


@pytest.mark.parametrize("backlog", [0, 2], ids=["syn cookie", "request kept"])
def test_an_incomplete_handshake_is_held(start: Start, backlog: int) -> None:
    with overflowing(backlog) as port:
        attempt = start(Target(port), 1.5)
        assert attempt.result is not None
        assert attempt.result.stage is Stage.HANDSHAKE_INCOMPLETE
        assert attempt.poll(time.monotonic())


@pytest.mark.parametrize("expect", [b"", b"220"])
def test_an_incomplete_handshake_without_a_word_is_not_held_for_ever(
    start: Start, view: KernelView, expect: bytes
) -> None:
    """Nothing of ours is sent again, so that it would not be accepted by the healthiest either."""
    with overflowing(0) as port:
        attempt = start(Target(port, Protocol.TCP, expect=expect), 1.5)
        assert attempt.result is not None
        assert attempt.result.stage is Stage.HANDSHAKE_INCOMPLETE
        assert attempt.lingers
        assert not attempt.poll(time.monotonic())
        assert not attempt.accepted
        assert length(view, port) == 1


def test_a_dropped_syn_is_given_up_at_once(start: Start, view: KernelView) -> None:
    with listen(backlog=0) as listener, socket.socket() as other:
        other.connect(listener.getsockname())
        attempt = start(Target(port_of(listener)))
        assert not attempt.lingers
        table = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        assert "02" not in {row.split()[3] for row in table}, "SYN_SENT"


def test_a_connection_that_was_accepted_is_not_held(start: Start) -> None:
    with listen() as listener:
        attempt = Attempt(
            Target(port_of(listener)),
            address(Target(port_of(listener)), ()),
            Blind("no sock_diag"),
            time.monotonic(),
            TIMEOUT,
        )
        assert attempt.step() is None
        with listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while attempt.step() is None:
                wait(attempt)
        assert not attempt.lingers


def test_a_dead_application_is_left_with_one_entry(start: Start, view: KernelView) -> None:
    """What the owner of the attempts does: no new one while the last is held."""
    with listen(backlog=5) as listener:
        held = start(Target(port_of(listener)))
        for _ in range(50):
            if not held.poll(time.monotonic()):
                held = start(Target(port_of(listener)))
        assert length(view, port_of(listener)) == 1


def test_nothing_is_left_open(start: Start) -> None:
    """Good, failed, unknown: no descriptor stays."""
    before = open_sockets()
    with listen() as listener:
        port = port_of(listener)
        start(Target(port)).close()
        start(Target(port, Protocol.TCP), by=Blind("no sock_diag")).close()
    for target in (
        Target(port),
        Target(port, host="203.0.113.9"),
        Target(port, Protocol.HTTPS, ca_file="/nonexistent"),
    ):
        assert start(target).result is not None
    assert not open_sockets() - before


def test_time_is_the_given_clock_alone(view: KernelView) -> None:
    now = 100.0
    with listen() as listener:
        target = Target(port_of(listener))
        attempt = Attempt(target, address(target, ()), view, 100.0, 2.0, clock=lambda: now)
        assert attempt.step() is None
        assert attempt.wake == pytest.approx(100.0005)
        pauses = []
        while attempt.wake < 102:
            pauses.append(attempt.wake - now)
            now = attempt.wake
            assert attempt.step() is None
        assert pauses[:8] == pytest.approx(
            [0.0005 * 2**power for power in (0, 0, 1, 2, 3, 4, 5, 6)]
        )
        assert max(pauses) == pytest.approx(0.05)
        now = 102.0
        result = attempt.step()
        assert result is not None
        assert result.stage is Stage.QUEUED
        assert result.at == 100.0
        assert result.phases.total == pytest.approx(2.0)
        attempt.close()


def test_a_view_that_takes_long_is_asked_seldom() -> None:
    """As /proc does, which has to be read as a whole: a tenth of the time at most."""
    now = 100.0

    class Slow(Blind):
        def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
            nonlocal now
            now += 0.1
            return super().lookup(client, server)

    with listen() as listener:
        target = Target(port_of(listener))
        attempt = Attempt(target, address(target, ()), Slow("slow"), 100.0, 2.0, clock=lambda: now)
        attempt.step()
        now = attempt.wake
        assert attempt.step() is None
        assert attempt.wake - now == pytest.approx(1.0)
        attempt.close()


def test_a_short_wait_for_a_server_that_does_not_close(view: KernelView) -> None:
    """It has answered: its leaving connections open costs us a moment, not the round trip."""
    with listen() as listener:
        target = Target(port_of(listener))
        began = time.monotonic()
        attempt = Attempt(target, address(target, ()), view, began, 5.0)
        assert attempt.step() is None
        with listener.accept()[0] as connection:
            request(connection)
            connection.sendall(answer())
            while (result := attempt.step()) is None:
                wait(attempt)
            assert result.outcome is Outcome.OK
            assert time.monotonic() - began < 1
            assert connection.recv(1) == b""
