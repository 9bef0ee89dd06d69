"""The report as text: reads like a colleague's finding, figures last. Pure, 80 columns.

The same text is an incident's report.txt and what `probe diagnose` prints.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from probe.display import plural
from probe.evidence.records.audit import Access, Finding
from probe.evidence.records.facts import (
    CgroupFacts,
    Connections,
    CounterChange,
    Peer,
    Pressure,
    ProcessFacts,
)
from probe.evidence.records.report import DumpFile, Lack, ListenerFacts, Report, SidecarState
from probe.evidence.report.claims import Claim, Conclusion, Pattern
from probe.evidence.report.patterns import SHOWN, conclude
from probe.evidence.report.reading import (
    audited,
    knows_acceptors,
    longer,
    queued_in,
    stated,
    worst,
)
from probe.evidence.wording import age, label, mebibytes, printable, sentence
from probe.model import Condition

WIDTH = 80
SUMMARY = 300
"""Characters of the one line at most."""

FRAMES = 12

PLAIN = frozenset(
    {Finding.SOMEBODY_WAITS, Finding.CONTRADICTION, Finding.NOBODY_WAITS, Finding.STOPPED}
)
"""Findings of which the figures alone say what they mean."""


def summary(report: Report, conclusion: Conclusion | None = None) -> str:
    """The report in one bounded line, for a log or an Event."""
    conclusion = conclusion or conclude(report)
    said = f"{report.place}: {conclusion.headline}"
    if conclusion.patterns:
        said += f" ({'; '.join(conclusion.patterns[0].proof[:2])})"
    return printable(textwrap.shorten(said, SUMMARY, placeholder=" ..."))


def text(report: Report, conclusion: Conclusion | None = None) -> str:
    """The whole report for people."""
    conclusion = conclusion or conclude(report)
    patterns = conclusion.patterns
    proofs = {proof for pattern in patterns for proof in pattern.proof}
    lines = [*opening(report, conclusion)]
    for name, points in (
        ("What is unknown", (one for one in unknown(report, patterns) if one not in proofs)),
        ("What to look at next", look_at(report, patterns)),
    ):
        lines += section(name, dict.fromkeys(points))
    for name, rows in figures(report):
        lines += ["", *(printable(row)[:WIDTH].rstrip() for row in indented(name, rows))]
    lines += section("What can be found out from here", allowed(report.access))
    return "\n".join(lines) + "\n"


def opening(report: Report, conclusion: Conclusion) -> Iterator[str]:
    """What is the matter, what is seen, what it means and what proves it."""
    patterns = conclusion.patterns
    proofs = [proof for pattern in patterns for proof in pattern.proof]
    elsewhere = [*proofs, *(point for pattern in patterns for point in pattern.unknown)]
    yield from title(report, conclusion.headline)
    for name, points in (
        ("What is seen", seen(report, [conclusion.headline, *elsewhere])),
        ("What it means", meaning(report, patterns)),
        ("What proves it", proofs),
    ):
        yield from section(name, dict.fromkeys(points))


def proven(report: Report, conclusion: Conclusion) -> Iterator[str]:
    """What is the matter and what proves it, for who will not read more."""
    yield from title(report, conclusion.headline)
    proofs = [proof for pattern in conclusion.patterns for proof in pattern.proof]
    yield from section("What proves it", dict.fromkeys(proofs))


def indented(name: str, rows: Iterable[str]) -> Iterator[str]:
    yield name
    yield from (f"  {row}" for row in rows)


def title(report: Report, headline: str) -> Iterator[str]:
    name = f"{report.place[:1].upper()}{report.place[1:]}: {headline}"
    yield from textwrap.wrap(printable(name), WIDTH)
    yield "=" * min(len(name), WIDTH)
    when = report.at.replace("T", " ").replace("+00:00", " UTC")
    judgement = report.judgement
    if judgement is None:
        yield f"Looked at {when}."
        return
    said = judgement.message or judgement.reason or "no reason given"
    line = f"Taken {when}, when the verdict was {judgement.condition}: {said}."
    if report.trigger == "diagnose":
        line = f"Looked at {when}: {said}."
    yield from textwrap.wrap(printable(line), WIDTH)


def section(name: str, points: Iterable[str]) -> Iterator[str]:
    """A heading with its points; nothing where there are none."""
    for number, point in enumerate(points):
        if not number:
            yield ""
            yield name
        yield from textwrap.wrap(
            printable(point),
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_long_words=True,
            break_on_hyphens=False,
        )


def seen(report: Report, elsewhere: Sequence[str] = ()) -> Iterator[str]:
    """The state of things in plain sentences, without a judgement. What is said `elsewhere`, such
    as among the proofs, is not said twice.
    """
    for listener in audited(report):
        limit = "its limit is not known" if listener.limit is None else f"limit {listener.limit}"
        drops = f", {listener.drops} drops so far, of whatever cause" if listener.drops else ""
        yield (
            f"{label(listener)} listens; {plural(listener.length, 'connection', 'connections')} in"
            f" its accept queue, {limit}{drops}."
        )
    if report.ours and not stated(report) & {Claim.ACCEPTS, Claim.QUEUE_EMPTY}:
        which = "That connection" if queued_in(report) == 1 else "One of these connections"
        yield (
            f"{which} is our own, made for this report. The application has not accepted it, so it"
            " keeps its place in the queue, though we have closed it since."
        )
    if report.sidecar:
        yield sidecar_says(report.sidecar, queued=bool(queued_in(report)))
    if report.acceptors:
        for facts in report.acceptors.listeners:
            yield from seen_of(facts, elsewhere)
        changed = report.acceptors.differences
        told = [difference.text for difference in changed[:SHOWN]]
        yield from (sentence(one) for one in told if one not in elsewhere)
        if len(changed) > SHOWN:
            yield (
                f"Of those that accepted while all was well, {len(changed)} at least are not seen"
                " to wait now."
            )
    if (since := longer(report)) and since not in elsewhere:
        yield sentence(since)
    for process in report.processes:
        yield (
            f"Process {process.pid} `{process.comm}` is {process.state}, {age(process.age)} old,"
            f" with {plural(process.threads, 'thread', 'threads')}{home(process)}."
        )


def sidecar_says(sidecar: SidecarState, *, queued: bool) -> str:
    judgement = sidecar.judgement
    lasting = "" if judgement.lasting is None else f" for {age(judgement.lasting)}"
    ready = "ready" if judgement.ready else "not ready"
    live = "live" if judgement.live else "not live"
    own = ""
    if sidecar.own_queued_for is not None and queued:
        own = " One of the connections in the queue is its own."
    return (
        f"The sidecar at {sidecar.where} says: {judgement.condition}{lasting}, {ready}, {live};"
        f" {judgement.message}.{own}"
    )


def seen_of(facts: ListenerFacts, elsewhere: Sequence[str]) -> Iterator[str]:
    """Who holds a listener, and what that comes to; of each listener apart, since of a group with
    SO_REUSEPORT one may be well and the other not.
    """
    owners = ", ".join(f"{owner.pid} `{owner.comm}`" for owner in facts.owners[:SHOWN])
    more = f" and {len(facts.owners) - SHOWN} more" if len(facts.owners) > SHOWN else ""
    said = label(facts.listener)
    if owners:
        many = "processes" if len(facts.owners) > 1 else "process"
        said += f" is held by {many} {owners}{more}"
    meaning = facts.finding.meaning
    points = [point for point in (meaning, facts.why) if point not in elsewhere]
    if points == [meaning, facts.why] and facts.finding in PLAIN:
        points = [facts.why]
    if points or owners:
        yield sentence(": ".join([said, *points]))


def home(process: ProcessFacts) -> str:
    return f", in container `{process.container.name}`" if process.container.name else ""


def meaning(report: Report, patterns: Sequence[Pattern]) -> Iterator[str]:
    for number, pattern in enumerate(patterns):
        # The first is the headline already.
        yield f"{sentence(pattern.title)} {pattern.meaning}" if number else pattern.meaning
    listener = worst(report)
    if patterns or listener is None:
        return
    if report.judgement and report.judgement.condition is not Condition.HEALTHY:
        yield (
            "None of the known patterns fits what is seen here. What led to the verdict may be"
            f" over, or lie elsewhere: {listener.finding.meaning}."
        )
    else:
        yield sentence(f"nothing here shows a fault: {listener.finding.meaning}")


def unknown(report: Report, patterns: Sequence[Pattern]) -> Iterator[str]:
    for pattern in patterns:
        yield from pattern.unknown
    for missing in report.missing:
        yield f"{missing.what}: {missing.why}"
    if report.acceptors and report.listeners:
        yield from report.acceptors.notes
        listener = worst(report)
        lacks = {missing.lack for missing in report.missing}
        known = knows_acceptors(report) or Lack.FORMER_ACCEPTORS in lacks
        if listener and not known and not stated(report) & {Claim.ACCEPTS, Claim.SOMEBODY_WAITS}:
            yield (
                f"who used to accept: {not_learnt(report)}, so whether anyone is missing cannot"
                " be told"
            )
    if report.redacted:
        yield "peers and thread names: left out as configured"


def not_learnt(report: Report) -> str:
    """Why nobody knows who accepted while all was well."""
    if any(counter.since_healthy is not None for counter in report.counters):
        return "the sidecar looked while all was well, and saw nobody wait whom it could tell apart"
    if report.sidecar or report.trigger == "transition":
        return "the sidecar has not seen all well so far"
    return "no sidecar was here to learn it while all was well"


def look_at(report: Report, patterns: Sequence[Pattern]) -> Iterator[str]:
    if report.sidecar and report.sidecar.incident:
        yield (
            f"`probe evidence show {report.sidecar.incident}` in the sidecar's container: what it"
            " found of this incident"
        )
    for pattern in patterns:
        yield from pattern.look_at
    asked = f"--target unix://{report.socket}" if report.socket else f"--port {report.port}"
    if patterns and any(missing.lack is Lack.JVM_NOT_ASKED for missing in report.missing):
        yield f"a thread dump of the JVM: `probe diagnose {asked} --jvm-attach`"


def allowed(access: Sequence[Access]) -> Iterator[str]:
    """The self-test: what is available in a word, what is not with what to change."""
    if available := [one.name for one in access if one.available]:
        yield f"Available: {', '.join(available)}."
    for one in access:
        if not one.available:
            change = f" To change that: {one.change}." if one.change else ""
            yield f"Not available: {one.name}: {one.why}.{change}"


Table = tuple[str, list[str]]


def figures(report: Report) -> Iterator[Table]:
    """The tables at the end, each with its heading."""
    yield from connection_tables(report.connections)
    for facts in report.acceptors.listeners if report.acceptors else ():
        if facts.groups:
            yield thread_table(facts)
    for dump in report.dumps:
        yield from dump_tables(dump)
    if report.processes:
        yield "Processes", [row for one in report.processes for row in process_rows(one)]
    if report.cgroup:
        yield "Container (cgroup)", [*cgroup_rows(report.cgroup)]
    if report.counters:
        yield "Counters of the network namespace", [counter_row(one) for one in report.counters]
    if report.sysctls:
        yield "Settings", [f"{name} = {value}" for name, value in report.sysctls]
    if report.node_pressure:
        yield "Pressure on the node", [pressure_row(one) for one in report.node_pressure]
    if report.steps:
        spent = ", ".join(f"{step.name} {step.seconds:.2f} s" for step in report.steps)
        yield "How long this took", textwrap.wrap(spent, WIDTH - 2)


def connection_tables(connections: Connections | None) -> Iterator[Table]:
    if connections is None or not connections.total:
        return
    yield (
        f"Connections ({connections.total})",
        [
            f"{one.state:<12} {one.connections:>7}"
            + (f"   {one.queued} of them in the accept queue" if one.queued else "")
            for one in connections.states
        ],
    )
    if connections.queued:
        rows = [peer_row(one, one.queued_for) for one in connections.queued]
        yield "Longest in the accept queue", rows
    if connections.silent:
        rows = [peer_row(one, one.quiet_for) for one in connections.silent]
        yield "Accepted, and not sent a byte so far (suspects, no proof)", rows


def peer_row(peer: Peer, lasting: float | None) -> str:
    waits = "?" if lasting is None else age(lasting)
    return f"{waits:>9}  {peer.state:<12} {peer.unread:>7} B unread  {peer.remote}"


def thread_table(facts: ListenerFacts) -> Table:
    rows = [
        f"{one.threads:>5}  {one.state}  {one.decided:<11} {one.call or '-':<14} {one.name}"
        for one in facts.groups
    ]
    if facts.more:
        rows.append(f"{facts.more:>5}  more")
    return f"What the threads do about {label(facts.listener)}", rows


def counter_row(one: CounterChange) -> str:
    healthy = "" if one.since_healthy is None else f", +{one.since_healthy} since healthy"
    return f"{one.name:<22} {one.value:>10}  +{one.during} during the capture{healthy}"


def dump_tables(dump: DumpFile) -> Iterator[Table]:
    whole = "" if dump.complete else ", cut short"
    for stack in dump.acceptors:
        rows = [f"at {frame}" for frame in stack.frames[:FRAMES]]
        yield f"Thread {stack.tid} {stack.name}: {stack.state}", rows
    yield (
        f"Threads as {dump.kind} has them: process {dump.pid},"
        f" {plural(dump.threads, 'thread', 'threads')}{whole}",
        [
            f"{one.threads:>5}  {one.state or 'of the runtime':<14} {one.name:<24} {one.frame}"
            for one in dump.groups
        ],
    )


def process_rows(process: ProcessFacts) -> Iterator[str]:
    limit = "no limit" if process.descriptor_limit is None else f"limit {process.descriptor_limit}"
    open_now = "unknown" if process.descriptors is None else str(process.descriptors)
    kinds = ", ".join(f"{count} {kind}" for kind, count in process.kinds[:4])
    yield f"{process.pid} {process.comm}: {process.state}, RSS {mebibytes(process.resident)}"
    yield f"  descriptors {open_now}, {limit}" + (f" ({kinds})" if kinds else "")
    if process.container.id:
        yield f"  container {process.container.name or '-'}, id {process.container.id[:12]}"
    yield from (f"  {note}" for note in process.notes)


def cgroup_rows(group: CgroupFacts) -> Iterator[str]:
    if group.memory is not None:
        limit = "no limit" if group.memory_limit is None else f"of {mebibytes(group.memory_limit)}"
        yield f"memory {mebibytes(group.memory)} {limit}"
    happened = ", ".join(f"{name} {count}" for name, count in group.memory_events if count)
    if happened:
        yield f"memory events: {happened}"
    if group.periods:
        yield (
            f"CPU: throttled in {group.throttled or 0} of {group.periods} periods,"
            f" {age(group.throttled_seconds or 0)} in all"
        )
    if group.pids is not None:
        yield f"tasks {group.pids}" + (f" of {group.pids_limit}" if group.pids_limit else "")
    if group.frozen is not None:
        yield "frozen" if group.frozen else "not frozen"
    yield from (f"pressure: {pressure_row(one)}" for one in group.pressure)


def pressure_row(one: Pressure) -> str:
    return (
        f"{one.resource:<7} {one.avg10:5.1f} % of 10 s, {one.avg60:5.1f} % of 60 s,"
        f" {one.avg300:5.1f} % of 300 s"
    )
