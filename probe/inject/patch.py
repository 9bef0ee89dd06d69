"""The same changes as a patch for kustomize, by themselves or in a component."""

from collections.abc import Iterable
from typing import Any

from probe.inject.changes import Drop, KeyPath, Put, apply, index_of, reached
from probe.inject.plan import Plan
from probe.inject.writing import Style, entry, lines
from probe.manifests import Pod, Value

TEMPLATE: KeyPath = ("spec", "template")
WHERE: dict[tuple[str, str], KeyPath] = {
    ("apps", "Deployment"): TEMPLATE,
    ("apps", "StatefulSet"): TEMPLATE,
    ("apps", "DaemonSet"): TEMPLATE,
    ("apps", "ReplicaSet"): TEMPLATE,
    ("batch", "Job"): TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *TEMPLATE),
    ("", "ReplicationController"): TEMPLATE,
    ("", "Pod"): (),
}
"""Whose lists are merged by the names of their items. Of anything else kustomize takes a list for a
whole, and a patch would take the other containers away."""


class NoPatch(Exception):
    """str() says why there can be none."""


def patch(pod: Pod, plan: Plan) -> dict[str, Any]:
    """A strategic merge patch. Raises NoPatch."""
    owner = pod.owner
    where = WHERE.get((owner.group, owner.kind))
    name = owner.root.get("metadata", "name").text
    if where is None:
        raise NoPatch(f"kustomize would replace the lists of a {owner.kind}, and not add to them")
    if not name:
        raise NoPatch("it has no name that kustomize could find it by")
    tree: Any = {}
    for change in plan.changes:
        tree = apply([as_patch(change, pod.template)], tree)
    for key in reversed(where):
        tree = {key: tree}
    metadata = {"name": name} | ({"namespace": owner.namespace} if owner.namespace else {})
    head = {"apiVersion": owner.root.get("apiVersion").text, "kind": owner.kind}
    return {**head, "metadata": metadata, **tree}


def as_patch(change: Put | Drop, template: Value) -> Put:
    if isinstance(change, Drop):
        return Put(change.path, None)
    parent, missing = reached(template, change.path)
    if missing == change.path and index_of(parent, missing) is not None:
        return Put(change.path, {"$patch": "replace", **change.data})
    return change


def page(patches: Iterable[dict[str, Any]]) -> str:
    return "---\n".join("\n".join(lines(one, Style())) + "\n" for one in patches)


def component(patches: Iterable[dict[str, Any]]) -> str:
    """A kustomization.yaml that others name under `components`."""
    head = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
    written = [*lines(head, Style()), "patches:"]
    for one in patches:
        group = str(one["apiVersion"]).rpartition("/")[0]
        target = {
            **({"group": group} if group else {}),
            "kind": one["kind"],
            "name": one["metadata"]["name"],
        }
        first, *rest = entry("target", target, Style())
        written += [f"  - {first}", *(f"    {line}" for line in rest), "    patch: |-"]
        written += [f"      {line}" for line in lines(one, Style())]
    return "\n".join(written) + "\n"
