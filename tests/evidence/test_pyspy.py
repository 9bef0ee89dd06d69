"""py-spy where it is installed, and anything that answers in its place."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.evidence.collectors import pyspy
from probe.evidence.proc.files import Unavailable
from tests.evidence.programs import program

THREADED = """
import threading
def wait_for_work(secret):
    threading.Event().wait()
threading.Thread(target=wait_for_work, args=("s3cret",), name="worker", daemon=True).start()
print("ready", flush=True)
input()
"""


def test_a_python_process() -> None:
    try:
        pyspy.executable()
    except Unavailable as missing:
        pytest.skip(f"{missing}: the extra `py-spy` is not part of this environment")
    with program(sys.executable, "-c", THREADED, "--password=s3cret") as application:
        assert pyspy.is_python(application.pid)
        threads = {thread.name: thread for thread in pyspy.dump(application.pid, seconds=10)}
    worker = threads["worker"]
    assert worker.tid != application.pid
    assert any(frame.startswith("wait_for_work (<string>:") for frame in worker.frames)
    assert threads["MainThread"].tid == application.pid
    assert "s3cret" not in str(threads)


def test_what_is_no_python() -> None:
    with subprocess.Popen(("sleep", "60")) as sleeping:
        try:
            assert not pyspy.is_python(sleeping.pid)
        finally:
            sleeping.kill()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sleep 60", "py-spy gave no answer within 0.5 s"),
        ("yes", "py-spy's answer is longer than 1000 bytes"),
        ("yes >&2", "py-spy's answer is longer than 1000 bytes"),
        ("echo '[{]'", "py-spy's answer cannot be read"),
        ("echo '[{}]'", "py-spy's answer cannot be read"),
        ("echo 3", "py-spy's answer cannot be read"),
        ("echo 'Error: no such process' >&2; echo more >&2; exit 1", "Error: no such process$"),
        ("exit 3", "py-spy: ended with 3"),
    ],
)
def test_an_answer_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, why: str
) -> None:
    impostor = tmp_path / "py-spy"
    impostor.write_text(f"#!/bin/sh\n{script}\n")
    impostor.chmod(0o755)
    monkeypatch.setattr(pyspy, "executable", lambda: str(impostor))
    began = time.monotonic()
    with pytest.raises(Unavailable, match=why):
        pyspy.dump(1, seconds=0.5, limit=1000)
    assert time.monotonic() - began < 3


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(Unavailable, match="py-spy is not installed"):
        pyspy.executable()
