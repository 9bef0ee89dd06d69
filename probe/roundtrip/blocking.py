"""The driver for `probe check`: one round trip, on poll(2)."""

import time
from collections.abc import Iterable
from math import ceil
from select import poll

from probe.kernel import KernelView
from probe.model import Listener, Outcome, RoundTrip, Target
from probe.roundtrip.address import address, resolve
from probe.roundtrip.attempt import Attempt
from probe.roundtrip.exchange import CannotAsk


def run(
    target: Target,
    listeners: Iterable[Listener],
    view: KernelView,
    timeout: float,
    *,
    frank: bool = False,
) -> RoundTrip:
    """Make one round trip of at most `timeout` seconds, the look-up of a name included.

    `frank`: only who wrote the target reads the result, which may then tell what it expects.
    """
    started = time.monotonic()
    try:
        where = address(target, listeners, resolve(target.host, timeout))
    except CannotAsk as error:
        return RoundTrip(started, Outcome.UNKNOWN, detail=str(error))
    attempt = Attempt(target, where, view, started, timeout, frank=frank)
    try:
        while (result := attempt.step()) is None:
            ready = poll()
            ready.register(attempt, attempt.events)
            ready.poll(ceil(max(attempt.wake - time.monotonic(), 0) * 1000))
    finally:
        attempt.close()
    return result
