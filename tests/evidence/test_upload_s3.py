"""Evidence in a store of S3's kind: moto's server, from an environment that .ci/install makes.

It does not verify signatures. That ours would hold is seen in test_upload: what is signed is the
address with its host, and neither is written otherwise.
"""

import hashlib
import os
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from tests.evidence.test_upload import FILES, ID, deliver, uploader

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
STORE = CACHE / "accept-probe-tests" / "s3" / "bin"
PORT = 9000
NAME = f"shop_web-1_{ID}.tar.gz"

pytestmark = pytest.mark.skipif(
    not (STORE / "moto_server").exists(), reason="no moto_server: see .ci/install"
)

SIGN = f"""
import sys
import boto3
from botocore.config import Config

config = Config(signature_version=sys.argv[1], s3={{"addressing_style": "path"}})
client = boto3.client("s3", "us-east-1", endpoint_url="http://127.0.0.1:{PORT}", config=config)
print(client.generate_presigned_url(sys.argv[3], {{"Bucket": "incidents", "Key": sys.argv[2]}}))
"""

ACCOUNT = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"}


def signed(version: str, key: str, method: str = "put_object") -> str:
    command = [f"{STORE}/python", "-c", SIGN, version, key, method]
    ran = subprocess.run(command, env=ACCOUNT, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def get(key: str) -> bytes:
    with urllib.request.urlopen(signed("s3v4", key, "get_object"), timeout=10) as answer:
        content: bytes = answer.read()
    return content


@pytest.fixture
def store() -> Iterator[None]:
    """With a bucket `incidents`."""
    command = [f"{STORE}/moto_server", "-H", "127.0.0.1", "-p", f"{PORT}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        assert server.stderr
        while b"Running on" not in (line := server.stderr.readline()):
            assert line, "it has ended"
        request = urllib.request.Request(f"http://127.0.0.1:{PORT}/incidents", method="PUT")
        with urllib.request.urlopen(request, timeout=10):
            yield
        server.kill()


@pytest.mark.slow
async def test_a_folder_of_a_bucket(store: None) -> None:
    sends = uploader(f"http://127.0.0.1:{PORT}/incidents/shop/")
    await deliver(sends)
    assert sends.so_far().sent == 1, sends.so_far()
    content = get(f"shop/{NAME}")
    digest = hashlib.sha256(content).hexdigest()
    assert get(f"shop/{NAME}.sha256").decode() == f"{digest}  {NAME}\n"
    with tarfile.open(fileobj=BytesIO(content), mode="r:gz") as archive:
        assert len(archive.getmembers()) == len(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["s3v4", "s3"])
async def test_a_signed_address(store: None, version: str) -> None:
    sends = uploader(signed(version, "shop/an incident+1.tar.gz"))
    await deliver(sends)
    assert sends.so_far().sent == 1, sends.so_far()
    content = get("shop/an incident+1.tar.gz")
    with tarfile.open(fileobj=BytesIO(content), mode="r:gz") as archive:
        assert len(archive.getmembers()) == len(FILES)


@pytest.mark.slow
async def test_a_bucket_that_is_not_there(store: None) -> None:
    sends = uploader(f"http://127.0.0.1:{PORT}/elsewhere/")
    await deliver(sends)
    assert "HTTP 404: NoSuchBucket The specified bucket does not exist" in sends.so_far().error
