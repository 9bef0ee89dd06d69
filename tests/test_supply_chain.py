"""What the project is built from: each thing by its digest, and told of in the image."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from probe import __version__

ROOT = Path(__file__).parent.parent
LOCKS = [*ROOT.glob("*.lock"), ROOT / "image" / "tools.lock"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(lock: Path) -> dict[str, int]:
    """What the lock names, as `name==version`, and how many digests each has."""
    found: dict[str, int] = {}
    name = ""
    for line in lock.read_text().splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9._-]*==[^ ;\\]+)", line):
            name = match[1]
            found[name] = 0
        elif "--hash=sha256:" in line:
            found[name] += 1
        else:
            assert line.strip().startswith("#"), line
    return found


def test_every_lock_has_a_digest_for_everything() -> None:
    assert {lock.name for lock in LOCKS} == {
        *("requirements.lock", "requirements-build.lock", "requirements-dev.lock", "tools.lock")
    }
    for lock in LOCKS:
        assert pinned(lock)
        assert all(pinned(lock).values()), lock


def test_what_builds_the_project_is_locked() -> None:
    (backend,) = PROJECT["build-system"]["requires"]
    assert backend in PROJECT["dependency-groups"]["build"]
    built_with = pinned(ROOT / "requirements-build.lock")
    assert backend in built_with
    assert built_with.keys() <= pinned(ROOT / "requirements-dev.lock").keys()


def test_pip_fetches_nothing_without_a_digest() -> None:
    """Every pip that a recipe calls has --require-hashes, or has nothing to fetch."""
    recipes = [
        ROOT / "Makefile",
        *(ROOT / ".ci").iterdir(),
        *(ROOT / ".github" / "workflows").iterdir(),
    ]
    calls = [
        line
        for recipe in recipes
        for line in recipe.read_text().splitlines()
        if "pip install" in line or "pip download" in line
    ]
    assert calls
    for call in calls:
        words = {*call.split()}
        fetches = "--no-index" not in words and not {"--no-deps", "--no-build-isolation"} <= words
        assert "--require-hashes" in words or not fetches, call
    assert "PIP_REQUIRE_HASHES=1" in (ROOT / "Dockerfile").read_text()


def test_the_workflow_runs_ours_on_every_python_that_is_supported() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    *actions, script = job["steps"]
    for action in actions:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action["uses"])
    assert script["run"].endswith(".ci/run")
    said = "Programming Language :: Python :: 3."
    supported = [name for name in PROJECT["project"]["classifiers"] if name.startswith(said)]
    assert [
        f"{said.removesuffix('3.')}{version}" for version in job["strategy"]["matrix"]["python"]
    ] == supported


def test_the_base_of_the_image_is_named_by_digest() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=(.*)", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}", base), base
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${BASE}", "scratch"]


def test_the_bill_of_materials_says_what_is_in_the_tree(tmp_path: Path) -> None:
    """A tree like the image's: our package, two real dependencies, an interpreter, a library."""
    modules = tmp_path / "lib" / "python3.11"
    (tmp_path / "bin").mkdir(parents=True)
    shutil.copytree(ROOT / "probe", modules / "probe")
    shutil.copy(Path(sys.executable).resolve(), tmp_path / "bin" / "python3")
    (tmp_path / "bin" / "probe").write_text("#!/bin/sh\n")
    (tmp_path / "lib" / "libsomething.so.1").write_bytes(b"\x7fELF and so on")
    installed = Path(sysconfig.get_path("purelib"))
    for name in ("aiohttp", "prometheus_client"):
        (information,) = installed.glob(f"{name}-*.dist-info")
        shutil.copytree(information, modules / information.name)
    made = [
        subprocess.run(
            [sys.executable, ROOT / "image" / "sbom.py", tmp_path],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for _ in range(2)
    ]
    assert made[0] == made[1]
    validate(made[0])
    bill = json.loads(made[0])
    assert bill["metadata"]["component"]["version"] == __version__
    locked = pinned(ROOT / "requirements.lock")
    names = [f"{part['name']}=={part.get('version')}" for part in bill["components"]]
    assert names[0].startswith("python==3.")
    assert [name for name in names if name in locked] == names[1:3]
    library = bill["components"][-1]
    digest = hashlib.sha256(b"\x7fELF and so on").hexdigest()
    assert library["name"] == str(tmp_path / "lib" / "libsomething.so.1")
    assert library["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert [part["name"] for part in bill["components"][3:-1]] == [
        str(tmp_path / "bin" / "python3")
    ]


def validate(bill: str) -> None:
    """Against CycloneDX's own schema, unknown fields included."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
