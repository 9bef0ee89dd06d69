"""Which listeners an address reaches, told by us as the kernel decides it."""

import socket
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from probe.kernel.hosts import Elsewhere, NoAddress, canonical, find, reached
from probe.kernel.sockdiag import SockDiag
from probe.model import Connection
from tests.kernel.conftest import DUAL_STACK, REUSEPORT, V6ONLY, Options, Sockets, name
from tests.support import until_equal

LO: Options = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"),)
LINK: Options = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"link0\0"),)

GLOBAL6 = "2001:db8::7"

GROUPS: dict[str, tuple[tuple[str, Options], ...]] = {
    "addresses": (("127.0.0.1", ()), ("127.0.0.2", ())),
    "families": (("127.0.0.1", ()), ("::1", V6ONLY)),
    "mapped": (("::ffff:127.0.0.1", DUAL_STACK), ("::1", V6ONLY)),
    "dual stack": (("::", DUAL_STACK),),
    "both wildcards": (("0.0.0.0", ()), ("::", V6ONLY)),
    "v6 only": (("::", V6ONLY), ("127.0.0.2", ())),
    "a wildcard beside an address": (("0.0.0.0", REUSEPORT), ("127.0.0.2", REUSEPORT)),
    "dual stack beside an address": (("::", DUAL_STACK + REUSEPORT), ("127.0.0.2", REUSEPORT)),
    "dual stack beside IPv4": (("::", DUAL_STACK + REUSEPORT), ("0.0.0.0", REUSEPORT)),
    "reuseport": (("0.0.0.0", REUSEPORT),) * 3 + (("::1", V6ONLY),),
    "interfaces": (("0.0.0.0", LO), ("0.0.0.0", LINK)),
    "interfaces, IPv6": (("::", V6ONLY + LO), ("::", V6ONLY + LINK)),
    "link-local": (("fe80::1%link0", V6ONLY), ("::1", V6ONLY), ("127.0.0.1", ())),
    "link-local beside an interface": (("::", V6ONLY + LINK), ("127.0.0.1", ())),
}

HOSTS = ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "fe80::1%link0")


@pytest.mark.parametrize("group", GROUPS)
def test_what_an_address_reaches_is_what_gets_the_connection(
    group: str, view: SockDiag, sockets: Sockets, link: str
) -> None:
    """Many connections to each, so that every member of a group gets some."""
    port = 0
    for host, options in GROUPS[group]:
        port = name(sockets.listen(host, port, backlog=1000, options=options))[1]
    every = view.listeners(port)
    assert len(every) == len(GROUPS[group])
    for host in HOSTS:
        told = {listener.cookie for listener in reached((canonical(host),), every)}
        assert told == getting(host, port, view, sockets), host


def getting(host: str, port: int, view: SockDiag, sockets: Sockets) -> set[int]:
    """The cookies of the listeners whose queues grow when this address is dialled."""
    before = {one.cookie: one.length for one in view.listeners(port)}
    try:
        for _ in range(20):
            sockets.connect(host, port)
    except ConnectionRefusedError:
        return set()
    until_equal(lambda: sum(one.length for one in view.listeners(port)) - sum(before.values()), 20)
    return {one.cookie for one in view.listeners(port) if one.length > before[one.cookie]}


def test_without_a_host_every_listener_of_the_port_is_meant(
    view: SockDiag, sockets: Sockets
) -> None:
    port = name(sockets.listen("127.0.0.1"))[1]
    sockets.listen("127.0.0.2", port)
    assert reached((), view.listeners(port)) == view.listeners(port)
    assert reached(("127.0.0.3",), view.listeners(port)) == ()


def test_the_connections_of_another_listener_are_left_out(view: SockDiag, sockets: Sockets) -> None:
    """So the oldest of all is no head of a queue that it does not stand in."""
    port = name(sockets.listen("127.0.0.1"))[1]
    sockets.listen("127.0.0.2", port)
    theirs = sockets.connect("127.0.0.1", port)
    until_equal(lambda: len(view.queued(port)), 1)
    ours = sockets.connect("127.0.0.2", port)
    until_equal(lambda: len(view.queued(port)), 2)
    for ask in (view.queued, view.head, view.connections):
        assert remotes(ask(port, ("127.0.0.2",))) == {name(ours)}, ask
        assert remotes(ask(port, ("127.0.0.1",))) == {name(theirs)}, ask
        assert ask(port, ("127.0.0.3",)) == (), ask


def test_a_wildcard_has_one_queue_whatever_address_was_dialled(
    view: SockDiag, sockets: Sockets
) -> None:
    port = name(sockets.listen("::", options=DUAL_STACK))[1]
    clients = [sockets.connect(host, port) for host in ("127.0.0.1", "127.0.0.2", "::1")]
    until_equal(lambda: len(view.queued(port)), 3)
    assert len(view.queued(port, ("127.0.0.2",))) == len(clients)


def remotes(connections: tuple[Connection, ...]) -> set[tuple[str, int]]:
    return {one.remote for one in connections}


# --- what is of this namespace


def test_addresses_of_this_namespace(namespace: None) -> None:
    with IPRoute() as routes:
        routes.addr("add", index=1, address="10.9.8.7", prefixlen=24)
        routes.addr("add", index=1, address="10.9.8.8", prefixlen=24)
        routes.route("add", dst="198.51.100.0/24", oif=1, type="local", table=255, scope="host")
    for host in ("127.0.0.1", "127.200.0.9", "10.9.8.7", "10.9.8.8", "198.51.100.77", "::1"):
        assert find(host, 0) == (host,)
    assert find("", 0) == ()
    assert find("::ffff:10.9.8.7", 0) == ("10.9.8.7",)
    assert find("0:0::0:1", 0) == ("::1",)
    assert find("0.0.0.0", 0) == ("127.0.0.1",)
    assert find("localhost", 10)[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["192.0.2.1", "10.9.8.7", GLOBAL6, "::ffff:192.0.2.1"])
def test_addresses_of_others(host: str) -> None:
    with pytest.raises(Elsewhere, match=f"^{host}.* is not of this network namespace$"):
        find(host, 0)


def test_a_zone(link: str) -> None:
    index = socket.if_nametoindex(link)
    assert find(f"fe80::1%{link}", 0) == find(f"fe80::1%{index}", 0) == (f"fe80::1%{index}",)
    with pytest.raises(Elsewhere):
        find("fe80::1%lo", 0)
    with pytest.raises(NoAddress, match=r"^fe80::1%nowhere: no such interface$"):
        find("fe80::1%nowhere", 0)


def test_without_ipv6_a_name_has_its_ipv4_address_alone(namespace: None) -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    assert find("localhost", 10) == ("127.0.0.1",)
    with pytest.raises(Elsewhere):
        find("::1", 0)
