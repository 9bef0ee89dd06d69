"""The examples are what inject makes of them without the sidecar: one source says what is good."""

import copy

import pytest
import yaml

from probe.inject.edit import Page, inject
from probe.inject.plan import Options
from probe.inject.record import ANNOTATION, Wishes
from tests.kubernetes.manifests import Manifest, build, sidecar, without_sidecar

WISHES = {
    "evict": Wishes(further=("--kube-events", "--on-stall=evict")),
    "exit": Wishes(further=("--on-stall=exit",)),
    "quickstart": Wishes(),
    "classic-sidecar": Wishes(),
    "grpc": Wishes(),
    "java": Wishes(further=("--jvm-attach",)),
    "multi-port": Wishes(
        urls=("http://:8080/ping", "http://:8000", "tcp://:6380"),
    ),
    "quarantine": Wishes(
        further=(
            "--kube-events",
            "--on-stall=quarantine",
            "--quarantine-label=app=web-quarantined",
            "--quarantine-max=1",
            "--quarantine-for=1h",
        )
    ),
    "tls": Wishes(
        urls=("https://:8443?ca_file=/tls/tls.crt&server_name=web.example.internal",),
    ),
}
"""What a user says of each, besides its manifests."""


def built(name: str) -> list[Manifest]:
    """One's own copy."""
    return copy.deepcopy(list(build(name)))


def workload(manifests: list[Manifest]) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    return found


def pod_spec(manifests: list[Manifest]) -> Manifest:
    spec: Manifest = workload(manifests)["spec"]["template"]["spec"]
    return spec


def injected(manifests: list[Manifest], options: Options) -> list[Manifest]:
    done = inject([Page("web.yaml", yaml.safe_dump_all(manifests))], options)
    assert not [remark.what for remark in done.remarks if remark.level]
    return list(yaml.safe_load_all(done.pages[0].text))


@pytest.mark.parametrize("name", WISHES)
def test_an_example_is_what_inject_makes_of_its_plain_form(name: str) -> None:
    example = [one for one in built(name) if one["kind"] in ("Deployment", "Service")]
    plain = without_sidecar(example)
    assert sidecar(pod_spec(plain)) is None
    made = injected(plain, Options(WISHES[name], classic=name == "classic-sidecar"))
    annotations = workload(made)["spec"]["template"]["metadata"].pop("annotations")
    assert list(annotations) == [ANNOTATION]
    for spec in (pod_spec(made), pod_spec(example)):
        spec["volumes"].sort(key=lambda volume: volume["name"])
    assert made == example


def test_the_component_adds_the_same() -> None:
    """But for what it cannot know beforehand: the port."""
    by_component = sidecar(pod_spec(built("component")))
    by_inject = sidecar(pod_spec(injected(without_sidecar(built("component")), Options())))
    assert by_component is not None
    assert by_inject is not None
    assert by_component["env"][0]["name"] == "PROBE_PORT"
    assert by_component["env"][1:] == by_inject["env"]
    for one in (by_component, by_inject):
        del one["env"], one["args"]
    assert by_component == by_inject
