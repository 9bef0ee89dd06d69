"""JUnit XML: one suite for each object, one case for each finding."""

from probe.junit import Case, CaseKind, Suite
from probe.junit import render as write
from probe.lint.records import Level, LintFinding, LintReport, Place


def render(report: LintReport, least: Level) -> str:
    mine: dict[Place, list[LintFinding]] = {pod: [] for pod in report.pods}
    for finding in report.findings:
        mine[finding.object].append(finding)
    return write("probe lint", (suite(pod, findings, least) for pod, findings in mine.items()))


def suite(pod: Place, findings: list[LintFinding], least: Level) -> Suite:
    cases = tuple(case(finding, least) for finding in findings)
    return Suite(pod.about, cases or (Case("no finding", pod.about),))


def case(finding: LintFinding, least: Level) -> Case:
    text = "\n".join((str(finding.place), finding.what, finding.instead, *finding.lines))
    found = Case(f"{finding.rule.id} {finding.place}", finding.object.about, text=text)
    if finding.ignored:
        return found._replace(kind=CaseKind.SKIPPED, message=finding.ignored, text="")
    if finding.level.reaches(least):
        return found._replace(kind=CaseKind.FAILED, message=finding.what, type=finding.level)
    return found
