"""`probe check`: one look and one round trip, or a question to a sidecar; one line, one status."""

from __future__ import annotations

import time

from probe.config import Config
from probe.config.records import Address
from probe.display import printable
from probe.imports.socket_lite import AI_NUMERICHOST, SOCK_STREAM, getaddrinfo, socket
from probe.imports.typing_lite import Any

EXIT_HEALTHY = 0
EXIT_UNHEALTHY = 1
EXIT_UNKNOWN = 3

MAX_REPLY = 64 << 10


def run(config: Config) -> int:
    """Print one line that says why; exit 0 healthy, 1 not, 3 could not tell."""
    code, line = once(config, config.time_limit)
    print(printable(line))
    return code


def once(config: Config, limit: float) -> tuple[int, str]:
    """Check everything once within `limit` seconds; return the exit code and the line."""
    deadline = time.monotonic() + limit
    if config.sidecar is not None:
        return _ask_sidecar(config.sidecar, "live" if config.live else "ready", limit)
    # Not loaded for nothing: to ask a sidecar is what kubelet may do every few seconds.
    from probe.commands import once
    from probe.kernel import open_view
    from probe.kernel.sampler import Sampler
    from probe.roundtrip import blocking

    view = open_view(walk=True)
    sampler = Sampler(view, once.counters())
    # What a target expects may be a password, and `wait` writes into the container's log.
    ask = once.frankly if config.command == "check" else blocking.run
    seen = []
    try:
        for left, target in zip(range(len(config.targets), 0, -1), config.targets, strict=True):
            share = (deadline - time.monotonic()) / left
            seen.append(once.at(target, config.policy, sampler, max(share, once.PAUSE), ask))
    finally:
        view.close()
    status = once.worst(one.status for one in seen)
    return status, "; ".join(one.line for one in seen if one.status == status)


def _ask_sidecar(address: Address, question: str, limit: float) -> tuple[int, str]:
    """Ask a running sidecar. That it can't be asked is unknown, not unhealthy.

    So is what anybody else answers there: an application says 200 to much, and a proxy 503.
    """
    deadline = time.monotonic() + limit
    reply = b""
    try:
        family, place = _resolve(address, limit)
        connection = socket(family, SOCK_STREAM)
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(place)
            request = f"GET /{question} HTTP/1.0\r\nHost: {address}\r\n\r\n"
            connection.sendall(request.encode("ascii"))
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
    if status == [b"200"] and line == question:
        return EXIT_HEALTHY, line
    if status == [b"503"] and line.startswith(f"not {question}: "):
        return EXIT_UNHEALTHY, line
    return EXIT_UNKNOWN, f"could not tell: {address} does not answer like a sidecar"


def _resolve(address: Address, limit: float) -> tuple[int, Any]:
    """The family and what connect() takes; within `limit` seconds. Raises OSError."""
    # A host in bytes spares the codec for international names, which costs as much as the rest.
    host = address.host.encode()
    try:
        found = getaddrinfo(host, address.port, type=SOCK_STREAM, flags=AI_NUMERICHOST)
    except OSError:
        from probe.kernel.hosts import NoAddress, resolve  # only names need it

        try:
            host = resolve(address.host, limit)[0].encode()
        except NoAddress as error:
            raise OSError(0, str(error)) from None
        found = getaddrinfo(host, address.port, type=SOCK_STREAM, flags=AI_NUMERICHOST)
    return found[0][0], found[0][4]
