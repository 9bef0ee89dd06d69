"""kustomize makes of a patch, or of the component, what inject makes of the manifest."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from probe.cli import main
from probe.inject.record import ANNOTATION
from tests.kubernetes.manifests import Manifest, kubectl
from tests.lint.corpus import FOLDER

FILES = ("incident.yaml", "spring-management.yaml", "php-fpm.yaml", "grpc.yaml", "redis.yaml")


def build(folder: Path) -> list[Manifest]:
    command = [kubectl(), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def normal(manifests: list[Manifest]) -> list[str]:
    """In one order, and without the record, for which a patch has no use."""
    for manifest in manifests:
        template = manifest.get("spec", {}).get("template", {})
        annotations = template.get("metadata", {}).get("annotations", {})
        annotations.pop(ANNOTATION, None)
        if template and not annotations:
            template["metadata"].pop("annotations", None)
        for section in ("containers", "initContainers", "volumes"):
            for items in filter(None, [template.get("spec", {}).get(section)]):
                items.sort(key=lambda one: one["name"])
    return sorted(json.dumps(manifest, sort_keys=True) for manifest in manifests)


@pytest.mark.parametrize("form", ["patch", "component"])
@pytest.mark.parametrize("name", FILES)
def test_as_the_manifest(
    name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(FOLDER / name)
    (tmp_path / "base.yaml").write_text((FOLDER / name).read_text())
    assert main(["inject", source]) == 0
    injected = list(yaml.safe_load_all(capsys.readouterr().out))
    assert main(["inject", "--output", form, source]) == 0
    written = capsys.readouterr().out
    kustomization: Manifest = {"resources": ["base.yaml"]}
    if form == "patch":
        (tmp_path / "patch.yaml").write_text(written)
        kustomization["patches"] = [{"path": "patch.yaml"}]
    else:
        (tmp_path / "sidecar").mkdir()
        (tmp_path / "sidecar" / "kustomization.yaml").write_text(written)
        kustomization["components"] = ["sidecar"]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    assert normal(build(tmp_path)) == normal(injected)


def test_what_kustomize_cannot_merge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inject", "--output", "patch", str(FOLDER / "rollout.yaml")]) == 2
    told = capsys.readouterr()
    assert "kustomize would replace the lists of a Rollout" in told.err
    assert told.out == ""
