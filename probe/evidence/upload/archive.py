"""An incident as one file: its report and what lies beside it in a gzip tar, with its digest.

The same files make the same bytes, so that what is sent twice can be seen to be the same.
"""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from typing import NamedTuple


class Archive(NamedTuple):
    """A gzip tar and its SHA-256, in hexadecimal."""

    content: bytes
    sha256: str


def pack(folder: str, files: Iterable[tuple[str, bytes]]) -> Archive:
    """The files in a folder of that name. In memory there is one of them at a time."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as tar,
    ):
        for name, content in files:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return Archive(packed.getvalue(), hashlib.sha256(packed.getbuffer()).hexdigest())
