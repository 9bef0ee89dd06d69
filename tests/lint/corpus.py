"""The corpus: manifests after the forms that public charts have, and what is to be found in each.

`findings.txt` has a line for each finding, under the name of its file: line, level, rule. A file
without lines has nothing wrong with it.
"""

from pathlib import Path

from probe.lint import LintReport, lint
from probe.manifests import Object, documents, objects

FOLDER = Path(__file__).parent / "corpus"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix != ".txt")

Row = tuple[int, str, str]


def expected() -> dict[str, list[Row]]:
    table: dict[str, list[Row]] = {}
    rows: list[Row] = []
    for line in (FOLDER / "findings.txt").read_text().splitlines():
        if line.startswith(" "):
            number, level, rule = line.split()
            rows.append((int(number), level, rule))
        else:
            rows = table.setdefault(line, [])
    return table


def read(text: str, file: str = "manifests.yaml") -> list[Object]:
    return [item for document in documents(text) for item in objects(file, document)]


def report_of(name: str) -> LintReport:
    return lint(read((FOLDER / name).read_text(), name))


def rows(report: LintReport) -> list[Row]:
    return sorted(
        (finding.place.line, "ignored" if finding.ignored else finding.level, finding.rule.id)
        for finding in report.findings
    )
