"""Who may look: the audit and the self-test through the eyes of every identity."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from probe.evidence.acceptors.audit import audit
from probe.evidence.access import self_test
from probe.evidence.proc.tasks import numbers
from probe.evidence.records.audit import Access, AccessKind, Finding, ListenerAudit, ThreadState
from probe.kernel import KernelView, open_view
from tests.evidence.identities import (
    APPLICATION,
    SIDECAR,
    SYS_PTRACE,
    become,
    needs_other_users,
    seen_by,
)
from tests.evidence.programs import program, queued, server

PORT = 8080
Change = Callable[[], None]

same = partial(become, APPLICATION, APPLICATION)
other_group = partial(become, APPLICATION, SIDECAR)
other_user = partial(become, SIDECAR, SIDECAR)
ptracer = partial(become, SIDECAR, SIDECAR, SYS_PTRACE)
bare_root = partial(become, 0, 0)


def look(proc: str = "/proc") -> tuple[ListenerAudit, dict[str, Access]]:
    view = open_view()
    (found,) = audit(view, PORT, proc=proc, samples=2).listeners
    lines = self_test(view.listeners(PORT), proc=proc)
    return found, {line.name: line for line in lines}


@needs_other_users
def test_the_same_user_and_group_sees_everything() -> None:
    with server("poll", PORT, UID=str(APPLICATION)) as application:
        found, lines = seen_by(same, look)
    assert found.finding is Finding.SOMEBODY_WAITS
    assert found.owners[0].pid == application.pid
    assert all(line.available for name, line in lines.items() if name != "Python stacks")
    assert {"system calls", "poll and select sets", "epoll and io_uring"} < lines.keys()


@needs_other_users
@pytest.mark.parametrize(
    ("identity", "advice"),
    [
        (other_group, f"runAsUser: {APPLICATION}, runAsGroup: {APPLICATION}"),
        (other_user, f"runAsUser: {APPLICATION}, runAsGroup: {APPLICATION}"),
        (ptracer, f"runAsUser: {APPLICATION}, runAsGroup: {APPLICATION}"),
        (bare_root, f"runAsUser: {APPLICATION}, runAsGroup: {APPLICATION}"),
    ],
    ids=["other group", "other user", "SYS_PTRACE alone", "root without capabilities"],
)
def test_others_see_nothing_and_say_so(view: KernelView, identity: Change, advice: str) -> None:
    """Neither while all is well nor when the queue is stuck do they blame anybody."""
    with server("accept", PORT, UID=str(APPLICATION)) as application:
        healthy, lines = seen_by(identity, look)
        application.tell("break")
        with queued(view, PORT):
            stuck, _ = seen_by(identity, look)
    for found in (healthy, stuck):
        assert found.finding is Finding.UNKNOWN
        assert "could not be read" in found.why
        assert not found.owners
    assert lines["process namespace"].available
    assert not lines["listener to process"].available
    assert "which may hold the listener" in lines["listener to process"].why
    assert advice in lines["listener to process"].change


@needs_other_users
def test_root_without_capabilities_cannot_look_into_one_that_has_some() -> None:
    with server("accept", PORT):
        found, lines = seen_by(bare_root, look)
    assert found.finding is Finding.UNKNOWN
    assert "drop: [ALL]" in lines["listener to process"].change


@needs_other_users
def test_who_changed_its_user_without_exec_is_opaque() -> None:
    with server("accept", PORT, UID=str(APPLICATION), OPAQUE="1"):
        found, lines = seen_by(same, look)
    assert found.finding is Finding.UNKNOWN
    assert not lines["listener to process"].available


@needs_other_users
def test_a_child_that_cannot_be_read_may_be_the_one_that_accepts(view: KernelView) -> None:
    """The owner is readable, its child, which inherited the listener, is not."""
    with server("forked-opaque", PORT, UID=str(APPLICATION)) as application:
        found, _ = seen_by(same, look)
        assert [owner.pid for owner in found.owners] == [application.pid]
        assert found.finding is Finding.UNKNOWN
        assert "may hold it too and cannot be read" in found.why
        (everything,) = audit(view, PORT, samples=2).listeners
        assert len(everything.owners) == 2


def yama_proc(directory: Path, pid: int) -> str:
    """/proc as Yama leaves it: system calls and memory closed, everything else as it is."""
    root = directory / "proc"
    task = root / str(pid) / "task"
    task.mkdir(parents=True)
    for name in ("fd", "fdinfo", "stat", "status"):
        (root / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
    for tid in (str(tid) for tid in numbers(f"/proc/{pid}/task")):
        (task / tid).mkdir()
        for name in ("stat", "wchan", "fd", "fdinfo"):
            (task / tid / name).symlink_to(f"/proc/{pid}/task/{tid}/{name}")
        for name in ("syscall", "mem"):
            (task / tid / name).touch(mode=0)
    (root / "self").symlink_to("/proc/self")
    (root / "sys/kernel/yama").mkdir(parents=True)
    (root / "sys/kernel/yama/ptrace_scope").write_text("1\n")
    for path in (directory, *directory.parents):
        if path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o555)
        if path.name.startswith("pytest-of"):
            break
    return str(root)


@needs_other_users
@pytest.mark.parametrize("mode", ["accept", "epoll"])
def test_under_yama_sleepers_in_accept_are_seen_but_not_on_which_listener(
    tmp_path: Path, mode: str
) -> None:
    with server(mode, PORT, UID=str(APPLICATION)) as application:
        proc = yama_proc(tmp_path, application.pid)
        found, lines = seen_by(same, partial(look, proc))
    assert found.finding is Finding.UNKNOWN
    assert {thread.decided for thread in found.threads} == {ThreadState.UNKNOWN}
    sleepers = [thread for thread in found.threads if thread.how == "accept"]
    assert [thread.name for thread in sleepers] == (["acceptor"] if mode == "accept" else [])
    assert lines["listener to process"].available
    assert lines["epoll and io_uring"].available
    for closed in ("system calls", "poll and select sets"):
        assert not lines[closed].available
        assert "kernel.yama.ptrace_scope is 1" in lines[closed].change


def test_without_a_shared_process_namespace(view: KernelView, tmp_path: Path) -> None:
    """The sidecar's /proc knows nobody but the sidecar."""
    (tmp_path / "self").symlink_to("/proc/self")
    (tmp_path / str(os.getpid())).symlink_to("/proc/self")
    with server("accept", PORT):
        (found,) = audit(view, PORT, proc=str(tmp_path), samples=2).listeners
        (line,) = self_test(view.listeners(PORT), proc=str(tmp_path))
    assert found.finding is Finding.UNKNOWN
    assert (line.name, line.available) == ("process namespace", False)
    assert "shareProcessNamespace: true" in line.change


def test_a_jvm_has_a_line_of_its_own(view: KernelView, java_classes: Path) -> None:
    java = ("java", "-Xmx64m", "-cp", str(java_classes), "Incident")
    with program(*java, str(PORT), str(PORT + 1), "5", "1"):
        lines = {line.name: line for line in self_test(view.listeners(PORT))}
    assert lines[AccessKind.JVM_DUMP].available
    assert "Python stacks" not in lines


def test_nothing_listens_yet() -> None:
    assert self_test(()) == ()
