"""Where to dial: what the listener is bound to, or the host that was asked for."""

from __future__ import annotations

from collections.abc import Iterable

from probe.imports.socket_lite import (
    AF_INET,
    AF_INET6,
    SOCK_STREAM,
    getaddrinfo,
    if_nametoindex,
    inet_pton,
)
from probe.imports.typing_lite import NamedTuple
from probe.model import Listener, Target
from probe.roundtrip.exchange import CannotAsk

MAPPED = "::ffff:"
ANY4 = (AF_INET, "0.0.0.0")
ANY6 = (AF_INET6, "::")
LOOPBACK = {ANY4: "127.0.0.1", ANY6: "::1"}
"""What to dial for a wildcard."""


class Address(NamedTuple):
    """Where to connect. An IPv6 host of link-local scope carries its zone: fe80::1%2."""

    family: int
    host: str
    port: int

    @property
    def socket_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What connect() takes. Raises OSError when there is no such zone."""
        if self.family == AF_INET:
            return self.host, self.port
        host, _, zone = self.host.partition("%")
        index = int(zone) if zone.isdigit() else if_nametoindex(zone) if zone else 0
        return host, self.port, 0, index


def family_of(host: str) -> int | None:
    """The address family of a numeric address; None: it is a name."""
    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, host.partition("%")[0] if family == AF_INET6 else host)
        except (OSError, ValueError):
            continue
        return family
    return None


def numeric(host: str) -> tuple[int, str]:
    """An address as it is dialled: IPv4 in IPv6 clothes is IPv4."""
    if host.startswith(MAPPED) and "." in host:
        return AF_INET, host.removeprefix(MAPPED)
    return AF_INET6 if ":" in host else AF_INET, host


def ends(listener: Listener) -> list[tuple[int, str]]:
    """What a listener is bound to; [::] stands for 0.0.0.0 as well, unless it takes no IPv4."""
    end = numeric(listener.address)
    if end == ANY6 and not listener.v6only:
        return [ANY4, ANY6]
    return [end]


def address(target: Target, listeners: Iterable[Listener], resolved: Iterable[str] = ()) -> Address:
    """Where to dial a target, the same for the same listeners.

    With a host, that host; of the addresses that a name was `resolved` to, the first that reaches
    one of the listeners, else the first. Without a host, what the listeners are bound to: loopback
    for a wildcard, the address itself otherwise. Of several, a wildcard comes before one address,
    IPv4 before IPv6 (a pod may have no ::1, whatever its application listens on), and then the
    lowest. Without either, 127.0.0.1.
    """
    bound = [end for listener in listeners for end in ends(listener)]
    if target.host:
        hosts = [numeric(host) for host in resolved or (target.host,)]
        family, host = next((one for one in hosts if reaches(one, bound)), hosts[0])
    else:
        family, host = min(bound, key=lambda end: (end not in LOOPBACK, end), default=ANY4)
        host = LOOPBACK.get((family, host), host)
    return Address(family, host, target.port)


def reaches(one: tuple[int, str], bound: list[tuple[int, str]]) -> bool:
    """Whether a connection to this address comes to one of the bound ones."""
    return one in bound or (ANY4 if one[0] == AF_INET else ANY6) in bound


def resolve(host: str, timeout: float) -> tuple[str, ...]:
    """The addresses of a name, IPv4 first; () for a numeric address and for no host.

    Raises CannotAsk when the resolver does not know, or not within `timeout` seconds. It blocks
    for that long; the C library's resolver cannot be interrupted, so it runs in a thread that is
    left behind, and is no obstacle to the end of the process.
    """
    if not host or family_of(host) is not None:
        return ()
    from threading import Thread  # Only names need it.

    found: list[tuple[int, str]] = []
    failed: list[str] = []

    def ask() -> None:
        try:
            rows = getaddrinfo(host, None, type=SOCK_STREAM)
            found.extend((row[0], str(row[4][0])) for row in rows)
        except (OSError, ValueError) as error:  # ValueError: nothing that could be a name
            failed.append(str(getattr(error, "strerror", None) or error))

    thread = Thread(target=ask, name=f"resolve {host}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # a limit on tasks
        raise CannotAsk(f"{host}: {error}") from None
    thread.join(timeout)
    if not found:
        why = failed[0] if failed else f"no answer from the resolver within {timeout:g} s"
        raise CannotAsk(f"{host}: {why}")
    return tuple(text for _, text in sorted(found, key=lambda one: one[0]))
