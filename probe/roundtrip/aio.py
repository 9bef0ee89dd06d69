"""The driver for the sidecar: round trips on an asyncio loop, selector-based or uvloop."""

import asyncio
import time
from collections.abc import Iterable
from select import POLLOUT

from probe.kernel import KernelView
from probe.model import Listener, Outcome, RoundTrip, Target
from probe.roundtrip.address import address, family_of, resolve
from probe.roundtrip.attempt import Attempt
from probe.roundtrip.exchange import CannotAsk


async def run(
    target: Target,
    listeners: Iterable[Listener],
    view: KernelView,
    timeout: float,  # noqa: ASYNC109 - a time-out has a result here: where the request hangs
) -> tuple[RoundTrip, Attempt | None]:
    """Make one round trip of at most `timeout` seconds, the look-up of a name included.

    The Attempt comes with the result when it holds a connection that may be in the application's
    accept queue: the caller polls it, and closes it in the end.
    """
    started = time.monotonic()
    loop = asyncio.get_running_loop()
    try:
        names: tuple[str, ...] = ()
        if target.host and family_of(target.host) is None:
            names = await loop.run_in_executor(None, resolve, target.host, timeout)
        where = address(target, listeners, names)
    except CannotAsk as error:
        return RoundTrip(started, Outcome.UNKNOWN, detail=str(error)), None
    attempt = Attempt(target, where, view, started, timeout)
    try:
        while (result := attempt.step()) is None:
            await _ready(loop, attempt)
    finally:
        if not attempt.holding:
            attempt.close()
    return result, attempt if attempt.holding else None


async def _ready(loop: asyncio.AbstractEventLoop, attempt: Attempt) -> None:
    """Return when the attempt's socket is ready, or its time has come."""
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    fd, writing = attempt.fileno(), attempt.events & POLLOUT
    timer = loop.call_later(max(attempt.wake - time.monotonic(), 0), wake)
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
