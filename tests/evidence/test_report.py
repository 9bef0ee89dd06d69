"""What the report says: every pattern by its facts, and nothing that its facts do not prove."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.evidence.records.audit import (
    Access,
    AccessKind,
    BaselineEntry,
    Change,
    Difference,
    Finding,
    Owner,
    QueueTrend,
    ThreadSeen,
    ThreadState,
    plain,
)
from probe.evidence.records.facts import (
    CgroupFacts,
    Connections,
    ContainerName,
    CounterChange,
    Ending,
    Peer,
    ProcessFacts,
    ProcessState,
    StateCount,
)
from probe.evidence.records.report import (
    Acceptors,
    DumpFile,
    Judgement,
    Lack,
    ListenerFacts,
    Missing,
    Report,
    SidecarState,
    Stack,
    StackGroup,
    Step,
    ThreadGroup,
    TimelineEntry,
    typed,
)
from probe.evidence.report.patterns import conclude, recognise
from probe.evidence.report.text import SUMMARY, WIDTH, summary, text
from probe.model import Condition, Listener, Reason, Stage

LISTENER = Listener(2, "0.0.0.0", 8080, 1, 6, 5, 40, 77, 1000)
IDLE = LISTENER._replace(length=0, drops=0)
OWNER = Owner(2328, 100, "java", 1000, 1)
ENTRY = BaselineEntry(2328, 100, "java", 2348, 120, "app-acceptor", "accept")
GONE = Difference(
    Change.THREAD_EXITED,
    ENTRY,
    None,
    "thread 2348 `app-acceptor`, which accepted on this listener, has exited; process 2328 lives",
)
QUEUED = Peer("ESTABLISHED", "10.0.0.7:40000", 12.3, 12.3, 18, 18)
SILENT = Peer("ESTABLISHED", "10.0.0.8:40000", None, 31.0, 0, 18)
CONNECTIONS = Connections(
    7, (StateCount("ESTABLISHED", 4, 4), StateCount("CLOSE_WAIT", 3, 2)), (QUEUED,), (), 2, 0
)
PROCESS = ProcessFacts(2328, "java", ProcessState.SLEEPING, 7300.0, 42, 300 << 20, 80, 1024)
STEPS = (Step("queue", 0.01), Step("acceptors", 0.7))


def facts(
    finding: Finding, queue: QueueTrend = QueueTrend.STUCK, listener: Listener = LISTENER
) -> ListenerFacts:
    group = ThreadGroup("worker-*", "S", "futex", ThreadState.NOT_WAITING, 20, (1, 2))
    why = f"the figures that show it to be {finding}"
    return ListenerFacts(listener, (OWNER,), (), (group,), 0, queue, "6 queued", 0, finding, why)


def report(
    *listeners: ListenerFacts,
    differences: tuple[Difference, ...] = (),
    known_from: float | None = 60.0,
    **fields: Any,
) -> Report:
    survivors = sum(one.change is Change.NOT_WAITING for one in differences)
    acceptors = Acceptors(0.7, 5, listeners, differences, survivors, known_from, ())
    base = Report(
        id="20261122T084958Z-8080-accept_queue_stalled",
        at="2026-11-22T08:49:58+00:00",
        port=8080,
        trigger="transition",
        listeners=tuple(one.listener for one in listeners),
        acceptors=acceptors,
        steps=STEPS,
    )
    return base._replace(**fields)


def names(found: Report) -> list[str]:
    return [pattern.name for pattern in recognise(found)]


INCIDENT = report(
    facts(Finding.NOBODY_WAITS),
    differences=(GONE,),
    judgement=Judgement(
        Condition.UNHEALTHY,
        Reason.ACCEPT_QUEUE_STALLED,
        None,
        "8080 accept queue stalled: 6 of 5 queued, nothing accepted for 12 s",
        ready=False,
        live=True,
        lasting=12.0,
    ),
    history=(
        TimelineEntry(14.0, 0, 5, 0, 3),
        TimelineEntry(13.0, 1, 5, 0, 0),
        TimelineEntry(1.0, 6, 5, 40, 0, "queued"),
    ),
    connections=CONNECTIONS,
    processes=(PROCESS._replace(container=ContainerName("shop", "0b2e", "c" * 64)),),
    dumps=(
        DumpFile(
            2328,
            "jvm",
            42,
            (StackGroup("worker-*", "WAITING", "jdk.internal.misc.Unsafe.park", 20),),
            36_000,
            True,
            0.002,
            acceptors=(),
            text="Full thread dump",
            file="jvm-2328.txt",
        ),
    ),
    counters=(CounterChange("ListenOverflows", 43, 2, 40),),
    sysctls=(("net.core.somaxconn", "4096"), ("net.ipv4.tcp_abort_on_overflow", "0")),
    missing=(Missing("container", "its /sys/fs/cgroup is not a cgroup of version 2"),),
)


def test_the_incident() -> None:
    """The finding of the original incident, as a colleague would write it."""
    assert names(INCIDENT) == ["acceptor_gone", "overflow", "ended_in_queue"]
    told = text(INCIDENT)
    assert told.startswith(
        "Port 8080: the thread that accepted connections has exited\n"
        "==========================================================\n"
        "Taken 2026-11-22 08:49:58 UTC, when the verdict was unhealthy: 8080 accept queue\n"
        "stalled: 6 of 5 queued, nothing accepted for 12 s.\n"
    )
    flat = " ".join(told.split())
    for said in (
        "thread 2348 `app-acceptor`, which accepted on this listener, has exited; process 2328"
        " lives",
        "a health port with a thread of its own goes on saying that all is well",
        "0.0.0.0:8080: 6 of 5 queued",
        "the oldest has been in the queue for 12.3 s",
        "last seen empty 14.0 s before this report was begun; since then no accept was counted",
        "the application's log around 2026-11-22 08:49:44 UTC, for an uncaught exception",
        "jvm-2328.txt: the whole thread dump",
        "why it ended: a thread leaves nothing behind",
        "container: its /sys/fs/cgroup is not a cgroup of version 2",
        "in container `shop`",
        "2 clients have ended their side while waiting to be accepted",
    ):
        assert said in flat, said
    order = [told.index(f"\n{name}\n") for name in HEADINGS]
    assert order == sorted(order)
    for once in ("has exited; process 2328 lives", "last seen empty", "the figures that show it"):
        assert flat.count(once) == 1, once


HEADINGS = (
    "What is seen",
    "What it means",
    "What proves it",
    "What is unknown",
    "What to look at next",
    "Connections (7)",
    "Settings",
)


@pytest.mark.parametrize("accepts", [2, None])
def test_accepts_of_other_ports_or_unknown_ones_prove_nothing(accepts: int | None) -> None:
    first, *others = INCIDENT.history
    history = (first, *(one._replace(accepts=accepts) for one in others))
    told = " ".join(text(INCIDENT._replace(history=history)).split())
    assert "the queue was last seen empty 14.0 s before" in told
    assert "counted" not in told


def test_one_line() -> None:
    line = summary(INCIDENT)
    assert line.startswith(
        "port 8080: the thread that accepted connections has exited (thread 2348"
    )
    assert len(line) <= SUMMARY
    assert "\n" not in line


def test_it_survives_json() -> None:
    assert typed(Report, json.loads(json.dumps(plain(INCIDENT)))) == INCIDENT


@pytest.mark.parametrize(
    "finding",
    [Finding.SOMEBODY_WAITS, Finding.BUSY, Finding.CONTRADICTION, Finding.STOPPED],
)
def test_an_exited_thread_is_no_finding_while_others_accept(finding: Finding) -> None:
    """A pool that shrinks loses threads every day."""
    found = report(facts(finding, QueueTrend.DRAINING), differences=(GONE,))
    assert "acceptor_gone" not in names(found)


def test_an_exited_thread_is_no_headline_while_another_is_left() -> None:
    """The other one may be busy with a request."""
    left = Difference(Change.NOT_WAITING, ENTRY, None, "thread 2349 `app-acceptor-2` is in futex")
    found = report(facts(Finding.NOBODY_WAITS), differences=(GONE, left))
    assert names(found)[0] == "nobody_waits"
    assert "which accepted on this listener, has exited" in " ".join(text(found).split())


def test_many_that_are_gone() -> None:
    gone = tuple(GONE._replace(text=f"thread {number} has exited") for number in range(60))
    told = text(report(facts(Finding.NOBODY_WAITS), differences=gone))
    assert told.startswith("Port 8080: the 60 threads that accepted connections have exited\n")
    assert told.count("has exited\n") == 5
    assert "accepted while all was well, 60 at least are not seen to wait" in " ".join(told.split())


def test_nobody_waits_without_a_baseline() -> None:
    found = report(facts(Finding.NOBODY_WAITS), known_from=None)
    assert names(found)[0] == "nobody_waits"
    assert "whether anyone is missing cannot be told" in " ".join(text(found).split())
    assert "has exited (" not in summary(found)


def test_nobody_waits_and_the_acceptor_is_elsewhere() -> None:
    seen = ThreadSeen(
        2328, 2348, "app-acceptor", "S", 120, "futex_wait", "futex", ThreadState.NOT_WAITING
    )
    moved = Difference(
        Change.NOT_WAITING, ENTRY, seen, "thread 2348 `app-acceptor` does not wait any more: futex"
    )
    stack = Stack(2348, "app-acceptor", "BLOCKED", ("shop.Pool.take(Pool.java:12)", "- waiting"))
    dump = DumpFile(2328, "jvm", 42, (), 100, complete=True, took=0.1, acceptors=(stack,))
    found = report(facts(Finding.NOBODY_WAITS), differences=(moved,), dumps=(dump,))
    assert names(found)[0] == "nobody_waits"
    told = text(found)
    assert "Thread 2348 app-acceptor: BLOCKED\n  at shop.Pool.take(Pool.java:12)\n" in told
    assert "why it ended" not in told


@pytest.mark.parametrize("finding", [Finding.STOPPED, Finding.CONTRADICTION])
def test_frozen(finding: Finding) -> None:
    found = report(facts(finding), processes=(PROCESS._replace(state=ProcessState.STOPPED),))
    assert names(found)[0] == "frozen"
    assert text(found).count("`java` is stopped") == 1


def test_a_frozen_cgroup_says_so_whatever_else() -> None:
    found = report(facts(Finding.UNKNOWN), cgroup=CgroupFacts(frozen=True))
    assert names(found)[0] == "frozen"
    assert "cgroup.events: frozen 1" in text(found)


def test_the_cause_is_hidden() -> None:
    """A Go server whose accept goroutine has gone: its poller watches on."""
    found = report(facts(Finding.NOT_ACCEPTING))
    assert names(found)[0] == "cause_hidden"
    assert "exited" not in text(found)


def test_the_owner_is_hidden() -> None:
    """Because of what we may see, not of what the application does."""
    found = report(facts(Finding.UNKNOWN)._replace(owners=(), groups=(), why="nobody in sight"))
    assert names(found)[0] == "owner_hidden"
    told = text(found)
    assert told.count("nobody in sight") == 1
    assert "`probe diagnose` says it" in told
    access = (Access(AccessKind.PROCESS_NAMESPACE, False, "nobody in sight", "share it"),)
    assert "the end of this report" in text(found._replace(access=access))


def test_no_descriptor_left() -> None:
    process = PROCESS._replace(
        descriptors=1024, descriptor_limit=1024, kinds=(("socket", 1000), ("file", 24))
    )
    found = report(facts(Finding.NOBODY_SEEN, QueueTrend.EMPTY, IDLE), processes=(process,))
    assert names(found) == ["out_of_descriptors"]
    assert conclude(found).headline == "process 2328 has no descriptor left"
    assert "1024 of 1024 descriptors are open: 1000 sockets, 24 files" in text(found)


def test_busy_is_not_dead() -> None:
    found = report(facts(Finding.BUSY, QueueTrend.DRAINING))
    assert names(found)[0] == "busy"
    assert "busy, not dead" in " ".join(text(found).split())


def test_unanswered() -> None:
    judgement = Judgement(
        Condition.UNHEALTHY, Reason.ROUND_TRIP_FAILED, Stage.UNANSWERED, "", False, True
    )
    silent = CONNECTIONS._replace(queued=(), silent=(SILENT,), ended=0)
    found = report(
        facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE),
        judgement=judgement,
        connections=silent,
    )
    assert names(found) == ["unanswered"]
    assert "one for 31.0 s" in text(found)


def test_a_bad_answer() -> None:
    judgement = Judgement(
        Condition.UNHEALTHY,
        Reason.ROUND_TRIP_FAILED,
        Stage.STATUS,
        "8080 round trip failed: status 503",
        False,
        True,
    )
    found = report(facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE), judgement=judgement)
    assert names(found) == ["answered_badly"]
    assert "status 503" in text(found)


def test_nothing_listens() -> None:
    exited = GONE._replace(change=Change.PROCESS_EXITED, text="process 2328 `java` has exited")
    found = report(differences=(exited,))
    assert names(found) == ["not_listening"]
    assert "process 2328 `java` has exited" in text(found)
    unseen = found._replace(steps=(), missing=(Missing("queue", "sock_diag is refused"),))
    assert names(unseen) == []  # it could not be asked, which is not the same
    assert "queue: sock_diag is refused" in text(unseen)


def test_the_parts_of_the_sysctls() -> None:
    found = report(
        facts(Finding.NOBODY_WAITS),
        counters=(CounterChange("ListenOverflows", 43, 0, 40),),
        sysctls=(("net.core.somaxconn", "5"), ("net.ipv4.tcp_abort_on_overflow", "1")),
    )
    assert names(found) == ["nobody_waits", "overflow", "limit_at_sysctl"]
    assert "The limit of the queue equals net.core.somaxconn (5)" in " ".join(text(found).split())
    assert "gets a reset instead" in " ".join(text(found).split())


def test_the_container() -> None:
    group = CgroupFacts(
        periods=100,
        throttled=60,
        throttled_seconds=130.0,
        memory=990 << 20,
        memory_limit=1000 << 20,
        memory_events=(("oom_kill", 1),),
    )
    found = report(facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE), cgroup=group)
    assert names(found) == ["throttled", "short_of_memory"]
    assert "held back by its CPU limit in 60% of all periods" in text(found)


def test_connections_that_are_not_closed() -> None:
    found = report(
        facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE),
        connections=CONNECTIONS._replace(ended=0, unclosed=40),
    )
    assert names(found) == ["unclosed"]


def test_all_is_well() -> None:
    found = report(facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE))
    assert names(found) == []
    assert conclude(found).headline == "a thread waits to accept"
    assert "Nothing here shows a fault: a thread waits to accept." in " ".join(text(found).split())


HEALTHY = Judgement(
    Condition.HEALTHY, None, None, "8080 healthy: 0 of 5 queued", ready=True, live=True
)
ACCEPTING = facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE)


def test_a_diagnosis_of_a_healthy_application() -> None:
    found = report(ACCEPTING, trigger="diagnose", judgement=HEALTHY)
    assert text(found).startswith(
        "Port 8080: no fault is seen\n"
        "===========================\n"
        "Looked at 2026-11-22 08:49:58 UTC: 8080 healthy: 0 of 5 queued.\n"
    )


def test_a_fault_that_does_not_show_is_not_called_none() -> None:
    judgement = HEALTHY._replace(condition=Condition.UNHEALTHY, message="8080 round trip failed")
    told = text(report(ACCEPTING, trigger="diagnose", judgement=judgement))
    assert told.startswith("Port 8080: the cause is not seen here\n")
    assert "None of the known patterns fits" in told
    assert "no fault" not in told


def test_a_sidecar_beside_it() -> None:
    judgement = INCIDENT.judgement
    assert judgement
    sidecar = SidecarState(
        "127.0.0.1:9809", judgement._replace(live=False), "20261122T084958Z-8080-x"
    )
    told = " ".join(text(INCIDENT._replace(trigger="diagnose", sidecar=sidecar)).split())
    assert (
        "The sidecar at 127.0.0.1:9809 says: unhealthy for 12.0 s, not ready, not live; 8080 accept"
        " queue stalled: 6 of 5 queued, nothing accepted for 12 s."
    ) in told
    assert (
        "`probe evidence show 20261122T084958Z-8080-x` in the sidecar's container: what it" in told
    )


@pytest.mark.parametrize(("length", "which"), [(1, "That connection"), (6, "One of these")])
def test_our_own_connection_is_no_client(length: int, which: str) -> None:
    listener = LISTENER._replace(length=length)
    told = text(report(facts(Finding.NOBODY_WAITS, listener=listener), ours=True))
    assert f"{which} " in told
    assert "our own, made for this report" in told


def test_how_to_come_by_a_thread_dump() -> None:
    why = "it is a JVM, and those are asked only with --jvm-attach"
    missing = Missing("jvm dump of process 2328", why, Lack.JVM_NOT_ASKED)
    found = INCIDENT._replace(dumps=(), missing=(missing,))
    assert "`probe diagnose --port 8080 --jvm-attach`" in text(found)
    assert "jvm-attach`" not in text(INCIDENT)


def test_what_can_be_found_out() -> None:
    access = (
        Access(AccessKind.PROCESS_NAMESPACE, True, "process 7 is in sight"),
        Access(
            AccessKind.SYSTEM_CALLS, False, "Yama restricts ptrace", "kernel.yama.ptrace_scope is 1"
        ),
        Access(AccessKind.JVM_DUMP, False, "it ended"),
        Access(AccessKind.SAME_USER, True, "both run as 0:0"),
    )
    told = text(INCIDENT._replace(access=access))
    assert told.endswith(
        "What can be found out from here\n"
        "  - Available: process namespace, same user and group.\n"
        "  - Not available: system calls: Yama restricts ptrace. To change that:\n"
        "    kernel.yama.ptrace_scope is 1.\n"
        "  - Not available: JVM thread dump: it ended.\n"
    )


def test_of_a_group_the_dead_member_decides() -> None:
    found = report(
        facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE), facts(Finding.NOBODY_WAITS)
    )
    assert names(found)[0] == "nobody_waits"


def test_nothing_at_all() -> None:
    """The child could not even be started."""
    bare = Report("id", "2026-11-22T08:49:58+00:00", 8080, "diagnose")
    bare = bare._replace(missing=(Missing("queue", "the capture's child cannot be started"),))
    assert conclude(bare).headline == "nothing could be found out about who accepts"
    assert "the capture's child cannot be started" in text(bare)


hostile = st.text(max_size=200)


@given(hostile, hostile, hostile)
def test_hostile_names(comm: str, name: str, remote: str) -> None:
    """The application names its threads; what it cannot do is to write to our terminal."""
    listener = facts(Finding.NOBODY_WAITS)._replace(
        owners=(OWNER._replace(comm=comm),),
        groups=(ThreadGroup(name, "S", "futex", ThreadState.NOT_WAITING, 1, ()),),
    )
    stack = Stack(1, name, "RUNNABLE", (name,))
    found = report(
        listener,
        differences=(GONE._replace(text=f"thread 1 `{name}` has exited"),),
        connections=CONNECTIONS._replace(queued=(QUEUED._replace(remote=remote),)),
        dumps=(DumpFile(1, "jvm", 1, (), 1, complete=False, took=0.1, acceptors=(stack,)),),
    )
    for told in (text(found), summary(found)):
        assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]*", told)
    assert max(map(len, text(found).split("\n"))) <= WIDTH


# --- no more than the facts prove


def flat(found: Report) -> str:
    return " ".join(text(found).split())


FAILED = Judgement(Condition.SUSPECT, Reason.ROUND_TRIP_FAILED, None, "8080 failed", True, True)


@pytest.mark.parametrize("stage", [Stage.UNREAD, Stage.UNANSWERED, Stage.UNEXPECTED_REPLY])
@pytest.mark.parametrize("queue", [QueueTrend.STUCK, QueueTrend.EMPTY])
def test_the_connection_that_the_acceptor_died_on(stage: Stage, queue: QueueTrend) -> None:
    """It was accepted, and says nothing of who accepts now."""
    finding = Finding.NOBODY_WAITS if queue is QueueTrend.STUCK else Finding.NOBODY_SEEN
    found = report(
        facts(finding, queue), differences=(GONE,), judgement=FAILED._replace(stage=stage)
    )
    assert names(found)[0] == "acceptor_gone"
    assert len(names(found)) > 1
    told = flat(found)
    assert "onnections are accepted" not in told
    assert "ccepting works" not in told
    assert "on the connection that it has just accepted" in told


def test_the_request_that_keeps_the_only_thread() -> None:
    judgement = FAILED._replace(stage=Stage.UNANSWERED)
    told = flat(report(facts(Finding.NOBODY_WAITS), known_from=None, judgement=judgement))
    assert "Where the thread that accepts also handles" in told
    assert "ccepting works" not in told
    running = report(facts(Finding.UNKNOWN, QueueTrend.EMPTY, IDLE), judgement=judgement)
    assert conclude(running).headline == "our request was accepted, and gets no answer"
    assert "Whether others are accepted meanwhile is not seen." in flat(running)


def test_a_reset_may_be_the_kernels() -> None:
    judgement = FAILED._replace(stage=Stage.RESET)
    found = report(facts(Finding.UNKNOWN, QueueTrend.UNKNOWN), judgement=judgement)
    assert conclude(found).headline == "our connection was reset"
    assert "Whether it was accepted before that is not known." in flat(found)
    accepting = report(facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE), judgement=judgement)
    assert conclude(accepting).headline == "connections are accepted, but our connection was reset"


STOPPED = Difference(
    Change.STOPPED, ENTRY, None, "thread 2348 `app-acceptor`, which accepted, is stopped"
)
MOVED = Difference(
    Change.NOT_WAITING, ENTRY._replace(pid=7, tid=7), None, "thread 7, which accepted, is in futex"
)


def partly(finding: Finding, queue: QueueTrend = QueueTrend.STUCK) -> ListenerFacts:
    """Two processes, of which the first is stopped."""
    groups = (
        ThreadGroup("app", "T", "accept4", ThreadState.STOPPED, 2, (2328, 2348)),
        ThreadGroup("app", "S", "futex", ThreadState.NOT_WAITING, 1, (7,)),
    )
    owners = (OWNER, OWNER._replace(pid=7))
    one = facts(finding, queue)
    return one._replace(owners=owners, groups=groups, stopped=(2328,), free=1)


def test_one_stopped_process_of_two_is_not_the_process() -> None:
    found = report(partly(Finding.NOBODY_WAITS), differences=(MOVED, STOPPED))
    assert names(found)[:2] == ["nobody_waits", "some_stopped"]
    told = flat(found)
    assert "Process 2328, which holds the listener, is stopped." in told
    assert "1 is at something else and 1 is stopped" in told
    assert "2 of 3 threads of those that hold it are stopped" in told
    assert "do not run" not in told


def test_the_one_that_accepts_is_stopped_beside_its_parent() -> None:
    """A master that holds the listener and never accepts: its only worker is the finding."""
    found = report(partly(Finding.NOBODY_WAITS), differences=(STOPPED,))
    assert conclude(found).headline == "process 2328, which accepted connections, is stopped"
    assert "nobody_waits" not in names(found)
    assert "some_stopped" not in names(found)
    two = (STOPPED, STOPPED._replace(entry=ENTRY._replace(tid=2349)))
    listener = partly(Finding.NOBODY_WAITS)._replace(stopped=())
    threads = report(listener, differences=two)
    assert conclude(threads).headline == "2 threads, which accepted connections, are stopped"


def test_stopped_while_another_accepts_is_told_and_no_more() -> None:
    found = report(partly(Finding.BUSY, QueueTrend.DRAINING), differences=(STOPPED,))
    assert "acceptor_stopped" not in names(found)
    assert "some_stopped" in names(found)


BLOCKED = ThreadSeen(
    2328, 2348, "app-acceptor", "D", 120, "io_schedule", "openat", ThreadState.NOT_WAITING
)


def test_an_uninterruptible_sleep() -> None:
    blocked = MOVED._replace(entry=ENTRY, now=BLOCKED)
    found = report(facts(Finding.NOBODY_WAITS), differences=(blocked,))
    assert conclude(found).headline == (
        "thread 2348 `app-acceptor`, which accepted connections, is in an uninterruptible sleep"
    )
    assert "SIGKILL" in flat(found)
    group = ThreadGroup("worker-*", "D", "openat", ThreadState.NOT_WAITING, 3, (1, 2, 3))
    workers = facts(Finding.NOBODY_WAITS)._replace(groups=(group,))
    told = report(workers)
    assert names(told)[:2] == ["nobody_waits", "uninterruptible"]
    assert "3 threads `worker-*` in state D, in openat" in flat(told)
    for listener in (facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE), workers):
        waiting = listener._replace(finding=Finding.SOMEBODY_WAITS, queue=QueueTrend.EMPTY)
        assert "uninterruptible" not in names(report(waiting))  # a file was read, perhaps


def test_who_lives_has_not_gone() -> None:
    assert "Either the thread that accepts has gone" not in flat(
        report(facts(Finding.NOBODY_WAITS), differences=(MOVED,))
    )
    assert "Either the thread that accepts has gone" in flat(
        report(facts(Finding.NOBODY_WAITS), known_from=None)
    )


def test_who_has_left_is_not_called_the_last_to_accept() -> None:
    """Somebody else may have accepted since: see acceptors.baseline."""
    left = GONE._replace(change=Change.LEFT, text="thread 2348 has exited; who was last?")
    found = report(facts(Finding.NOBODY_WAITS), differences=(left, MOVED))
    assert names(found)[0] == "nobody_waits"
    assert "1 has exited and 1 is at something else" in flat(found)
    assert "lives, and does something else" not in flat(found)


def test_a_process_that_ended_had_no_uncaught_error() -> None:
    ended = GONE._replace(change=Change.PROCESS_EXITED, text="process 2328 `java` has exited")
    found = report(facts(Finding.NOBODY_WAITS), differences=(ended,))
    assert conclude(found).headline == "the process that accepted connections has exited"
    told = flat(found)
    assert "uncaught" not in told
    assert "The process lives" not in told
    assert "another process holds it too" in told
    assert found.acceptors
    killed = Ending(2328, "java", signal="SIGKILL", oom_kills=1)
    known = found._replace(acceptors=found.acceptors._replace(endings=(killed,)))
    assert "process 2328 `java` was ended by SIGKILL; killed for want of memory" in flat(known)
    unseen = Ending(2328, "java", unknown="it has been reaped")
    unknown = found._replace(acceptors=found.acceptors._replace(endings=(unseen,)))
    assert "how process 2328 ended: it has been reaped; nor whether" in flat(unknown)


def test_what_is_gone_beside_what_cannot_be_seen_is_not_all() -> None:
    """Another process may hold the listener and accept."""
    for queue in (QueueTrend.STUCK, QueueTrend.UNKNOWN):
        found = report(facts(Finding.UNKNOWN, queue), differences=(GONE,))
        assert names(found)[0] == "acceptor_gone"
        assert "takes connections out of the accept queue any more" not in flat(found)


@pytest.mark.parametrize(
    ("counters", "length", "expected"),
    [
        ((CounterChange("ListenOverflows", 43, 0, 40),), 5, "overflow"),
        ((CounterChange("ListenOverflows", 43, 2, None),), 6, "overflow"),
        ((CounterChange("ListenOverflows", 43, 0, None),), 6, "full"),  # some time or other
        ((CounterChange("ListenOverflows", 43, 0, 0),), 6, "full"),  # before all was well
        ((CounterChange("TCPDeferAcceptDrop", 43, 3, 40),), 5, ""),  # one more fits
        ((CounterChange("ListenOverflows", 43, 2, 40),), 3, ""),  # of another port
        ((CounterChange("TCPReqQFullDrop", 43, 2, 40),), 0, "half_open"),
        ((CounterChange("TCPReqQFullDoCookies", 43, 2, 40),), 0, ""),
        ((), 6, "full"),
    ],
)
def test_drops_are_an_overflow_only_where_the_counter_says_so(
    counters: tuple[CounterChange, ...], length: int, expected: str
) -> None:
    listener = LISTENER._replace(length=length)
    found = report(facts(Finding.NOBODY_WAITS, listener=listener), counters=counters)
    told = set(names(found)) & {"overflow", "full", "half_open"}
    assert told == ({expected} if expected else set())
    assert ("new connections are dropped" in flat(found)) == (expected == "overflow")
    assert "40 drops so far, of whatever cause" in flat(found)


def test_clients_that_may_still_wait_have_not_left() -> None:
    told = flat(report(facts(Finding.NOBODY_WAITS), connections=CONNECTIONS._replace(ended=1)))
    assert "1 client has ended its side while waiting to be accepted" in told
    assert "still waits for the answer" in told
    assert "left" not in told


def test_when_a_syn_is_sent_again_is_not_guessed() -> None:
    assert not re.search(r"\d s, \d s", flat(INCIDENT))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "no sidecar was here to learn it"),
        ({"sidecar": SidecarState("127.0.0.1:9809", FAILED)}, "has not seen all well so far"),
        ({"counters": (CounterChange("PassiveOpens", 9, 0, 3),)}, "saw nobody wait"),
    ],
)
def test_why_it_is_not_known_who_accepted(fields: dict[str, Any], expected: str) -> None:
    found = report(facts(Finding.NOBODY_WAITS), known_from=None, trigger="diagnose", **fields)
    assert f"who used to accept: {expected}" not in text(found).split("What is unknown")[0]
    assert expected in flat(found)


def test_nothing_is_pointed_at_that_is_not_there() -> None:
    bare = report(facts(Finding.NOBODY_WAITS)._replace(groups=()), differences=(MOVED,))
    frozen = report(facts(Finding.STOPPED)._replace(groups=()))
    judgement = FAILED._replace(stage=Stage.UNANSWERED)
    silent = report(facts(Finding.NOBODY_SEEN, QueueTrend.EMPTY, IDLE), judgement=judgement)
    spent = PROCESS._replace(descriptors=1024, descriptor_limit=1024)
    open_files = report(facts(Finding.NOBODY_SEEN, QueueTrend.EMPTY, IDLE), processes=(spent,))
    for found in (bare, frozen, silent, open_files):
        assert "below" not in flat(found)
        assert "in the dump" not in flat(found)
    group = CgroupFacts(periods=10, throttled=0)
    assert "the container's CPU throttling, below" in flat(frozen._replace(cgroup=group))


def test_of_a_group_each_member_is_told_apart() -> None:
    told = flat(
        report(
            facts(Finding.SOMEBODY_WAITS, QueueTrend.EMPTY, IDLE),
            facts(Finding.NOBODY_WAITS)._replace(owners=(OWNER._replace(pid=7),)),
        )
    )
    assert "held by process 2328 `java`: the figures that show it to be somebody_waits." in told
    assert "0.0.0.0:8080 is held by process 7 `java`." in told
