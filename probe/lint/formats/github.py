"""Workflow commands of GitHub Actions: each finding is an annotation on its line."""

from probe.display import printable
from probe.lint.formats.text import summary
from probe.lint.records import Level, LintFinding, LintReport

COMMANDS = {Level.ERROR: "error", Level.WARNING: "warning", Level.NOTE: "notice"}


def render(report: LintReport, least: Level) -> str:
    lines = [of_finding(finding) for finding in report.standing]
    return "\n".join([*lines, summary(report, least)]) + "\n"


def of_finding(finding: LintFinding) -> str:
    place = finding.place
    properties = {
        "file": place.file,
        "line": str(place.line),
        "col": str(place.column),
        "title": f"{finding.rule.id}: {finding.object.about}",
    }
    told = ",".join(f"{key}={escape_property(value)}" for key, value in properties.items())
    message = "\n".join((finding.what, finding.instead, *finding.lines))
    return f"::{COMMANDS[finding.level]} {told}::{escape(message)}"


def escape(text: str) -> str:
    """What GitHub's runner undoes: nothing else can begin a command of its own."""
    lines = (printable(line).replace("%", "%25") for line in text.split("\n"))
    return "%0A".join(lines)


def escape_property(text: str) -> str:
    return escape(text).replace(":", "%3A").replace(",", "%2C")
