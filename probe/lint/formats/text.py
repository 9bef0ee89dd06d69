"""For people: grouped by object, within 80 columns, coloured on a terminal."""

from collections.abc import Callable, Iterator
from itertools import groupby
from textwrap import wrap

from probe.display import plural, printable
from probe.lint.records import Level, LintFinding, LintReport

WIDTH = 80
INDENT = "    "

RESET = "\x1b[0m"
BOLD = "\x1b[1m"
DIM = "\x1b[2m"
COLOURS = {Level.ERROR: "\x1b[31m", Level.WARNING: "\x1b[33m", Level.NOTE: "\x1b[36m"}


def render(report: LintReport, least: Level, *, colour: bool = False) -> str:
    paint = painted if colour else plain
    lines: list[str] = []
    for owner, findings in groupby(report.standing, lambda finding: finding.object):
        lines += [f"{paint(printable(owner.about), BOLD)}  {paint(printable(str(owner)), DIM)}", ""]
        for finding in findings:
            lines += [*of_finding(finding, paint), ""]
    lines += wrap(summary(report, least), WIDTH)
    return "\n".join(lines) + "\n"


def of_finding(finding: LintFinding, paint: Callable[[str, str], str]) -> Iterator[str]:
    place = printable(str(finding.place))
    level = paint(finding.level, COLOURS[finding.level])
    yield f"  {place}  {level}  {paint(finding.rule.id, BOLD)}"
    yield from wrapped(finding.what)
    for related in finding.related:
        yield from (paint(line, DIM) for line in wrapped(f"{related}: {related.about}"))
    yield from wrapped(finding.instead)
    yield from (f"{INDENT}    {printable(line)}" for line in finding.lines)


def wrapped(sentence: str) -> list[str]:
    return wrap(
        printable(sentence),
        WIDTH,
        initial_indent=INDENT,
        subsequent_indent=INDENT,
        break_on_hyphens=False,
    )


def summary(report: LintReport, least: Level) -> str:
    """`4 objects, 2 with pods: 1 error, 2 notes, 1 ignored.`"""
    counted = ", ".join(
        plural(number, level)
        for level in Level
        if (number := sum(finding.level is level for finding in report.standing))
    )
    looked = f"{plural(report.objects, 'object')}, {len(report.pods)} with pods"
    ignored = f", {len(report.ignored)} ignored" if report.ignored else ""
    failing = "" if not counted or report.fails(least) else f" Nothing from {least} on."
    return f"{looked}: {counted or 'no finding'}{ignored}.{failing}"


def painted(text: str, colour: str) -> str:
    return f"{colour}{text}{RESET}"


def plain(text: str, colour: str) -> str:
    return text
