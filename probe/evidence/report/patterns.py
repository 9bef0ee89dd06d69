"""What a report amounts to: the known patterns of an application that stops accepting. Pure.

Each pattern is one function from a report to a Pattern or None, tried in the order of the table
at the end; the first that fits gives the report its headline. A pattern says no more than its
facts prove: why a thread ended, or what a frozen process waits for, is named as unknown.
"""

from collections.abc import Callable
from typing import NamedTuple

from probe.evidence.records.audit import Change, Difference, Finding, QueueAxis
from probe.evidence.records.facts import Ending
from probe.evidence.records.report import ListenerFacts, Moment, Report
from probe.evidence.wording import age, label, mebibytes, some
from probe.model import Stage

NEARLY = 0.95
"""Share of a limit from which it is said to be nearly used up."""

THROTTLED = 0.25
"""Share of the CPU quota's periods in which the container was held back, worth a word."""

UNCLOSED = 10
"""Connections that the client closed and the application did not, worth a word."""


class Pattern(NamedTuple):
    """One thing that is the matter: what it means, what proves it, what to look at next."""

    name: str
    title: str
    meaning: str
    proof: tuple[str, ...]
    look_at: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def recognise(report: Report) -> tuple[Pattern, ...]:
    """Every pattern that fits, the most telling first."""
    return tuple(found for pattern in PATTERNS if (found := pattern(report)))


def not_listening(report: Report) -> Pattern | None:
    if report.listeners or all(step.name != "queue" for step in report.steps):
        return None
    if any(missing.what == "queue" for missing in report.missing):
        return None  # That nothing could be seen is not that nothing is there.
    return Pattern(
        "not_listening",
        f"nothing listens on port {report.port}",
        "The kernel refuses every new connection to it. Either the application has closed its"
        " listener, or it has ended, or it never opened one.",
        (
            f"the kernel lists no LISTEN socket for port {report.port}",
            *(difference.text for difference in differences(report)),
        ),
        (
            "the application's log, and whether its container was restarted"
            " (`kubectl describe pod`: last state, exit code, OOMKilled)",
        ),
    )


def acceptor_gone(report: Report) -> Pattern | None:
    gone = vanished(report)
    listener = worst(report)
    if not gone or listener is None or listener.finding in ACCEPTS:
        return None
    if gone[0].change is Change.PROCESS_EXITED:
        return process_gone(report, gone, listener)
    return Pattern(
        "acceptor_gone",
        "the thread that accepted connections has exited",
        "The process lives, but nobody in it"
        " takes connections out of the accept queue any more. The kernel goes on completing"
        " handshakes until the queue is full, so clients connect, send and wait in vain; then"
        " their SYNs are dropped. Connections accepted earlier may still be served, and a health"
        " port with a thread of its own goes on saying that all is well. Nothing but a restart"
        " brings an exited acceptor back, unless the application starts a new one itself.",
        (
            *(difference.text for difference in gone[:SHOWN]),
            *queue_proof(report, listener),
            listener.why,
        ),
        (
            f"the application's log around {began(report)}, for an uncaught exception or Error"
            f" in {named(gone[0])}",
            *dump_files(report),
            "what ends an acceptor for good: an Error that its loop does not catch"
            " (OutOfMemoryError, StackOverflowError), an exception outside its try block",
        ),
        ("why it ended: a thread leaves nothing behind; only the application's log can tell",),
    )


def process_gone(report: Report, gone: list[Difference], listener: ListenerFacts) -> Pattern:
    """The same of a process: how it ended may be known, and its code need not be at fault."""
    endings = report.acceptors.endings if report.acceptors else ()
    holders = ", ".join(f"process {owner.pid} `{owner.comm}`" for owner in listener.owners)
    return Pattern(
        "acceptor_gone",
        "the process that accepted connections has exited",
        "Its listener is open still, because another process holds it too, and did when all was"
        " well; that one does not accept. The kernel goes on completing handshakes until the queue"
        " is full, so clients connect, send and wait in vain; then their SYNs are dropped. Unless"
        " the process is started again, a restart of the container is what helps.",
        (
            *(difference.text for difference in gone[:SHOWN]),
            *(said for ending in endings if (said := ended(ending))),
            f"who holds the listener now: {holders}",
            *queue_proof(report, listener),
            listener.why,
        ),
        (
            f"what ended it, around {began(report)}: the application's log, and its container's"
            " last state (`kubectl describe pod`: exit code, OOMKilled)",
            "why another process holds the listener: it inherited it when it was started, perhaps",
            *dump_files(report),
        ),
        tuple(
            f"how process {ending.pid} ended: {ending.unknown}"
            + ("" if ending.oom_kills is not None else "; nor whether it was for want of memory")
            for ending in endings
            if ending.unknown
        ),
    )


def ended(ending: Ending) -> str:
    """How a process ended, as far as it is known."""
    said = []
    if ending.signal:
        said.append(f"process {ending.pid} `{ending.comm}` was ended by {ending.signal}")
    elif ending.status is not None:
        said.append(f"process {ending.pid} `{ending.comm}` ended with exit status {ending.status}")
    if ending.oom_kills is not None:
        killed = some(ending.oom_kills, "process", "processes") if ending.oom_kills else "none"
        said.append(f"killed for want of memory in its container since it was healthy: {killed}")
    return "; ".join(said)


def nobody_waits(report: Report) -> Pattern | None:
    listener = worst(report)
    if listener is None or listener.finding is not Finding.NOBODY_WAITS or vanished(report):
        return None
    moved = [one for one in differences(report) if one.change is Change.NOT_WAITING]
    look_at = ["the threads below, by state and system call, and what they have in common"]
    if moved:
        look_at.insert(0, f"what {named(moved[0])} does now: its stack is below or in the raw dump")
    return Pattern(
        "nobody_waits",
        "nothing is accepted and no thread waits to accept",
        "Either the thread that accepts has gone, or it is busy with, or blocked in, something"
        " else: a lock, a full worker pool, a call that does not return, or a limit on connections"
        " that it has reached, which looks the same from outside. New clients connect and get no"
        " answer.",
        (
            *(one.text for one in differences(report)[:SHOWN]),
            *newcomers(report),
            *queue_proof(report, listener),
            listener.why,
        ),
        (*look_at, *dump_files(report)),
    )


def frozen(report: Report) -> Pattern | None:
    listener = worst(report)
    freezer = report.cgroup is not None and bool(report.cgroup.frozen)
    if not freezer and (
        listener is None or listener.finding not in (Finding.STOPPED, Finding.CONTRADICTION)
    ):
        return None
    proof = [f"process {one.pid} `{one.comm}` is {one.state}" for one in report.processes]
    if freezer:
        proof.insert(0, "its cgroup is frozen (cgroup.events: frozen 1)")
    if listener:
        proof += [listener.why, *queue_proof(report, listener)]
    return Pattern(
        "frozen",
        "the process is stopped, frozen or not scheduled",
        "Its threads are where they were, and do not run. A signal (SIGSTOP), a debugger, a frozen"
        " cgroup, or a CPU limit that is used up does that; the process itself may be sound.",
        tuple(proof),
        (
            "who stopped it: a debugger or profiler attached, `docker pause`, a checkpoint, a"
            " snapshot of the node",
            "cpu.stat below: nr_throttled",
        ),
        ("who stopped it",),
    )


def cause_hidden(report: Report) -> Pattern | None:
    listener = worst(report)
    if (
        listener is None
        or listener.queue is not QueueAxis.STUCK
        or listener.finding not in (Finding.NOT_ACCEPTING, Finding.UNKNOWN)
    ):
        return None
    if not listener.owners:
        return owner_hidden(report, listener)
    return Pattern(
        "cause_hidden",
        "nothing is accepted, and from outside the cause can't be seen",
        "Connections wait in the queue and none is taken out. What the application's own code does"
        " is not visible in its system calls: it may be blocked in user code, or the runtime's"
        " poller is watching while nobody acts on it.",
        (*queue_proof(report, listener), listener.why),
        ("the runtime's own dump (goroutines, tasks, event loop)", *dump_files(report)),
        ("what the application's own code does",),
    )


def owner_hidden(report: Report, listener: ListenerFacts) -> Pattern:
    return Pattern(
        "owner_hidden",
        "nothing is accepted, and who should accept can't be seen from here",
        "Connections wait in the queue and none is taken out: that much the kernel tells everyone."
        " The process that holds the listener is out of sight here, or may not be looked into, so"
        " why it does not accept can't be told.",
        queue_proof(report, listener),
        (
            "what to change so that more can be seen: the end of this report"
            if report.access
            else "what to change so that more can be seen: `probe diagnose` says it",
        ),
        (listener.why,),
    )


def out_of_descriptors(report: Report) -> Pattern | None:
    for one in report.processes:
        used, limit = one.descriptors, one.descriptor_limit
        if used is None or limit is None or used < NEARLY * limit:
            continue
        spent = used >= limit
        kinds = ", ".join(some(count, kind, f"{kind}s") for kind, count in one.kinds[:3])
        return Pattern(
            "out_of_descriptors",
            f"process {one.pid} has "
            + ("no descriptor left" if spent else "nearly no descriptor left"),
            "Without a free descriptor accept() fails with EMFILE. Some servers then spin, some"
            " stop accepting for good, and few say so.",
            (f"{used} of {limit} descriptors are open" + (f": {kinds}" if kinds else ""),),
            (
                "what is not closed: connections by state below"
                " (CLOSE_WAIT with a descriptor is the application's to close)",
                "RLIMIT_NOFILE of the container, if that many are really needed",
            ),
        )
    return None


def busy(report: Report) -> Pattern | None:
    listener = worst(report)
    if listener is None or listener.queue is not QueueAxis.DRAINING:
        return None
    if not (listener.listener.saturation or 0) >= 0.5:
        return None
    return Pattern(
        "busy",
        "connections are accepted, but more slowly than they arrive",
        "The application is busy, not dead: a restart would only drop those that wait. The queue"
        " stays long, new clients wait for their turn, and some are dropped when it is full.",
        (*queue_proof(report, listener), listener.why),
        (
            "the accept delay and the request time over the last hour",
            "throttling, memory and pressure below",
            "one thread that accepts and handles in turn",
        ),
    )


def overflow(report: Report) -> Pattern | None:
    full = next((one for one in report.listeners if one.full), None)
    dropped = max((one.drops or 0 for one in report.listeners), default=0)
    if full is None or not dropped:
        return None
    rise = next((one for one in report.counters if one.name == "ListenOverflows"), None)
    proof = [f"{label(full)} is full ({full.length} of {full.limit}) and has dropped {dropped}"]
    if rise:
        proof.append(
            f"ListenOverflows is at {rise.value}"
            + (f", {rise.since_healthy} more than while healthy" if rise.since_healthy else "")
            + (f", {rise.during} of it during this capture" if rise.during else "")
        )
    resets = dict(report.sysctls).get("net.ipv4.tcp_abort_on_overflow") == "1"
    return Pattern(
        "overflow",
        "the accept queue is full and new connections are dropped",
        "A SYN that finds the queue full is dropped without an answer: the client sends it again"
        " after 1 s, 3 s, 7 s and sees a connect time-out, not a refusal."
        + (
            " net.ipv4.tcp_abort_on_overflow is 1 here, so a client whose last handshake packet"
            " finds the queue full gets a reset instead."
            if resets
            else ""
        ),
        tuple(proof),
    )


def limit_from_sysctl(report: Report) -> Pattern | None:
    allowed = dict(report.sysctls).get("net.core.somaxconn", "")
    capped = [one for one in report.listeners if str(one.limit) == allowed]
    if not capped or not any((one.saturation or 0) >= NEARLY for one in capped):
        return None
    return Pattern(
        "limit_from_sysctl",
        f"the limit of the queue is net.core.somaxconn ({allowed})",
        "The kernel cuts what the application asks for in listen() down to this setting of the"
        " network namespace; a longer queue helps against bursts, never against a dead acceptor.",
        (f"{label(capped[0])} has the limit {capped[0].limit}, net.core.somaxconn is {allowed}",),
        ("securityContext.sysctls of the pod, if bursts are what fills it",),
    )


def clients_left(report: Report) -> Pattern | None:
    connections = report.connections
    if connections is None or not connections.left:
        return None
    return Pattern(
        "clients_left",
        f"{some(connections.left, 'client has', 'clients have')} left while waiting to be accepted",
        "Connections in CLOSE_WAIT that no descriptor belongs to were closed by their clients in"
        " the queue. Each keeps its place there until the application accepts or ends, so every"
        " retry of every client makes the queue longer.",
        (
            f"{connections.left} in CLOSE_WAIT with inode 0, of {queued_in(report)} in the"
            " accept queue",
        ),
    )


def unclosed(report: Report) -> Pattern | None:
    connections = report.connections
    if connections is None or connections.unclosed < UNCLOSED:
        return None
    return Pattern(
        "unclosed",
        f"{connections.unclosed} connections that clients have closed are still open",
        "They were accepted, the client has closed its side, and the application has not: each"
        " holds a descriptor, and perhaps a thread or a place in a pool.",
        (f"{connections.unclosed} in CLOSE_WAIT with a descriptor",),
        ("the code path that leaves a connection open after an error or an early return",),
    )


def unanswered(report: Report) -> Pattern | None:
    judgement = report.judgement
    if judgement is None or judgement.stage not in SILENT:
        return None
    silent = report.connections.silent if report.connections else ()
    proof = [judgement.message]
    if silent:
        clients = some(len(silent), "accepted client has", "accepted clients have")
        lasting = silent[0].quiet_for
        proof.append(
            f"{clients} sent a request and not got a byte"
            + ("" if lasting is None else f", one for {age(lasting)}")
            + "; health checks such as ours are among them"
        )
    return Pattern(
        "unanswered",
        "requests are accepted and get no answer",
        "The acceptor works; what handles the request does not come back: a deadlock, an exhausted"
        " pool, or something slow behind the application.",
        tuple(proof),
        ("threads that wait for a lock or for a pool, in the dump", *dump_files(report)),
        ("whether the silent connections are the cause, or only wait as others do",),
    )


def answered_badly(report: Report) -> Pattern | None:
    judgement = report.judgement
    listener = worst(report)
    if judgement is None or judgement.stage not in BAD_ANSWERS:
        return None
    if listener is None or listener.queue is QueueAxis.STUCK:
        return None
    return Pattern(
        "answered_badly",
        "connections are accepted, but the answer is not a good one",
        "How the application accepts has no part in it: look at what it answers, and why.",
        (judgement.message, listener.why),
        ("the application's log", "the path, the protocol and the certificate that are asked for"),
    )


def throttled(report: Report) -> Pattern | None:
    group = report.cgroup
    if group is None or not group.periods or not group.throttled:
        return None
    share = group.throttled / group.periods
    if share < THROTTLED:
        return None
    return Pattern(
        "throttled",
        f"the container was held back by its CPU limit in {share:.0%} of all periods",
        "A throttled process looks frozen for parts of every 100 ms.",
        (
            f"cpu.stat: {group.throttled} of {group.periods} periods throttled"
            f" since the container began, {age(group.throttled_seconds or 0)} in all",
        ),
        ("the CPU limit of the container",),
    )


def short_of_memory(report: Report) -> Pattern | None:
    group = report.cgroup
    if group is None:
        return None
    kills = dict(group.memory_events).get("oom_kill", 0)
    used, limit = group.memory or 0, group.memory_limit
    proof = []
    if kills:
        proof.append(f"memory.events: {some(kills, 'process was', 'processes were')} killed (OOM)")
    if limit and used >= NEARLY * limit:
        proof.append(f"{mebibytes(used)} of {mebibytes(limit)} are used, page cache among them")
    if not proof:
        return None
    return Pattern(
        "short_of_memory",
        "the container is, or was, short of memory",
        "An allocation that fails can end one thread and leave the process alive.",
        tuple(proof),
        ("the memory limit, and the runtime's own (heap size, worker count)",),
    )


PATTERNS: tuple[Callable[[Report], Pattern | None], ...] = (
    not_listening,
    acceptor_gone,
    frozen,
    out_of_descriptors,
    nobody_waits,
    cause_hidden,
    busy,
    unanswered,
    answered_badly,
    overflow,
    clients_left,
    unclosed,
    throttled,
    short_of_memory,
    limit_from_sysctl,
)

ACCEPTS = frozenset({Finding.SOMEBODY_WAITS, Finding.BUSY, Finding.CONTRADICTION, Finding.STOPPED})
SILENT = frozenset({Stage.UNANSWERED, Stage.UNREAD})
BAD_ANSWERS = frozenset({Stage.STATUS, Stage.UNEXPECTED_REPLY, Stage.TLS, Stage.RESET})

EXITED = frozenset({Change.THREAD_EXITED, Change.PROCESS_EXITED})

SHOWN = 5
"""Threads of healthy time that are told of one by one."""


def differences(report: Report) -> tuple[Difference, ...]:
    return report.acceptors.differences if report.acceptors else ()


def vanished(report: Report) -> list[Difference]:
    """Those who accepted while all was well and have exited, if none of them is left.

    Where one is left it may be busy: a pool that shrinks loses threads every day.
    """
    if report.acceptors is None or report.acceptors.survivors:
        return []
    return [one for one in differences(report) if one.change in EXITED]


def newcomers(report: Report) -> tuple[str, ...]:
    """Who holds the listener and did not while all was well: a worker that was started since."""
    new = report.acceptors.newcomers if report.acceptors else ()
    if not new:
        return ()
    who = ", ".join(f"process {owner.pid} `{owner.comm}`" for owner in new[:SHOWN])
    more = f" and {len(new) - SHOWN} more" if len(new) > SHOWN else ""
    return (f"since the acceptors were learnt, {who}{more} came to hold the listener",)


def knows_acceptors(report: Report) -> bool:
    return report.acceptors is not None and report.acceptors.known_from is not None


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


def worst(report: Report) -> ListenerFacts | None:
    """The listener that explains the most: of a SO_REUSEPORT group one dead member is enough."""
    listeners = report.acceptors.listeners if report.acceptors else ()
    return min(listeners, key=lambda one: GRAVITY.index(one.finding), default=None)


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
    if not rising:
        return None
    said = f"the queue was last seen empty {age(rising[0].ago)} before"
    counted = [one.accepts for one in rising[1:] if one.accepts is not None]
    if not counted or any(counted):
        return said  # Accepts may be those of other ports: they prove nothing.
    return f"{said}; since then no accept was counted in the whole network namespace"


def since_empty(report: Report) -> list[Moment]:
    """The history from when the queue was last seen empty, if it is not now and was then."""
    rising: list[Moment] = []
    for moment in reversed(report.history):
        if moment.length is None:
            continue
        rising.insert(0, moment)
        if moment.length == 0:
            return rising if len(rising) > 1 else []
    return []


def queued_in(report: Report) -> int:
    return sum(listener.length for listener in report.listeners)


def dump_files(report: Report) -> tuple[str, ...]:
    return tuple(f"{dump.file}: the whole thread dump" for dump in report.dumps if dump.file)


def named(difference: Difference) -> str:
    entry = difference.entry
    return f"thread {entry.tid}" + (f" `{entry.name}`" if entry.name else "")


def began(report: Report) -> str:
    """The moment the incident began, as well as it is known."""
    from datetime import datetime, timedelta

    lasting = report.judgement.lasting if report.judgement else None
    empty = [moment.ago for moment in since_empty(report)[:1]]
    moment = datetime.fromisoformat(report.at) - timedelta(seconds=max(lasting or 0, *empty, 0))
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
