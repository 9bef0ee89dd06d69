"""Looking through the eyes of another user: a function run in a child that has become one."""

import ctypes
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

libc = ctypes.CDLL(None, use_errno=True)
APPLICATION, SIDECAR = 1000, 65532
SYS_PTRACE = 19
KEEP_CAPABILITIES, NO_NEW_PRIVILEGES = 8, 38
CAPABILITY_VERSION_3 = 0x20080522

OTHER_USERS = os.geteuid() == 0 and any(
    int(line.split()[0]) == 0 and int(line.split()[2]) > SIDECAR
    for line in Path("/proc/self/uid_map").read_text().splitlines()
)
needs_other_users = pytest.mark.skipif(
    not OTHER_USERS,
    reason="needs root outside of a user namespace: here there is no other user to become",
)


def keep_only(*capabilities: int) -> None:
    bits = sum(1 << one for one in capabilities)
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def become(uid: int, gid: int, *capabilities: int) -> None:
    """That user with just these capabilities, and nothing that could give it more."""
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(KEEP_CAPABILITIES, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    keep_only(*capabilities)


def seen_by(change: Callable[[], None], look: Callable[[], T]) -> T:
    """Return what `look` returns in a forked child after `change`."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reader)
            change()
            with os.fdopen(writer, "wb") as answer:
                pickle.dump(look(), answer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child failed: see its traceback"
    result: T = pickle.loads(told)
    return result
