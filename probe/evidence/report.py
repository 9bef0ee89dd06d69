"""The report as text: reads like a colleague's finding, figures last. Pure, 80 columns.

The same text is an incident's report.txt and what `probe diagnose` prints.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from probe.evidence.cgroup import CgroupFacts, Pressure
from probe.evidence.network import Connections, CounterChange, Peer
from probe.evidence.patterns import SHOWN, Pattern, knows_acceptors, longer, recognise, worst
from probe.evidence.process import ProcessFacts
from probe.evidence.sections import Dump, ListenerFacts, Report
from probe.evidence.wording import age, label, mebibytes, printable, sentence, some

WIDTH = 80
SUMMARY = 300
"""Characters of the one line at most."""

FRAMES = 12


def headline(report: Report) -> str:
    """What is the matter, in a few words."""
    patterns = recognise(report)
    if patterns:
        return patterns[0].title
    listener = worst(report)
    if listener is None:
        return "nothing could be found out about who accepts"
    return listener.finding.meaning


def summary(report: Report) -> str:
    """The report in one bounded line, for a log or an Event."""
    said = f"port {report.port}: {headline(report)}"
    patterns = recognise(report)
    if patterns:
        said += f" ({'; '.join(patterns[0].proof[:2])})"
    return printable(textwrap.shorten(said, SUMMARY, placeholder=" ..."))


def text(report: Report) -> str:
    """The whole report for people."""
    patterns = recognise(report)
    lines = [*title(report)]
    for name, points in (
        ("What is seen", seen(report)),
        ("What it means", meaning(report, patterns)),
        ("What proves it", [proof for pattern in patterns for proof in pattern.proof]),
        ("What is unknown", unknown(report, patterns)),
        ("What to look at next", [point for pattern in patterns for point in pattern.look_at]),
    ):
        lines += section(name, dict.fromkeys(points))
    for name, rows in figures(report):
        lines += ["", *(printable(row)[:WIDTH].rstrip() for row in indented(name, rows))]
    return "\n".join(lines) + "\n"


def indented(name: str, rows: Iterable[str]) -> Iterator[str]:
    yield name
    yield from (f"  {row}" for row in rows)


def title(report: Report) -> Iterator[str]:
    name = f"Port {report.port}: {headline(report)}"
    yield from textwrap.wrap(printable(name), WIDTH)
    yield "=" * min(len(name), WIDTH)
    when = report.at.replace("T", " ").replace("+00:00", " UTC")
    judgement = report.judgement
    if judgement is None:
        yield f"Looked at {when}."
        return
    said = f"{judgement.condition}: {judgement.message or judgement.reason or 'no reason given'}"
    yield from textwrap.wrap(printable(f"Taken {when}, when the verdict was {said}."), WIDTH)


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


def seen(report: Report) -> Iterator[str]:
    """The state of things in plain sentences, without a judgement."""
    for listener in report.listeners:
        limit = "its limit is not known" if listener.limit is None else f"limit {listener.limit}"
        drops = f", {listener.drops} drops so far" if listener.drops else ""
        yield (
            f"{label(listener)} listens; {some(listener.length, 'connection', 'connections')} in"
            f" its accept queue, {limit}{drops}."
        )
    if report.acceptors:
        for facts in report.acceptors.listeners:
            yield from seen_of(facts)
        changed = report.acceptors.differences
        yield from (sentence(difference.text) for difference in changed[:SHOWN])
        if len(changed) > SHOWN:
            yield f"And {len(changed) - SHOWN} more that accepted while all was well."
    if since := longer(report):
        yield sentence(since)
    for process in report.processes:
        yield (
            f"Process {process.pid} `{process.comm}` is {process.state}, {age(process.age)} old,"
            f" with {some(process.threads, 'thread', 'threads')}{home(process)}."
        )


def seen_of(facts: ListenerFacts) -> Iterator[str]:
    owners = ", ".join(f"{owner.pid} `{owner.comm}`" for owner in facts.owners[:5])
    more = f" and {len(facts.owners) - 5} more" if len(facts.owners) > 5 else ""
    if owners:
        many = "processes" if len(facts.owners) > 1 else "process"
        yield f"{label(facts.listener)} is held by {many} {owners}{more}."
    yield sentence(f"{facts.finding.meaning}: {facts.why}")


def home(process: ProcessFacts) -> str:
    return f", in container `{process.container.name}`" if process.container.name else ""


def meaning(report: Report, patterns: Sequence[Pattern]) -> Iterator[str]:
    for number, pattern in enumerate(patterns):
        # The first is the headline already.
        yield f"{sentence(pattern.title)} {pattern.meaning}" if number else pattern.meaning
    listener = worst(report)
    if not patterns and listener:
        yield sentence(f"nothing here shows a fault: {listener.finding.meaning}")


def unknown(report: Report, patterns: Sequence[Pattern]) -> Iterator[str]:
    for pattern in patterns:
        yield from pattern.unknown
    for missing in report.missing:
        yield f"{missing.what}: {missing.why}"
    if report.acceptors:
        yield from report.acceptors.notes
        if patterns and not knows_acceptors(report):
            yield (
                "who accepted while all was well: nobody watched then, so a thread that has exited"
                " since can't be named"
            )
    if report.redacted:
        yield "peers and thread names: left out as configured"


Table = tuple[str, list[str]]


def figures(report: Report) -> Iterator[Table]:
    """The tables at the end, each with its heading."""
    yield from connection_tables(report.connections)
    for facts in report.acceptors.listeners if report.acceptors else ():
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
        yield "Accepted, and never sent a byte (suspects, no proof)", rows


def peer_row(peer: Peer, lasting: float | None) -> str:
    waits = "?" if lasting is None else age(lasting)
    return f"{waits:>9}  {peer.state:<12} {peer.unread:>7} bytes unread  {peer.remote}"


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


def dump_tables(dump: Dump) -> Iterator[Table]:
    whole = "" if dump.complete else ", cut short"
    for stack in dump.acceptors:
        rows = [f"at {frame}" for frame in stack.frames[:FRAMES]]
        yield f"Thread {stack.tid} {stack.name}: {stack.state}", rows
    yield (
        f"Threads as {dump.kind} has them: process {dump.pid}, {dump.threads} threads{whole}",
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
