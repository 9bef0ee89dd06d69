"""Real listeners, and both drivers on both loops, for the tests of round trips."""

import asyncio
import gc
from collections.abc import Callable, Iterator

import pytest
import uvloop

from probe.kernel import KernelView, open_view
from probe.kernel.hosts import resolve
from probe.model import RoundTrip, Target
from probe.roundtrip import Address, address, aio, blocking

Trip = Callable[..., RoundTrip]


@pytest.fixture
def view(namespace: None) -> Iterator[KernelView]:
    """The kernel's word about the namespace of the test."""
    view = open_view()
    assert view.name == "sock_diag"
    yield view
    view.close()


@pytest.fixture(params=["blocking", "asyncio", "uvloop"])
def trip(request: pytest.FixtureRequest, view: KernelView) -> Iterator[Trip]:
    """One round trip with a target, by each driver; a connection that is held is closed."""

    def dial(target: Target) -> Address:
        return address(target, view.listeners(target.port), resolve(target.host, 5))

    def block(target: Target, timeout: float = 2.0, by: KernelView = view) -> RoundTrip:
        return blocking.run(target, dial(target), by, timeout)

    async def drive(target: Target, seconds: float, by: KernelView) -> RoundTrip:
        result, attempt = await aio.run(target, dial(target), by, seconds)
        if attempt is not None:
            assert attempt.lingers
            attempt.close()
        return result

    def loop(target: Target, timeout: float = 2.0, by: KernelView = view) -> RoundTrip:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(debug=True, loop_factory=factory) as runner:
            return runner.run(drive(target, timeout, by))

    yield block if request.param == "blocking" else loop
    gc.collect()  # so that a socket left open is a ResourceWarning of this very test
