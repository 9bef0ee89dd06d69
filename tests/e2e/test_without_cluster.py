import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_without_a_cluster_it_says_so_and_ends_well() -> None:
    """In a namespace of its own there is nobody to connect to."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.e2e"],
        env={"KUBECONFIG": "/nonexistent", "HOME": "/nonexistent", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("e2e skipped: no cluster answers kubectl (")
