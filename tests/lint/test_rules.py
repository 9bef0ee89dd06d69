"""The edges of the rules: one manifest, a bit of it changed, and what of it is said then."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.lint import ALL_RULES, NAMES, lint
from probe.lint.formats import FORMATS
from probe.lint.records import Level
from probe.manifests import NotYaml
from tests.lint.corpus import FILES, FOLDER, read, rows

GOOD = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      containers:
      - name: web
        image: registry.example/web:1
        ports: [{name: http, containerPort: 8080}]
        lifecycle: {preStop: {sleep: {seconds: 4}}}
        readinessProbe: {httpGet: {path: /ready, port: http}, timeoutSeconds: 2, periodSeconds: 5}
        livenessProbe: {httpGet: {path: /live, port: 8080}, timeoutSeconds: 5, failureThreshold: 6}
"""

SIDECAR = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}, annotations: {accept-probe/port: "8080"}}
    spec:
      shareProcessNamespace: true
      securityContext: {runAsUser: 101, runAsGroup: 101}
      initContainers:
        - name: probe
          image: accept-probe:0.1.0
          restartPolicy: Always
          args: [serve, --port=8080, --evidence-dir=/evidence]
          startupProbe: {httpGet: {path: /live, port: 9809}, periodSeconds: 1, failureThreshold: 60}
          readinessProbe:
            exec: {command: [probe, check, --sidecar]}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 1
          volumeMounts: [{name: evidence, mountPath: /evidence}]
      containers:
        - name: web
          image: registry.example/web:1
          livenessProbe: {httpGet: {path: /live, port: 9809}, periodSeconds: 5, failureThreshold: 6}
      volumes: [{name: evidence, emptyDir: {}}]
"""


def found(text: str) -> list[str]:
    return [f"{level} {rule}" for _, level, rule in rows(lint(read(text)))]


def changed(text: str, before: str, after: str) -> str:
    assert text.count(before) == 1, before
    return text.replace(before, after)


def test_what_is_right_is_left_alone() -> None:
    assert found(GOOD) == []
    assert found(SIDECAR) == []


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        # The Service asks for the port in every way there is.
        ("targetPort: http}", "targetPort: 8080}", []),
        ("targetPort: http}", 'targetPort: "8080"}', []),
        ("port: 80, targetPort: http}", "port: 8080}", []),
        ("targetPort: http}", "targetPort: web}", ["error service-port-undeclared"]),
        (
            "targetPort: http}",
            "targetPort: 9090}",
            ["error traffic-port-unprobed", "note probe-port-not-traffic"],
        ),
        (
            "containerPort: 8080",
            "containerPort: 8080, protocol: UDP",
            ["error service-port-undeclared"],
        ),
        ("spec:\n  selector: {app", "spec:\n  type: ExternalName\n  selector: {app", []),
        # The probe asks in every way there is.
        (
            "{path: /ready, port: http}",
            "{path: /ready, port: 8081}",
            ["error traffic-port-unprobed"],
        ),
        ("httpGet: {path: /ready, port: http}", "grpc: {port: 8080}", []),
        ("httpGet: {path: /ready, port: http}", "exec: {command: [is-it-well]}", []),
        (
            "httpGet: {path: /ready, port: http}",
            "exec: {command: [wget, -q, 'http://127.0.0.1:8081/']}",
            ["error traffic-port-unprobed"],
        ),
        (
            "httpGet: {path: /ready, port: http}",
            "exec: {command: [sh, -c, 'curl localhost:8081 && check']}",
            [],
        ),
        (
            "httpGet: {path: /ready, port: http}",
            "exec: {command: [/probe/bin/probe, check, --port=8081]}",
            ["error traffic-port-unprobed"],
        ),
        (
            "httpGet: {path: /ready, port: http}",
            "exec: {command: [/probe/bin/probe, check, --port=8080]}",
            [],
        ),
        ("httpGet: {path: /ready, port: http}", "tcpSocket: {port: 8080}", ["warning tcp-probe"]),
        # The Service selects it or not.
        ("selector: {app: web}", "selector: {app: web, tier: front}", []),
        ("metadata: {labels: {app: web, tier: front}}", "metadata: {labels: {app: other}}", []),
        # Names that are looked up in another container are not found.
        (
            "{path: /ready, port: http}",
            "{path: /ready, port: https}",
            ["error probe-port-undeclared"],
        ),
        # The same question, asked with less and with more patience.
        ("{path: /live, port: 8080}", "{path: /ready, port: 8080}", []),
        (
            "{path: /live, port: 8080}, timeoutSeconds: 5, failureThreshold: 6",
            "{path: /ready, port: 8080}, timeoutSeconds: 5, periodSeconds: 2, failureThreshold: 2",
            ["warning liveness-equals-readiness"],
        ),
        (
            "timeoutSeconds: 5, failureThreshold: 6",
            "timeoutSeconds: 3",
            ["warning liveness-kills-busy"],
        ),
        ("timeoutSeconds: 5, failureThreshold: 6", "timeoutSeconds: 4", []),
        ("timeoutSeconds: 2, periodSeconds: 5", "timeoutSeconds: 2, periodSeconds: 9", []),
        (
            "timeoutSeconds: 2, periodSeconds: 5",
            "timeoutSeconds: 2, periodSeconds: 10",
            ["note readiness-slow"],
        ),
        # And what is missing altogether.
        ("lifecycle: {preStop: {sleep: {seconds: 4}}}", "tty: false", ["note no-prestop"]),
        (
            "readinessProbe: "
            "{httpGet: {path: /ready, port: http}, timeoutSeconds: 2, periodSeconds: 5}",
            "stdin: false",
            ["warning no-readiness"],
        ),
    ],
)
def test_a_bit_of_it_changed(before: str, after: str, rules: list[str]) -> None:
    assert found(changed(GOOD, before, after)) == rules


@pytest.mark.parametrize(
    ("before", "after", "rules"),
    [
        # Where its arguments come from does not matter, as long as it can be seen.
        ("args: [serve, --port=8080,", "args: [serve, '--port=$(P)', ", []),
        (
            "args: [serve, --port=8080,",
            "env: [{name: P, value: '8080'}]\n          args: [serve, '--port=$(P)',",
            [],
        ),
        (
            "args: [serve, --port=8080,",
            "env: [{name: P, value: '80a'}]\n          args: [serve, '--port=$(P)',",
            ["error sidecar-arguments"],
        ),
        (
            "args: [serve, --port=8080,",
            "env: [{name: PROBE_PORT, valueFrom: {fieldRef: {fieldPath: "
            "\"metadata.annotations['accept-probe/port']\"}}}]\n          args: [serve,",
            [],
        ),
        (
            "args: [serve, --port=8080,",
            "env: [{name: PROBE_LIVE_AFTERR, value: 1m}]\n          args: [serve, --port=8080,",
            ["warning sidecar-arguments"],
        ),
        ("args: [serve, --port=8080,", "envFrom: [{}]\n          args: [serve,", []),
        ("args: [serve, --port=8080,", "args: [serve,", ["warning sidecar-arguments"]),
        ("args: [serve, --port=8080,", "args: [serve, --port=9809,", ["error sidecar-arguments"]),
        ("args: [serve, --port=8080,", "args: [serve, --config=/no/such, ", []),
        (
            "[probe, check, --sidecar]",
            "[probe, check, --sidecar, --timeout=2h]",
            ["error sidecar-arguments"],
        ),
        # A secret of a header may be there without being seen.
        (
            "args: [serve, --port=8080,",
            "args: [serve, --port=8080, '--header=X: ${env:TOKEN}',",
            ["error sidecar-arguments"],
        ),
        (
            "args: [serve, --port=8080,",
            "env: [{name: TOKEN, valueFrom: {secretKeyRef: {name: a, key: b}}}]\n"
            "          args: [serve, --port=8080, '--header=X: ${env:TOKEN}',",
            [],
        ),
        (
            "args: [serve, --port=8080,",
            "envFrom: [{}]\n          args: [serve, --port=8080, '--header=X: ${env:TOKEN}',",
            [],
        ),
        # What the evidence needs.
        ("shareProcessNamespace: true", "hostPID: true", []),
        ("shareProcessNamespace: true", "hostIPC: true", ["warning sidecar-processes"]),
        ("{runAsUser: 101, runAsGroup: 101}", "{runAsUser: 101}", ["warning sidecar-user"]),
        ("{runAsUser: 101, runAsGroup: 101}", "{runAsUser: 0, runAsGroup: 0}", []),
        (", mountPath: /evidence}", ", mountPath: /}", []),
        (", mountPath: /evidence}", ", mountPath: /evident}", ["warning sidecar-evidence"]),
        (", --evidence-dir=/evidence", "", ["warning sidecar-evidence"]),
        (", --evidence-dir=/evidence", ", --config=/etc/probe.yaml", []),
        # Who asks it what.
        ("failureThreshold: 1\n", "failureThreshold: 2\n", ["warning sidecar-thresholds"]),
        ("timeoutSeconds: 3\n", "timeoutSeconds: 1\n", ["warning sidecar-thresholds"]),
        (
            "exec: {command: [probe, check, --sidecar]}",
            "httpGet: {path: '/ready?verbose', port: 9809}",
            [],
        ),
        ("exec: {command: [probe, check, --sidecar]}", "grpc: {port: 9809, service: ready}", []),
        ("exec: {command: [probe, check, --sidecar]}", "grpc: {port: 9809}", []),
        (
            "exec: {command: [probe, check, --sidecar]}",
            "httpGet: {path: /live, port: 9809}",
            ["error sidecar-probes", "error sidecar-probes"],
        ),
        (
            "exec: {command: [probe, check, --sidecar]}",
            "grpc: {port: 9809, service: live}",
            ["error sidecar-probes", "error sidecar-probes"],
        ),
        (
            "periodSeconds: 5, failureThreshold: 6",
            "periodSeconds: 5",
            ["warning sidecar-thresholds"],
        ),
        (
            "livenessProbe: "
            "{httpGet: {path: /live, port: 9809}, periodSeconds: 5, failureThreshold: 6}",
            "tty: false",
            ["warning sidecar-probes"],
        ),
        (
            "{path: /live, port: 9809}, periodSeconds: 1,",
            "{path: /started, port: 9809}, periodSeconds: 1,",
            ["error startup-deadlock"],
        ),
        ("accept-probe:0.1.0", "registry.example/accept-probe", ["warning sidecar-image"]),
        ("accept-probe:0.1.0", "registry.example:5000/accept-probe@sha256:00", []),
        ("accept-probe:0.1.0", "accept-probe:0.9.0", ["note sidecar-image"]),
        ("accept-probe:0.1.0", "accept-probe:our-build", []),
        # Telling the cluster.
        ("--evidence-dir=/evidence]", "--evidence-dir=/evidence, --kube-events]", None),
        ("--evidence-dir=/evidence]", "--evidence-dir=/evidence, --kube-condition]", None),
        ("--evidence-dir=/evidence]", "--evidence-dir=/evidence, --floor=50%]", None),
    ],
)
def test_a_bit_of_the_sidecar_changed(before: str, after: str, rules: list[str] | None) -> None:
    expected = ["warning sidecar-account"] if rules is None else rules
    assert found(changed(SIDECAR, before, after)) == expected


def test_who_may_tell_the_cluster() -> None:
    told = changed(SIDECAR, "/evidence]", "/evidence, --kube-events]").replace(
        "shareProcessNamespace", "serviceAccountName: web\n      shareProcessNamespace"
    )
    assert found(told) == []
    without = told.replace("shareProc", "automountServiceAccountToken: false\n      shareProc")
    assert found(without) == ["error sidecar-account"]


def test_what_it_takes_to_end_a_container() -> None:
    """Without it, and without a liveness probe, nobody restarts what has stalled."""
    probe = (
        "livenessProbe: {httpGet: {path: /live, port: 9809}, periodSeconds: 5, failureThreshold: 6}"
    )
    asked = changed(SIDECAR, "/evidence]", "/evidence, --on-stall=terminate]")
    alone = changed(asked, probe, "tty: false")
    assert found(asked) == found(alone) == []
    for bit, rule in (
        ("shareProcessNamespace: true", "sidecar-processes"),
        (", runAsGroup: 101", "sidecar-user"),
    ):
        assert found(changed(asked, bit, "")) == [f"warning {rule}"]
        assert found(changed(alone, bit, "")) == [f"error {rule}"]


def test_sidecar_in_a_container_of_its_own_counts_as_the_probe_of_its_targets() -> None:
    service = GOOD.partition("---")[0].replace("targetPort: http", "targetPort: 8080")
    assert found(f"{service}---{SIDECAR}") == ["note no-prestop"]
    watching = changed(SIDECAR, "--port=8080", "--port=8081")
    assert "error traffic-port-unprobed" in found(f"{service}---{watching}")


def test_a_reason_is_needed_to_ignore() -> None:
    bad = changed(GOOD, "path: /ready, port: http", "path: /ready, port: 8081")
    workload = "metadata: {name: web}\nspec:\n  replicas"
    for reason, rules in (
        ("traffic-port-unprobed: 8081 asks 8080 itself", ["ignored traffic-port-unprobed"]),
        ("traffic-port-unprobed:", ["warning lint-ignore", "error traffic-port-unprobed"]),
        ("everything: please", ["warning lint-ignore", "error traffic-port-unprobed"]),
    ):
        annotated = (
            f"metadata: {{name: web, annotations: {{accept-probe/lint-ignore: '{reason}'}}}}"
        )
        assert found(changed(bad, workload, f"{annotated}\nspec:\n  replicas")) == rules


def test_a_service_is_held_against_what_stands_nearest() -> None:
    """Two folders with the same labels, as overlays have: neither is the other's."""
    other = GOOD.replace("targetPort: http", "targetPort: 9090").replace("8080", "9090")
    one = read(GOOD, "one/web.yaml")
    two = read(other.replace("port: http", "port: 9090"), "two/web.yaml")
    assert rows(lint([*one, *two])) == []
    # A Service that stands alone is held against all that it selects: here 9090 is not asked.
    alone = two[0]._replace(file="services/web.yaml")
    found_by = lint([alone, *one, two[1]])
    assert [finding.place.file for finding in found_by.findings] == ["one/web.yaml"]
    assert [finding.rule.id for finding in found_by.findings] == ["traffic-port-unprobed"]


KEYS = st.sampled_from(
    ["spec", "template", "metadata", "containers", "ports", "port", "httpGet", "readinessProbe"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(KEYS, children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(FILES), at=st.integers(0, 10_000), tree=TREES, cut=st.booleans())
def test_whatever_stands_there_a_report_comes_of_it(
    name: str, at: int, tree: object, cut: bool
) -> None:
    """A line of a manifest made into anything, or left out: no rule takes anything for granted."""
    lines = (FOLDER / name).read_text().splitlines()
    index = at % len(lines)
    head, colon, _ = lines[index].partition(": ")
    lines[index : index + 1] = [] if cut else [f"{head}{colon}{json.dumps(tree)}"]
    try:
        report = lint(read("\n".join(lines)))
    except NotYaml:
        return
    for render in FORMATS.values():
        assert render(report, Level.NOTE)


def test_rules_have_what_a_table_needs() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for rule in ALL_RULES:
        for sentence in (rule.harm, rule.remedy):
            assert sentence.endswith(".")
            assert sentence[0].isupper() or sentence.startswith("kubelet")
        assert not rule.seen.endswith(".")
        assert rule.example.endswith("\n")


def test_aliases_cost_no_more_than_their_lines() -> None:
    """Thirty lists of ten aliases each, thirty merges, and a mapping that has itself inside."""
    lists = "".join(
        f"l{n}: &l{n} {{apiVersion: v1, kind: List, items: [{f'*l{n - 1}, ' * 10}]}}\n"
        f"m{n}: &m{n} {{<<: [{f'*m{n - 1}, ' * 10}], k{n}: 1}}\n"
        for n in range(1, 30)
    )
    bomb = (
        f"l0: &l0 {{}}\nm0: &m0 {{}}\n{lists}apiVersion: v1\nkind: List\n"
        "items:\n- *l29\n- &self {apiVersion: v1, kind: Thing, spec: *self, metadata: *m29}\n"
    )
    report = lint(read(bomb))
    assert report.objects == 1
    assert not report.findings


@settings(max_examples=200, deadline=None)
@given(st.text() | st.binary().map(lambda content: content.decode("latin-1")))
def test_any_text_is_objects_or_no_yaml(text: str) -> None:
    with suppress(NotYaml):
        assert not lint(read(text)).findings
