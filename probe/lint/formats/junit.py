"""JUnit XML: one suite for each object, one case for each finding."""

from xml.sax.saxutils import escape, quoteattr

from probe.display import printable
from probe.lint.records import Level, LintFinding, LintReport, Place


def render(report: LintReport, least: Level) -> str:
    mine: dict[Place, list[LintFinding]] = {pod: [] for pod in report.pods}
    for finding in report.findings:
        mine[finding.object].append(finding)
    suites = [suite(pod, findings, least) for pod, findings in mine.items()]
    failures = sum(is_failure(finding, least) for finding in report.findings)
    tests = sum(max(1, len(findings)) for findings in mine.values())
    head = f'<testsuites name="probe lint" tests="{tests}" failures="{failures}">'
    lines = ['<?xml version="1.0" encoding="utf-8"?>', head, *suites, "</testsuites>"]
    return "\n".join(lines) + "\n"


def is_failure(finding: LintFinding, least: Level) -> bool:
    return not finding.ignored and finding.level.reaches(least)


def suite(pod: Place, findings: list[LintFinding], least: Level) -> str:
    failures = sum(is_failure(finding, least) for finding in findings)
    skipped = sum(bool(finding.ignored) for finding in findings)
    cases = [case(finding, least) for finding in findings]
    if not cases:
        cases = [f"    <testcase name={attribute('no finding')} classname={attribute(pod.about)}/>"]
    counts = f'tests="{len(cases)}" failures="{failures}" skipped="{skipped}"'
    head = f"  <testsuite name={attribute(pod.about)} {counts}>"
    return "\n".join([head, *cases, "  </testsuite>"])


def case(finding: LintFinding, least: Level) -> str:
    name = attribute(f"{finding.rule.id} {finding.place}")
    text = "\n".join((str(finding.place), finding.what, finding.instead, *finding.lines))
    head = f"    <testcase name={name} classname={attribute(finding.object.about)}"
    if finding.ignored:
        inside = f"<skipped message={attribute(finding.ignored)}/>"
    elif is_failure(finding, least):
        told = f"message={attribute(finding.what)} type={attribute(finding.level)}"
        inside = f"<failure {told}>{escape(legal(text))}</failure>"
    else:
        inside = f"<system-out>{escape(legal(text))}</system-out>"
    return f"{head}>{inside}</testcase>"


def attribute(text: str) -> str:
    return quoteattr(legal(text))


def legal(text: str) -> str:
    """XML 1.0 has no way to write control characters."""
    return "\n".join(map(printable, text.split("\n")))
