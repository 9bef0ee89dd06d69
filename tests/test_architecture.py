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

MAY_IMPORT = {
    "model": set[str](),
    "judge": {"model"},
    "config": {"model"},
    "kernel": {"model"},
    "sampler": {"model", "kernel"},
    "roundtrip": {"model", "kernel"},
    "look": {"model", "judge", "kernel", "sampler", "roundtrip"},
    "board": {"model"},
    "memory": set(),
    "recording": {"model"},
    "watchdog": set(),
    "logs": {"model", "board"},
    "monitor": {"model", "judge", "kernel", "sampler", "roundtrip", "board"},
    "metrics": {"model", "board", "status"},
    "status": {"model", "board"},
    "server": {"model", "board", "metrics", "status", "lean"},
    "lean": set(),
    "typed": set(),
    "sockets": set(),
    "evidence": {"model", "kernel"},
    "evidence_pages": {"evidence", "server", "lean"},
    "kubernetes": {"model", "board", "lean"},
    "selftest": {"model", "board", "evidence"},
    "demo_app": set(),
}
"""Every room but those that wire: daemon, cli, commands. `probe` itself has only the version."""

LOWEST = {"typed", "sockets"}
"""Stand-ins for parts of the standard library; everyone may import them."""

WIRING = {"daemon", "cli", "commands", "__main__", "__init__"}

NOT_IN_CHECK = (
    *("aiohttp", "argparse", "asyncio", "dataclasses", "h2", "inspect", "json", "logging"),
    *("pathlib", "prometheus_client", "socket", "ssl", "typing", "yaml"),
)

MODULES = {"prometheus-client": "prometheus_client", "pyyaml": "yaml"}
"""What dependencies are imported as, where that is not their name."""


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


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
            yield rest.partition(".")[0]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_import_directions(path: Path) -> None:
    here = room(path)
    if here in WIRING:
        return
    assert here in MAY_IMPORT, f"{here} is a new room: say here what it may import"
    assert set(imported(path)) <= MAY_IMPORT[here] | {here} | LOWEST


def test_wiring_is_imported_by_nobody() -> None:
    for path in ROOT.rglob("*.py"):
        if room(path) not in WIRING:
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


def test_imports_its_dependencies_and_no_others() -> None:
    """What only the tests or the benchmarks use is no burden to who installs probe."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    wanted = {re.split("[<>=]", one)[0] for one in project["dependencies"]}
    used = {name.partition(".")[0] for path in ROOT.rglob("*.py") for name in names(path)}
    foreign = used - sys.stdlib_module_names - {"probe"}
    assert foreign == {MODULES.get(one, one) for one in wanted}
