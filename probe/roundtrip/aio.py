"""The driver for the sidecar: round trips on an asyncio loop, selector-based or uvloop."""

import asyncio
import time
from collections.abc import Callable
from select import POLLOUT

from probe.kernel import KernelView
from probe.kernel.hosts import NoAddress, family_of, find
from probe.model import RoundTrip, Target
from probe.roundtrip.address import Address
from probe.roundtrip.attempt import Attempt

GLANCE = 0.25
"""Seconds after which an attempt is stepped in any case. The loop may be away for longer, of a
sidecar that gets no CPU: that is no time of the application's.
"""


async def hosts(
    target: Target,
    timeout: float,  # noqa: ASYNC109 - the resolver cannot be interrupted: it is left behind
) -> tuple[str, ...]:
    """What `find` says of the target's host; a name is looked up in a thread."""
    if not target.host or family_of(target.host) is not None:
        return find(target.host, timeout)
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(None, find, target.host, timeout)
    except OSError as error:  # no thread to be had
        raise NoAddress(f"{target.host}: {error}") from None


async def run(
    target: Target,
    where: Address,
    view: KernelView,
    timeout: float,  # noqa: ASYNC109 - a time-out has a result here: where the request hangs
    begun: Callable[[Attempt], None] = lambda attempt: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[RoundTrip, Attempt | None]:
    """Make one round trip of at most `timeout` seconds to what listens there.

    The Attempt comes with the result when it holds a connection that may be in the application's
    accept queue: the caller polls it by the same clock, and closes it in the end.
    """
    loop = asyncio.get_running_loop()
    attempt = Attempt(target, where, view, clock(), timeout, clock=clock)
    begun(attempt)
    try:
        while (result := attempt.step()) is None:
            due = min(attempt.wake, clock() + GLANCE)
            await _ready(loop, attempt, due - clock())
            attempt.extend(max(clock() - due, 0))
    finally:
        if not attempt.lingers:
            attempt.close()
    return result, attempt if attempt.lingers else None


async def _ready(loop: asyncio.AbstractEventLoop, attempt: Attempt, within: float) -> None:
    """Return when the attempt's socket is ready, or after so many seconds."""
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    fd, writing = attempt.fileno(), attempt.events & POLLOUT
    timer = loop.call_later(max(within, 0), wake)
    loop.add_reader(fd, wake)
    if writing:
        loop.add_writer(fd, wake)
    try:
        await woken
    finally:
        timer.cancel()
        loop.remove_reader(fd)
        if writing:
            loop.remove_writer(fd)
