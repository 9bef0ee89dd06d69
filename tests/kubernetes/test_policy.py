"""What the admission policies of the examples let the holder of the sidecar's token do.

Their expressions are evaluated as the API server would, by another implementation of CEL. What only
the API server does (immutable fields, RBAC) is not in here.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe.kubernetes.condition import TYPE
from probe.kubernetes.departure import CLAIMED, LABEL
from probe.kubernetes.departure import LEASE as CLAIM
from probe.kubernetes.events import Note, event_of
from probe.kubernetes.identity import Identity
from probe.kubernetes.quarantine import LEASES, MARK
from tests.kubernetes.manifests import Manifest, of_kind

POLICY = "ValidatingAdmissionPolicy"
Change = Callable[[Manifest], object]
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"
POD: Manifest = {
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u1",
        "generation": 1,
        "labels": {"app": "web", "pod-template-hash": "6d4c"},
        "annotations": {"prometheus.io/scrape": "true"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web-6d4c", "controller": True}],
    },
    "spec": {
        "containers": [{"name": "web", "image": "web:1"}],
        "initContainers": [{"name": "probe", "image": "accept-probe:0.1.0"}],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
        "terminationGracePeriodSeconds": 30,
    },
}


def expressions(resource: str, example: str) -> tuple[list[str], list[str]]:
    """The conditions and the validations of an example's policy for `pods` or another resource."""
    for policy in of_kind(example, POLICY):
        (rule,) = policy["spec"]["matchConstraints"]["resourceRules"]
        if rule["resources"] == [resource]:
            assert policy["spec"]["failurePolicy"] == "Fail"
            conditions = policy["spec"]["matchConditions"]
            return (
                [condition["expression"] for condition in conditions],
                [rule["expression"] for rule in policy["spec"]["validations"]],
            )
    raise AssertionError(resource)


def holds(expression: str, context: dict[str, Any]) -> bool:
    """Whether it is true; an expression that fails is not (failurePolicy: Fail)."""
    for name in context:  # celq takes no variable that is null
        expression = f"[given.{name}].all({name}, {expression})"
    celq = str(Path(sys.executable).with_name("celq"))
    command = [
        celq,
        "--null-input",
        "--void",
        "--boolean",
        "--no-extensions",
        f"--arg=given:map={json.dumps(context)}",
        expression,
    ]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode in (0, 1, 2), ran.stderr
    return ran.returncode == 0


def allowed(
    resource: str,
    old: Manifest | None,
    new: Manifest | None,
    token: str | None = "web-1",
    example: str = "quarantine",
) -> bool:
    extra = {POD_NAME: [token], POD_UID: [f"uid-of-{token}"]} if token else {}
    named = new or old
    assert named is not None
    request = {
        "namespace": "shop",
        "name": named["metadata"]["name"],
        "userInfo": {"username": f"system:serviceaccount:shop:web-{example}", "extra": extra},
    }
    context = {"request": request, "object": new, "oldObject": old}
    conditions, validations = expressions(resource, example)
    assert all(holds(condition, context) for condition in conditions)
    return all(holds(validation, context) for validation in validations)


def put(*path: str, value: Any) -> Change:
    def change(target: Manifest) -> None:
        for key in path[:-1]:
            target = target.setdefault(key, {})
        target[path[-1]] = value

    return change


def drop(*path: str) -> Change:
    def change(target: Manifest) -> None:
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def labels(**values: str) -> Change:
    return lambda pod: pod["metadata"]["labels"].update(
        {MARK if key == "mark" else key: value for key, value in values.items()}
    )


def changed(pod: Manifest, *changes: Change) -> Manifest:
    pod = copy.deepcopy(pod)
    for change in changes:
        change(pod)
    return pod


ASIDE = changed(POD, labels(mark="held", app="web-quarantined"))


def test_what_quarantine_does_is_allowed() -> None:
    assert allowed("pods", POD, POD)  # an empty patch reads
    aside = changed(
        ASIDE,
        put("metadata", "annotations", f"{MARK}-until", value="2026-11-22T11:10:48Z"),
        put("metadata", "resourceVersion", value="7"),
        put("metadata", "generation", value=2),
        put("spec", "activeDeadlineSeconds", value=3600),
    )
    assert allowed("pods", POD, aside)
    bare = changed(POD, drop("metadata", "annotations"))
    withdrawn = changed(bare, put("metadata", "annotations", f"{MARK}-withdrawn", value="6"))
    assert allowed("pods", bare, withdrawn)
    assert allowed("pods", withdrawn, changed(withdrawn, labels(mark="held")))


@pytest.mark.parametrize(
    "change",
    [
        labels(app="payments"),
        labels(tier="backend"),
        labels(app="web-quarantined"),
        labels(mark="free"),
        drop("metadata", "labels", "pod-template-hash"),
        drop("metadata", "labels"),
        put("metadata", "annotations", "prometheus.io/scrape", value="false"),
        put(
            "metadata", "annotations", "cluster-autoscaler.kubernetes.io/safe-to-evict", value="no"
        ),
        drop("metadata", "annotations", "prometheus.io/scrape"),
        put("metadata", "ownerReferences", value=[{"kind": "ReplicaSet", "name": "payments"}]),
        drop("metadata", "ownerReferences"),
        put("metadata", "finalizers", value=["example.com/never"]),
        put("spec", "containers", value=[{"name": "web", "image": "other"}]),
        put("spec", "initContainers", value=[]),
        put("spec", "tolerations", value=[{"operator": "Exists"}]),
        put("spec", "terminationGracePeriodSeconds", value=1),
        drop("spec", "tolerations"),
        put("spec", "schedulingGates", value=[{"name": "example.com/wait"}]),
        put("spec", "nodeSelector", value={"disk": "fast"}),
    ],
)
def test_nothing_else_of_a_pod_may_change(change: Change) -> None:
    assert not allowed("pods", POD, changed(POD, change))


@pytest.mark.parametrize("change", [drop("metadata", "labels", MARK), labels(mark="free")])
def test_a_pod_in_quarantine_stays_there(change: Change) -> None:
    assert allowed("pods", ASIDE, changed(ASIDE))
    assert not allowed("pods", ASIDE, changed(ASIDE, change))


@pytest.mark.parametrize("token", ["web-2", "", None])
def test_no_other_pod_may_be_changed(token: str | None) -> None:
    assert not allowed("pods", POD, POD, token)
    assert not allowed("leases", None, lease(), token)
    assert not allowed("leases", lease(), None, token)
    assert not allowed("events", None, event(), token)


def lease() -> Manifest:
    """What quarantine creates, as it stands in its request."""
    return {
        "metadata": {
            "name": f"{LEASES}-replicaset-web-6d4c-0",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "uid-of-web-1"}
            ],
        },
        "spec": {"holderIdentity": "web-1"},
    }


def test_a_place_of_the_own_pod_may_be_taken_and_given_back() -> None:
    assert allowed("leases", None, lease())
    assert allowed("leases", lease(), None)


OWNER = lease()["metadata"]["ownerReferences"][0]


@pytest.mark.parametrize(
    "change",
    [
        put("metadata", "name", value=f"{LEASES}-replicaset-payments-6d4c-0"),
        put("metadata", "name", value=f"{LEASES}-replicaset-web-6d4c-100"),
        put("metadata", "name", value=f"{LEASES}-replicaset-web-6d4c"),
        put("metadata", "name", value=f"x-{LEASES}-replicaset-web-6d4c-0"),
        put("metadata", "name", value="kube-scheduler"),
        put("metadata", "labels", value={"a": "b"}),
        put("metadata", "annotations", value={"a": "b"}),
        put("metadata", "finalizers", value=["example.com/never"]),
    ],
)
def test_no_other_lease_may_be_made(change: Change) -> None:
    assert not allowed("leases", None, changed(lease(), change))


@pytest.mark.parametrize(
    "change",
    [
        drop("metadata", "ownerReferences"),
        put("metadata", "ownerReferences", value=[]),
        put("metadata", "ownerReferences", value=[OWNER, OWNER]),
        *(
            put("metadata", "ownerReferences", value=[OWNER | other])
            for other in (
                {"name": "web-2"},
                {"uid": "uid-of-web-2"},
                {"kind": "Node"},
                {"apiVersion": "v2"},
            )
        ),
    ],
)
def test_no_lease_may_be_touched_but_what_the_own_pod_owns(change: Change) -> None:
    another = changed(lease(), change)
    assert not allowed("leases", None, another)
    assert not allowed("leases", another, None)
    assert not allowed("leases", another, lease())
    assert not allowed("leases", lease(), another)


def event() -> Manifest:
    note = Note(("8080",), "AcceptQueueStalled", "TakeOutOfService", "8080 stalled", 1.8e9)
    return event_of(note, Identity("web-1", "shop", "u1"))


def test_events_about_the_own_pod_are_allowed() -> None:
    assert allowed("events", None, event())
    assert allowed("events", event(), changed(event(), put("series", value={"count": 2})))


@pytest.mark.parametrize(
    "change",
    [
        put("regarding", "name", value="web-2"),
        put("regarding", "kind", value="Node"),
        put("reportingController", value="kubelet"),
        put("related", value={"kind": "Pod", "name": "web-2"}),
        put("metadata", "labels", value={"a": "b"}),
        put("metadata", "annotations", value={"a": "b"}),
        put("metadata", "finalizers", value=["example.com/never"]),
        put("metadata", "ownerReferences", value=[{"kind": "Pod", "name": "web-1"}]),
    ],
)
def test_no_other_event_may_be_written(change: Change) -> None:
    assert not allowed("events", None, changed(event(), change))
    assert not allowed("events", event(), changed(event(), change))


# --- the floor


def claim() -> Manifest:
    """What the floor creates, as it stands in its request."""
    return {
        "metadata": {
            "name": f"{CLAIM}-uid-of-web-1",
            "labels": {LABEL: CLAIMED},
            "ownerReferences": [OWNER],
        },
        "spec": {"holderIdentity": "web-1"},
    }


def test_the_own_claim_may_be_made_and_given_back() -> None:
    assert allowed("leases", None, claim(), example="floor")
    assert allowed("leases", claim(), None, example="floor")


@pytest.mark.parametrize(
    "change",
    [
        put("metadata", "name", value=f"{CLAIM}-uid-of-web-2"),
        put("metadata", "name", value="kube-scheduler"),
        put("metadata", "ownerReferences", value=[OWNER | {"uid": "uid-of-web-2"}]),
        put("metadata", "ownerReferences", value=[OWNER | {"name": "web-2"}]),
        put("metadata", "ownerReferences", value=[]),
        drop("metadata", "ownerReferences"),
        put("metadata", "labels", value={LABEL: CLAIMED, "a": "b"}),
        drop("metadata", "labels"),
        put("metadata", "annotations", value={"a": "b"}),
        put("metadata", "finalizers", value=["example.com/never"]),
    ],
)
def test_no_other_claim_may_be_made(change: Change) -> None:
    assert not allowed("leases", None, changed(claim(), change), example="floor")


def test_no_claim_may_be_changed_nor_that_of_another_given_back() -> None:
    renewed = changed(claim(), put("spec", "holderIdentity", value="web-2"))
    assert not allowed("leases", claim(), renewed, example="floor")
    assert not allowed("leases", claim(), None, "web-2", example="floor")
    assert not allowed("leases", None, claim(), None, example="floor")


# --- the condition

STATUS: Manifest = POD | {
    "status": {
        "phase": "Running",
        "podIP": "10.1.0.7",
        "conditions": [
            {"type": "Ready", "status": "False"},
            {"type": "Initialized", "status": "True"},
        ],
    }
}


def condition(status: str = "True", **more: str) -> Manifest:
    return {"type": TYPE, "status": status, "reason": "Accepting", "message": "m"} | more


def with_condition(status: str = "True", **more: str) -> Change:
    return lambda pod: pod["status"]["conditions"].append(condition(status, **more))


@pytest.mark.parametrize("pod", [STATUS, changed(STATUS, drop("status", "conditions"))])
def test_the_own_condition_may_be_set(pod: Manifest) -> None:
    bare = changed(pod, put("status", "conditions", value=pod["status"].get("conditions", [])))
    true = changed(bare, with_condition())
    false = changed(bare, with_condition("False", reason="AcceptQueueStalled"))
    assert allowed("pods/status", pod, true, example="gate")
    assert allowed("pods/status", true, false, example="gate")
    assert not allowed("pods/status", pod, true, "web-2", example="gate")
    assert not allowed("pods/status", pod, true, None, example="gate")


@pytest.mark.parametrize(
    "change",
    [
        with_condition("Unknown"),
        with_condition(message="m" * 1025),
        put("metadata", "labels", "app", value="payments"),
        put("metadata", "annotations", "a", value="b"),
        drop("metadata", "annotations"),
        put("metadata", "finalizers", value=["example.com/never"]),
        put("metadata", "ownerReferences", value=[]),
        put("status", "phase", value="Failed"),
        put("status", "podIP", value="10.1.0.8"),
        drop("status", "podIP"),
        put("status", "message", value="m"),
        put("status", "conditions", value=[{"type": "Ready", "status": "True"}]),
        put("status", "conditions", value=[{"type": "Ready", "status": "False"}]),
        lambda pod: pod["status"]["conditions"].append({"type": "other", "status": "True"}),
    ],
)
def test_nothing_else_of_a_status_may_change(change: Change) -> None:
    assert not allowed("pods/status", STATUS, changed(STATUS, change), example="gate")


@pytest.mark.parametrize(("example", "number"), [("quarantine", 3), ("floor", 1), ("gate", 1)])
def test_each_policy_is_bound(example: str, number: int) -> None:
    policies = {item["metadata"]["name"] for item in of_kind(example, POLICY)}
    bindings = of_kind(example, f"{POLICY}Binding")
    assert {binding["spec"]["policyName"] for binding in bindings} == policies
    assert len(policies) == number
    for binding in bindings:
        assert binding["spec"]["validationActions"] == ["Deny"]


def test_a_sidecar_evicts_no_pod_but_its_own_and_lets_it_end() -> None:
    """The name in a request for a subresource is that of the pod."""
    eviction: Manifest = {"kind": "Eviction", "metadata": {"name": "web-1", "namespace": "shop"}}

    def may(new: Manifest, token: str | None = "web-1") -> bool:
        return allowed("pods/eviction", None, new, token, "evict")

    assert may(eviction)
    assert may(changed(eviction, put("deleteOptions", "preconditions", "uid", value="u1")))
    assert not may(eviction, "web-2")
    assert not may(eviction, None)
    assert not may(changed(eviction, put("deleteOptions", "gracePeriodSeconds", value=0)))
    assert allowed("events", None, event(), "web-1", "evict")
    assert not allowed("events", None, event(), "web-2", "evict")
