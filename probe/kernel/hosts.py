"""What a target's host means: addresses of this network namespace, and the listeners they reach.

Several servers may listen on one port, each at an address of its own. Those that a host does not
reach are not its target's, in no sample and in no evidence.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from probe.imports.socket_lite import (
    AF_INET,
    AF_INET6,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_STREAM,
    getaddrinfo,
    if_nametoindex,
    inet_ntop,
    inet_pton,
    socket,
)
from probe.model import Connection, Listener

End = tuple[int, str]
"""An address as it is dialled, with its family; IPv4 in IPv6 clothes is IPv4."""

MAPPED = "::ffff:"
ANY4: End = (AF_INET, "0.0.0.0")
ANY6: End = (AF_INET6, "::")
LOOPBACK = {ANY4: "127.0.0.1", ANY6: "::1"}
"""What is dialled for a wildcard."""

LINK_LOCAL = ("fe8", "fe9", "fea", "feb")
"""How an IPv6 address begins that needs its zone, fe80::1%2."""

LOOPBACK_DEVICE = 1
"""The index of `lo` in every network namespace (LOOPBACK_IFINDEX)."""

NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV})
"""How bind() refuses what is no address of this network namespace."""


class NoAddress(Exception):
    """What a host stands for could not be found out. One line of text."""


class Elsewhere(NoAddress):
    """A host is of another network namespace, another pod or machine; `hosts` are its addresses."""

    def __init__(self, host: str, hosts: tuple[str, ...]) -> None:
        known = f" ({', '.join(hosts[:3])})" if (host,) != hosts else ""
        super().__init__(f"{host}{known} is not of this network namespace")
        self.hosts = hosts


# --- the addresses of a host


def find(host: str, timeout: float) -> tuple[str, ...]:
    """The addresses of this network namespace that a host stands for, IPv4 first; () for no host.

    Raises Elsewhere when there is none among them, NoAddress when the host does not resolve within
    `timeout` seconds. It blocks for so long where the host is a name.
    """
    if not host:
        return ()
    every = tuple(canonical(address) for address in resolve(host, timeout) or (host,))
    here = tuple(dict.fromkeys(address for address in every if is_here(address)))
    if not here:
        raise Elsewhere(host, every)
    return here


def family_of(host: str) -> int | None:
    """The address family of a numeric address; None: it is a name."""
    for family in (AF_INET, AF_INET6):
        try:
            inet_pton(family, host.partition("%")[0] if family == AF_INET6 else host)
        except (OSError, ValueError):
            continue
        return family
    return None


def resolve(host: str, timeout: float) -> tuple[str, ...]:
    """The addresses of a name, IPv4 first; () for a numeric address and for no host.

    Raises NoAddress when the resolver does not know, or not within `timeout` seconds. It blocks
    for that long; the C library's resolver cannot be interrupted, so it runs in a thread that is
    left behind, and is no obstacle to the end of the process.
    """
    if not host or family_of(host) is not None:
        return ()
    from threading import Thread  # Only names need it.

    found: list[End] = []
    failed: list[str] = []

    def ask() -> None:
        try:
            for family, _, _, _, place in getaddrinfo(host, None, type=SOCK_STREAM):
                zone = place[3] if len(place) == 4 else 0
                found.append((family, f"{place[0]}%{zone}" if zone else str(place[0])))
        except (OSError, ValueError) as error:  # ValueError: nothing that could be a name
            failed.append(str(getattr(error, "strerror", None) or error))

    thread = Thread(target=ask, name=f"resolve {host}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # a limit on tasks
        raise NoAddress(f"{host}: {error}") from None
    thread.join(timeout)
    if not found or thread.is_alive():
        why = failed[0] if failed else f"no answer from the resolver within {timeout:g} s"
        raise NoAddress(f"{host}: {why}")
    return tuple(text for _, text in sorted(found, key=lambda end: end[0]))


def canonical(host: str) -> str:
    """A numeric address as the kernel's rows have it, with the index of its zone; what stands for
    every address is dialled as loopback, and so it is here. Raises NoAddress for a zone that is
    not there.
    """
    text, _, zone = host.partition("%")
    family, text = numeric(text)
    text = inet_ntop(family, inet_pton(family, text))
    family, text = numeric(text)
    if not zone or not text.startswith(LINK_LOCAL):
        return LOOPBACK.get((family, text), text)
    try:
        return f"{text}%{int(zone) if zone.isdigit() else if_nametoindex(zone)}"
    except OSError:
        raise NoAddress(f"{host}: no such interface") from None


def is_here(host: str) -> bool:
    """Whether a numeric address is of this network namespace: then a socket can be bound to it.

    Where net.ipv4.ip_nonlocal_bind is set, the kernel lets it be bound to any address, and every
    host counts as one of here (ip(7), inet_can_nonlocal_bind in inet_sock.h).
    """
    family, text = numeric(host)
    text, _, zone = text.partition("%")
    try:
        trial = socket(family, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            trial.bind((text, 0) if family == AF_INET else (text, 0, 0, int(zone or 0)))
        finally:
            trial.close()
    except OSError as error:
        if error.errno in NOT_HERE:
            return False
        raise NoAddress(f"{host}: {error.strerror}") from None
    return True


# --- the listeners that an address reaches


def numeric(host: str) -> End:
    """An address as it is dialled: IPv4 in IPv6 clothes is IPv4."""
    if host.startswith(MAPPED) and "." in host:
        return AF_INET, host.removeprefix(MAPPED)
    return AF_INET6 if ":" in host else AF_INET, host


def reached(hosts: tuple[str, ...], listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """The listeners of one port that these addresses reach; all of them where there is no host."""
    every = tuple(listeners)
    ends = [numeric(host) for host in hosts]
    if not ends:
        return every
    taking = {listener for end in ends for listener in takers(end, every)}
    return tuple(listener for listener in every if listener in taking)


def belonging(
    hosts: tuple[str, ...], connections: Iterable[Connection], listeners: Iterable[Listener]
) -> tuple[Connection, ...]:
    """The connections of one port that are, or were, for the listeners that these addresses reach.

    Of a listener at every address that is all of them, by whichever address they came.
    """
    is_theirs = tell_apart(hosts, listeners)
    return tuple(connection for connection in connections if is_theirs(connection.local[0]))


def tell_apart(hosts: tuple[str, ...], listeners: Iterable[Listener]) -> Callable[[str], bool]:
    """Whether a connection with this local address belongs to what `hosts` reach: to be asked of
    each of many, since it is found out but once for an address.
    """
    every = tuple(listeners)
    theirs = set(reached(hosts, every))
    ends = {numeric(host) for host in hosts}
    known: dict[str, bool] = {}

    def is_theirs(local: str) -> bool:
        if local not in known:
            text, _, zone = local.partition("%")  # whatever is bound to an interface has one
            end = numeric(local if zone and text.startswith(LINK_LOCAL) else text)
            known[local] = end in ends or not theirs.isdisjoint(takers(end, every))
        return known[local]

    return is_theirs if hosts else lambda local: True


def takers(end: End, listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    """The listeners of one port that a connection to this address comes to: of several that fit,
    those that fit best. More than one is a SO_REUSEPORT group.
    """
    ranked = [(rank(end, listener), listener) for listener in listeners]
    best = max((points for points, _ in ranked), default=0)
    return tuple(listener for points, listener in ranked if points and points == best)


def rank(end: End, listener: Listener) -> int:
    """How well a listener fits a connection of ours to this address; 0: it does not.

    By the rules of inet_lookup_listener and compute_score (net/ipv4/inet_hashtables.c): the address
    itself before a wildcard; then one that is bound to the interface by which the connection
    arrives; then, for IPv4, a socket of that family before one of IPv6.
    """
    family, _ = end
    bound = numeric(listener.address)
    any_of_both = bound == ANY6 and not listener.v6only
    if bound == end:
        points = 4
    elif bound == (ANY4 if family == AF_INET else ANY6) or any_of_both:
        points = 1
    else:
        return 0
    if listener.device:
        if arrives_by(end) not in (listener.device, None):
            return 0
        points += 1
    return points + (listener.family == AF_INET)


def arrives_by(end: End) -> int | None:
    """The index of the interface by which a connection from here to this address arrives: `lo`
    for IPv4, that of the address for IPv6; None where the address does not tell.
    """
    family, host = end
    if family == AF_INET or host == LOOPBACK[ANY6]:
        return LOOPBACK_DEVICE
    zone = host.partition("%")[2]
    return int(zone) if zone else None
