"""The self-test of the evidence: when it is made, and what becomes of its findings and faults."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator, Sequence

import pytest

from probe.evidence.records.audit import Access, AccessKind
from probe.kernel import open_view
from probe.model import Condition, Listener, Observation, Sample, Target, Transition, Verdict
from probe.sidecar import selftest
from probe.sidecar.board import Board
from probe.sidecar.selftest import SelfTest

STARTING = Verdict("8080")
STARTED = Verdict("8080", Condition.HEALTHY, None, started=True, ready=True)


class Pod:
    """A board with a target, and a self-test that hears of it."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self.board = Board([Target(8080)])
        self.self_test = SelfTest(self.board)
        self.listeners = tuple(listeners)

    def becomes(self, after: Verdict) -> None:
        transition = Transition("8080", 1.0, STARTING, after)
        self.board.publish("8080", Observation(1.0, Sample(self.listeners)), after, transition)

    async def settles(self) -> None:
        """Return once every test that was begun has ended."""
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


@pytest.fixture
def listeners() -> Iterator[tuple[Listener, ...]]:
    """One of this very process."""
    view = open_view()
    with socket.create_server(("127.0.0.1", 8080)):
        yield view.listeners(8080)
    view.close()


def test_it_tries_the_processes_of_a_target_that_has_started(
    listeners: tuple[Listener, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> tuple[Access, ...]:
        pod = Pod(listeners)
        assert pod.self_test.found("8080") == ()
        pod.becomes(STARTED)
        await pod.settles()
        return pod.self_test.found("8080")

    found = asyncio.run(scenario())
    holder = next(line for line in found if line.name is AccessKind.OWNER)
    assert holder.available
    assert holder.why.startswith(f"process {os.getpid()} ")
    assert caplog.messages[1] == f"8080 evidence: {holder.name} available: {holder.why}"
    assert len(caplog.messages) == len(found)


def test_it_waits_for_the_start_and_tries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Sequence[Listener]] = []

    def self_test(listeners: Sequence[Listener]) -> tuple[Access, ...]:
        tried.append(listeners)
        return (Access(AccessKind.EPOLL, False, "they are hidden", "show them"),)

    monkeypatch.setattr(selftest, "self_test", self_test)

    async def scenario() -> None:
        pod = Pod()
        pod.becomes(STARTING)
        await pod.settles()
        assert not tried
        for _ in range(3):
            pod.becomes(STARTED)
        await pod.settles()
        pod.becomes(STARTED._replace(started=False))
        pod.becomes(STARTED)
        await pod.settles()

    asyncio.run(scenario())
    assert len(tried) == 1


def test_what_is_not_available_is_told_with_what_to_change(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line = Access(AccessKind.EPOLL, False, "they are hidden", "show them")
    monkeypatch.setattr(selftest, "self_test", lambda listeners: (line,))

    async def scenario() -> None:
        pod = Pod()
        pod.becomes(STARTED)
        await pod.settles()

    asyncio.run(scenario())
    assert caplog.messages == [
        "8080 evidence: epoll and io_uring not available: they are hidden; show them"
    ]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (OSError(24, "Too many open files"), "8080: the evidence could not be tried: "),
        (ZeroDivisionError("a defect"), "8080: the self-test of the evidence failed"),
    ],
)
def test_its_own_fault_is_told_and_goes_no_further(
    fault: Exception,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def self_test(listeners: Sequence[Listener]) -> tuple[Access, ...]:
        raise fault

    monkeypatch.setattr(selftest, "self_test", self_test)

    async def scenario() -> None:
        pod = Pod()
        pod.becomes(STARTED)
        await pod.settles()
        assert pod.self_test.found("8080") == ()
        assert pod.board.ready

    asyncio.run(scenario())
    (told,) = caplog.messages
    assert told.startswith(message)
