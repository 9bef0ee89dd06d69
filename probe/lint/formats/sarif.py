"""SARIF 2.1.0, for code scanning: docs.oasis-open.org/sarif/sarif/v2.1.0."""

import hashlib
import json
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from probe import __version__
from probe.lint.check import ALL_RULES
from probe.lint.records import Level, LintFinding, LintReport, Place, Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
STANDARD_INPUT = "-"


def render(report: LintReport, least: Level) -> str:
    """`least` changes nothing: whoever reads it decides by the levels."""
    del least
    driver = {
        "name": "probe lint",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [of_rule(rule) for rule in ALL_RULES],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [of_finding(finding) for finding in report.findings],
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2) + "\n"


def of_rule(rule: Rule) -> dict[str, Any]:
    about = f"{rule.harm}\n\n{rule.remedy}\n\n```yaml\n{rule.example}```\n"
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.seen}."},
        "fullDescription": {"text": f"{rule.seen}. {rule.harm}"},
        "help": {"text": f"{rule.harm} {rule.remedy}\n\n{rule.example}", "markdown": about},
        "defaultConfiguration": {"level": rule.level},
    }


def of_finding(finding: LintFinding) -> dict[str, Any]:
    lines = "".join(f"\n    {line}" for line in finding.lines)
    result: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "ruleIndex": ALL_RULES.index(finding.rule),
        "level": finding.level,
        "message": {"text": f"{finding.what} {finding.instead}{lines}"},
        "locations": [
            {
                **of_place(finding.place),
                "logicalLocations": [
                    {"fullyQualifiedName": finding.object.about, "kind": "resource"}
                ],
            }
        ],
        # Of what it is about and not of its line: a line more above it makes no new finding.
        "partialFingerprints": {"probeLint/v1": fingerprint(finding)},
    }
    if finding.related:
        result["relatedLocations"] = [
            {**of_place(place), "id": number, "message": {"text": place.about}}
            for number, place in enumerate(finding.related, 1)
        ]
    if finding.ignored:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.ignored}]
    return result


def of_place(place: Place) -> dict[str, Any]:
    uri = "stdin" if place.file == STANDARD_INPUT else quote(PurePath(place.file).as_posix())
    region = {"startLine": place.line, "startColumn": place.column}
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}


def fingerprint(finding: LintFinding) -> str:
    told = "\0".join((finding.rule.id, finding.object.about, finding.place.file, finding.what))
    return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:32]
