"""Data goes one way: a room imports only the rooms it may."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import probe

ROOT = Path(probe.__file__).parent

PURE_EVIDENCE = {"model", "evidence.records", "evidence.wording"}

MAY_IMPORT = {
    "model": set[str](),
    "judge": {"model"},
    "imports": set(),
    "display": set(),
    "exits": set(),
    "pattern": set(),
    "config": {"model", "pattern"},
    "manifests": set(),
    "junit": set(),
    "lint": {"model", "config", "manifests", "api.questions", "junit"},
    "inject": {"model", "config", "manifests", "lint"},
    "kernel": {"model"},
    "roundtrip": {"model", "kernel", "pattern"},
    "sidecar": {
        *("model", "judge", "kernel", "roundtrip"),
        *("evidence", "evidence.records", "evidence.proc"),
    },
    "api": {
        *("model", "judge", "config", "sidecar", "api.questions"),
        *("evidence", "evidence.records", "evidence.store", "evidence.upload"),
    },
    "api.questions": set(),
    "evidence.wording": {"model"},
    "evidence.proc": set(),
    "evidence.records": {"model"},
    "evidence.report": PURE_EVIDENCE,
    "evidence.acceptors": PURE_EVIDENCE | {"kernel", "evidence.proc"},
    "evidence.collectors": PURE_EVIDENCE | {"evidence.proc"},
    "evidence.capture": {
        *PURE_EVIDENCE,
        "kernel",
        "evidence.acceptors",
        "evidence.collectors",
        "evidence.proc",
        "evidence.store",
    },
    "evidence.store": {"evidence.proc"},
    "evidence.upload": {
        *("model", "config", "roundtrip"),
        *("evidence.wording", "evidence.proc", "evidence.store"),
    },
    "evidence": {
        *PURE_EVIDENCE,
        "evidence.acceptors",
        "evidence.capture",
        "evidence.collectors",
        "evidence.proc",
        "evidence.report",
        "evidence.store",
    },
    "response": {"model", "sidecar", "evidence", "evidence.acceptors", "evidence.proc"},
    "watch": {"model", "evidence.records"},
    "kubernetes": {"model", "sidecar", "response"},
}
"""Every room but those that wire: cli and commands. `probe` itself has only the version. A room is
a module or a package; the longest name that fits a module is its room."""

LOWEST = {"imports", "display", "exits"}
"""What is imported at a price that can be paid, what may be shown, and how a command ends; everyone
may import it."""

WIRING = {"cli", "commands", "__main__", "__init__"}

NOT_IN_CHECK = (
    *("aiohttp", "argparse", "asyncio", "dataclasses", "h2", "inspect", "json", "logging"),
    *("pathlib", "prometheus_client", "psutil", "pyroute2", "socket", "ssl", "typing", "yaml"),
)

MODULES = {"prometheus-client": "prometheus_client", "pyyaml": "yaml"}
"""What dependencies are imported as, where that is not their name."""


def room(module: str) -> str:
    """The room of `probe.MODULE`: the longest row that it stands in."""
    parts = module.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in MAY_IMPORT), parts[0])


def module_of(path: Path) -> str:
    inside = path.relative_to(ROOT).with_suffix("")
    return ".".join(inside.parts).removesuffix(".__init__")


def names(path: Path) -> Iterator[str]:
    """Everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> Iterator[str]:
    """Every room of ours that a module imports."""
    for name in names(path):
        package, _, rest = name.partition(".")
        if package == "probe" and rest and not rest.startswith("__version__"):
            yield room(rest)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_directions(path: Path) -> None:
    here = room(module_of(path))
    if here in WIRING:
        return
    assert here in MAY_IMPORT, f"{here} is a new room: say here what it may import"
    assert set(imported(path)) <= MAY_IMPORT[here] | {here} | LOWEST


def test_wiring_is_imported_by_nobody() -> None:
    for path in ROOT.rglob("*.py"):
        if room(module_of(path)) not in WIRING:
            assert not set(imported(path)) & WIRING, path


def test_check_imports_nothing_heavy() -> None:
    """What is told by the interpreter itself, after a real check of a port where nobody listens."""
    script = (
        "import sys\n"
        "from probe.cli import main\n"
        "code = main(['check', '--port', '1'])\n"
        "print(code, *sorted(sys.modules))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]
    code, *modules = told.split()
    assert code == "1"
    assert not {name.partition(".")[0] for name in modules} & set(NOT_IN_CHECK)


def test_a_plain_question_imports_next_to_nothing() -> None:
    """Neither settings nor model, and of Python only what is part of its binary, or `os` is."""
    script = (
        "import gc, io, os, sys, time, _socket\n"
        "before = set(sys.modules)\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from probe.cli import main\n"
        "main(['check', '--sidecar'])\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    told = subprocess.run(
        [sys.executable, "-IS", "-c", script, str(ROOT.parent)],
        capture_output=True,
        text=True,
        env={},
        check=True,
    ).stdout.splitlines()[-1]
    packages = ["probe", "probe.commands", "probe.imports"]
    modules = ["cli", "commands.ask", "display", "exits", "imports.socket_lite"]
    assert told.split() == sorted([*packages, *(f"probe.{name}" for name in modules)])


def test_imports_its_dependencies_and_no_others() -> None:
    """What only the tests or the benchmarks use is no burden to who installs probe."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    wanted = {re.split("[<>=]", one)[0] for one in project["dependencies"]}
    used = {name.partition(".")[0] for path in ROOT.rglob("*.py") for name in names(path)}
    foreign = used - sys.stdlib_module_names - {"probe"}
    assert foreign == {MODULES.get(one, one) for one in wanted}


def test_a_name_of_a_class_stands_for_one_thing() -> None:
    """Whoever searches for it finds it."""
    places: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
