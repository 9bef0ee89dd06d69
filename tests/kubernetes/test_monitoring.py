"""The alerts fire when they should, and every query asks for a metric that is really there."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from probe.api.metrics import Metrics
from probe.api.status import About
from probe.model import (
    Condition,
    Listener,
    Observation,
    Outcome,
    Phases,
    Policy,
    Reason,
    RoundTrip,
    Sample,
    Stage,
    Target,
    Verdict,
)
from probe.sidecar.board import Board
from tests.faults.harness import application, flowing, sidecar, watched
from tests.faults.test_faults import STALLED, TRAFFIC
from tests.kubernetes.dashboard import (
    ALL,
    POD,
    Prometheus,
    dashboard,
    panels,
    prometheus,
    rules,
)
from tests.kubernetes.manifests import EXAMPLES, of_kind
from tests.support import PATIENCE, until_equal

DOCS = Path(__file__).parents[2] / "docs"
RULE_TESTS = Path(__file__).with_name("rules.test.yaml")
SCRAPED = {"namespace", "pod", "container", "instance", "job", "le"}
"""Labels that Prometheus adds, and that of a histogram's buckets."""

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here (Debian package: prometheus)"
)


def queries() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    marked = [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    offered = [
        re.sub(r"^label_values\((.*), (\w+)\)$", r"count by (\2) (\1)", variable["definition"])
        for variable in dashboard()["templating"]["list"]
        if variable["type"] == "query"
    ]
    return [*shown, *marked, *offered, *(rule["expr"] for rule in rules())]


def promtool(*arguments: str | Path) -> None:
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    (manifest,) = of_kind("monitoring", "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"]))
    shutil.copy(RULE_TESTS, tmp_path)
    promtool("check", "rules", tmp_path / "rules.yaml")
    promtool("test", "rules", tmp_path / RULE_TESTS.name)


def test_every_alert_is_tested() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules()}


@needs_promtool
def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    promtool("check", "rules", file)


@needs_promtool
def test_a_stage_that_is_first_seen_at_one_is_shown(tmp_path: Path) -> None:
    (panel,) = (panel for panel in panels() if panel["title"] == "Failures by stage")
    (query,) = (target["expr"] for target in panel["targets"])
    query = query.replace("$__rate_interval", "1m")
    series = "acceptprobe_round_trip_failures_total"
    labels = 'namespace="shop", pod="web-1", target="8080"'
    test = {
        "interval": "15s",
        "input_series": [
            {"series": f'{series}{{{labels}, stage="queued"}}', "values": "_x8 1x20"},
            {"series": f'{series}{{{labels}, stage="reset"}}', "values": "7x20"},
        ],
        "promql_expr_test": [
            {"expr": re.sub(r"\$\w+", ".+", query), "eval_time": at, "exp_samples": shown}
            for at, shown in (
                ("1m45s", []),
                ("2m15s", [{"labels": '{target="8080", stage="queued"}', "value": 1}]),
                ("4m", []),
            )
        ],
    }
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", tmp_path / "shown.yaml")


@pytest.mark.parametrize("full", [False, True])
def test_every_query_asks_for_a_metric_that_is_there(full: bool) -> None:
    there = metrics(full=full)
    asked = set()
    for query in queries():
        for name, matchers in re.findall(r"(acceptprobe_\w+)(?:\{([^}]*)\})?", query):
            assert name in there, query
            labels = set(re.findall(r'(\w+)=~?"', matchers))
            assert labels <= there[name] | SCRAPED, query
            for value in re.findall(r'(?:reason|condition)="(\w+)"', matchers):
                assert value in {*Reason, *Condition}
            asked.add(name)
    assert len(asked) > 15


def metrics(*, full: bool) -> dict[str, set[str]]:
    """Each series of a board that has seen everything, with its labels."""
    board = Board([Target(8080)])
    view = Metrics(board, About("sock_diag", Policy(), board.clock()), full=full)
    listener = Listener(2, "0.0.0.0", 8080, 1, 3, 5, 0, 1, 0)
    failed = RoundTrip(
        1.0, Outcome.FAILED, Stage.UNANSWERED, "", None, True, Phases(0.1, 0.1, 0.1, 0.1, 0.1)
    )
    for at, drops in ((1.0, 0), (2.0, 1)):
        sample = Sample((listener._replace(drops=drops),), accepts=int(at))
        board.publish("8080", Observation(at, sample, failed), Verdict("8080"), None)
    view.sampled(0.001)
    view.pulse(0.001)
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(view.render().decode()):
        for one in family.samples:
            series.setdefault(one.name, set()).update(one.labels)
    return series


def test_every_alert_leads_to_its_runbook() -> None:
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook_url"].removeprefix("docs/").partition("#")
        headings = re.findall(r"^## (.+)$", (DOCS / page).read_text(), re.MULTILINE)
        assert anchor == rule["alert"].lower()
        assert anchor in [heading.lower() for heading in headings]


def test_prometheus_finds_the_sidecar() -> None:
    """By the name of the port, which every example gives it."""
    (monitor,) = of_kind("monitoring", "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (deployment,) = of_kind("quickstart", "Deployment")
    (probe,) = deployment["spec"]["template"]["spec"]["initContainers"]
    assert endpoint["port"] == probe["ports"][0]["name"]
    assert endpoint["path"] == "/metrics"


def test_the_dashboard_is_as_it_was_designed() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["targets"]
    places = [panel["gridPos"] for panel in everything]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert (EXAMPLES / "monitoring" / "accept-probe.json").read_text().endswith("}\n")


def nothing(values: Collection[float]) -> bool:
    return not values


def some(values: Collection[float]) -> bool:
    return bool(values)


def zero(values: Collection[float]) -> bool:
    return some(values) and not any(values)


def one(values: Collection[float]) -> bool:
    return some(values) and set(values) == {1}


def more(values: Collection[float]) -> bool:
    return some(values) and min(values) > 0


Look = Callable[[Collection[float]], bool]
SHOWN: dict[str, tuple[Look, Look, Look]] = {
    "Ready A": (one, zero, one),
    "Why not A": (nothing, one, nothing),
    "Would be restarted A": (nothing, zero, nothing),
    "Times out of service A": (zero, one, one),
    "Saturation A": (some, lambda ratios: some(ratios) and min(ratios) >= 1, some),
    "Length and limit A": (some, more, some),
    "Length and limit B": (more, more, more),
    "Accept delay A": (more, nothing, more),
    "Accept delay B": (more, nothing, more),
    "Accept delay C": (nothing, more, nothing),
    "Drops and accepts A": (zero, more, zero),
    "Drops and accepts B": (more, some, more),
    "Duration A": (more, nothing, more),
    # A failure is shown for a while, and a stall makes no second one.
    "Failures by stage A": (nothing, nothing, nothing),
    "Unknown A": (zero, zero, zero),
    "Loop lag A": (some, some, some),
    "CPU A": (some, some, some),
    "Memory A": (more, more, more),
}
"""What each query of a panel shows before, during and after the incident."""

BEFORE, DURING, AFTER = range(3)

CHOSEN = {**POD, "target": "8080"}


def await_panels(real: Prometheus, moment: int) -> None:
    """Fail when a query of a panel does not come to show what it should at this moment."""
    deadline = time.monotonic() + PATIENCE
    while wrong := {
        name: values
        for name, query in shown_queries().items()
        for values in (real.now(query, CHOSEN),)
        if not SHOWN[name][moment](values.values())
    }:
        assert time.monotonic() < deadline, wrong
        time.sleep(0.1)


def shown_queries() -> dict[str, dict[str, str]]:
    return {
        f"{panel['title']} {target['refId']}": target
        for panel in panels()
        for target in panel["targets"]
    }


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here (Debian package: prometheus)"
)
def test_the_panels_show_an_incident_before_during_and_after(tmp_path: Path) -> None:
    options = ("--live-after", "4s", "--evidence-dir", str(tmp_path / "evidence"))
    without_target = {**POD, "pod": "web-2"}
    with (
        application("--port", "8080", "--backlog", "20") as app,
        watched(app, *options) as watching,
        sidecar() as discovering,
        flowing(sys.executable, str(TRAFFIC), "8080", "5", "200"),
        prometheus(tmp_path, 0.5, {watching.port: POD, discovering.port: without_target}) as real,
    ):
        assert shown_queries().keys() == SHOWN.keys()
        await_panels(real, BEFORE)
        begun = time.time()
        app.tell("die")
        watching.until(20, **STALLED)
        watching.until(20, live=False)
        await_panels(real, DURING)
        until_equal(real.firing, {"AcceptQueueStalled", "AcceptQueueOverflowing"})
        app.end()
        with application("--port", "8080"):
            watching.until(20, condition="healthy", ready=True)
            await_panels(real, AFTER)

        over_all = {
            name: {series.legend for series in real.shows(query, ALL, begun, step=0.5)}
            for name, query in shown_queries().items()
        }
        assert over_all["Ready A"] == {"web-1 8080"}  # Nobody asks whether a discovered one is.
        assert {"web-1 8080", "web-2 8080"} <= over_all["Saturation A"]
        assert over_all["Failures by stage A"] == {"8080 queued"}
        assert all(over_all.values())
        (saved,) = dashboard()["annotations"]["list"]
        marks = real.shows({**saved, "legendFormat": saved["titleFormat"]}, CHOSEN, begun, step=0.5)
        assert [mark.legend for mark in marks] == ["evidence of web-1 8080 was saved"]

        offered = {
            variable["name"]: real.offers(variable, ALL)
            for variable in dashboard()["templating"]["list"]
            if variable["type"] == "query"
        }
        assert offered["namespace"] == ["shop"]
        assert offered["pod"] == ["web-1", "web-2"]
        assert "8080" in offered["target"]
