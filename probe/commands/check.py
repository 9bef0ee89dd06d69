"""`probe check`: one look and one round trip, judged like the sidecar's, within a time limit.

A dead application must not be filled by exec probes, one connection each time they run: a queue
that is not empty is looked at again before anything is sent, and where it does not move there is
no connection at all.
"""

import time

from probe import judge
from probe.config import Config
from probe.config.records import Address
from probe.kernel import CannotTell, open_view
from probe.kernel.procfs import Counters
from probe.model import (
    Observation,
    Outcome,
    Policy,
    Reason,
    Target,
    Verdict,
)
from probe.roundtrip import blocking
from probe.sampler import Front, Sampler
from probe.sockets import SOCK_STREAM, getaddrinfo, socket

EXIT_HEALTHY = 0
EXIT_UNHEALTHY = 1
EXIT_UNKNOWN = 3

LOOK_AGAIN = 1 / 3
"""The share of the time limit that a suspicious queue is looked at before the round trip."""

PAUSE = 0.02
"""Seconds between two looks."""

MAX_REPLY = 64 << 10


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
    sampler = Sampler(view, _counters())
    results = []
    try:
        for left, target in zip(range(len(config.targets), 0, -1), config.targets, strict=True):
            share = (deadline - time.monotonic()) / left
            results.append(_check(target, config.policy, sampler, max(share, PAUSE)))
    finally:
        view.close()
    worst = max(
        results, key=lambda result: (EXIT_HEALTHY, EXIT_UNKNOWN, EXIT_UNHEALTHY).index(result[0])
    )
    return worst[0], "; ".join(line for code, line in results if code == worst[0])


def _counters() -> Counters | None:
    try:
        return Counters()
    except CannotTell:
        return None


def _check(target: Target, policy: Policy, sampler: Sampler, limit: float) -> tuple[int, str]:
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
    front = Front(sampler.view, target.port)
    while any(watch.length and not watch.accepted for watch in state.watches):
        # Something is queued, and nothing yet says that it moves.
        if state.verdict.reason in (Reason.ACCEPT_QUEUE_STALLED, Reason.ACCEPT_QUEUE_SATURATED):
            return EXIT_UNHEALTHY, _line(state.verdict)
        if time.monotonic() - begun > 2 * looking:
            break
        time.sleep(PAUSE)
        sample = sampler.sample(target.port)
        seen = front.look()
        if not seen:
            front.find()
        sample = sample._replace(front=seen)
        state, _ = judge.step(state, Observation(time.monotonic(), sample), policy)
    if sample.listeners or sample.error:
        rest = begun + limit - time.monotonic()
        result = blocking.run(target, sample.listeners, sampler.view, rest)
        if result.outcome is Outcome.UNKNOWN:
            return EXIT_UNKNOWN, f"could not tell: {target.name} {result.detail}"
        state, _ = judge.step(state, Observation(time.monotonic(), round_trip=result), policy)
    return (EXIT_HEALTHY if state.verdict.ready else EXIT_UNHEALTHY), _line(state.verdict)


def _line(verdict: Verdict) -> str:
    return verdict.message if verdict.ready else f"{verdict.reason}: {verdict.message}"


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
