"""aiohttp without the system's CA bundle; the rest of the process keeps it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

PROGRAM = """
import gc, json, ssl, sys, threading

def certificates(context):
    return context.cert_store_stats()["x509"]

meanwhile = []

class Meanwhile:  # what another thread is given while aiohttp is imported
    def find_spec(self, name, *_):
        if name == "aiohttp.connector":
            look = lambda: meanwhile.append(certificates(ssl.create_default_context()))
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()

sys.meta_path.insert(0, Meanwhile())
import probe.imports.aiohttp_lean
gc.collect()
inside = [certificates(one) for one in gc.get_objects() if type(one) is ssl.SSLContext]
print(json.dumps({
    "inside": inside,
    "meanwhile": meanwhile,
    "outside": certificates(ssl.create_default_context()),
}))
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes() + trustme.CA().cert_pem.bytes())
    return path


def test_nobody_pays_for_certificates_that_nobody_uses(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["inside"], "aiohttp no longer makes contexts: aiohttp_lean.py has had its day"
    assert set(found["inside"]) == {0}
    assert found["meanwhile"] == [2]
    assert found["outside"] == 2
