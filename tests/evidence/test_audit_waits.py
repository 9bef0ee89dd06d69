"""Every way a thread can wait on a listener, with real programs: waiting, broken, and stuck."""

from contextlib import ExitStack
from socket import create_connection

import pytest

from probe.evidence.acceptors.audit import audit
from probe.evidence.proc.tasks import stat
from probe.evidence.records.audit import Finding, QueueTrend, ThreadSeen, ThreadState
from probe.kernel import KernelView
from tests.evidence.programs import length, queued, server
from tests.support import until

PORT = 8080

WAITS = {
    "accept": {"accept4"},
    "socketserver": {"poll"},
    "asyncio": {"epoll_wait", "epoll_pwait"},
    "uvloop": {"epoll_wait", "epoll_pwait"},
    "epoll": {"epoll_wait", "epoll_pwait"},
    "epoll-exclusive": {"epoll_wait", "epoll_pwait"},
    "epoll-oneshot": {"epoll_wait", "epoll_pwait"},
    "epoll-nested": {"epoll_wait", "epoll_pwait"},
    "epoll-pwait2": {"epoll_pwait2"},
    "epoll-in-poll": {"poll", "ppoll"},
    "poll": {"poll", "ppoll"},
    "ppoll": {"ppoll"},
    "select": {"select", "pselect6"},
}


def deciding(threads: tuple[ThreadSeen, ...], kind: ThreadState) -> list[ThreadSeen]:
    return [thread for thread in threads if thread.decided is kind]


@pytest.mark.parametrize("mode", WAITS)
def test_a_level_triggered_waiter_is_told_from_none(view: KernelView, mode: str) -> None:
    with server(mode, PORT) as application:
        (healthy,) = audit(view, PORT).listeners
        (waiter,) = deciding(healthy.threads, ThreadState.WAITING)
        assert waiter.how in WAITS[mode]
        assert waiter.pid == application.pid
        assert waiter.waited == waiter.seen == healthy.waited
        assert (healthy.finding, healthy.queue) == (Finding.SOMEBODY_WAITS, QueueTrend.EMPTY)

        assert application.tell("break") == "break"
        (broken,) = audit(view, PORT).listeners
        if broken.listener.length == 0:
            assert (broken.finding, broken.queue) == (Finding.NOBODY_SEEN, QueueTrend.EMPTY)
        with queued(view, PORT):
            (stuck,) = audit(view, PORT).listeners
        assert (stuck.finding, stuck.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
        assert not deciding(stuck.threads, ThreadState.UNKNOWN)
        assert "none accepted" in stuck.why


@pytest.mark.parametrize("mode", ["epoll-edge", "epoll-nested-edge"])
def test_edge_triggered_proves_nothing(view: KernelView, mode: str) -> None:
    """As Go's and netty's: user code that stopped accepting looks as before."""
    with server(mode, PORT) as application:
        for word in ("", "break"):
            if word:
                application.tell(word)
            (empty,) = audit(view, PORT).listeners
            assert (empty.finding, empty.queue) == (Finding.UNKNOWN, QueueTrend.EMPTY)
            assert len(deciding(empty.threads, ThreadState.WATCHING)) == 1
        with queued(view, PORT):
            (stuck,) = audit(view, PORT).listeners
        assert (stuck.finding, stuck.queue) == (Finding.NOT_ACCEPTING, QueueTrend.STUCK)


def test_a_disarmed_one_shot_entry_does_not_wait(view: KernelView) -> None:
    with server("epoll-oneshot", PORT) as application:
        application.tell("break")
        (stuck,) = audit(view, PORT).listeners
        assert stuck.finding is Finding.NOBODY_WAITS
        (loop,) = [thread for thread in stuck.threads if thread.name == "loop"]
        assert (loop.decided, loop.call[:5]) == (ThreadState.NOT_WAITING, "epoll")
        assert "disarmed" in loop.why


def test_an_accept_armed_in_an_io_uring_is_unknown(view: KernelView) -> None:
    with server("io-uring", PORT) as application:
        (armed,) = audit(view, PORT).listeners
        assert armed.finding is Finding.UNKNOWN
        assert "io_uring" in armed.why
        application.tell("break")
        (disarmed,) = audit(view, PORT).listeners
        assert disarmed.finding is Finding.NOBODY_SEEN  # a ring alone hides nothing


def test_a_first_thread_that_has_ended_hides_nobody(view: KernelView) -> None:
    """The process shows as a zombie without descriptors, while another thread accepts."""
    with server("first-thread-ends", PORT) as application:
        until(lambda: stat("/proc", application.pid).state == "Z", "a first thread that ended")
        (alive,) = audit(view, PORT).listeners
        assert alive.finding is Finding.SOMEBODY_WAITS
        assert [thread.name for thread in alive.threads] == ["acceptor"]


def test_who_never_waits_is_not_said_to_be_absent(view: KernelView) -> None:
    """A loop that polls accept() runs always; only a stuck queue tells that it has stopped."""
    with server("spin", PORT) as application:
        (spinning,) = audit(view, PORT).listeners
        if spinning.finding is not Finding.UNKNOWN:  # caught asleep between two tries, just once
            assert spinning.finding is Finding.NOBODY_SEEN
        application.tell("break")
        with queued(view, PORT):
            (stuck,) = audit(view, PORT).listeners
        assert (stuck.finding, stuck.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)


def test_an_idle_acceptor_elsewhere_does_not_count(view: KernelView) -> None:
    """Two listeners of one process: each is judged by those who wait for it."""
    with server("two-listeners", PORT):
        (first,) = audit(view, PORT).listeners
        (second,) = audit(view, PORT + 1).listeners
        assert first.owners[0].pid == second.owners[0].pid
        assert first.finding is Finding.NOBODY_SEEN
        assert second.finding is Finding.SOMEBODY_WAITS


def test_one_of_four_reuseport_listeners_is_dead(view: KernelView) -> None:
    with server("reuseport", PORT):
        healthy = audit(view, PORT).listeners
        assert {one.finding for one in healthy} == {Finding.SOMEBODY_WAITS, Finding.NOBODY_SEEN}
        dead = next(one.listener for one in healthy if one.finding is Finding.NOBODY_SEEN)
        with ExitStack() as clients:

            def dial() -> bool:
                clients.enter_context(create_connection(("127.0.0.1", PORT)))
                return any(
                    one.length == 2 for one in view.listeners(PORT) if one.inode == dead.inode
                )

            until(dial, "2 connections in the dead member's queue")
            until(lambda: length(view, PORT) == 2, "empty queues of the others")
            found = {one.listener.inode: one for one in audit(view, PORT).listeners}
        assert len(found) == 4
        stuck = found.pop(dead.inode)
        assert (stuck.finding, stuck.queue) == (Finding.NOBODY_WAITS, QueueTrend.STUCK)
        for other in found.values():
            assert (other.finding, other.queue) == (Finding.SOMEBODY_WAITS, QueueTrend.EMPTY)
