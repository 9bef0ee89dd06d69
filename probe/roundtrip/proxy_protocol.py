"""The header by which a proxy says for whom it connects, sent before all else, TLS included.

The PROXY protocol: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, 2.1 and 2.2. We say
what is so: from our own address to the one dialled. `UNKNOWN` and `LOCAL` would say as much, and
some servers take them for an error.
"""

from __future__ import annotations

from probe.imports.socket_lite import AF_INET, AF_INET6, inet_pton

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXIED = 0x20, 0x21
"""Version 2, and the command."""

TCP4, TCP6 = 0x11, 0x21


def header(version: str, local: tuple[str, int], remote: tuple[str, int]) -> bytes:
    """The header of this version ("1" or "2") for a connection from local to remote. Without an
    address, as that of a unix socket has none, it says no more than that there is a proxy.
    """
    (source, source_port), (destination, port) = (
        (host.partition("%")[0], port) for host, port in (local, remote)
    )
    if not (source and destination):
        return b"PROXY UNKNOWN\r\n" if version == "1" else SIGNATURE + bytes((LOCAL, 0, 0, 0))
    v6 = ":" in destination
    if version == "1":
        word = "TCP6" if v6 else "TCP4"
        return f"PROXY {word} {source} {destination} {source_port} {port}\r\n".encode()
    family = AF_INET6 if v6 else AF_INET
    ends = inet_pton(family, source) + inet_pton(family, destination)
    ends += source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    return SIGNATURE + bytes((PROXIED, TCP6 if v6 else TCP4)) + len(ends).to_bytes(2, "big") + ends
