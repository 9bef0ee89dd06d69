"""Nothing but what is to be found is found, in the line where it stands."""

import pytest

from probe.lint import NAMES, Level
from tests.lint.corpus import FILES, FOLDER, expected, report_of, rows

EXPECTED = expected()


@pytest.mark.parametrize("name", FILES)
def test_what_is_found(name: str) -> None:
    report = report_of(name)
    assert rows(report) == sorted(EXPECTED[name])
    assert report.objects


def test_the_table_has_every_file_and_no_other() -> None:
    assert list(EXPECTED) == FILES
    assert len(FILES) >= 30


def test_every_rule_is_found_somewhere_and_not_everywhere() -> None:
    found = [{rule for _, _, rule in rows} for rows in EXPECTED.values()]
    for name in NAMES:
        assert any(name in rules for rules in found), name
        assert sum(name in rules for rules in found) < len(found) / 2, name


def test_the_sentence_of_the_incident() -> None:
    """In the manifest of the incident, the first thing that is said is what would have mattered."""
    finding, *others = report_of("incident.yaml").findings
    assert finding.rule.id == "traffic-port-unprobed"
    assert finding.level is Level.ERROR
    assert finding.what == (
        "Service shop sends traffic to port 8080, and no readiness probe asks it: that of "
        "container shop asks 8081 (/health). When nothing accepts on 8080 any more, the kernel "
        "goes on completing handshakes there, and 8081 goes on answering: the pod stays Ready, "
        "keeps its share of the traffic (one request in 10), and every request in it waits until "
        "it times out."
    )
    lines = (FOLDER / "incident.yaml").read_text().splitlines()
    assert lines[finding.place.line - 1].strip() == "port: 8081"
    (related,) = finding.related
    assert lines[related.line - 1].strip() == "- port: 80"
    assert not any(other.level is Level.ERROR for other in others)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spring-management.yaml", "add-additional-paths"),
        ("quarkus.yaml", "quarkus.management.enabled"),
        ("micronaut.yaml", "endpoints.all.port"),
        ("akka.yaml", "Akka Management"),
    ],
)
def test_the_frameworks_that_set_the_trap_are_named(name: str, says: str) -> None:
    finding = report_of(name).findings[0]
    assert finding.rule.id == "traffic-port-unprobed"
    assert says in finding.instead
    assert any("port: http" in line or "port: 8080" in line for line in finding.lines)
