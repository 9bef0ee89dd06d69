"""What every test of this room needs: an API server of its own, and verdicts to report."""

from pathlib import Path

import pytest
import trustme


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """The directory where kubelet mounts the service account."""
    directory = tmp_path / "serviceaccount"
    directory.mkdir()
    return directory
