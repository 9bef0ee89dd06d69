"""The driver for `probe check`: one round trip, on poll(2)."""

import time
from math import ceil
from select import poll

from probe.kernel import KernelView
from probe.model import RoundTrip, Target
from probe.roundtrip.address import Address
from probe.roundtrip.attempt import Attempt


def run(
    target: Target, where: Address, view: KernelView, timeout: float, *, frank: bool = False
) -> RoundTrip:
    """Make one round trip of at most `timeout` seconds to what listens there.

    `frank`: only who wrote the target reads the result, which may then tell what it expects.
    """
    attempt = Attempt(target, where, view, time.monotonic(), timeout, frank=frank)
    try:
        while (result := attempt.step()) is None:
            ready = poll()
            ready.register(attempt, attempt.events)
            ready.poll(ceil(max(attempt.wake - time.monotonic(), 0) * 1000))
    finally:
        attempt.close()
    return result
