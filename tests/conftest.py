"""Every test has a network namespace of its own: its ports, counters and queues are nobody else's.

That takes CAP_SYS_ADMIN: as a user who is not root, run the suite through `unshare -Urn`, which
`make test` does.
"""

import asyncio
import ctypes
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from pyroute2 import IPRoute, netns

# How long an example takes says more of the machine than of us: tests have limits of their own.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("brief", settings.get_profile("shared"), max_examples=25)
settings.load_profile("shared")

CLONE_NEWNET = 0x40000000
LOOPBACK = 1
"""The index of `lo` in every network namespace."""

libc = ctypes.CDLL(None, use_errno=True)


def move() -> None:
    """Into a network namespace of its own, with `lo` up, for this thread and what it starts.

    os.unshare is there since Python 3.12, and pyroute2 makes none without a name.
    """
    if libc.unshare(CLONE_NEWNET):
        why = os.strerror(ctypes.get_errno())
        raise PermissionError(f"unshare: {why}; run as root, or under unshare -Urn")
    with IPRoute() as routes:
        routes.link("set", index=LOOPBACK, state="up")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test in an event loop of its own, in asyncio's debug mode."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    with asyncio.Runner(debug=True) as runner:
        # That a callback took long says more of the machine than of us, and each word is kept.
        runner.get_loop().slow_callback_duration = float("inf")
        runner.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@contextmanager
def returning() -> Iterator[int]:
    """Come back at the end; a descriptor of the network namespace that this thread is in now."""
    with Path("/proc/thread-self/ns/net").open() as home:
        try:
            yield home.fileno()
        finally:
            netns.setns(home.fileno(), flags=0)


@contextmanager
def fresh_namespace() -> Iterator[None]:
    """A network namespace for this thread and every process and thread it starts."""
    with returning():
        move()
        yield


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """The same, in one that is there already, by a descriptor of it."""
    with returning():
        netns.setns(namespace, flags=0)
        yield


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Every test has one of its own."""
    with fresh_namespace():
        yield


@pytest.fixture
def pod_address() -> str:
    """An address of this test's namespace that is not loopback, as others would ask it by."""
    with IPRoute() as route:
        (loopback,) = route.link_lookup(ifname="lo")
        route.addr("add", index=loopback, address="192.0.2.7", prefixlen=32)
    return "192.0.2.7"
