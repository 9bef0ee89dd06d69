"""The wheel: what is in it, and that it runs elsewhere."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from probe import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, stdout=subprocess.DEVNULL)
    (built,) = folder.glob("*.whl")
    return built


def test_what_is_in_it(wheel: Path) -> None:
    assert wheel.name == f"accept_probe-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "probe").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert source <= names
    assert {"probe/py.typed", "probe/api/status.schema.json"} <= names
    assert {name.partition("/")[0] for name in names} == {
        "probe",
        f"accept_probe-{__version__}.dist-info",
    }
    assert f"accept_probe-{__version__}.dist-info/licenses/LICENSE" in names


def test_it_runs_elsewhere(wheel: Path, tmp_path: Path) -> None:
    """Unpacked into a folder of its own, beside the dependencies that are installed here."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--target", str(tmp_path), str(wheel)),
        ],
        check=True,
    )
    dependencies = sysconfig.get_path("purelib")
    run = (
        "import sys; sys.path[:0] = sys.argv[1:3]; import probe, probe.cli\n"
        "print(probe.__file__); sys.exit(probe.cli.main(['check', '--port', '1']))"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", run, str(tmp_path), dependencies],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert told.stdout.splitlines() == [
        str(tmp_path / "probe/__init__.py"),
        "not_listening: 1 not listening",
    ], told.stderr
    assert told.returncode == 1
