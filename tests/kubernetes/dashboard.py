"""The dashboard as Grafana would ask for it: its variables and panels, put to a real Prometheus."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.kubernetes.manifests import of_kind

PORT = 9090
POD = {"namespace": "shop", "pod": "web-1"}
"""Labels that a PodMonitor gives to what it scrapes."""

ALL = {"namespace": ".*", "pod": ".*", "target": ".*"}
"""What the variables stand for when nothing is chosen."""

READY_WITHIN = 20.0
"""Seconds until Prometheus serves."""


class Series(NamedTuple):
    """One line of a panel."""

    legend: str
    points: tuple[tuple[float, float], ...]
    """Time in seconds since the epoch, and value; what is not a number is left out, as Grafana
    draws nothing there."""


def dashboard() -> dict[str, Any]:
    (manifest,) = of_kind("monitoring", "ConfigMap")
    board = json.loads(manifest["data"]["accept-probe.json"])
    assert isinstance(board, dict)
    return board


def panels() -> list[dict[str, Any]]:
    """Those that show something; rows are only headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    (manifest,) = of_kind("monitoring", "PrometheusRule")
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


class Prometheus:
    """A real one on loopback, which scrapes sidecars."""

    def __init__(self, interval: float) -> None:
        """`interval`: of its scrapes, in seconds."""
        self._url = f"http://127.0.0.1:{PORT}/api/v1/"
        self.rate_interval = f"{4000 * interval:.0f}ms"
        """Grafana's $__rate_interval, when zoomed in: four scrapes."""

    def api(self, path: str, **arguments: str | float) -> Any:
        """What it answers; raises HTTPError for a query that it does not understand."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self._url}{path}?{query}", timeout=5) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    def offers(self, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> list[str]:
        """The values of a variable of the dashboard, as Grafana asks for them."""
        asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
        assert asked, variable["definition"]
        selector = resolve(asked[1], chosen)
        return [
            str(value) for value in self.api(f"label/{asked[2]}/values", **{"match[]": selector})
        ]

    def shows(
        self, target: Mapping[str, str], chosen: Mapping[str, str], begin: float, step: float
    ) -> list[Series]:
        """The series of one query of a panel, from a time until now."""
        query = resolve(target["expr"], {**chosen, "__rate_interval": self.rate_interval})
        found = self.api("query_range", query=query, start=begin, end=time.time(), step=step)
        return sorted(
            Series(
                legend(target["legendFormat"], one["metric"]),
                tuple((at, float(value)) for at, value in one["values"] if value != "NaN"),
            )
            for one in found["result"]
        )

    def now(self, target: Mapping[str, str], chosen: Mapping[str, str]) -> dict[str, float]:
        """The last values of one query of a panel, by their legends."""
        query = resolve(target["expr"], {**chosen, "__rate_interval": self.rate_interval})
        return {
            legend(target["legendFormat"], one["metric"]): float(one["value"][1])
            for one in self.api("query", query=query)["result"]
            if one["value"][1] != "NaN"
        }

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = self.api("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


def resolve(query: str, variables: Mapping[str, str]) -> str:
    """As Grafana does it; fails for a variable that nobody defines."""
    return re.sub(r"\$(\w+)", lambda found: variables[found[1]], query)


def legend(template: str, labels: Mapping[str, str]) -> str:
    """As Grafana writes it; fails for a label that the series has not."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels[found[1]], template)


@contextmanager
def prometheus(
    folder: Path, interval: float, sidecars: Mapping[int, dict[str, str]]
) -> Iterator[Prometheus]:
    """One that scrapes the sidecars at these ports, with their pods' labels, and has our alerts."""
    every = f"{interval * 1000:.0f}ms"
    (manifest,) = of_kind("monitoring", "PrometheusRule")
    (folder / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"]))
    scraped = [
        {"targets": [f"127.0.0.1:{port}"], "labels": labels} for port, labels in sidecars.items()
    ]
    config = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "pods", "static_configs": scraped}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{PORT}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + READY_WITHIN
        while not serves():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.05)
        yield Prometheus(interval)
    finally:
        process.kill()
        process.wait()


def serves() -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/-/ready", timeout=5):
            return True
    except OSError:  # Not yet listening, or 503 while it starts.
        return False
