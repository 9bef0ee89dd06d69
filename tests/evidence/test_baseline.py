"""Who accepted while all was well, and what became of them."""

import os
import signal
from pathlib import Path

from probe.evidence.acceptors.audit import audit
from probe.evidence.acceptors.baseline import differences, learn
from probe.evidence.proc.tasks import stat
from probe.evidence.records.audit import Baseline, Change, Difference
from probe.kernel import KernelView
from tests.evidence.programs import program, queued, server
from tests.support import until

PORT, HEALTH = 8080, 8081


def learnt(view: KernelView, before: tuple[Baseline, ...] = ()) -> Baseline:
    (baseline,) = learn(audit(view, PORT), before)
    return baseline


def became(view: KernelView, baseline: Baseline) -> Difference:
    (difference,) = differences(baseline, audit(view, PORT))
    return difference


def test_the_vanished_thread_of_the_incident(view: KernelView, java_classes: Path) -> None:
    java = ("java", "-Xmx64m", "-cp", str(java_classes), "Incident")
    with program(*java, str(PORT), str(HEALTH), "5", "10") as application:
        baseline = learnt(view)
        (acceptor,) = baseline.entries
        assert (acceptor.pid, acceptor.name) == (application.pid, "app-acceptor")
        assert differences(baseline, audit(view, PORT)) == ()
        application.tell("die")
        with queued(view, PORT):
            exited = became(view, baseline)
    assert exited.change is Change.THREAD_EXITED
    assert exited.text == (
        f"thread {acceptor.tid} `app-acceptor`, which accepted on this listener, has exited;"
        f" process {application.pid} `java` lives"
        f" (last seen alive {exited.last_seen_alive} s before)"
    )


def test_a_thread_that_lives_has_not_exited(view: KernelView) -> None:
    """It is blocked in a handler: the difference is what it does now."""
    with server("asyncio", PORT) as application:
        baseline = learnt(view)
        application.tell("break")
        blocked = became(view, baseline)
    assert blocked.change is Change.NOT_WAITING
    assert blocked.now is not None
    assert blocked.text.endswith("does not wait on it now: it is in futex")


def test_another_thread_with_its_number_is_not_it(view: KernelView) -> None:
    with server("accept", PORT):
        baseline = learnt(view)
        (entry,) = baseline.entries
        older = entry._replace(start_time=entry.start_time - 1)
        exited = became(view, baseline._replace(entries=(older,)))
        assert exited.change is Change.THREAD_EXITED
        older = entry._replace(process_start=entry.process_start - 1)
        gone = became(view, baseline._replace(entries=(older,)))
        assert gone.change is Change.PROCESS_EXITED


def test_a_stopped_process(view: KernelView) -> None:
    with server("accept", PORT) as application:
        baseline = learnt(view)
        os.kill(application.pid, signal.SIGSTOP)
        until(lambda: stat("/proc", application.pid).state == "T", "a stopped process")
        stopped = became(view, baseline)
    assert stopped.change is Change.STOPPED
    assert stopped.text.endswith("is stopped by a signal")


def test_a_process_that_is_gone(view: KernelView) -> None:
    with server("accept", PORT) as application:
        baseline = learnt(view)
    gone = became(view, baseline)
    assert gone.change is Change.PROCESS_EXITED
    assert gone.text.startswith(f"process {application.pid} `python`, whose thread ")
    assert "`acceptor` accepted on the former listener, has exited" in gone.text


def test_it_is_renewed_after_a_restart(view: KernelView) -> None:
    with server("accept", PORT):
        first = learnt(view)
    with server("accept", PORT) as successor:
        second = learnt(view, (first,))
        assert second.cookie != first.cookie
        assert {entry.pid for entry in second.entries} == {successor.pid}
        assert differences(second, audit(view, PORT)) == ()


def test_who_waited_earlier_is_kept_while_busy(view: KernelView) -> None:
    with server("asyncio", PORT) as application:
        first = learnt(view)
        application.tell("break")
        second = learnt(view, (first,))
        (former,), (entry,) = first.entries, second.entries
        assert (entry.tid, entry.start_time) == (former.tid, former.start_time)
        assert (former.waited, entry.waited) == (True, False)
        assert second.at == first.at
        assert learn(audit(view, PORT)) == ()  # with nothing known before, there is nothing to say


def test_who_exited_is_kept_until_another_waits(view: KernelView) -> None:
    """It may have been the last to accept, and have died a moment ago."""
    with server("accept", PORT) as application:
        first = learnt(view)
        application.tell("break")
        assert learn(audit(view, PORT), (first,)) == (first,)
    with server("accept", PORT):
        waiting = learnt(view)
        (entry,) = waiting.entries
        gone = entry._replace(tid=1, start_time=1)
        second = learnt(view, (waiting._replace(entries=(gone, entry)),))
    assert [one.tid for one in second.entries] == [entry.tid]
