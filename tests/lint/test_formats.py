"""Each format is what its readers take."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest

from probe.display import printable
from probe.lint import ALL_RULES, LintReport, lint
from probe.lint.formats import FORMATS, text
from probe.lint.records import Level
from tests.lint.corpus import FILES, FOLDER, read, report_of

SCHEMA = json.loads((Path(__file__).parent / "sarif.schema.json").read_text())

HOSTILE = (
    (FOLDER / "incident.yaml")
    .read_text()
    .replace("name: shop", 'name: "\\e[31m::error::%0A]]>,\\"<&é\\x00"')
)


@pytest.fixture(params=[*FILES, "hostile"])
def report(request: pytest.FixtureRequest) -> LintReport:
    if request.param == "hostile":
        return lint(read(HOSTILE, "a folder/it's %20 ü.yaml"))
    return report_of(request.param)


def test_text_fits_a_terminal_and_moves_no_cursor(report: LintReport) -> None:
    told = text.render(report, Level.WARNING)
    lines = told.splitlines()
    # What cannot be broken, a line of YAML or a long name, may stand out.
    assert all(len(line) <= 80 or len(line.split()) < 4 or "/" in line for line in lines), told
    assert all(line.isprintable() for line in lines)
    painted = text.render(report, Level.WARNING, colour=True)
    assert re.sub(r"\x1b\[\d*m", "", painted) == told
    for finding in report.standing:
        assert printable(f"  {finding.place}  {finding.level}  {finding.rule.id}") in lines


def test_sarif_is_of_its_schema(report: LintReport) -> None:
    document = json.loads(FORMATS["sarif"](report, Level.WARNING))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(document, SCHEMA)
    (run,) = document["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.id for rule in ALL_RULES]
    assert len(run["results"]) == len(report.findings)
    for result, finding in zip(run["results"], report.findings, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.rule.id
        assert ("suppressions" in result) is bool(finding.ignored)


def test_the_schema_refuses_what_it_should(report: LintReport) -> None:
    document = json.loads(FORMATS["sarif"](report, Level.WARNING))
    wrongs: tuple[dict[str, object], ...] = ({"version": "2.0"}, {"runs": []}, {"else": 1})
    for wrong in wrongs:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **wrong}, SCHEMA)


def test_a_fingerprint_outlives_a_line_more() -> None:
    manifest = (FOLDER / "incident.yaml").read_text()

    def prints(content: str) -> list[str]:
        document = json.loads(FORMATS["sarif"](lint(read(content)), Level.NOTE))
        results = document["runs"][0]["results"]
        return [result["partialFingerprints"]["probeLint/v1"] for result in results]

    assert prints(manifest) == prints(f"# a comment\n\n{manifest}")
    assert len(set(prints(manifest))) == len(prints(manifest))


def test_json_has_all_of_it(report: LintReport) -> None:
    document = json.loads(FORMATS["json"](report, Level.WARNING))
    assert document["failed"] is report.fails(Level.WARNING)
    assert [finding["line"] for finding in document["findings"]] == [
        finding.place.line for finding in report.standing
    ]
    assert all(finding["reason"] for finding in document["ignored"])
    for finding in document["findings"]:
        assert {"rule", "level", "object", "file", "column", "message", "lines"} <= finding.keys()


def test_junit_is_xml_and_counts_right(report: LintReport) -> None:
    for least in Level:
        # Our own output, and no document type in it.
        root = ElementTree.fromstring(FORMATS["junit"](report, least))
        cases = list(root.iter("testcase"))
        assert int(root.attrib["tests"]) == len(cases)
        failures = list(root.iter("failure"))
        assert int(root.attrib["failures"]) == len(failures)
        assert bool(failures) is report.fails(least)
        assert len(list(root.iter("skipped"))) == len(report.ignored)
        assert len(root) == len(report.pods)


COMMAND = re.compile(
    r"::(error|warning|notice) file=([^,]*),line=(\d+),col=(\d+),title=([^,:]*)::(.+)"
)


def test_github_has_one_command_a_finding(report: LintReport) -> None:
    *commands, _ = FORMATS["github"](report, Level.WARNING).splitlines()
    assert len(commands) == len(report.standing)
    for command, finding in zip(commands, report.standing, strict=True):
        matched = COMMAND.fullmatch(command)
        assert matched, command
        assert int(matched[3]) == finding.place.line
        assert finding.rule.id in matched[5]
        assert finding.place.file.endswith(matched[2][-4:])
