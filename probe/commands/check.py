"""`probe check`: one look and one round trip, judged like the sidecar's, within a time limit.

A dead application must not be filled by exec probes, one connection each time they run: a queue
that is not empty is looked at again before anything is sent, and where it does not move there is
no connection at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from probe import judge
from probe.config import Config
from probe.config.records import Address
from probe.kernel import CannotTell, KernelView, open_view
from probe.kernel.procfs import Counters
from probe.model import (
    Listener,
    Observation,
    Outcome,
    Policy,
    Reason,
    RoundTrip,
    Target,
    Verdict,
)
from probe.roundtrip import blocking
from probe.sampler import Front, Sampler
from probe.sockets import SOCK_STREAM, getaddrinfo, socket
from probe.typed import NamedTuple

EXIT_HEALTHY = 0
EXIT_UNHEALTHY = 1
EXIT_UNKNOWN = 3

LOOK_AGAIN = 1 / 3
"""The share of the time limit that a suspicious queue is looked at before the round trip."""

PAUSE = 0.02
"""Seconds between two looks."""

MAX_REPLY = 64 << 10


class Seen(NamedTuple):
    """What a look at one target came to: the exit status it stands for, and why in one line."""

    status: int
    line: str
    verdict: Verdict


def run(config: Config) -> int:
    """Print one line that says why; exit 0 healthy, 1 not, 3 could not tell."""
    code, line = once(config, config.time_limit)
    print(line)
    return code


def once(config: Config, limit: float) -> tuple[int, str]:
    """Check everything once within `limit` seconds; return the exit code and the line."""
    deadline = time.monotonic() + limit
    if config.sidecar is not None:
        return _ask_sidecar(config.sidecar, "/live" if config.live else "/ready", limit)
    view = open_view(walk=True)
    sampler = Sampler(view, counters())
    seen = []
    try:
        for left, target in zip(range(len(config.targets), 0, -1), config.targets, strict=True):
            share = (deadline - time.monotonic()) / left
            seen.append(look(target, config.policy, sampler, max(share, PAUSE)))
    finally:
        view.close()
    status = worst(one.status for one in seen)
    return status, "; ".join(one.line for one in seen if one.status == status)


def worst(statuses: Iterable[int]) -> int:
    """The exit status for several targets."""
    return max(statuses, key=(EXIT_HEALTHY, EXIT_UNKNOWN, EXIT_UNHEALTHY).index)


def counters() -> Counters | None:
    """The namespace's counters; None where it does not tell them."""
    try:
        return Counters()
    except CannotTell:
        return None


def look(
    target: Target,
    policy: Policy,
    sampler: Sampler,
    limit: float,
    ask: Callable[[Target, Iterable[Listener], KernelView, float], RoundTrip] = blocking.run,
) -> Seen:
    """Judge one target within `limit` seconds. `ask` makes the round trip, where one may be."""
    begun = time.monotonic()
    looking = limit * LOOK_AGAIN
    policy = policy._replace(
        interval=looking,
        saturated_for=looking,
        stalled_for=looking,
        timeout=limit,
        failure_threshold=1,
        success_threshold=1,
    )
    sample = sampler.sample(target.port)
    state, _ = judge.step(judge.initial(target, begun), Observation(begun, sample), policy)
    front = Front(sampler.view, target.port, presumed=True)
    while any(watch.length and not watch.accepted for watch in state.watches):
        # Something is queued, and nothing yet says that it moves.
        if state.verdict.reason in (Reason.ACCEPT_QUEUE_STALLED, Reason.ACCEPT_QUEUE_SATURATED):
            return _seen(state.verdict)
        if time.monotonic() - begun > 2 * looking:
            break
        time.sleep(PAUSE)
        sample = sampler.sample(target.port)
        at_front = front.look()
        if not at_front:
            front.find()
        sample = sample._replace(front=at_front)
        state, _ = judge.step(state, Observation(time.monotonic(), sample), policy)
    if sample.listeners or sample.error:
        rest = begun + limit - time.monotonic()
        result = ask(target, sample.listeners, sampler.view, rest)
        if result.outcome is Outcome.UNKNOWN:
            line = f"could not tell: {target.name} {result.detail}"
            return Seen(EXIT_UNKNOWN, line, state.verdict)
        state, _ = judge.step(state, Observation(time.monotonic(), round_trip=result), policy)
    return _seen(state.verdict)


def _seen(verdict: Verdict) -> Seen:
    if verdict.ready:
        return Seen(EXIT_HEALTHY, verdict.message, verdict)
    return Seen(EXIT_UNHEALTHY, f"{verdict.reason}: {verdict.message}", verdict)


def _ask_sidecar(address: Address, path: str, limit: float) -> tuple[int, str]:
    """Ask a running sidecar. That it can't be asked is unknown, not unhealthy."""
    deadline = time.monotonic() + limit
    reply = b""
    try:
        family, kind, protocol, _, place = getaddrinfo(
            address.host, address.port, type=SOCK_STREAM
        )[0]
        connection = socket(family, kind, protocol)
        try:
            connection.settimeout(limit)
            connection.connect(place)
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode("ascii"))
            while len(reply) < MAX_REPLY:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                received = connection.recv(MAX_REPLY)
                if not received:
                    break
                reply += received
        finally:
            connection.close()
    except OSError as error:
        why = "timed out" if isinstance(error, TimeoutError) else error.strerror
        return EXIT_UNKNOWN, f"could not tell: sidecar at {address}: {why}"
    head, _, body = reply.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    line = body.decode("utf-8", "replace").partition("\n")[0]
    if status == [b"200"]:
        return EXIT_HEALTHY, line
    if status == [b"503"]:
        return EXIT_UNHEALTHY, line
    return EXIT_UNKNOWN, f"could not tell: {address} does not answer like a sidecar"
