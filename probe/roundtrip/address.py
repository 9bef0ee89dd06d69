"""Where to dial: what the listener is bound to, the host that was asked for, or a unix socket."""

from __future__ import annotations

from collections.abc import Iterable

from probe.display import host_port
from probe.imports.socket_lite import AF_INET, AF_UNIX, if_nametoindex
from probe.imports.typing_lite import NamedTuple
from probe.kernel.hosts import ANY4, ANY6, LOOPBACK, End, numeric, takers
from probe.model import Listener, Target


class Address(NamedTuple):
    """Where to connect. An IPv6 host of link-local scope carries its zone: fe80::1%2. The host of a
    unix socket is its path, or `@NAME`, and its port 0.
    """

    family: int
    host: str
    port: int
    remote: bool = False
    """It is of another network namespace, where no kernel that we can ask shows the other end."""

    def __str__(self) -> str:
        return self.host if self.family == AF_UNIX else host_port(self.host, self.port)

    @property
    def socket_address(self) -> str | bytes | tuple[str, int] | tuple[str, int, int, int]:
        """What connect() takes. Raises OSError when there is no such zone."""
        if self.family == AF_UNIX:
            return b"\0" + self.host[1:].encode() if self.host.startswith("@") else self.host
        if self.family == AF_INET:
            return self.host, self.port
        host, _, zone = self.host.partition("%")
        index = int(zone) if zone.isdigit() else if_nametoindex(zone) if zone else 0
        return host, self.port, 0, index


def address(target: Target, listeners: Iterable[Listener], hosts: Iterable[str] = ()) -> Address:
    """Where to dial a target, the same for the same listeners.

    With a host, that host; of the addresses (`hosts`) that a name stands for, the first that
    reaches one of the listeners, else the first. Without a host, what the listeners are bound to:
    loopback for a wildcard, the address itself otherwise. Of several, a wildcard comes before one
    address, IPv4 before IPv6 (a pod may have no ::1, whatever its application listens on), and then
    the lowest. Without either, 127.0.0.1.
    """
    if target.socket:
        return Address(AF_UNIX, target.socket, 0)
    listeners = tuple(listeners)
    if target.host:
        dialled = [numeric(host) for host in hosts or (target.host,)]
        family, host = next((end for end in dialled if takers(end, listeners)), dialled[0])
    else:
        bound = (end for listener in listeners for end in ends(listener))
        family, host = min(bound, key=lambda end: (end not in LOOPBACK, end), default=ANY4)
        host = LOOPBACK.get((family, host), host)
    return Address(family, host, target.port)


def ends(listener: Listener) -> list[End]:
    """What a listener is bound to; [::] stands for 0.0.0.0 as well, unless it takes no IPv4."""
    end = numeric(listener.address)
    if end == ANY6 and not listener.v6only:
        return [ANY4, ANY6]
    return [end]
