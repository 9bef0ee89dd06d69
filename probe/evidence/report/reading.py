"""What the patterns and the text ask of a report: the worst listener, who is left, since when."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from probe.evidence.records.audit import Change, Difference, Finding, QueueTrend
from probe.evidence.records.report import ListenerFacts, Report, TimelineEntry
from probe.evidence.report.claims import Claim
from probe.evidence.wording import age, called, label
from probe.model import Listener

EXITED = frozenset({Change.THREAD_EXITED, Change.PROCESS_EXITED})

GONE = EXITED | {Change.LEFT}
"""Those that are there no more, whether or not they were the last to accept."""

GRAVITY = (
    Finding.NOBODY_WAITS,
    Finding.NOT_ACCEPTING,
    Finding.STOPPED,
    Finding.CONTRADICTION,
    Finding.BUSY,
    Finding.UNKNOWN,
    Finding.NOBODY_SEEN,
    Finding.SOMEBODY_WAITS,
)

OF_FINDING: dict[Finding, frozenset[Claim]] = {
    Finding.SOMEBODY_WAITS: frozenset({Claim.SOMEBODY_WAITS, Claim.ACCEPTS}),
    Finding.CONTRADICTION: frozenset({Claim.SOMEBODY_WAITS, Claim.NOT_ACCEPTING}),
    Finding.STOPPED: frozenset({Claim.NOBODY_WAITS}),
    Finding.NOBODY_WAITS: frozenset({Claim.NOBODY_WAITS, Claim.NOT_ACCEPTING}),
    Finding.BUSY: frozenset({Claim.NOBODY_WAITS, Claim.ACCEPTS}),
    Finding.NOBODY_SEEN: frozenset({Claim.NOBODY_WAITS}),
    Finding.NOT_ACCEPTING: frozenset({Claim.NOT_ACCEPTING}),
    Finding.UNKNOWN: frozenset(),
}

OF_QUEUE: dict[QueueTrend, frozenset[Claim]] = {
    QueueTrend.STUCK: frozenset({Claim.NOT_ACCEPTING}),
    QueueTrend.DRAINING: frozenset({Claim.ACCEPTS}),
    QueueTrend.EMPTY: frozenset({Claim.QUEUE_EMPTY}),
    QueueTrend.UNKNOWN: frozenset(),
}


def worst(report: Report) -> ListenerFacts | None:
    """The listener that explains the most: of a SO_REUSEPORT group one dead member is enough."""
    listeners = report.acceptors.listeners if report.acceptors else ()
    return min(listeners, key=lambda facts: GRAVITY.index(facts.finding), default=None)


def stated(report: Report) -> frozenset[Claim]:
    """What the audit claims. The patterns may add to it, and deny none of it."""
    listener = worst(report)
    if listener is None:
        return frozenset()
    claims = OF_FINDING[listener.finding] | OF_QUEUE[listener.queue]
    claims |= {Claim.OWNER_SEEN if listener.owners else Claim.OWNER_HIDDEN}
    if listener.free:
        claims |= {Claim.SOME_RUN}
    if any(difference.change not in GONE for difference in differences(report)):
        claims |= {Claim.ACCEPTOR_LIVES}
    return claims


def differences(report: Report) -> tuple[Difference, ...]:
    return report.acceptors.differences if report.acceptors else ()


def vanished(report: Report) -> tuple[Difference, ...]:
    """Those who accepted while all was well and have exited, if none of them is left.

    Where one is left it may be busy: a pool that shrinks loses threads every day.
    """
    if report.acceptors is None or report.acceptors.survivors:
        return ()
    return tuple(difference for difference in differences(report) if difference.change in EXITED)


def survivors(report: Report) -> tuple[Difference, ...]:
    """Those who accepted while all was well, live, and do not wait, if none of them has exited."""
    changed = differences(report)
    return () if any(difference.change in GONE for difference in changed) else changed


def knows_acceptors(report: Report) -> bool:
    return report.acceptors is not None and report.acceptors.known_from is not None


def newcomers(report: Report, most: int) -> tuple[str, ...]:
    """Who holds the listener and did not while all was well: a worker that was started since."""
    new = report.acceptors.newcomers if report.acceptors else ()
    if not new:
        return ()
    who = ", ".join(f"process {owner.pid} `{owner.comm}`" for owner in new[:most])
    more = f" and {len(new) - most} more" if len(new) > most else ""
    return (f"since the acceptors were learnt, {who}{more} came to hold the listener",)


def rise(report: Report, name: str) -> int | None:
    """How far a counter rose while the capture ran, or since all was well; None: not known."""
    counter = next((counter for counter in report.counters if counter.name == name), None)
    if counter is None or not (counter.during or counter.since_healthy is not None):
        return None
    return max(counter.during, counter.since_healthy or 0)


def queue_proof(report: Report, facts: ListenerFacts) -> tuple[str, ...]:
    """What the queue says: its length, how long its head waits, what was accepted meanwhile."""
    listener = facts.listener
    of = "" if listener.limit is None else f" of {listener.limit}"
    proof = [f"{label(listener)}: {listener.length}{of} queued"]
    if facts.queue_why not in facts.why:
        proof[0] += f"; {facts.queue_why}"
    queued = report.connections.queued if report.connections else ()
    if queued and queued[0].queued_for is not None:
        proof.append(f"the oldest has been in the queue for {age(queued[0].queued_for)}")
    if (since := longer(report)) is not None:
        proof.append(since)
    return tuple(proof)


def longer(report: Report) -> str | None:
    """What the sidecar's samples from before the report add: since when, and that none went."""
    rising = since_empty(report)
    listener = worst(report)
    queue = listener.queue if listener else QueueTrend.UNKNOWN
    if not rising or queue is QueueTrend.EMPTY:
        return None
    # All else was gathered after that, and is up to a few seconds older when it is told.
    said = f"the queue was last seen empty {age(rising[0].ago)} before this report was begun"
    counted = [entry.accepts for entry in rising[1:] if entry.accepts is not None]
    if not counted or any(counted) or queue is QueueTrend.DRAINING:
        return said  # Accepts may be those of other ports: they prove nothing.
    where = "of it" if report.socket else "in the whole network namespace"
    return f"{said}; since then no accept was counted {where}"


def since_empty(report: Report) -> list[TimelineEntry]:
    """The history from when the queue was last seen empty, if it is not now and was then."""
    rising: list[TimelineEntry] = []
    for moment in reversed(report.history):
        if moment.length is None:
            continue
        rising.insert(0, moment)
        if moment.length == 0:
            return rising if len(rising) > 1 else []
    return []


def audited(report: Report) -> tuple[Listener, ...]:
    """The listeners as the audit saw them, which is what is said of their queues; as they were
    listed before it where there was none.
    """
    facts = report.acceptors.listeners if report.acceptors else ()
    return tuple(fact.listener for fact in facts) or report.listeners


def queued_in(report: Report) -> int:
    return sum(listener.length for listener in audited(report))


def dump_files(report: Report) -> tuple[str, ...]:
    return tuple(f"{dump.file}: the whole thread dump" for dump in report.dumps if dump.file)


def where_it_is(report: Report, difference: Difference) -> str:
    """Where the stack of a thread is to be read, "" where there is none."""
    shown = (stack.tid for dump in report.dumps for stack in dump.acceptors)
    if difference.entry.tid in shown:
        return ": its stack is below"
    files = [dump.file for dump in report.dumps if dump.pid == difference.entry.pid and dump.file]
    return f": its stack is in {files[0]}" if files else ""


def named(difference: Difference) -> str:
    return called(difference.entry.tid, difference.entry.name)


def enumerated(numbers: Iterable[int], one: str, many: str) -> str:
    """`process 3` or `processes 3, 5`, of a few."""
    found = [str(number) for number in numbers]
    return f"{one if len(found) == 1 else many} {', '.join(found)}"


def began(report: Report) -> str:
    """The moment the incident began, as well as it is known."""
    lasting = report.judgement.lasting if report.judgement else None
    empty = [moment.ago for moment in since_empty(report)[:1]]
    moment = datetime.fromisoformat(report.at) - timedelta(seconds=max(lasting or 0, *empty, 0))
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
