"""An incident as one file: its report and what lies beside it in a gzip tar, with its digest. It is
sent away so, and downloaded.

The same files make the same bytes, so that what is sent twice can be seen to be the same.
"""

import asyncio
import gzip
import hashlib
import io
import tarfile
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from probe.evidence.store import RECORD, REPORT

LARGEST = 8 << 20
"""Bytes of an incident's files that are packed; the reports come first, and have some 30 KiB."""

REPORTS = (REPORT, RECORD)

Read = Callable[[str, str, int], Awaitable[bytes]]
"""The first bytes of a file: an incident's id, the name, how many. KeyError: there is none."""


class Archive(NamedTuple):
    """A gzip tar and its SHA-256, in hexadecimal; `left_out`: the files that were too large."""

    content: bytes
    sha256: str
    left_out: tuple[str, ...] = ()


async def pack_incident(folder: str, incident: str, names: Iterable[str], read: Read) -> Archive:
    """The files of an incident in a folder of that name. Raises KeyError where its report is not
    kept any more.
    """
    files: list[tuple[str, bytes]] = []
    left_out: list[str] = []
    room = LARGEST
    for name in sorted(names, key=lambda name: (name not in REPORTS, name)):
        try:
            content = await read(incident, name, room + 1)
        except KeyError:
            if name in REPORTS:
                raise
            continue
        if len(content) > room:
            left_out.append(name)
            continue
        room -= len(content)
        files.append((name, content))
    packed = await asyncio.to_thread(pack, folder, files)
    return packed._replace(left_out=tuple(left_out))


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
