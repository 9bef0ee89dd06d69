"""Every test has a network namespace of its own: its ports, counters and queues are nobody else's.

That takes CAP_SYS_ADMIN: as a user who is not root, run the suite through `unshare -Urn`, which
`make test` does.
"""

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine than of us: tests have limits of their own.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
libc = ctypes.CDLL(None, use_errno=True)


def bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


@contextmanager
def fresh_namespace() -> Iterator[None]:
    """A network namespace for this thread and every process and thread it starts."""
    with Path("/proc/thread-self/ns/net").open() as home:
        if libc.unshare(CLONE_NEWNET):
            why = os.strerror(ctypes.get_errno())
            raise PermissionError(f"unshare: {why}; run as root, or under unshare -Urn")
        try:
            bring_loopback_up()
            yield
        finally:
            if libc.setns(home.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Every test has one of its own."""
    with fresh_namespace():
        yield
