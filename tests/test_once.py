"""The judgement of those who look once: whatever they find, they leave no harm behind."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from probe import exits
from probe.commands import once
from probe.kernel import KernelView, open_view
from probe.kernel.sampler import Sampler
from probe.model import Policy, Reason, Sample, Stage, Target

LIMIT = 0.3
"""Seconds for one judgement."""


@contextmanager
def deaf(backlog: int = 128) -> Iterator[socket.socket]:
    """An application that accepts nothing by itself."""
    with socket.create_server(("127.0.0.1", 8080), backlog=backlog) as listener:
        yield listener


@pytest.fixture
def view() -> Iterator[KernelView]:
    opened = open_view()
    yield opened
    opened.close()


def judged(view: KernelView, *, counted: bool = True) -> once.CheckResult:
    """What a check that remembers nothing says of port 8080."""
    sampler = Sampler(view, once.counters() if counted else None)
    return once.at(Target(8080), Policy(), sampler, LIMIT)


def queued(view: KernelView) -> int:
    return sum(listener.length for listener in view.listeners(8080))


@pytest.mark.parametrize("counted", [True, False], ids=["by the accepts", "by the head"])
def test_ten_in_a_row_leave_a_dead_application_with_one_entry(
    view: KernelView, counted: bool
) -> None:
    with deaf():
        first = judged(view, counted=counted)
        assert (first.status, first.verdict.stage) == (exits.FAILED, Stage.QUEUED)
        assert queued(view) == 1
        for _ in range(9):
            seen = judged(view, counted=counted)
            assert (seen.status, seen.verdict.reason) == (
                exits.FAILED,
                Reason.ACCEPT_QUEUE_STALLED,
            )
        assert queued(view) == 1


def test_who_has_no_time_left_leaves_nothing_in_the_queue(view: KernelView) -> None:
    """As on a machine that is short of CPU: the first sample is all that comes of it."""

    class Slow(Sampler):
        def sample(self, port: int, hosts: tuple[str, ...] = ()) -> Sample:
            time.sleep(LIMIT)
            return super().sample(port, hosts)

    with deaf():
        seen = once.at(Target(8080), Policy(), Slow(view, once.counters()), LIMIT)
        assert seen.status == exits.UNKNOWN
        assert "8080 was not asked: there was no CPU for 0." in seen.line
        assert queued(view) == 0


def test_a_queue_that_is_full_of_others_gets_none_of_ours(view: KernelView) -> None:
    with deaf(backlog=1) as listener, ExitStack() as sockets:
        clients = [
            sockets.enter_context(socket.create_connection(listener.getsockname()))
            for _ in range(2)
        ]
        assert judged(view).status == exits.FAILED
        accepted = [listener.accept() for _ in clients]
        for connection, _ in accepted:
            connection.close()
        assert [peer for _, peer in accepted] == [client.getsockname() for client in clients]
        assert queued(view) == 0


def test_once_it_accepts_again_it_is_asked(view: KernelView) -> None:
    with deaf() as listener:
        assert judged(view).verdict.stage is Stage.QUEUED
        listener.accept()[0].close()
        assert judged(view).verdict.stage is Stage.QUEUED, "it was asked, by a new connection"
        assert queued(view) == 1
