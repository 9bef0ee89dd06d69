"""What a running sidecar says, asked over one connection: `probe check --sidecar`.

kubelet may start that every few seconds in every pod. So next to nothing is imported here, neither
the settings nor the model.
"""

import time

from probe import exits
from probe.display import host_port, printable
from probe.imports.socket_lite import AI_NUMERICHOST, SOCK_STREAM, getaddrinfo, socket

HOST = "127.0.0.1"
PORT = 9809
TIME_LIMIT = 0.9
"""What the table of settings comes to where nobody sets anything."""

WARNED = 429
"""The status that it is asked to give for a warning."""

MAX_REPLY = 64 << 10


def run(question: str) -> int:
    """Ask the sidecar where it is by default; print its line, and return the exit code."""
    return report(*ask_sidecar(HOST, PORT, question, TIME_LIMIT))


def report(code: int, line: str) -> int:
    """Print the one line of a check; return its exit code."""
    print(printable(line))
    return code


def ask_sidecar(
    host: str, port: int, question: str, limit: float, *, warn: bool = False
) -> tuple[int, str]:
    """Ask a running sidecar whether it is `ready` or `live`, within `limit` seconds; return the
    status and the line; where it may `warn`, that may be WARNING. That it cannot be asked is
    unknown, not unhealthy.

    So is what anybody else answers there: an application says 200 to much, and a proxy 503.
    """
    deadline = time.monotonic() + limit
    where = host_port(host, port)
    reply = b""
    try:
        family, place = _resolve(host, port, limit)
        connection = socket(family, SOCK_STREAM)
        try:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(place)
            page = f"/{question}?warn={WARNED}" if warn else f"/{question}"
            request = f"GET {page} HTTP/1.0\r\nHost: {where}\r\n\r\n"
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
        return exits.UNKNOWN, f"could not tell: sidecar at {where}: {why}"
    head, _, body = reply.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    line, _, further = body.decode("utf-8", "replace").partition("\n")
    # Kept in service, or held by hand, it says why.
    yes = line == question or line.startswith(f"{question}: ")
    if status == [b"200"] and yes:
        return exits.OK, line
    if warn and status == [b"%d" % WARNED] and yes:
        return exits.WARNING, "; ".join((line, *further.splitlines()))
    if status == [b"503"] and line.startswith(f"not {question}: "):
        return exits.FAILED, line
    return exits.UNKNOWN, f"could not tell: {where} does not answer like a sidecar"


def _resolve(host: str, port: int, limit: float) -> tuple[int, tuple[object, ...]]:
    """The family and what connect() takes; within `limit` seconds. Raises OSError."""
    # A host in bytes spares the codec for international names, which costs as much as the rest.
    try:
        found = getaddrinfo(host.encode(), port, type=SOCK_STREAM, flags=AI_NUMERICHOST)
    except OSError:
        from probe.kernel.hosts import NoAddress, resolve  # only names need it

        try:
            address = resolve(host, limit)[0].encode()
        except NoAddress as error:
            raise OSError(0, str(error)) from None
        found = getaddrinfo(address, port, type=SOCK_STREAM, flags=AI_NUMERICHOST)
    return found[0][0], found[0][4]
