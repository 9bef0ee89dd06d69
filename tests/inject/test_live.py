"""What was read from a cluster: cleaned, and told to `kubectl apply` in whole."""

import json
from typing import Any

import pytest
import yaml

from probe.inject.edit import Page, inject, uninject
from probe.inject.plan import Options
from probe.inject.record import Wishes

LIVE = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  annotations:
    deployment.kubernetes.io/revision: "4"
    kubectl.kubernetes.io/last-applied-configuration: |
      {"apiVersion":"apps/v1"}
  creationTimestamp: "2026-11-26T02:12:43Z"
  generation: 2
  name: web
  namespace: shop
  resourceVersion: "210"
  uid: 4b3d5255-8dc4-41e0-ab34-7ba369d25100
spec:
  template:
    metadata:
      creationTimestamp: null
      labels:
        app: web
    spec:
      containers:
      - image: registry.example/web:1
        livenessProbe:
          exec:
            command:
            - pgrep
            - web
          failureThreshold: 3
          initialDelaySeconds: 60
        name: web
        ports:
        - containerPort: 8080
          name: http
        readinessProbe:
          httpGet:
            path: /ready
            port: http
            scheme: HTTPS
status:
  observedGeneration: 2
"""


def changed(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(inject([Page("-", text)], Options()).pages[0].text)
    return found


def test_nothing_stays_of_what_a_cluster_adds() -> None:
    result = changed(LIVE)
    assert "status" not in result
    annotations = {"deployment.kubernetes.io/revision": "4"}
    assert result["metadata"] == {"annotations": annotations, "name": "web", "namespace": "shop"}
    (back,) = uninject([Page("-", LIVE)]).pages
    assert yaml.safe_load(back.text)["metadata"] == result["metadata"]


@pytest.mark.parametrize("last", [True, False])
def test_what_stands_first_or_alone_goes_too(last: bool) -> None:
    revision = '    deployment.kubernetes.io/revision: "4"\n'
    alone = LIVE.replace(revision, "")
    first = alone.replace("  annotations:\n", "").replace(
        '    kubectl.kubernetes.io/last-applied-configuration: |\n      {"apiVersion":"apps/v1"}\n',
        "",
    )
    assert changed(alone if last else first)["metadata"] == {"name": "web", "namespace": "shop"}


def test_a_file_that_looks_like_it_stays_as_it_is() -> None:
    text = LIVE.replace("  uid: 4b3d5255-8dc4-41e0-ab34-7ba369d25100\n", "")
    after = inject([Page("web.yaml", text)], Options()).pages
    assert "observedGeneration" in after[0].text
    assert uninject(after).pages == (Page("web.yaml", text),)


def test_what_is_replaced_is_taken_out_by_name() -> None:
    """`kubectl apply` merges with what is there: of an object that was created and never applied it
    takes nothing out, and two handlers in one probe are refused.
    """
    (web,) = changed(LIVE)["spec"]["template"]["spec"]["containers"]
    assert web["readinessProbe"] is None
    assert web["livenessProbe"]["exec"] is None
    assert web["livenessProbe"]["initialDelaySeconds"] is None
    assert web["livenessProbe"]["httpGet"] == {"path": "/live", "port": 9809}
    https = LIVE.replace(
        "exec:\n            command:\n            - pgrep\n            - web", "x: 1"
    )
    https = https.replace("x: 1", "httpGet: {path: /, port: 1, scheme: HTTPS}")
    (web,) = changed(https)["spec"]["template"]["spec"]["containers"]
    assert web["livenessProbe"]["httpGet"] == {"path": "/live", "port": 9809, "scheme": None}


def from_cluster(text: str, *, as_json: bool = False) -> str:
    """As kubectl gives back what was applied: without the nulls, and live again."""
    data = without_nulls(yaml.safe_load(text))
    data["metadata"]["uid"] = "1-2"
    if as_json:
        return json.dumps(data, indent=4, sort_keys=True)
    return yaml.safe_dump(data)


def without_nulls(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: without_nulls(of) for key, of in data.items() if of is not None}
    return [without_nulls(of) for of in data] if isinstance(data, list) else data


def test_it_comes_back_from_the_cluster() -> None:
    after = inject([Page("-", LIVE)], Options()).pages[0].text
    (back,) = uninject([Page("-", from_cluster(after))]).pages
    before = yaml.safe_load(LIVE)["spec"]["template"]["spec"]["containers"]
    assert yaml.safe_load(back.text)["spec"]["template"]["spec"]["containers"] == before


@pytest.mark.parametrize("as_json", [False, True])
def test_a_second_time_starts_no_rollout(as_json: bool) -> None:
    before = from_cluster(LIVE, as_json=as_json)
    after = inject([Page("-", before)], Options()).pages[0].text
    again = inject([Page("-", from_cluster(after, as_json=as_json))], Options()).pages[0].text
    templates = [without_nulls(yaml.safe_load(text))["spec"]["template"] for text in (after, again)]
    assert templates[0] == templates[1]


def test_what_a_user_said_is_known_to_the_cluster() -> None:
    text = LIVE.replace("port: http\n", "port: 1\n")
    after = inject([Page("-", text)], Options(Wishes(ports=(9000,)))).pages[0].text
    result = yaml.safe_load(inject([Page("-", from_cluster(after))], Options()).pages[0].text)
    (ours,) = result["spec"]["template"]["spec"]["initContainers"]
    assert "--port=9000" in ours["args"]
