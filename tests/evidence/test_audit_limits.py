"""The audit of what dies, is frozen, traced, born anew, or very large."""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.owners import Owners, youngest
from probe.evidence.proc.tasks import TICK, alive, stat
from probe.evidence.records.audit import (
    Finding,
    ListenerAudit,
    QueueTrend,
    ThreadSeen,
    ThreadState,
)
from probe.kernel import KernelView
from probe.kernel.procfs import ProcNet
from tests.evidence.programs import queued, server
from tests.support import until

PORT = 8080
libc = ctypes.CDLL(None, use_errno=True)
Freezer = Callable[[int], AbstractContextManager[None]]
Property = Callable[[str, object], None]
needs_descriptors = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 10_200,
    reason="the hard limit on open files is below 10,200",
)


def one(view: KernelView) -> ListenerAudit:
    (found,) = audit(view, PORT).listeners
    return found


def test_nothing_listens(view: KernelView) -> None:
    found = audit(view, PORT)
    assert found.listeners == ()
    assert found.notes == (f"nothing listens on {PORT}",)


def test_who_dies_during_the_audit_is_said_to_have_ended(view: KernelView) -> None:
    with server("accept", PORT) as application:
        killer = threading.Timer(0.3, os.kill, (application.pid, signal.SIGKILL))
        killer.start()
        found = audit(view, PORT)
        killer.join()
    assert [listener.finding for listener in found.listeners] == [Finding.UNKNOWN]
    assert found.listeners[0].why == "the listener was closed during the audit"
    assert f"process {application.pid} `python` ended during the audit" in found.notes


def test_a_listener_whose_owner_dies_is_left_to_the_others(view: KernelView) -> None:
    """A child inherited it and lives; the parent that accepted is gone."""
    with server("forked", PORT) as application:
        child = int(application.line())
        killer = threading.Timer(0.3, application.process.kill)
        killer.start()
        found = audit(view, PORT)
        killer.join()
        os.kill(child, signal.SIGKILL)
    (listener,) = found.listeners
    assert [owner.pid for owner in listener.owners] == [child]
    assert listener.finding is Finding.NOBODY_SEEN
    assert f"process {application.pid} `python` ended during the audit" in found.notes


def test_a_thread_that_exits_during_the_audit_does_not_wait(view: KernelView) -> None:
    with server("accept", PORT) as application:
        breaker = threading.Timer(0.3, application.tell, ("break",))
        breaker.start()
        found = one(view)
        breaker.join()
    gone = [thread for thread in found.threads if thread.why == "it exited during the audit"]
    assert [thread.name for thread in gone] == ["acceptor"]
    assert gone[0].waited < found.waited + 1 < 6
    assert found.finding in (Finding.NOBODY_SEEN, Finding.BUSY)


def start_with_pid(pid: int, *command: str) -> None:
    """A process with a number of our choice; `clone3` with set_tid, see clone(2)."""
    chosen = ctypes.c_int32(pid)
    arguments = (ctypes.c_uint64 * 10)()
    arguments[4] = signal.SIGCHLD
    arguments[8] = ctypes.addressof(chosen)
    arguments[9] = 1
    clone3 = 435
    started = libc.syscall(clone3, arguments, ctypes.sizeof(arguments))
    if started == 0:
        os.execv(command[0], command)
    if started < 0:
        pytest.skip(f"clone3 with a pid of our choice: {os.strerror(ctypes.get_errno())}")
    assert started == pid


def test_a_pid_that_was_given_anew_is_another_process(view: KernelView) -> None:
    owners = Owners()
    with server("accept", PORT) as application:
        pid = application.pid
        (first,) = owners.find([view.listeners(PORT)[0].inode]).owners.values()
        assert first[0].pid == pid
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 0.02, "another clock tick")
    start_with_pid(pid, "/bin/sleep", "60")
    try:
        assert not alive("/proc", pid, first[0].start_time)
        assert alive("/proc", pid, stat("/proc", pid).start_time)
        with server("accept", PORT) as successor:
            (second,) = owners.find([view.listeners(PORT)[0].inode]).owners.values()
            assert [owner.pid for owner in second] == [successor.pid]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_known_owners_are_looked_at_again(view: KernelView) -> None:
    owners = Owners()
    with server("accept", PORT) as application:
        inode = view.listeners(PORT)[0].inode
        for _ in range(2):
            assert [owner.pid for owner in owners.find([inode]).owners[inode]] == [application.pid]
    assert owners.find([inode]).owners[inode] == ()


@contextmanager
def cgroup_v2(pid: int) -> Iterator[None]:
    root = next((m.split()[1] for m in mounts() if m.split()[2] == "cgroup2"), None)
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    group = Path(root) / f"probe-test-{os.getpid()}"
    with made(group):
        home = Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        (group / "cgroup.procs").write_text(str(pid))
        (group / "cgroup.freeze").write_text("1")
        until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "a frozen group")
        try:
            yield
        finally:
            (group / "cgroup.freeze").write_text("0")
            (Path(root) / home.lstrip("/") / "cgroup.procs").write_text(str(pid))


@contextmanager
def cgroup_v1(pid: int) -> Iterator[None]:
    root = next((m.split()[1] for m in mounts() if "freezer" in m.split()[3].split(",")), None)
    if root is None:
        pytest.skip("no cgroup v1 freezer is mounted")
    group = Path(root) / f"probe-test-{os.getpid()}"
    with made(group):
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
        until(lambda: (group / "freezer.state").read_text() == "FROZEN\n", "a frozen group")
        try:
            yield
        finally:
            (group / "freezer.state").write_text("THAWED")
            (Path(root) / "cgroup.procs").write_text(str(pid))


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


@contextmanager
def made(group: Path) -> Iterator[None]:
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group here: {error}")
    try:
        yield
    finally:
        group.rmdir()


@pytest.mark.parametrize("freeze", [cgroup_v1, cgroup_v2], ids=["cgroup v1", "cgroup v2"])
def test_a_frozen_container(view: KernelView, freeze: Freezer) -> None:
    with server("accept", PORT) as application, freeze(application.pid):
        with queued(view, PORT):
            frozen = one(view)
        assert (frozen.finding, frozen.queue) == (Finding.STOPPED, QueueTrend.STUCK)
        assert {thread.why for thread in frozen.threads} == {"frozen"}


def test_a_thread_that_a_debugger_has_stopped(view: KernelView) -> None:
    attach, detach, wait_all = 16, 17, 0x40000000
    with server("accept", PORT):
        (acceptor,) = [thread for thread in one(view).threads if thread.name == "acceptor"]
        assert libc.ptrace(attach, acceptor.tid, None, None) == 0
        os.waitpid(acceptor.tid, wait_all)
        try:
            stopped = one(view)
        finally:
            libc.ptrace(detach, acceptor.tid, None, None)
    (acceptor,) = [thread for thread in stopped.threads if thread.name == "acceptor"]
    assert (acceptor.decided, acceptor.why) == (ThreadState.STOPPED, "stopped by a tracer")
    assert stopped.finding is Finding.STOPPED


def thread_states(pid: int) -> set[str]:
    """The states of a process's threads, as /proc's one letter each."""
    tasks = Path(f"/proc/{pid}/task")
    return {stat(str(tasks), int(task.name)).state for task in tasks.iterdir()}


def test_a_poll_that_was_stopped_and_goes_on_is_unknown(view: KernelView) -> None:
    """It shows as restart_syscall from then on, until something happens to it."""

    def loop(found: ListenerAudit) -> ThreadSeen:
        (polling,) = [thread for thread in found.threads if thread.name == "loop"]
        return polling

    with server("poll", PORT) as application:
        until(lambda: loop(one(view)).call == "poll", "a thread that polls")
        os.kill(application.pid, signal.SIGSTOP)
        # Each thread stops when it gets to it: one that SIGCONT overtakes was never stopped.
        until(lambda: thread_states(application.pid) == {"T"}, "every thread stopped")
        os.kill(application.pid, signal.SIGCONT)
        until(lambda: "T" not in thread_states(application.pid), "every thread going on")
        found = one(view)
    assert (loop(found).decided, loop(found).call) == (ThreadState.UNKNOWN, "restart_syscall")
    assert found.finding is Finding.UNKNOWN


@needs_descriptors
def test_twenty_thousand_entries(view: KernelView, record_property: Property) -> None:
    with server("crowded", PORT, FILES="2", NUMBERS="10000"):
        found = audit(view, PORT)
    assert found.listeners[0].finding is Finding.SOMEBODY_WAITS
    record_property("cpu", found.cpu)
    assert found.cpu < 2


@needs_descriptors
def test_an_epoll_that_is_too_large_is_not_read(view: KernelView) -> None:
    with server("crowded", PORT, FILES="6", NUMBERS="10000"):
        found = one(view)
    assert found.finding is Finding.UNKNOWN
    assert "too large to read" in found.why


def test_two_thousand_threads(view: KernelView, record_property: Property) -> None:
    with server("many-threads", PORT, COUNT="2000") as application:
        found = audit(view, PORT)
        application.tell("break")
        with queued(view, PORT):
            stuck = one(view)
    (listener,) = found.listeners
    assert len(listener.threads) == 2002
    assert listener.finding is Finding.SOMEBODY_WAITS
    assert listener.waited == found.samples
    assert (stuck.finding, len(stuck.threads)) == (Finding.NOBODY_WAITS, 2001)
    record_property("cpu", found.cpu)
    assert found.cpu < 5


def test_the_budget_ends_an_audit_that_takes_long(view: KernelView) -> None:
    with server("accept", PORT):
        assert audit(view, PORT, budget=0).samples == 2


def test_without_sock_diag_threads_are_seen_and_a_queue_is_not_told(view: KernelView) -> None:
    """/proc/net/tcp has lengths, but nothing to tell the queued connections apart by."""
    fallback = ProcNet()
    with server("accept", PORT) as application:
        assert one(fallback).finding is Finding.SOMEBODY_WAITS
        application.tell("break")
        assert one(fallback).finding is Finding.NOBODY_SEEN
        with queued(view, PORT):
            found = one(fallback)
    fallback.close()
    assert (found.finding, found.queue) == (Finding.UNKNOWN, QueueTrend.UNKNOWN)
    assert "cannot be told apart" in found.why


def test_the_youngest_process_that_holds_a_listener(view: KernelView) -> None:
    """Of those that are young enough, whoever else is on the machine."""
    with server("accept", PORT) as application:
        listeners = view.listeners(PORT)
        born = stat("/proc", application.pid).start_time * TICK
        lived = time.clock_gettime(time.CLOCK_BOOTTIME) - born
        age = youngest(listeners, lived + 60)
        assert age is not None
        assert lived <= age < lived + 5
        assert youngest(listeners, lived) is None
        assert youngest([listeners[0]._replace(inode=1)], lived + 60) is None
    assert youngest(listeners, lived + 60) is None
