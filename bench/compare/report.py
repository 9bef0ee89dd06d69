"""The page and the plots out of what was measured."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench.compare.cells import Cell
from bench.compare.faults import FAULTS
from bench.compare.probers import PROBERS
from bench.measure import median
from bench.plot import Axis, Bar, Point, Series, bars, lines

MAIN = (
    "probe /ready",
    "kubelet asks probe",
    "tcpSocket 1 s",
    "httpGet 1 s",
    "httpGet 10 s",
    "health port 1 s",
    "blackbox http",
    "monit http",
)
"""The columns of the tables of all faults."""
SHOWN = (
    ("application", "dead"),
    ("application", "dead, clients"),
    ("haproxy", "limit"),
    ("gunicorn", "deadlock"),
    ("memcached", "limit"),
    ("application", "closed"),
)
"""The pairs in the plot of detection, and in the README's table."""
HARM = (
    "probe /ready",
    "tcpSocket 1 s",
    "httpGet 1 s",
    "tcpSocket 10 s",
    "kubelet exec probe check",
    "blackbox tcp",
    "monit http",
)
"""Those in the plot of the queue."""

Pair = tuple[str, str]
Rows = list[Sequence[str]]


class Run(NamedTuple):
    """What `make compare` keeps, as its JSON has it."""

    command: str
    about: dict[str, Any]
    """date, machine, seconds, runs, the versions, who is missing."""
    cells: list[Cell]


class Summary:
    """The runs of one prober in one pair."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        every = list(cells)
        self.errors = [cell.error for cell in every if cell.error]
        self.cells = [cell for cell in every if not cell.error]
        self.found = sorted(cell.found for cell in self.cells if cell.found is not None)
        self.recovered = sorted(cell.recovered for cell in self.cells if cell.recovered is not None)
        self.reasons = Counter(cell.reason for cell in self.cells if cell.reason)

    def __bool__(self) -> bool:
        return bool(self.cells)

    @property
    def brief(self) -> str:
        """When it said so: the median alone."""
        if not self.cells:
            return "-"
        if not self.found:
            return "never"
        some = f" ({len(self.found)} of {len(self.cells)})"
        return f"{median(self.found):.1f} s{some if len(self.found) < len(self.cells) else ''}"

    @property
    def spread(self) -> str:
        """The same, with the least and the most."""
        least_and_most = f"; {self.found[0]:.1f} to {self.found[-1]:.1f}" if self.found else ""
        return self.brief + least_and_most

    @property
    def queued(self) -> str:
        """Entries at the end, of all runs."""
        left = sorted({cell.queue[-1][1] for cell in self.cells if cell.queue})
        return "-" if not left else str(left[0]) if len(left) == 1 else f"{left[0]} to {left[-1]}"

    @property
    def cpu(self) -> float | None:
        """CPU seconds a minute; None where it is our own code."""
        taken = [cell.cpu / cell.seconds * 60 for cell in self.cells if cell.cpu is not None]
        return median(taken) if taken else None


class Results:
    """What was measured, by pair and prober."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells
        pairs = dict.fromkeys((cell.server, cell.fault) for cell in cells)
        order = list(FAULTS)
        self.pairs: list[Pair] = sorted(pairs, key=lambda pair: order.index(pair[1]))
        measured = {cell.prober for cell in cells}
        self.probers = [name for name in PROBERS if name in measured]

    def of_pair(self, pair: Pair) -> list[Cell]:
        return [cell for cell in self.cells if (cell.server, cell.fault) == pair]

    def of(self, pair: Pair, prober: str) -> Summary:
        return Summary(cell for cell in self.of_pair(pair) if cell.prober == prober)

    def every(self, prober: str) -> Summary:
        return Summary(cell for cell in self.cells if cell.prober == prober)


def table(rows: Rows) -> str:
    """Rows in Markdown; the first is the head."""
    head, *rest = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    body = [head, ["---"] * len(head), *rest]
    return "\n".join("| " + " | ".join(row) + " |" for row in body)


def found(results: Results) -> str:
    """When each said that something is wrong, one row for each fault of a server."""
    probers = [name for name in MAIN if name in results.probers]
    rows: Rows = [("fault", "server", *probers)]
    for pair in results.pairs:
        if not FAULTS[pair[1]].serving:
            rows.append((FAULTS[pair[1]].title, pair[0], *_row(results, pair, probers)))
    return table(rows)


def brief(results: Results) -> str:
    """The README's table: some of these, what is said of servers that serve, and what is left."""
    probers = [name for name in MAIN if name in results.probers]
    rows: Rows = [("", *probers)]
    for pair in SHOWN:
        if pair in results.pairs:
            title = f"{FAULTS[pair[1]].title} ({pair[0]})"
            rows.append((title, *_row(results, pair, probers)))
    for pair in results.pairs:
        if FAULTS[pair[1]].serving:
            told = (results.of(pair, prober).brief for prober in probers)
            rows.append((f"*{FAULTS[pair[1]].title}*", *told))
    dead = [results.of(("application", "dead"), prober).queued for prober in probers]
    rows.append(("entries left in the queue of the first", *dead))
    return table(rows)


def _row(results: Results, pair: Pair, probers: Sequence[str]) -> list[str]:
    """Who said so when; the first is bold, or the first few."""
    summaries = [results.of(pair, prober) for prober in probers]
    soonest = min((round(median(each.found), 1) for each in summaries if each.found), default=0)
    return [
        f"**{each.brief}**"
        if each.found and round(median(each.found), 1) == soonest
        else each.brief
        for each in summaries
    ]


def serving(results: Results) -> str:
    """What each says of a server that serves."""
    pairs = [pair for pair in results.pairs if FAULTS[pair[1]].serving]
    rows: Rows = [("", *(FAULTS[fault].title for _, fault in pairs))]
    for prober in results.probers:
        rows.append((prober, *(results.of(pair, prober).brief for pair in pairs)))
    return table(rows)


def costs(results: Results) -> str:
    """What each prober leaves, takes and gets wrong, over everything."""
    rows: Rows = [
        ("", "entries left, accept thread dead", "CPU a minute", "false alarms", "not measured")
    ]
    for prober in results.probers:
        every = results.every(prober)
        left = results.of(("application", "dead"), prober)
        alarms = sum(cell.false_alarms for cell in every.cells)
        rows.append(
            (
                *(prober, left.queued, "-" if every.cpu is None else f"{every.cpu * 1000:.0f} ms"),
                *(f"{alarms} in {len(every.cells)} cells", str(len(every.errors) or "-")),
            )
        )
    return table(rows)


def one_pair(results: Results, pair: Pair) -> str:
    """Everything about one fault of one server."""
    rows: Rows = [("", "found after", "well again after", "queued at the end", "reason")]
    for prober in results.probers:
        summary = results.of(pair, prober)
        if not summary:
            if summary.errors:
                rows.append((prober, "not measured", "", "", summary.errors[0].splitlines()[0]))
            continue
        again = f"{median(summary.recovered):.1f} s" if summary.recovered else "-"
        why = summary.reasons.most_common(1)[0][0] if summary.reasons else "-"
        queued = summary.queued if FAULTS[pair[1]].attributed else f"({summary.queued})"
        rows.append((prober, summary.spread, again, queued, shortened(why)))
    return table(rows)


def shortened(reason: str) -> str:
    """The first line of a reason, as code."""
    line = reason.strip().splitlines()[0] if reason.strip() else "-"
    line = line if len(line) <= 110 else line[:107] + "..."
    return line if line == "-" else f"`{line}`"


def plot_of_found(results: Results, seconds: float) -> str:
    """Detection by fault."""
    probers = [name for name in MAIN if name in results.probers]
    groups = {}
    told = []
    for pair in [pair for pair in SHOWN if pair in results.pairs] or results.pairs:
        summaries = [results.of(pair, prober) for prober in probers]
        title = f"{FAULTS[pair[1]].title}: {pair[0]}"
        groups[title] = [_bar(each, seconds) for each in summaries]
        said = ", ".join(
            f"{prober} {each.brief}"
            for prober, each in zip(probers, summaries, strict=True)
            if each
        )
        told.append(f"{title}: {said}.")
    axis = Axis("seconds from the fault to the verdict, on a logarithmic scale", True)
    limits = axis._replace(low=0.2, high=100.0, tell=lambda value: f"{value:g} s")
    return bars("How soon each prober finds a fault", " ".join(told), limits, probers, groups)


def _bar(summary: Summary, seconds: float) -> Bar | None:
    if not summary:
        return None
    if not summary.found:
        return Bar(None, f"never in {seconds:.0f} s")
    return Bar(median(summary.found), summary.brief, summary.found[0], summary.found[-1])


def plot_of_queue(results: Results, seconds: float) -> str:
    """Entries in the queue of the application whose accept thread is dead; "" if it is not in."""
    pair = ("application", "dead")
    series, told = [], []
    for prober in HARM:
        summary = results.of(pair, prober)
        if not summary:
            continue
        cell = summary.cells[0]
        series.append(Series(prober, list(_steps(cell, seconds))))
        told.append(f"{prober} {cell.queue[-1][1]}")
    if not series:
        return ""
    about = f"After {seconds:.0f} s, beside nobody but the prober: {', '.join(told)}."
    y = Axis("entries in the accept queue, of 50", high=60.0)
    title = "What a prober leaves in the queue of a dead application"
    return lines(
        title, about, Axis("seconds since the accept thread died", high=seconds), y, series
    )


def _steps(cell: Cell, seconds: float) -> Iterable[Point]:
    before = 0
    for at, length in (*cell.queue, (seconds, cell.queue[-1][1])):
        yield Point(at, before)
        yield Point(at, length)
        before = length


READING = """\
**How to read it.** Each figure is the median of {runs} runs, from the fault to the moment when
the prober says so; in brackets in how many runs, if not in all. *never*: not in the {seconds} s
that the fault lasted. *-*: the server has no such port. The quickest of a row is bold. Each
prober has a server of its own, in a network namespace of its own, and no other client unless the
fault says so. {at_once} faults at a time ran beside each other on {cores} cores, so that figures
below a second say more of the machine than of a prober."""

TERMS = """\
kubelet's probes are code of this benchmark that does what kubelet's does; its own CPU time would
say nothing. A `tcpSocket`, an `httpGet` and `probe /ready` are verdicts; what follows takes the
time of whoever acts on it. The blackbox exporter and monit are on kubelet's shortest terms, every
second and three in a row: as they are run, a scrape interval (often 15 s or 60 s) and an alert's
`for`, or a cycle of 30 s or more, come on top. CPU time is that of the process and its children
while the fault lasts; monit reads all of `/proc` in each cycle, and here there is much of it."""

SERVING = """\
Nothing is broken in these two, and whoever restarts makes it worse. In the first, every client
waits 1.3 s and is served: an alarm is false. In the second, no new client gets in, so that *not
ready* is right, and *not live* is not: of all these, only `probe` has a verdict for each. The
figure is the time to the alarm."""


def page(run: Run) -> str:
    """docs/comparison.md."""
    results = Results(run.cells)
    about = run.about
    rows: Rows = [("prober", "what it does", "version")]
    for name in results.probers:
        rows.append((name, PROBERS[name].about, about["versions"].get(name, "")))
    servers: Rows = [("server", "version")]
    servers += sorted(about["servers"].items())
    plotted = "![Entries in the accept queue over time.](figures/comparison-queue.svg)"
    if not plot_of_queue(results, about["seconds"]):
        plotted = "Not measured in this run: the accept thread of the application."
    missing = "; ".join(f"{name}: {why}" for name, why in about["missing"].items()) or "nobody"
    parts = [
        "# Side by side",
        "Who finds which fault, after how long, what it leaves in the application's queue, and"
        " what it says. Measured, not argued: this page and its plots were written by",
        f"```sh\n{run.command}\n```",
        f"{about['date']}, {about['machine']}. It took {about['minutes']:.0f} minutes.",
        READING.format(**about),
        "## All faults",
        found(results),
        "A `tcpSocket` is satisfied until the queue is full. How soon that is depends on its"
        " limit, 16 to 1024 in these servers, and on who else connects.",
        "![When each prober found the fault.](figures/comparison-found.svg)",
        "## What it does to a dead application",
        plotted,
        "Every connect to an application that accepts no more leaves an entry in its queue,"
        " whether the client closes or not. Only the application takes entries out. *False alarms*"
        " are verdicts while nothing was wrong, before the fault.",
        costs(results),
        "## Busy, not broken",
        SERVING,
        serving(results),
        "## Who ran",
        table(rows),
        f"Missing here: {missing}.",
        TERMS,
        table(servers),
        "## Every pair",
        "What is queued at the end came from the prober; in parentheses, from clients as well.",
    ]
    for pair in results.pairs:
        fault = FAULTS[pair[1]]
        limits = {cell.limit for cell in results.of_pair(pair) if cell.limit is not None}
        told = f" The limit of the accept queue is {max(limits)}." if limits else ""
        parts += [f"### {fault.title}: {pair[0]}", fault.about + told, one_pair(results, pair)]
    return "\n\n".join(parts) + "\n"
