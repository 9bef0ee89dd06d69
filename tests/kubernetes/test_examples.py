"""Each example is what `kubectl apply -k` takes, and says what it means to.

The schemas are Kubernetes' own OpenAPI, strict: an unknown field is an error. Custom resources are
not in it; the Prometheus operator's are checked in test_monitoring.
"""

import kubernetes_validate
import pytest

from probe import exits
from probe.config import load
from probe.kubernetes.condition import TYPE
from probe.kubernetes.identity import MOUNT
from probe.model import Protocol
from tests.kubernetes.manifests import (
    EXAMPLES,
    NAMES,
    build,
    containers,
    of_kind,
    pod_specs,
    sidecar,
)

OLDEST = {"classic-sidecar": "1.25", "exec-in-app": "1.25", "quarantine": "1.30", "exit": "1.35"}
NATIVE_SIDECARS = "1.30"
"""On by default since 1.29, and `preStop.sleep` since 1.30."""
NEWEST = "1.37"
OPERATORS = "monitoring.coreos.com/v1"
RESTARTED_BY_LIVENESS = ("classic-sidecar", "component", "quarantine")
SIDECARS = [name for name in NAMES for spec in pod_specs(name) if sidecar(spec)]


def test_every_example_is_built() -> None:
    assert NAMES == [
        "classic-sidecar",
        "component",
        "evict",
        "exec-in-app",
        "exit",
        "floor",
        "gate",
        "grpc",
        "java",
        "monitoring",
        "multi-port",
        "quarantine",
        "quickstart",
        "tls",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_kubernetes_takes_it(name: str) -> None:
    assert build(name)
    for manifest in build(name):
        if manifest["apiVersion"] != OPERATORS:
            for version in (OLDEST.get(name, NATIVE_SIDECARS), NEWEST):
                kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_services_and_deployments_find_their_pods(name: str) -> None:
    for deployment in of_kind(name, "Deployment"):
        template = deployment["spec"]["template"]
        labels = template["metadata"]["labels"].items()
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
        ports = {
            port["name"] for one in containers(template["spec"]) for port in one.get("ports", ())
        }
        for service in of_kind(name, "Service"):
            assert service["spec"]["selector"].items() <= labels
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports - {"probe"}


@pytest.mark.parametrize("name", SIDECARS)
def test_the_sidecar_starts_with_its_arguments(name: str) -> None:
    """The arguments are read by probe itself; the port is one that the application has."""
    (deployment,) = of_kind(name, "Deployment")
    template = deployment["spec"]["template"]
    probe = sidecar(template["spec"])
    assert probe is not None
    command, *arguments = probe["args"]
    environment = {}
    if port := template["metadata"].get("annotations", {}).get("accept-probe/port"):
        environment["PROBE_PORT"] = port
    config = load(command, arguments, environment)
    assert not config.notices
    mounts = {mount["mountPath"] for mount in probe["volumeMounts"]}
    assert config.evidence.dir in mounts
    ports = {
        port["containerPort"]
        for one in template["spec"]["containers"]
        for port in one.get("ports", ())
    }
    assert {target.port for target in config.targets} <= ports
    assert config.listen.port == probe["ports"][0]["containerPort"]
    if "quarantine" in config.response.on_stall:
        changed = {label for label, _ in config.response.quarantine_labels}
        for service in of_kind(name, "Service"):
            assert changed & service["spec"]["selector"].keys()
        assert changed & deployment["spec"]["selector"]["matchLabels"].keys()


def test_each_protocol_is_shown() -> None:
    shown = set()
    for name in SIDECARS:
        (spec,) = pod_specs(name)
        probe = sidecar(spec)
        assert probe is not None
        shown |= {
            target.protocol
            for target in load("serve", probe["args"][1:], {"PROBE_PORT": "8080"}).targets
        }
    # One is for who is not to be asked; the other is told in docs/protocols.md.
    assert shown == set(Protocol) - {Protocol.QUEUE, Protocol.FASTCGI}


@pytest.mark.parametrize("name", SIDECARS)
def test_probes_ask_the_sidecar(name: str) -> None:
    (spec,) = pod_specs(name)
    probe = sidecar(spec)
    assert probe is not None
    if name == "gate":
        # Ready is what the condition says, of whom the sidecar's own absence says nothing.
        assert "readinessProbe" not in probe
        assert spec["readinessGates"] == [{"conditionType": TYPE}]
    else:
        assert probe["readinessProbe"]["grpc"] == {"port": 9809, "service": "ready"}
    (application,) = (one for one in spec["containers"] if one is not probe)
    liveness = application.get("livenessProbe")
    # Where the sidecar answers a stall by itself, nobody is restarted because it is away.
    assert (liveness is not None) is (name in RESTARTED_BY_LIVENESS)
    if liveness:
        assert liveness["httpGet"] == {"path": "/live", "port": 9809}
        # Two restarts of the sidecar, kubelet's back-off between them included, are outlived.
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 30
        assert liveness["terminationGracePeriodSeconds"] == 10
    native = probe in spec.get("initContainers", ())
    assert (probe.get("restartPolicy") == "Always") is native
    assert native is (name != "classic-sidecar")
    if native:
        # /ready or /started would wait for an application that waits for it.
        startup = probe["startupProbe"]
        assert startup["httpGet"] == {"path": "/live", "port": 9809}
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert probe["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "monitoring"])
def test_an_application_that_ends_is_let_go_of_first(name: str) -> None:
    for spec in pod_specs(name):
        (application,) = (one for one in spec["containers"] if one["name"] != "probe")
        assert application["lifecycle"]["preStop"]


@pytest.mark.parametrize("name", SIDECARS)
def test_evidence_is_permitted(name: str) -> None:
    """Same user and group, and one process namespace: what the audit of the threads needs."""
    (spec,) = pod_specs(name)
    assert spec["shareProcessNamespace"] is True
    security = spec["securityContext"]
    assert security["runAsUser"]
    assert security["runAsGroup"]
    for one in containers(spec):
        assert not {"runAsUser", "runAsGroup"} & one.get("securityContext", {}).keys()


@pytest.mark.parametrize("name", NAMES)
def test_nobody_has_more_rights_than_needed(name: str) -> None:
    for spec in pod_specs(name):
        for one in containers(spec):
            if name == "component" and one["name"] != "probe":
                continue  # it stands for an application that knows nothing of us
            security = spec["securityContext"] | one["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["runAsNonRoot"] is True
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        if name != "component":
            assert spec["automountServiceAccountToken"] is False


def test_the_token_is_the_sidecars_alone() -> None:
    for name in NAMES:
        for spec in pod_specs(name):
            projected = {
                volume["name"] for volume in spec.get("volumes", ()) if "projected" in volume
            }
            holders = [
                (one["name"], mount["mountPath"])
                for one in containers(spec)
                for mount in one.get("volumeMounts", ())
                if mount["name"] in projected
            ]
            assert holders == ([("probe", str(MOUNT))] if name in RIGHTS else [])


EVENTS = {("events.k8s.io", "events", "create"), ("events.k8s.io", "events", "patch")}
LEASES = {("coordination.k8s.io", "leases", verb) for verb in ("create", "get", "delete")}
CLAIMS = {("coordination.k8s.io", "leases", verb) for verb in ("create", "list", "delete")}
RIGHTS = {
    "quarantine": EVENTS | LEASES | {("", "pods", "patch")},
    "evict": EVENTS | {("", "pods/eviction", "create")},
    "floor": CLAIMS | {("discovery.k8s.io", "endpointslices", "list")},
    "gate": {("", "pods/status", "patch")},
}


@pytest.mark.parametrize("example", RIGHTS)
def test_the_role_is_what_the_requests_need(example: str) -> None:
    (role,) = of_kind(example, "Role")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == RIGHTS[example]
    (spec,) = pod_specs(example)
    (account,) = of_kind(example, "ServiceAccount")
    (binding,) = of_kind(example, "RoleBinding")
    name = account["metadata"]["name"]
    assert spec["serviceAccountName"] == binding["subjects"][0]["name"] == name
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    for policy in of_kind(example, "ValidatingAdmissionPolicy"):
        assert f":{name}'" in policy["spec"]["matchConditions"][0]["expression"]


def test_images_are_named_with_their_version() -> None:
    for name in NAMES:
        for spec in pod_specs(name):
            for one in containers(spec):
                _, colon, tag = one["image"].rpartition(":")
                assert colon, one["image"]
                assert tag != "latest"


def test_quickstart_says_why() -> None:
    text = (EXAMPLES / "quickstart" / "deployment.yaml").read_text()
    for choice in (
        "shareProcessNamespace",
        "automountServiceAccountToken",
        "runAsUser",
        "seccompProfile",
        "restartPolicy",
        "readinessProbe",
        "timeoutSeconds",
        "failureThreshold: 1",
        "--on-stall=terminate",
        "startupProbe",
        "terminationMessagePolicy",
        "lifecycle",
        "memory: 192Mi",
        "capabilities: {drop",
        "- name: evidence\n          emptyDir",
    ):
        before = text[: text.index(choice)].splitlines()
        assert any("#" in line for line in before[-3:]), choice


def test_the_rule_restarts_all_for_the_status_that_the_sidecar_ends_with() -> None:
    (spec,) = pod_specs("exit")
    probe = sidecar(spec)
    assert probe is not None
    assert probe["restartPolicyRules"] == [
        {
            "action": "RestartAllContainers",
            "exitCodes": {"operator": "In", "values": [exits.STALLED]},
        }
    ]


def test_the_budget_lets_a_pod_go_that_is_not_ready() -> None:
    (budget,) = of_kind("evict", "PodDisruptionBudget")
    (deployment,) = of_kind("evict", "Deployment")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
