"""No report says two things that cannot both be true, whatever was found and in whatever order."""

import re
from collections.abc import Sequence
from itertools import combinations, product
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from probe.evidence.acceptors import conclusion
from probe.evidence.capture.steps import listener_facts
from probe.evidence.records.audit import (
    BaselineEntry,
    Change,
    Difference,
    Finding,
    ListenerAudit,
    Owner,
    QueueTrend,
    ThreadSeen,
    ThreadState,
)
from probe.evidence.records.facts import CgroupFacts, Connections, CounterChange, Peer
from probe.evidence.records.report import (
    Acceptors,
    Judgement,
    ListenerFacts,
    Report,
    Step,
    TimelineEntry,
)
from probe.evidence.report.claims import DENIES, Claim, Code, contradict
from probe.evidence.report.patterns import recognise
from probe.evidence.report.reading import GONE, OF_FINDING, OF_QUEUE, stated
from probe.evidence.report.text import WIDTH, summary, text
from probe.model import Condition, Listener, Reason, Stage

SAMPLES = 5

# --- reports as they may come: what is found of one listener fits together, all else is at random


class Queue(NamedTuple):
    axis: QueueTrend
    length: int
    why: str


QUEUES = (
    Queue(QueueTrend.STUCK, 3, "3 queued, none accepted in 0.6 s"),
    Queue(QueueTrend.STUCK, 6, "6 queued, none accepted in 0.6 s"),
    Queue(QueueTrend.DRAINING, 3, "2 or more taken out in 0.6 s, 3 queued"),
    Queue(QueueTrend.DRAINING, 6, "2 or more taken out in 0.6 s, 6 queued"),
    Queue(QueueTrend.EMPTY, 0, "empty in all 6 readings in 0.6 s"),
    Queue(QueueTrend.UNKNOWN, 2, "empty at first, 2 queued after 0.6 s"),
)

WHY = {
    ThreadState.STOPPED: "stopped by a signal",
    ThreadState.UNKNOWN: "its system call cannot be read",
}


@st.composite
def threads(draw: st.DrawFn, pid: int) -> list[ThreadSeen]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        decided = draw(st.sampled_from(ThreadState))
        state = "T" if decided is ThreadState.STOPPED else draw(st.sampled_from("SD"))
        waited = SAMPLES if decided is ThreadState.WAITING else 0
        found.append(
            ThreadSeen(
                pid=pid,
                tid=pid + number,
                name="worker",
                state=state,
                start_time=1,
                wchan="",
                call="futex",
                decided=decided,
                how="accept4",
                why=WHY.get(decided, ""),
                seen=SAMPLES,
                waited=waited,
                cpu=draw(st.sampled_from([0.0, 0.3])),
            )
        )
    return found


@st.composite
def audits(draw: st.DrawFn, cookie: int = 1) -> ListenerAudit:
    queue = draw(st.sampled_from(QUEUES))
    pids = range(10 * cookie, 10 * cookie + 10 * draw(st.integers(0, 3)), 10)
    owners = tuple(Owner(pid, 1, "app", 0, pid, (5,)) for pid in pids)
    every = tuple(thread for pid in pids for thread in draw(threads(pid)))
    waited = max((thread.waited for thread in every), default=0)
    gaps = draw(st.sampled_from([(), (), ("process 7 `x` may hold it too and cannot be read",)]))
    seen = conclusion.ListenerSeen(
        owners, every, queue.axis, queue.why, waited, SAMPLES,
        draw(st.booleans()), gaps, "no process in sight holds it",
    )  # fmt: skip
    finding, why = conclusion.conclude(seen)
    listener = Listener(
        2, "0.0.0.0", 8080, cookie, queue.length, 5, draw(st.sampled_from([0, 40, None])), 77, 0
    )
    return ListenerAudit(listener, owners, every, queue.axis, queue.why, waited, finding, why)


BECAME = {
    ThreadState.NOT_WAITING: Change.NOT_WAITING,
    ThreadState.RUNNING: Change.NOT_WAITING,
    ThreadState.STOPPED: Change.STOPPED,
    ThreadState.UNKNOWN: Change.CANNOT_SEE,
    ThreadState.WATCHING: Change.CANNOT_SEE,
}


@st.composite
def changes(draw: st.DrawFn, every: Sequence[ThreadSeen]) -> tuple[Difference, ...]:
    """What became of those who accepted: some of the threads that there are, and some that are not.

    Nothing is said of one that waits as before.
    """
    found = []
    for thread in every:
        if thread.decided in BECAME and draw(st.booleans()):
            entry = BaselineEntry(thread.pid, 1, "app", thread.tid, 1, "worker", "accept4")
            said = f"thread {thread.tid} `worker` of process {thread.pid} `app` does something else"
            found.append(Difference(BECAME[thread.decided], entry, thread, said))
    for number in range(draw(st.integers(0, 2))):
        change = draw(st.sampled_from(sorted(GONE)))
        entry = BaselineEntry(90, 1, "app", 91 + number, 1, "worker", "accept4")
        found.append(Difference(change, entry, None, f"{change} {91 + number} of healthy time"))
    return tuple(found)


def judged(stage: Stage | None) -> Judgement:
    reason = Reason.ROUND_TRIP_FAILED if stage else Reason.ACCEPT_QUEUE_STALLED
    return Judgement(Condition.UNHEALTHY, reason, stage, "8080 is judged", False, True, 12.0)


JUDGEMENTS = (
    None,
    judged(None),
    *(judged(stage) for stage in Stage),
    Judgement(Condition.HEALTHY, None, None, "8080 is judged", ready=True, live=True),
)

PEER = Peer("CLOSE_WAIT", "10.0.0.7:40000", 12.3, 12.3, 18, 18)
SILENT = PEER._replace(queued_for=None)
CONNECTIONS = (
    None,
    Connections(0, (), (), (), 0, 0),
    Connections(9, (), (PEER,), (SILENT,), 3, 40),
)
HISTORIES = (
    (),
    (
        TimelineEntry(14.0, 0, 5, 0, 3),
        TimelineEntry(13.0, 2, 5, 0, 0),
        TimelineEntry(1.0, 6, 5, 40, 0),
    ),
)
COUNTERS = (
    (),
    (CounterChange("ListenOverflows", 43, 0, None),),
    (CounterChange("ListenOverflows", 43, 2, 40), CounterChange("TCPReqQFullDrop", 7, 1, None)),
    (CounterChange("TCPReqQFullDrop", 7, 0, 0),),
)
GROUPS = (None, CgroupFacts(frozen=True), CgroupFacts(periods=10, throttled=9, frozen=False))


@st.composite
def reports(draw: st.DrawFn, most: int = 1) -> Report:
    found = [draw(audits(cookie)) for cookie in range(1, 1 + draw(st.integers(0, most)))]
    every = [thread for audit in found for thread in audit.threads]
    changed = draw(changes(every))
    listeners: list[ListenerFacts] = [listener_facts(audit) for audit in found]
    acceptors = Acceptors(
        seconds=0.7,
        samples=SAMPLES,
        listeners=tuple(listeners),
        differences=changed,
        survivors=sum(difference.change not in GONE for difference in changed),
        known_from=60.0 if changed else None,
        notes=(),
    )
    # The queue was listed a moment before: all may be otherwise by the time of the audit.
    before = draw(st.sampled_from(["the same", "nothing", "full"]))
    listed = tuple(facts.listener for facts in listeners) if before != "nothing" else ()
    if before == "full":
        listed = tuple(listener._replace(length=6) for listener in listed)
    return Report(
        id="20261122T084958Z-8080-accept_queue_stalled",
        at="2026-11-22T08:49:58+00:00",
        port=8080,
        trigger=draw(st.sampled_from(["transition", "diagnose"])),
        judgement=draw(st.sampled_from(JUDGEMENTS)),
        ours=draw(st.booleans()),
        history=draw(st.sampled_from(HISTORIES)),
        listeners=listed,
        acceptors=acceptors,
        connections=draw(st.sampled_from(CONNECTIONS)),
        cgroup=draw(st.sampled_from(GROUPS)),
        counters=draw(st.sampled_from(COUNTERS)),
        steps=(Step("queue", 0.01), Step("acceptors", 0.7)),
    )


# --- by what the patterns say that they claim


@settings(max_examples=400)
@given(reports(most=3))
def test_no_pattern_denies_the_audit_or_another(found: Report) -> None:
    every = [stated(found), *(pattern.claims for pattern in recognise(found))]
    for first, second in combinations(every, 2):
        assert not contradict(first, second)


def test_the_audit_never_denies_itself() -> None:
    for finding, queue in product(Finding, QueueTrend):
        if (queue is QueueTrend.STUCK) != (Claim.NOT_ACCEPTING in OF_FINDING[finding]):
            continue  # such a finding is not made of such a queue
        if finding is Finding.BUSY and queue is not QueueTrend.DRAINING:
            continue
        assert not contradict(OF_FINDING[finding], OF_QUEUE[queue])


def test_each_pair_stands_in_the_table_once() -> None:
    pairs = [frozenset({claim, other}) for claim in DENIES for other in DENIES[claim]]
    assert len(pairs) == len(set(pairs))
    assert all(len(pair) == 2 for pair in pairs)


@pytest.mark.parametrize("claim", Claim)
def test_each_claim_can_be_denied(claim: Claim) -> None:
    """One that nothing denies would hold nothing apart."""
    assert any(contradict({claim}, {other}) for other in Claim)
    assert not contradict({claim}, {claim})


# --- by what is printed, read without regard to those claims

SAYS = {
    "it accepts": r"connections are accepted|[Aa]ccepting works|[Rr]equests are accepted",
    "it does not": r"[Nn]othing (queued )?is accepted|none accepted in|out of the accept queue any",
    "somebody waits": r"(?<!no )(?<!whether a )thread waits to accept|in accept4 waits to accept",
    "nobody waits": r"no thread waits to accept|none of \d+ threads of|nobody in it takes",
    "who accepted has exited": r"that accepted connections ha(s|ve) exited",
    "who accepted lives": r"lives, and does something else|which accepted connections, (is|are)",
    "all are stopped": r"process is stopped, frozen|do not run\.|all is frozen",
    "some are not": r"are not stopped|is not stopped|works; what handles",
    "the queue is full": r"queue is full",
    "the queue is empty": r"empty in all \d readings",
    "something is queued": r"[1-9]\d* connections? in its accept|while waiting to be accepted"
    r"|keeps its place|[1-9] of \d queued",
    "nothing listens": r"[Nn]othing listens on",
    "it listens": r"8080 listens|is held by|queue is full|accept queue;",
    "the owner is hidden": r"who should accept cannot be seen",
    "the owner is seen": r"is held by process",
}

NEVER_BOTH = (
    ("it accepts", "it does not"),
    ("it accepts", "who accepted has exited"),
    ("it accepts", "all are stopped"),
    ("somebody waits", "nobody waits"),
    ("somebody waits", "who accepted has exited"),
    ("who accepted has exited", "who accepted lives"),
    ("all are stopped", "some are not"),
    ("the queue is full", "the queue is empty"),
    ("the queue is empty", "something is queued"),
    ("the queue is empty", "it does not"),
    ("nothing listens", "it listens"),
    ("the owner is hidden", "the owner is seen"),
)


@settings(max_examples=600)
@given(reports())
def test_no_two_sentences_cannot_both_be_true(found: Report) -> None:
    told = " ".join(text(found).split()) + summary(found)
    said = {what for what, words in SAYS.items() if re.search(words, told)}
    for pair in NEVER_BOTH:
        assert not said.issuperset(pair), f"{pair} in: {text(found)}"


@settings(max_examples=300)
@given(reports(most=3))
def test_nothing_is_said_twice_or_too_wide(found: Report) -> None:
    told = text(found)
    lines = told.splitlines()
    assert max(map(len, lines)) <= WIDTH
    points = re.findall(r"(?m)^  - (.*(?:\n    .*)*)", told)
    assert len(points) == len(set(points))
    assert "?." not in told
    assert not re.search(r"\b1 (threads|processes|clients|connections)\b", told)
    assert not re.search(r"\bcan't\b", told)
    for place in re.findall(r"(\w+) below", told):
        assert {"threads": "What the threads do", "throttling": "Container (cgroup)"}.get(
            place, ""
        ) in told


TELLING = (
    Code.NOT_LISTENING,
    Code.ACCEPTOR_GONE,
    Code.FROZEN,
    Code.ACCEPTOR_STOPPED,
    Code.ACCEPTOR_BLOCKED,
    Code.NOBODY_WAITS,
    Code.CAUSE_HIDDEN,
    Code.OWNER_HIDDEN,
    Code.BUSY,
    Code.SOME_STOPPED,
    Code.UNANSWERED,
    Code.ANSWERED_BADLY,
    Code.OVERFLOW,
    Code.ENDED_IN_QUEUE,
)


@pytest.mark.parametrize("code", TELLING)
def test_the_reports_meet_every_pattern(code: Code) -> None:
    """They would prove nothing if they left out what could contradict."""
    find(
        reports(),
        lambda found: code in {pattern.name for pattern in recognise(found)},
        settings=settings(max_examples=3000, phases=[Phase.generate], database=None),
        random=Random(0),
    )
