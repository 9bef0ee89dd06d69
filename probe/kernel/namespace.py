"""The network namespace as a place: going to another one, and what of it is reached from outside.

By pyroute2, which takes 11 MiB and 0.2 s of CPU time to load: this is for commands that a person
waits for. `probe check` and the resident sidecar do not import it.
"""

import os
from collections.abc import Iterable
from ctypes import CDLL
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

from probe.kernel import CannotTell
from probe.kernel.hosts import ANY4, ANY6, numeric
from probe.model import Listener

IFF_UP = 1 << 0
IFF_LOOPBACK = 1 << 3
"""linux/if.h"""


class Interface(NamedTuple):
    """An interface that is up: its index, and the addresses that it gives to the namespace."""

    number: int
    loopback: bool
    addresses: tuple[str, ...]


def enter(where: str) -> None:
    """Move this thread, with every child from now on, to another network namespace.

    `where` is a name of ip-netns(8), a path, or the pid of a process that is in it; a number is
    always a pid. None is ever made. Raises OSError; EINVAL for what is no network namespace.
    """
    if where.isdecimal():
        where = f"/proc/{where}/ns/net"
    elif "/" not in where:
        where = f"{netns.NETNS_RUN_DIR}/{where}"
    # Without flags it would make one that is not there; of text it takes ASCII alone; and left to
    # itself it runs programs to find the C library that this process has.
    netns.setns(os.fsencode(where), flags=0, libc=CDLL(None, use_errno=True))


def interfaces() -> tuple[Interface, ...]:
    """Those of this network namespace that are up. Raises CannotTell."""
    try:
        with IPRoute() as route:
            links = [link for link in route.get_links() if link["flags"] & IFF_UP]
            addresses: dict[int, list[str]] = {}
            for row in route.get_addr():
                # Where both are there, IFA_ADDRESS is the other end's (rtnetlink(7)).
                address = row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS")
                addresses.setdefault(row["index"], []).append(address)
    except (NetlinkError, OSError) as error:
        raise CannotTell(f"the interfaces of this network namespace: {error}") from None
    return tuple(
        Interface(
            number=link["index"],
            loopback=bool(link["flags"] & IFF_LOOPBACK),
            addresses=tuple(addresses.get(link["index"], ())),
        )
        for link in links
    )


def from_outside(listener: Listener, interfaces: Iterable[Interface] | None) -> bool | None:
    """Whether a packet from outside of the network namespace may come to a listener.

    That takes an interface beside `lo`, and an address that is not loopback: Linux takes a packet
    for any address of the host by whichever interface it comes, but none for 127.0.0.0/8 and ::1
    (ip_route_input_slow, ip6_input), route_localnet aside. No firewall is asked.

    None: it cannot be told; `interfaces` are not known, or the address belongs to none of them.
    """
    family, bound = numeric(listener.address.partition("%")[0])
    if is_loopback(bound):
        return False
    if interfaces is None:
        return None
    up = tuple(interfaces)
    if not any(not link.loopback and listener.device in (0, link.number) for link in up):
        return False
    others = {
        numeric(address) for link in up for address in link.addresses if not is_loopback(address)
    }
    if (family, bound) == ANY4:
        return any(end[0] == AF_INET for end in others)
    if (family, bound) == ANY6:
        return any(end[0] == AF_INET6 or not listener.v6only for end in others)
    return True if (family, bound) in others else None


def is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")
