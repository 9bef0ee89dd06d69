"""What a report amounts to: the known patterns of an application that stops accepting. Pure.

Each pattern is one function from a report to a Pattern or None, tried in the order of the table
at the end; the first that fits gives the report its headline. A pattern says no more than its
facts prove: why a thread ended, or what a frozen process waits for, is named as unknown. What it
claims is held against the audit and against the patterns before it.
"""

from collections import Counter
from collections.abc import Callable

from probe.display import plural
from probe.evidence.records.audit import Change, Difference, Finding, QueueTrend, ThreadState
from probe.evidence.records.facts import Ending
from probe.evidence.records.report import ListenerFacts, Report
from probe.evidence.report.claims import Claim, Code, Conclusion, Pattern, contradict
from probe.evidence.report.reading import (
    GONE,
    audited,
    began,
    differences,
    dump_files,
    enumerated,
    named,
    newcomers,
    queue_proof,
    queued_in,
    rise,
    stated,
    survivors,
    vanished,
    where_it_is,
    worst,
)
from probe.evidence.wording import age, label, mebibytes
from probe.model import Condition, Listener, Stage

NEARLY = 0.95
"""Share of a limit from which it is said to be nearly used up."""

THROTTLED = 0.25
"""Share of the CPU quota's periods in which the container was held back, worth a word."""

UNCLOSED = 10
"""Connections that the client has ended and the application has not closed, worth a word."""

SHOWN = 5
"""Threads of healthy time that are told of one by one."""


def conclude(report: Report) -> Conclusion:
    """The report's headline, and every pattern that fits."""
    patterns = recognise(report)
    listener = worst(report)
    if patterns:
        return Conclusion(patterns[0].name, patterns[0].title, patterns)
    if listener is None:
        return Conclusion(Code.NOTHING_FOUND, "nothing could be found out about who accepts")
    if report.judgement is None:
        return Conclusion(Code.AUDIT_ALONE, listener.finding.meaning)
    if report.judgement.condition is Condition.HEALTHY:
        return Conclusion(Code.NO_FAULT, "no fault is seen")
    return Conclusion(Code.CAUSE_NOT_SEEN, "the cause is not seen here")


def recognise(report: Report) -> tuple[Pattern, ...]:
    """Every pattern that fits, the most telling first.

    What denies the audit, or a pattern that tells more, is left out.
    """
    found: list[Pattern] = []
    claimed = stated(report)
    for pattern in PATTERNS:
        fits = pattern(report)
        if fits and not contradict(fits.claims, claimed):
            found.append(fits)
            claimed |= fits.claims
    return tuple(found)


def not_listening(report: Report) -> Pattern | None:
    if report.listeners or all(step.name != "queue" for step in report.steps):
        return None
    if any(missing.what == "queue" for missing in report.missing):
        return None  # That nothing could be seen is not that nothing is there.
    return Pattern(
        Code.NOT_LISTENING,
        f"nothing listens on {report.place}",
        "The kernel refuses every new connection to it. Either the application has closed its"
        " listener, or it has ended, or it never opened one.",
        (
            f"the kernel lists no LISTEN socket for {report.place}",
            *(difference.text for difference in differences(report)),
        ),
        (
            "the application's log, and whether its container was restarted"
            " (`kubectl describe pod`: last state, exit code, OOMKilled)",
        ),
        claims=frozenset({Claim.NO_LISTENER}),
    )


def acceptor_gone(report: Report) -> Pattern | None:
    gone = vanished(report)
    listener = worst(report)
    if not gone or listener is None or listener.finding is Finding.STOPPED:
        return None
    endings = report.acceptors.endings if report.acceptors else ()
    threads = all(one.change is Change.THREAD_EXITED for one in gone)
    processes = all(one.change is Change.PROCESS_EXITED for one in gone)
    count = len(gone) if threads else len({one.entry.pid for one in gone})
    if count == 1:
        title = f"the {'thread' if threads else 'process'} that accepted connections has exited"
    elif threads or processes:
        kind = "threads" if threads else "processes"
        title = f"the {count} {kind} that accepted connections have exited"
    else:
        title = "those that accepted connections have exited"
    claims = {Claim.ACCEPTOR_EXITED}
    if listener.finding in NOBODY:
        claims.add(Claim.NOBODY_WAITS)
        nobody = (
            "The process lives, but nobody in it"
            if threads
            else "Its listener is open still, because another process holds it too. Nobody"
        )
        meaning = (
            f"{nobody} takes connections out of the accept queue any more. The kernel goes on"
            " completing handshakes until the queue is full, so clients connect, send and wait in"
            " vain; then their SYNs are dropped."
        )
    elif listener.queue is QueueTrend.STUCK:
        claims.add(Claim.NOT_ACCEPTING)
        meaning = (
            "Nothing is accepted now. Whether somebody else is there to accept instead cannot be"
            " seen. Clients connect, send and wait in vain."
        )
    else:
        meaning = "Whether somebody else accepts instead cannot be seen."
    return Pattern(
        Code.ACCEPTOR_GONE,
        title,
        meaning + " Connections accepted earlier may still be served, and a health port with a"
        " thread of its own goes on saying that all is well. Nothing but a restart brings an exited"
        " acceptor back, unless the application starts a new one itself.",
        (
            *(difference.text for difference in gone[:SHOWN]),
            *(said for ending in endings if (said := ended(ending))),
            *queue_proof(report, listener),
            listener.why,
        ),
        (*look_for_the_end(report, gone[0]), *dump_files(report)),
        tuple(how_unknown(ending) for ending in endings if ending.unknown)
        if gone[0].change is Change.PROCESS_EXITED
        else ("why it ended: a thread leaves nothing behind; only the application's log can tell",),
        frozenset(claims),
    )


def look_for_the_end(report: Report, gone: Difference) -> tuple[str, ...]:
    """Where to look for the end of a thread, or of a process."""
    if gone.change is Change.THREAD_EXITED:
        return (
            f"the application's log around {began(report)}, for an uncaught exception or Error"
            f" in {named(gone)}",
            "what ends an acceptor for good: an Error that its loop does not catch"
            " (OutOfMemoryError, StackOverflowError), an exception outside its try block",
        )
    return (
        f"what ended process {gone.entry.pid}, around {began(report)}: the application's log, and"
        " its container's last state (`kubectl describe pod`: exit code, OOMKilled)",
        "why another process holds the listener: it inherited it when it was started, perhaps",
    )


def ended(ending: Ending) -> str:
    """How a process ended, as far as it is known."""
    said = []
    if ending.signal:
        said.append(f"process {ending.pid} `{ending.comm}` was ended by {ending.signal}")
    elif ending.status is not None:
        said.append(f"process {ending.pid} `{ending.comm}` ended with exit status {ending.status}")
    if ending.oom_kills is not None:
        killed = plural(ending.oom_kills, "process", "processes") if ending.oom_kills else "none"
        said.append(f"killed for want of memory in its container since it was healthy: {killed}")
    return "; ".join(said)


def how_unknown(ending: Ending) -> str:
    """Why it is not known how a process ended."""
    memory = "" if ending.oom_kills is not None else "; nor whether it was for want of memory"
    return f"how process {ending.pid} ended: {ending.unknown}{memory}"


def frozen(report: Report) -> Pattern | None:
    listener = worst(report)
    freezer = report.cgroup is not None and bool(report.cgroup.frozen)
    stopped = listener is not None and listener.finding is Finding.STOPPED and not listener.free
    starved = listener is not None and listener.finding is Finding.CONTRADICTION
    if not (freezer or stopped or starved):
        return None
    proof = ["its cgroup is frozen (cgroup.events: frozen 1)"] if freezer else []
    if listener and (stopped or starved):
        proof += [listener.why, *queue_proof(report, listener)]
    throttling = ("the container's CPU throttling, below",) if cpu_limited(report) else ()
    return Pattern(
        Code.FROZEN,
        "the process is stopped, frozen or not scheduled",
        "Its threads are where they were, and do not run. A signal (SIGSTOP), a debugger, a frozen"
        " cgroup, or a CPU limit that is used up does that; the process itself may be sound.",
        tuple(proof),
        (
            "who stopped it: a debugger or profiler attached, `docker pause`, a checkpoint, a"
            " snapshot of the node",
            *throttling,
        ),
        ("who or what stopped it",),
        frozenset({Claim.ALL_STOPPED}),
    )


def acceptor_stopped(report: Report) -> Pattern | None:
    """Those that accepted are stopped, though others that hold the listener run."""
    stopped = survivors(report)
    listener = worst(report)
    if not stopped or any(one.change is not Change.STOPPED for one in stopped):
        return None
    if listener is None or listener.finding not in {*NOBODY, Finding.STOPPED}:
        return None
    pids = sorted({one.entry.pid for one in stopped})
    whole = set(pids) <= set(listener.stopped)
    who = (
        enumerated(pids[:SHOWN], "process", "processes")
        if whole
        else plural(len(stopped), "thread", "threads")
    )
    single = len(pids if whole else stopped) == 1
    return Pattern(
        Code.ACCEPTOR_STOPPED,
        f"{who}, which accepted connections, {'is' if single else 'are'} stopped",
        "A signal (SIGSTOP) or a debugger does that. What is stopped may be sound, and goes on"
        " where it was once it is let go. What else holds the listener is not stopped, and does not"
        " wait to accept.",
        (
            *(difference.text for difference in stopped[:SHOWN]),
            *queue_proof(report, listener),
            listener.why,
        ),
        ("who stopped it: a debugger or profiler attached, a signal sent by hand",),
        ("who or what stopped it",),
        frozenset({Claim.ACCEPTOR_LIVES, Claim.SOME_RUN, Claim.NOBODY_WAITS}),
    )


def acceptor_blocked(report: Report) -> Pattern | None:
    """Those that accepted sleep in the kernel, and take no signal."""
    blocked = survivors(report)
    listener = worst(report)
    if not blocked or listener is None or listener.finding is not Finding.NOBODY_WAITS:
        return None
    if any(one.now is None or one.now.state != UNINTERRUPTIBLE for one in blocked):
        return None
    title = (
        f"{named(blocked[0])}, which accepted connections, is in an uninterruptible sleep"
        if len(blocked) == 1
        else f"the {len(blocked)} threads that accepted connections are in an uninterruptible sleep"
    )
    return Pattern(
        Code.ACCEPTOR_BLOCKED,
        title,
        IN_THE_KERNEL,
        (
            *(f"{difference.text} (state D)" for difference in blocked[:SHOWN]),
            *queue_proof(report, listener),
            listener.why,
        ),
        WHERE_IN_THE_KERNEL,
        ("what it waits for: only root on the node can read its stack in the kernel",),
        frozenset({Claim.ACCEPTOR_LIVES, Claim.NOBODY_WAITS}),
    )


UNINTERRUPTIBLE = "D"
"""The state of proc(5) in which a thread waits in the kernel and takes no signal."""

IN_THE_KERNEL = (
    "It waits in the kernel, most often for a disk or for a network file system that does not"
    " answer. Signals wait as well, SIGKILL among them as a rule, so a restart may take as long."
)
WHERE_IN_THE_KERNEL = (
    "/proc/PID/stack of it, as root on the node; the file systems that it uses; `dmesg` for"
    " tasks that hang",
)


def nobody_waits(report: Report) -> Pattern | None:
    listener = worst(report)
    if listener is None or listener.finding is not Finding.NOBODY_WAITS or vanished(report):
        return None
    if acceptor_stopped(report) or acceptor_blocked(report):
        return None
    changed = differences(report)
    moved = [one for one in changed if one.change is Change.NOT_WAITING]
    if changed and len(moved) == len(changed):
        meaning = "Who accepted while all was well lives, and does something else now."
    elif changed:
        meaning = f"Of those who accepted while all was well, {fates(changed)}."
    else:
        meaning = "Either the thread that accepts has gone, or it does something else."
    meaning += (
        " What keeps a thread from accepting is a lock, a full worker pool, a call that does not"
        " return, a long computation, or a limit on connections that it has reached, which looks"
        " the same from outside. New clients connect and get no answer."
    )
    look_at = [
        f"what {named(one)} does now{where}"
        for one in moved[:1]
        if (where := where_it_is(report, one))
    ]
    if listener.groups:
        look_at.append("the threads below, by state and system call, and what they have in common")
    return Pattern(
        Code.NOBODY_WAITS,
        "nothing is accepted and no thread waits to accept",
        meaning,
        (
            *(difference.text for difference in changed[:SHOWN]),
            *newcomers(report, SHOWN),
            *queue_proof(report, listener),
            listener.why,
        ),
        (*look_at, *dump_files(report)),
        claims=frozenset({Claim.NOT_ACCEPTING, Claim.NOBODY_WAITS}),
    )


def fates(changed: tuple[Difference, ...]) -> str:
    """What became of those who accepted while all was well, in numbers."""
    counted = Counter("exited" if one.change in GONE else FATES[one.change] for one in changed)
    return " and ".join(
        f"{count} {(HAVE if what == 'exited' else BE)[count == 1]} {what}"
        for what, count in counted.items()
    )


BE, HAVE = ("are", "is"), ("have", "has")


FATES = {
    Change.NOT_WAITING: "at something else",
    Change.STOPPED: "stopped",
    Change.CANNOT_SEE: "out of sight",
}


def some_stopped(report: Report) -> Pattern | None:
    """Some of those that hold the listener are stopped, and others are not."""
    listener = worst(report)
    if listener is None or not listener.free or acceptor_stopped(report):
        return None
    count = sum(one.threads for one in listener.groups if one.decided is ThreadState.STOPPED)
    if not count:
        return None
    whole = listener.stopped
    single = len(whole) == 1 if whole else count == 1
    if whole:
        who = enumerated(whole[:SHOWN], "process", "processes")
        title = f"{who}, which {'holds' if single else 'hold'} the listener,"
    else:
        title = f"{plural(count, 'thread', 'threads')} beside others that hold the listener"
    return Pattern(
        Code.SOME_STOPPED,
        f"{title} {'is' if single else 'are'} stopped",
        "A signal (SIGSTOP) or a debugger does that. Others that hold the listener are not stopped."
        " Connections that had been accepted by what is stopped wait until it goes on.",
        (f"{count} of {count + listener.free} threads of those that hold it are stopped",),
        ("who stopped it: a debugger or profiler attached, a signal sent by hand",),
        claims=frozenset({Claim.SOME_RUN}),
    )


def uninterruptible(report: Report) -> Pattern | None:
    """Threads that wait in the kernel, where something waits for them."""
    listener = worst(report)
    judgement = report.judgement
    if listener is None:
        return None
    groups = [one for one in listener.groups if one.state == UNINTERRUPTIBLE]
    count = sum(one.threads for one in groups)
    silent = judgement is not None and judgement.stage in SILENT
    if not count or not (silent or listener.queue is QueueTrend.STUCK):
        return None
    return Pattern(
        Code.UNINTERRUPTIBLE,
        f"{plural(count, 'thread is', 'threads are')} in an uninterruptible sleep",
        IN_THE_KERNEL,
        tuple(
            f"{plural(one.threads, 'thread', 'threads')}"
            + (f" `{one.name}`" if one.name else "")
            + " in state D"
            + (f", in {one.call}" if one.call else "")
            for one in groups[:SHOWN]
        ),
        WHERE_IN_THE_KERNEL,
    )


def cause_hidden(report: Report) -> Pattern | None:
    listener = worst(report)
    if (
        listener is None
        or listener.queue is not QueueTrend.STUCK
        or listener.finding not in (Finding.NOT_ACCEPTING, Finding.UNKNOWN)
        or vanished(report)
    ):
        return None
    if not listener.owners:
        return owner_hidden(report, listener)
    return Pattern(
        Code.CAUSE_HIDDEN,
        "nothing is accepted, and from outside the cause cannot be seen",
        "Connections wait in the queue and none is taken out. What the application's own code does"
        " is not visible in its system calls: it may be blocked in user code, or the runtime's"
        " poller is watching while nobody acts on it.",
        (*queue_proof(report, listener), listener.why),
        ("the runtime's own dump (goroutines, tasks, event loop)", *dump_files(report)),
        ("what the application's own code does",),
        frozenset({Claim.NOT_ACCEPTING, Claim.OWNER_SEEN}),
    )


def owner_hidden(report: Report, listener: ListenerFacts) -> Pattern:
    return Pattern(
        Code.OWNER_HIDDEN,
        "nothing is accepted, and who should accept cannot be seen from here",
        "Connections wait in the queue and none is taken out: that much the kernel tells everyone."
        " The process that holds the listener is out of sight here, or may not be looked into, so"
        " why it does not accept cannot be told.",
        queue_proof(report, listener),
        (
            "what to change so that more can be seen: the end of this report"
            if report.access
            else "what to change so that more can be seen: `probe diagnose` says it",
        ),
        (listener.why,),
        frozenset({Claim.NOT_ACCEPTING, Claim.OWNER_HIDDEN}),
    )


def out_of_descriptors(report: Report) -> Pattern | None:
    for process in report.processes:
        used, limit = process.descriptors, process.descriptor_limit
        if used is None or limit is None or used < NEARLY * limit:
            continue
        spent = used >= limit
        kinds = ", ".join(plural(count, kind, f"{kind}s") for kind, count in process.kinds[:3])
        states = (
            "what is not closed: connections by state below"
            " (CLOSE_WAIT with a descriptor is the application's to close)"
        )
        return Pattern(
            Code.OUT_OF_DESCRIPTORS,
            f"process {process.pid} has "
            + ("no descriptor left" if spent else "nearly no descriptor left"),
            "Without a free descriptor accept() fails with EMFILE. Some servers then spin, some"
            " stop accepting for good, and few say so.",
            (f"{used} of {limit} descriptors are open" + (f": {kinds}" if kinds else ""),),
            (
                *([states] if report.connections and report.connections.total else []),
                "RLIMIT_NOFILE of the container, if that many are really needed",
            ),
        )
    return None


def busy(report: Report) -> Pattern | None:
    listener = worst(report)
    if listener is None or listener.queue is not QueueTrend.DRAINING:
        return None
    if not (listener.listener.saturation or 0) >= 0.5:
        return None
    figures = report.cgroup is not None or bool(report.node_pressure)
    return Pattern(
        Code.BUSY,
        "connections are accepted, but many wait in the queue",
        "The application is busy, not dead: a restart would only drop those that wait. Either they"
        " arrive faster than it accepts, or it works off what came during a pause. Some are dropped"
        " whenever the queue is full.",
        (*queue_proof(report, listener), listener.why),
        (
            "the accept delay and the request time over the last hour",
            *(["throttling, memory and pressure below"] if figures else []),
            "one thread that accepts and handles in turn",
        ),
        claims=frozenset({Claim.ACCEPTS}),
    )


def unanswered(report: Report) -> Pattern | None:
    judgement = report.judgement
    if judgement is None or judgement.stage not in SILENT or frozen(report):
        return None
    silent = report.connections.silent if report.connections else ()
    proof = [judgement.message]
    if silent:
        clients = plural(len(silent), "accepted client has", "accepted clients have")
        lasting = silent[0].quiet_for
        proof.append(
            f"{clients} sent a request and not got a byte"
            + ("" if lasting is None else f", one for {age(lasting)}")
            + "; health checks such as ours are among them"
        )
    slow = "a deadlock, an exhausted pool, or something slow behind the application"
    accepts = Claim.ACCEPTS in stated(report)
    if accepts:
        title = "requests are accepted and get no answer"
        meaning = f"Accepting works; what handles the request does not come back: {slow}."
    else:
        title = f"our request was accepted, and {NOT_DONE[judgement.stage]}"
        meaning = kept_from_the_next(report, slow)
    return Pattern(
        Code.UNANSWERED,
        title,
        meaning,
        tuple(proof),
        (
            *(["threads that wait for a lock or for a pool, in the dump"] if report.dumps else []),
            *dump_files(report),
        ),
        ("whether the silent connections are the cause, or only wait as others do",)
        if silent
        else (),
        frozenset({Claim.ACCEPTS}) if accepts else frozenset(),
    )


def kept_from_the_next(report: Report, slow: str) -> str:
    """What a request that was accepted and not answered has to do with nobody accepting now."""
    if vanished(report):
        return (
            "An error between the two can end an acceptor on the connection that it has just"
            " accepted: this may be that one."
        )
    if Claim.NOBODY_WAITS in stated(report):
        return (
            "Where the thread that accepts also handles, a request that does not come back keeps"
            " it from the next: this may be that one."
        )
    return (
        f"What handles it does not come back: {slow}. Whether others are accepted meanwhile is not"
        " seen."
    )


NOT_DONE = {Stage.UNREAD: "is not read", Stage.UNANSWERED: "gets no answer"}


def answered_badly(report: Report) -> Pattern | None:
    judgement = report.judgement
    listener = worst(report)
    if judgement is None or judgement.stage not in BAD_ENDS or listener is None:
        return None
    accepts = Claim.ACCEPTS in stated(report)
    if accepts:
        title = f"connections are accepted, but {BAD_ENDS[judgement.stage]}"
        meaning = "How it accepts has no part in it: look at what the application answers, and why."
    elif judgement.stage in ACCEPTED_FIRST:
        title = BAD_ENDS[judgement.stage]
        meaning = (
            "It was accepted then, which tells nothing of accepting now: an error can end an"
            " acceptor on the connection that it has just accepted. Else look at what the"
            " application answers, and why."
        )
    else:
        title = BAD_ENDS[judgement.stage]
        meaning = "Whether it was accepted before that is not known."
    return Pattern(
        Code.ANSWERED_BADLY,
        title,
        meaning,
        (judgement.message, listener.why),
        ("the application's log", "the path, the protocol and the certificate that are asked for"),
        claims=frozenset({Claim.ACCEPTS}) if accepts else frozenset(),
    )


def overflow(report: Report) -> Pattern | None:
    """Drops have many causes: only ListenOverflows beside a full queue proves an overflow."""
    full = fullest(report)
    rose = rise(report, "ListenOverflows")
    if full is None or not rose or full.drops == 0:
        return None
    counter = next(one for one in report.counters if one.name == "ListenOverflows")
    proof = [
        f"{label(full)} is full ({full.length} of {full.limit})",
        f"ListenOverflows is at {counter.value}"
        + (f", {counter.since_healthy} more than while healthy" if counter.since_healthy else "")
        + (f", {counter.during} of it during this capture" if counter.during else ""),
    ]
    resets = dict(report.sysctls).get("net.ipv4.tcp_abort_on_overflow") == "1"
    return Pattern(
        Code.OVERFLOW,
        "the accept queue is full and new connections are dropped",
        "A SYN that finds the queue full is dropped without an answer: the client sends it again,"
        " when its own kernel thinks fit, and sees a connect time-out, not a refusal."
        + (
            " net.ipv4.tcp_abort_on_overflow is 1 here, so a client whose last handshake packet"
            " finds the queue full gets a reset instead."
            if resets
            else ""
        ),
        tuple(proof),
        claims=frozenset({Claim.QUEUE_FULL}),
    )


def full_queue(report: Report) -> Pattern | None:
    """No connection fits any more; whether one was dropped is not proven."""
    full = fullest(report)
    if full is None or full.limit is None or full.length <= full.limit or overflow(report):
        return None
    return Pattern(
        Code.FULL,
        "the accept queue is full",
        "The next SYN will be dropped without an answer. Whether some were is not proven.",
        (f"{label(full)} has {full.length} queued, and its limit is {full.limit}",),
        claims=frozenset({Claim.QUEUE_FULL}),
    )


def fullest(report: Report) -> Listener | None:
    full = [listener for listener in audited(report) if listener.full]
    return max(full, key=lambda listener: listener.saturation or 0, default=None)


def half_open(report: Report) -> Pattern | None:
    """A flood of SYNs, or handshakes that do not come to their end."""
    rose = rise(report, "TCPReqQFullDrop")
    if not rose:
        return None
    return Pattern(
        Code.HALF_OPEN,
        "too many handshakes are under way, and new ones are dropped",
        "What is full is the queue of half-open connections, before the accept queue: clients"
        " whose last handshake packet does not come, as in a SYN flood, a scan or on a path that"
        " loses packets. It tells nothing of the application.",
        (f"TCPReqQFullDrop rose by {rose}",),
        ("net.ipv4.tcp_syncookies: with 1, clients come through all the same",),
    )


def limit_at_sysctl(report: Report) -> Pattern | None:
    allowed = dict(report.sysctls).get("net.core.somaxconn", "")
    capped = [listener for listener in audited(report) if str(listener.limit) == allowed]
    if not any((listener.saturation or 0) >= NEARLY for listener in capped):
        return None
    return Pattern(
        Code.LIMIT_AT_SYSCTL,
        f"the limit of the queue equals net.core.somaxconn ({allowed})",
        "The kernel cuts what the application asks for in listen() down to this setting of the"
        " network namespace. Whether it did, or the application asked for just as many, cannot be"
        " seen. A longer queue helps against bursts, never against a dead acceptor.",
        (f"{label(capped[0])} has the limit {capped[0].limit}, net.core.somaxconn is {allowed}",),
        (
            "if bursts are what fills it: the backlog that the application asks for, and"
            " securityContext.sysctls of the pod",
        ),
    )


def ended_in_queue(report: Report) -> Pattern | None:
    connections = report.connections
    if connections is None or not connections.ended:
        return None
    count = connections.ended
    return Pattern(
        Code.ENDED_IN_QUEUE,
        f"{plural(count, 'client has', 'clients have')} ended"
        f" {'its' if count == 1 else 'their'} side while waiting to be accepted",
        "Nothing more will come from there. The connection was closed, or the client has no more to"
        " say and still waits for the answer: from here the two look alike. Each keeps its place in"
        " the queue until the application accepts it or ends, so every retry makes the queue"
        " longer.",
        (f"{count} in CLOSE_WAIT with inode 0, of {queued_in(report)} in the accept queue",),
        claims=frozenset({Claim.SOMETHING_QUEUED}),
    )


def unclosed(report: Report) -> Pattern | None:
    connections = report.connections
    if connections is None or connections.unclosed < UNCLOSED:
        return None
    return Pattern(
        Code.UNCLOSED,
        f"{connections.unclosed} connections are still open on which the client has ended its side",
        "They were accepted, the client will send no more, and the application has not closed"
        " them: each takes a descriptor, and perhaps a thread or a place in a pool.",
        (f"{connections.unclosed} in CLOSE_WAIT with a descriptor",),
        ("the code path that leaves a connection open after an error or an early return",),
    )


def throttled(report: Report) -> Pattern | None:
    group = report.cgroup
    if group is None or not group.periods or not group.throttled:
        return None
    share = group.throttled / group.periods
    if share < THROTTLED:
        return None
    return Pattern(
        Code.THROTTLED,
        f"the container was held back by its CPU limit in {share:.0%} of all periods",
        "A throttled process looks frozen for parts of every 100 ms.",
        (
            f"cpu.stat: {group.throttled} of {group.periods} periods throttled"
            f" since the container began, {age(group.throttled_seconds or 0)} in all",
        ),
        ("the CPU limit of the container",),
    )


def cpu_limited(report: Report) -> bool:
    """Whether the report shows how the CPU limit was used up."""
    return report.cgroup is not None and bool(report.cgroup.periods)


def short_of_memory(report: Report) -> Pattern | None:
    group = report.cgroup
    if group is None:
        return None
    kills = dict(group.memory_events).get("oom_kill", 0)
    used, limit = group.memory or 0, group.memory_limit
    proof = []
    if kills:
        proof.append(
            f"memory.events: {plural(kills, 'process was', 'processes were')} killed (OOM)"
        )
    if limit and used >= NEARLY * limit:
        proof.append(f"{mebibytes(used)} of {mebibytes(limit)} are used, page cache among them")
    if not proof:
        return None
    return Pattern(
        Code.SHORT_OF_MEMORY,
        "the container is, or was, short of memory",
        "An allocation that fails can end one thread and leave the process alive.",
        tuple(proof),
        ("the memory limit, and the runtime's own (heap size, worker count)",),
    )


PATTERNS: tuple[Callable[[Report], Pattern | None], ...] = (
    not_listening,
    acceptor_gone,
    frozen,
    acceptor_stopped,
    acceptor_blocked,
    out_of_descriptors,
    nobody_waits,
    cause_hidden,
    busy,
    some_stopped,
    uninterruptible,
    unanswered,
    answered_badly,
    overflow,
    full_queue,
    half_open,
    ended_in_queue,
    unclosed,
    throttled,
    short_of_memory,
    limit_at_sysctl,
)

NOBODY = frozenset({Finding.NOBODY_WAITS, Finding.NOBODY_SEEN})
"""Every thread was decoded, and none waits."""

SILENT = frozenset({Stage.UNANSWERED, Stage.UNREAD})

BAD_ENDS = {
    Stage.STATUS: "the answer is not a good one",
    Stage.UNEXPECTED_REPLY: "the answer is not a good one",
    Stage.TLS: "the TLS handshake does not succeed",
    Stage.RESET: "our connection was reset",
}

ACCEPTED_FIRST = frozenset({Stage.STATUS, Stage.UNEXPECTED_REPLY, Stage.TLS})
"""Stages that only an accepted connection comes to. A reset may be the kernel's own: of a queue
that is full (tcp_abort_on_overflow), or of a listener that is closed.
"""
