"""What the tests of the evidence share."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.kernel import KernelView, open_view

JAVA = Path(__file__).parent.parent / "java"


@pytest.fixture
def view() -> Iterator[KernelView]:
    """The kernel's view of this test's network namespace."""
    opened = open_view()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def java_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory with every class of tests/java, compiled once.

    At the end, the attach sockets of JVMs that were killed are removed.
    """
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("no javac on this machine: the Java programs cannot be compiled")
    classes = tmp_path_factory.mktemp("java")
    sources = [str(source) for source in sorted(JAVA.glob("*.java"))]
    subprocess.run([javac, "-d", str(classes), *sources], check=True)
    yield classes
    for left in Path("/tmp").glob(".java_pid*"):
        if not Path("/proc", left.name.removeprefix(".java_pid")).exists():
            left.unlink(missing_ok=True)
