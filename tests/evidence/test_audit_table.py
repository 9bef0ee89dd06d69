"""The truth table and the queue's axis, which are pure: every combination, and what must hold."""

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.evidence.acceptors.conclusion import ListenerSeen, conclude
from probe.evidence.acceptors.queues import QueueSample, queue_axis
from probe.evidence.records.audit import Finding, Owner, QueueTrend, ThreadSeen, ThreadState

OWNER = Owner(pid=2328, start_time=1, comm="java", uid=0, ns_pid=7, fds=(5,))
SAMPLES = 5


def thread(decided: ThreadState, cpu: float = 0.3) -> ThreadSeen:
    waited = SAMPLES if decided is ThreadState.WAITING else 0
    why = "refused" if decided is ThreadState.UNKNOWN else ""
    return ThreadSeen(
        pid=OWNER.pid, tid=2348, name="acceptor", state="S", start_time=2, wchan="", call="",
        decided=decided, why=why, seen=SAMPLES, waited=waited, cpu=cpu,
    )  # fmt: skip


def seen(kinds: Sequence[ThreadState], queue: QueueTrend) -> ListenerSeen:
    threads = tuple(thread(kind) for kind in kinds)
    waited = max((one.waited for one in threads), default=0)
    return ListenerSeen((OWNER,), threads, queue, "3 queued", waited, SAMPLES)


W, E, N = ThreadState.WAITING, ThreadState.WATCHING, ThreadState.NOT_WAITING
S, R, U = ThreadState.STOPPED, ThreadState.RUNNING, ThreadState.UNKNOWN
STUCK, DRAINING, EMPTY = QueueTrend.STUCK, QueueTrend.DRAINING, QueueTrend.EMPTY
UNTOLD = QueueTrend.UNKNOWN

TABLE: dict[tuple[tuple[ThreadState, ...], QueueTrend], Finding] = {
    ((W,), EMPTY): Finding.SOMEBODY_WAITS,
    ((W,), DRAINING): Finding.SOMEBODY_WAITS,
    ((W,), UNTOLD): Finding.SOMEBODY_WAITS,
    ((W,), STUCK): Finding.CONTRADICTION,
    ((W, U, N, S), EMPTY): Finding.SOMEBODY_WAITS,
    ((S,), EMPTY): Finding.STOPPED,
    ((S,), DRAINING): Finding.STOPPED,
    ((S,), STUCK): Finding.STOPPED,
    ((S,), UNTOLD): Finding.STOPPED,
    ((S, N, U), STUCK): Finding.STOPPED,
    ((N, N), STUCK): Finding.NOBODY_WAITS,
    ((N, N), DRAINING): Finding.BUSY,
    ((N, N), EMPTY): Finding.NOBODY_SEEN,
    ((N, N), UNTOLD): Finding.UNKNOWN,
    ((N, R), STUCK): Finding.NOBODY_WAITS,
    ((N, R), DRAINING): Finding.BUSY,
    ((N, R), EMPTY): Finding.UNKNOWN,
    ((E, N), EMPTY): Finding.UNKNOWN,
    ((E, N), STUCK): Finding.NOT_ACCEPTING,
    ((E, N), DRAINING): Finding.BUSY,
    ((E, N), UNTOLD): Finding.UNKNOWN,
    ((U, N), EMPTY): Finding.UNKNOWN,
    ((U, N), STUCK): Finding.UNKNOWN,
    ((U, N), DRAINING): Finding.UNKNOWN,
    ((), STUCK): Finding.UNKNOWN,
}


@pytest.mark.parametrize(("kinds", "queue"), TABLE)
def test_the_table(kinds: tuple[ThreadState, ...], queue: QueueTrend) -> None:
    finding, why = conclude(seen(kinds, queue))
    assert finding is TABLE[kinds, queue]
    assert "3 queued" in why


@pytest.mark.parametrize(
    ("other", "queue", "expected"),
    [
        (N, STUCK, Finding.NOBODY_WAITS),
        (N, DRAINING, Finding.BUSY),
        (N, EMPTY, Finding.NOBODY_SEEN),
        (R, STUCK, Finding.NOBODY_WAITS),
        (U, STUCK, Finding.UNKNOWN),
        (E, STUCK, Finding.NOT_ACCEPTING),
        (W, EMPTY, Finding.SOMEBODY_WAITS),
        (S, STUCK, Finding.STOPPED),
    ],
)
def test_one_stopped_process_does_not_answer_for_another(
    other: ThreadState, queue: QueueTrend, expected: Finding
) -> None:
    stopped = thread(S)._replace(why="stopped by a signal")
    both = (stopped, thread(other)._replace(pid=9, tid=9))
    owners = (OWNER, OWNER._replace(pid=9))
    finding, why = conclude(seen([S, other], queue)._replace(threads=both, owners=owners))
    assert finding is expected
    if expected in (Finding.NOBODY_WAITS, Finding.BUSY, Finding.NOBODY_SEEN):
        assert "the only thread of process 2328 is stopped by a signal" in why
        assert "the only thread of process 9 does not wait to accept" in why


def test_how_many_are_stopped_is_told() -> None:
    three = [thread(S)._replace(tid=tid, why="frozen") for tid in (1, 2, 3)]
    some = seen([S], STUCK)._replace(threads=(*three, thread(N)))
    assert conclude(some)[1].startswith("3 of 4 threads of process 2328 are frozen")
    every = some._replace(threads=tuple(three))
    assert conclude(every)[1].startswith("all 3 threads of process 2328 are frozen")
    unknown = seen([U], EMPTY)
    assert "1 thread: refused" in conclude(unknown)[1]


@pytest.mark.parametrize("queue", QueueTrend)
def test_without_an_owner_nothing_is_known(queue: QueueTrend) -> None:
    nobody = seen([N], queue)._replace(owners=(), nobody="no process in sight holds it")
    assert conclude(nobody) == (Finding.UNKNOWN, "no process in sight holds it")


@pytest.mark.parametrize("queue", QueueTrend)
def test_a_gap_in_what_was_seen_makes_absence_unknown(queue: QueueTrend) -> None:
    finding, why = conclude(seen([N], queue)._replace(gaps=("process 7 cannot be read",)))
    assert finding is Finding.UNKNOWN
    assert "process 7 cannot be read" in why
    assert conclude(seen([W], EMPTY)._replace(gaps=("x",)))[0] is Finding.SOMEBODY_WAITS


def test_waiting_in_some_samples_while_stuck_is_no_contradiction() -> None:
    assert conclude(seen([W], STUCK)._replace(waited=SAMPLES - 1))[0] is Finding.UNKNOWN


def test_an_epoll_instance_that_nobody_sleeps_on_can_hide_an_acceptor() -> None:
    assert conclude(seen([N], EMPTY)._replace(edge=True))[0] is Finding.UNKNOWN
    assert conclude(seen([N], STUCK)._replace(edge=True))[0] is Finding.NOT_ACCEPTING


def test_a_thread_that_is_given_no_cpu_cannot_be_blamed() -> None:
    starved = seen([N, R], STUCK)._replace(threads=(thread(N), thread(R, cpu=0)))
    finding, why = conclude(starved)
    assert finding is Finding.NOT_ACCEPTING
    assert "wants a CPU" in why


@pytest.mark.parametrize(
    ("queue", "one", "other"), list(product(QueueTrend, ThreadState, ThreadState))
)
def test_absence_is_said_only_when_everything_was_decoded(
    queue: QueueTrend, one: ThreadState, other: ThreadState
) -> None:
    finding, _ = conclude(seen([one, other], queue))
    if finding in (Finding.NOBODY_WAITS, Finding.NOBODY_SEEN):
        assert {one, other} <= {N, R}
    if finding is Finding.NOBODY_WAITS:
        assert queue is STUCK
    assert (finding in (Finding.SOMEBODY_WAITS, Finding.CONTRADICTION)) == (W in (one, other))


def axis(
    lengths: Sequence[int], first: Sequence[int], last: Sequence[int], *rivals: int, error: str = ""
) -> QueueTrend:
    begin = QueueSample(tuple(first), lengths[0], lengths[1])
    end = QueueSample(tuple(last), lengths[-2], lengths[-1])
    return queue_axis(lengths, 0.6, begin, end, rivals, error)[0]


@pytest.mark.parametrize(
    ("lengths", "first", "last", "expected"),
    [
        ([0, 0, 0], [], [], EMPTY),
        ([3, 3, 3], [1, 2, 3], [1, 2, 3], STUCK),
        ([3, 3, 5, 6, 6], [1, 2, 3], [1, 2, 3, 4, 5, 6], STUCK),
        ([3, 2, 2], [1, 2, 3], [2, 3], DRAINING),
        ([0, 1, 0], [], [], DRAINING),
        ([3, 3, 3], [1, 2, 3], [2, 3, 4], DRAINING),  # one out, one in, between two readings
        ([3, 3, 3], [1, 2, 3], [4, 5, 6], DRAINING),
        ([3, 3, 3], [1, 2, 3], [1, 3], STUCK),  # the second was reset: the length counts it still
        ([3, 3, 3], [1, 2, 3], [2, 3], UNTOLD),  # the oldest is gone: accepted, or reset?
        ([5, 5, 5], [4, 5], [4, 5, 6], DRAINING),  # one that had been reset was taken out
        ([4, 4, 4], [], [], UNTOLD),  # all were reset: nothing to tell them by
        ([0, 1, 2], [], [1, 2], UNTOLD),  # it has only begun to fill
        ([3, 4, 5, 6], [1, 2, 3], [1, 2, 3, 4, 5], UNTOLD),  # they come faster than we can look
    ],
)
def test_the_axis(
    lengths: list[int], first: list[int], last: list[int], expected: QueueTrend
) -> None:
    assert axis(lengths, first, last) is expected


def test_the_axis_among_rivals() -> None:
    """SO_REUSEPORT: whose queue a connection was in is not told."""
    assert axis([3, 3, 3], [1, 2, 3, 4], [1, 2, 3], 0) is STUCK
    assert axis([3, 3, 3], [1, 2, 3, 4], [1, 2, 4], 0) is STUCK
    assert axis([3, 3, 3], [1, 2, 3, 4], [1, 2, 3], 1) is UNTOLD
    assert axis([3, 3, 3], [1, 2, 3, 4], [1, 2], 0) is UNTOLD
    assert axis([0, 0, 0], [1, 2, 3, 4], [1, 2], 3) is EMPTY
    assert axis([3, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4], 0) is DRAINING


def test_what_could_not_be_read_is_not_told() -> None:
    assert axis([3, 3, 3], [], [], error="no sock_diag") is UNTOLD
    assert axis([0, 0, 0], [], [], error="no sock_diag") is EMPTY
    assert axis([3, 2, 2], [], [], error="no sock_diag") is DRAINING


class AcceptQueue:
    """The kernel's queue in miniature: first in, first out; a reset one stays without a row."""

    def __init__(self) -> None:
        self.entries: list[int] = []
        self.reset: set[int] = set()
        self.born = self.taken = 0

    def act(self, actions: Sequence[str]) -> None:
        for action in actions:
            if action == "arrive":
                self.born += 1
                self.entries.append(self.born)
            elif action == "accept" and self.entries:
                self.entries.pop(0)
                self.taken += 1
            elif action == "reset" and self.entries:
                self.reset.add(self.entries[self.born % len(self.entries)])

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(entry for entry in self.entries if entry not in self.reset)


Actions = st.lists(st.sampled_from(["arrive", "reset", "accept"]), max_size=4)
Steps = st.lists(Actions, min_size=1, max_size=6)


@given(happens=Actions, around_first=st.tuples(Actions, Actions), steps=Steps,
       around_last=st.tuples(Actions, Actions))  # fmt: skip
def test_no_queue_that_moved_is_called_stuck(
    happens: list[str],
    around_first: tuple[list[str], list[str]],
    steps: list[list[str]],
    around_last: tuple[list[str], list[str]],
) -> None:
    """Whatever happens between the readings and the looks. The one exception is that a reset
    connection is accepted, while another comes and is reset: nothing outside shows that."""
    queue = AcceptQueue()
    lengths: list[int] = []

    def read() -> int:
        lengths.append(len(queue))
        return queue.taken

    def look(around: tuple[list[str], list[str]]) -> tuple[QueueSample, set[int], int, int]:
        before = read()
        queue.act(around[0])
        rows, reset = queue.rows, set(queue.reset)
        queue.act(around[1])
        after = read()
        return QueueSample(rows, lengths[-2], lengths[-1]), reset, before, after

    queue.act(happens)
    first, reset_first, begun, taken_first = look(around_first)
    for step in steps:
        queue.act(step)
        read()
    last, reset_last, taken_last, ended = look(around_last)
    said, _ = queue_axis(lengths, 0.6, first, last)
    if said is DRAINING:
        assert ended > begun
    if said is EMPTY:
        assert not any(lengths)
    if said is STUCK:
        new_and_reset = reset_last - reset_first - set(first.rows)
        assert taken_first == taken_last or (reset_first and new_and_reset)
