"""Which listeners are reached from outside, told by us and tried from a namespace beside."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute, netns

from probe.kernel.namespace import enter, from_outside, interfaces
from probe.kernel.sockdiag import SockDiag
from tests.conftest import fresh_namespace, inside, returning
from tests.kernel.conftest import DUAL_STACK, IFA_F_NODAD, V6ONLY, Options, Sockets, name

OURS, OURS6, THEIRS, THEIRS6 = "192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"
VIRTUAL = "198.51.100.7"
"""An address on `lo`, as load balancers give one."""

LO: Options = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"),)
LINK: Options = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"link0\0"),)
ANYWHERE: Options = ((socket.SOL_IP, 15, 1),)
"""IP_FREEBIND: to an address that no interface has"""

LISTENERS: dict[str, tuple[str, Options, bool | None]] = {
    "loopback": ("127.0.0.1", (), False),
    "more of loopback": ("127.0.0.2", (), False),
    "IPv6 loopback": ("::1", V6ONLY, False),
    "mapped loopback": ("::ffff:127.0.0.1", DUAL_STACK, False),
    "wildcard": ("0.0.0.0", (), True),
    "IPv6 wildcard": ("::", V6ONLY, True),
    "dual stack": ("::", DUAL_STACK, True),
    "address": (OURS, (), True),
    "IPv6 address": (OURS6, V6ONLY, True),
    "mapped address": (f"::ffff:{OURS}", DUAL_STACK, True),
    "address on lo": (VIRTUAL, (), True),
    "bound to lo": ("0.0.0.0", LO, False),
    "bound to the link": ("0.0.0.0", LINK, True),
    "nobody's address": ("203.0.113.9", ANYWHERE, None),
}


@pytest.fixture
def neighbour(namespace: None) -> Iterator[int]:
    """A descriptor of a namespace at the other end of a link, from where all of ours is routed."""
    with fresh_namespace():
        beside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        with IPRoute() as routes:
            peer = {"ifname": "link1", "net_ns_fd": beside}
            routes.link("add", ifname="link0", kind="veth", peer=peer)
            raise_link(routes, "link0", OURS, OURS6)
            routes.addr("add", index=1, address=VIRTUAL, prefixlen=32)
        with inside(beside), IPRoute() as routes:
            raise_link(routes, "link1", THEIRS, THEIRS6)
            routes.route("add", dst="default", gateway=OURS)
        yield beside
    finally:
        os.close(beside)


def raise_link(routes: IPRoute, link: str, address: str, address6: str) -> None:
    index = socket.if_nametoindex(link)
    routes.addr("add", index=index, address=address, prefixlen=24)
    routes.addr("add", index=index, address=address6, prefixlen=64, flags=IFA_F_NODAD)
    routes.link("set", index=index, state="up")


def answers(port: int) -> bool:
    """Whether any address of the namespace beside takes a connection."""
    for host in (OURS, OURS6, VIRTUAL):
        try:
            socket.create_connection((host, port), 2).close()
        except ConnectionRefusedError:
            continue
        return True
    return False


@pytest.mark.parametrize("kind", LISTENERS)
def test_what_is_told_is_what_a_neighbour_finds(
    kind: str, neighbour: int, view: SockDiag, sockets: Sockets
) -> None:
    host, options, expected = LISTENERS[kind]
    _, port = name(sockets.listen(host, options=options))
    (listener,) = view.listeners(port)
    told = from_outside(listener, interfaces())
    assert told is expected
    with inside(neighbour):
        assert answers(port) is bool(told)


def test_without_a_way_out_nothing_is_reached(view: SockDiag, sockets: Sockets) -> None:
    """Not even what has an address of its own: that of `lo`."""
    with IPRoute() as routes:
        routes.addr("add", index=1, address=VIRTUAL, prefixlen=32)
    for host in ("0.0.0.0", VIRTUAL):
        _, port = name(sockets.listen(host))
        (listener,) = view.listeners(port)
        assert from_outside(listener, interfaces()) is False


def test_an_interface_that_is_down(neighbour: int, view: SockDiag, sockets: Sockets) -> None:
    with IPRoute() as routes:
        routes.link("set", index=socket.if_nametoindex("link0"), state="down")
    _, port = name(sockets.listen("0.0.0.0"))
    (listener,) = view.listeners(port)
    assert from_outside(listener, interfaces()) is False


def test_what_is_known_without_the_interfaces(view: SockDiag, sockets: Sockets) -> None:
    """That of loopback nothing comes from outside; of all else nothing."""
    for host, expected in (("127.0.0.1", False), ("::1", False), ("0.0.0.0", None), ("::", None)):
        _, port = name(sockets.listen(host))
        (listener,) = view.listeners(port)
        assert from_outside(listener, None) is expected


def ours() -> int:
    """The inode of the network namespace that this thread is in."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


@pytest.mark.parametrize("where", ["{}", "/proc/{}/ns/net", "/proc/self/../{}/task/{}/ns/net"])
def test_entering_by_a_process_and_by_a_path(where: str) -> None:
    here = ours()
    with subprocess.Popen(("sleep", "60")) as process:
        try:
            with fresh_namespace():
                assert ours() != here
                enter(where.format(process.pid, process.pid))
                assert ours() == here
        finally:
            process.kill()


def test_entering_by_name() -> None:
    named = f"probe-{os.getpid()}"
    try:
        netns.create(named)
    except OSError as error:
        pytest.skip(f"no right to make a namespace with a name: {error}")
    try:
        with returning():
            enter(named)
            assert ours() == Path(netns.NETNS_RUN_DIR, named).stat().st_ino
    finally:
        netns.remove(named)


def test_what_is_not_there_is_not_made() -> None:
    here = ours()
    with pytest.raises(FileNotFoundError):
        enter("there-is-none")
    assert ours() == here
    assert not Path(netns.NETNS_RUN_DIR, "there-is-none").exists()
