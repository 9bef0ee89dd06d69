"""JSON, for programs. Fields are added and not renamed."""

import json
from typing import Any

from probe import __version__
from probe.lint.records import Level, LintFinding, LintReport, Place


def render(report: LintReport, least: Level) -> str:
    document = {
        "version": __version__,
        "failed": report.fails(least),
        "objects": report.objects,
        "pods": [{**of_place(pod), "object": pod.about} for pod in report.pods],
        "findings": [of_finding(finding) for finding in report.standing],
        "ignored": [
            {**of_finding(finding), "reason": finding.ignored} for finding in report.ignored
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def of_finding(finding: LintFinding) -> dict[str, Any]:
    return {
        "rule": finding.rule.id,
        "level": finding.level,
        "object": finding.object.about,
        **of_place(finding.place),
        "message": finding.what,
        "instead": finding.instead,
        "lines": list(finding.lines),
        "related": [{**of_place(place), "message": place.about} for place in finding.related],
    }


def of_place(place: Place) -> dict[str, Any]:
    return {"file": place.file, "line": place.line, "column": place.column}
