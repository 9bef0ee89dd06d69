"""What a header holds is told to nobody: a sidecar through an incident, and all that it says."""

import subprocess
import sys
from pathlib import Path
from socket import socket

import pytest

from tests.faults.harness import sidecar
from tests.roundtrip.application import Application, answer, request

IN_A_FILE = "correct-horse-battery-staple"
IN_A_VARIABLE = "tr0ub4dor-and-three"
AS_WRITTEN = "hunter2-in-plain-sight"
SECRETS = (IN_A_FILE, IN_A_VARIABLE, AS_WRITTEN)


def test_no_part_of_a_sidecar_tells_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application says each of them in its answer, whole and cut off."""
    (tmp_path / "token").write_text(f"{IN_A_FILE}\n")
    monkeypatch.setenv("TOKEN", IN_A_VARIABLE)
    heard: list[bytes] = []
    broken = False

    def handle(connection: socket) -> None:
        heard.append(request(connection))
        said = f"no such user {' '.join(SECRETS)} {'x' * 30}".encode()
        connection.sendall(answer(said, "401 Unauthorized" if broken else "200 OK"))
        connection.recv(1)

    record, kept = tmp_path / "record.jsonl", tmp_path / "evidence"
    with Application(handle) as application:
        asked = [
            *("--port", str(application.port), "--path", "/healthz"),
            *("--header", f"Authorization: Bearer ${{file:{tmp_path}/token}}"),
            *("--header", "X-Token: ${env:TOKEN}", "--header", f"X-Key: {AS_WRITTEN}"),
        ]
        options = ("--interval", "100ms", "--log-level", "debug")
        writes = ("--record", str(record), "--evidence-dir", str(kept))
        with sidecar(*asked, *options, *writes) as watching:
            watching.until(10, condition="healthy", ready=True)
            broken = True
            watching.until(20, condition="unhealthy")
            watching.until(20, event="evidence")
            pages = [
                "/status",
                "/metrics",
                "/ready",
                "/ready?verbose",
                "/live?verbose",
                "/evidence",
            ]
            told = [watching.get(page)[1] for page in pages]
            told += map(str, watching.events)
        for command in ("check", "diagnose"):
            run = [sys.executable, "-m", "probe", command, *asked]
            done = subprocess.run(run, capture_output=True, text=True)
            assert done.returncode == 1
            told.append(done.stdout + done.stderr)
    files = [path for path in (record, *kept.rglob("*")) if path.is_file()]
    assert len(files) > 1
    told += [path.read_text(errors="replace") for path in files]
    assert all(secret.encode() in heard[-1] for secret in SECRETS), "it was asked with them"
    assert "no such user" in told[0], "its answer is told"
    for secret in SECRETS:
        for said in told:
            assert secret[:6] not in said, said
