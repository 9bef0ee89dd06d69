"""aiohttp without the system's CA bundle; the rest of the process keeps it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

PROGRAM = """
import gc, json, os, ssl, sys
import probe.imports.aiohttp_lean
inside = [one.cert_store_stats()["x509"] for one in gc.get_objects() if type(one) is ssl.SSLContext]
print(json.dumps({
    "inside": inside,
    "outside": ssl.create_default_context().cert_store_stats()["x509"],
    "environment": [os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")],
}))
"""


def run(environment: dict[str, str]) -> Any:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("SSL_CERT_FILE", "SSL_CERT_DIR")
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    return path


def test_nobody_pays_for_certificates_that_nobody_uses(bundle: Path) -> None:
    given = {"SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": "/nowhere"}
    found = run(given)
    assert found["inside"], "aiohttp no longer makes contexts: probe/lean.py has had its day"
    assert set(found["inside"]) == {0}
    assert found["outside"] == 2
    assert found["environment"] == list(given.values())


def test_an_environment_without_them_stays_without_them() -> None:
    assert run({})["environment"] == [None, None]
