"""Real sockets for the kernel to tell about, closed when the test ends."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from probe.kernel.sockdiag import SockDiag
from tests.support import until_equal

Address = tuple[str, int]
Options = tuple[tuple[int, int, int | bytes], ...]
REUSEPORT: Options = ((socket.SOL_SOCKET, socket.SO_REUSEPORT, 1),)
V6ONLY: Options = ((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),)
DUAL_STACK: Options = ((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0),)

MPTCP = Path("/proc/sys/net/mptcp/enabled")
IFA_F_NODAD = 0x02
RTN_LOCAL = 2


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def name(sock: socket.socket) -> Address:
    """The address of the socket's own end."""
    host, port = sock.getsockname()[:2]
    return host, port


class Sockets:
    """Makes sockets and remembers to close them."""

    def __init__(self) -> None:
        self._all: list[socket.socket] = []

    def keep(self, sock: socket.socket) -> socket.socket:
        self._all.append(sock)
        return sock

    def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        backlog: int = 5,
        protocol: int = 0,
        options: Options = (),
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self.keep(socket.socket(family, socket.SOCK_STREAM, protocol))
        for option in options:
            sock.setsockopt(*option)
        sock.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4])
        sock.listen(backlog)
        return sock

    def connect(self, host: str, port: int, protocol: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self.keep(socket.socket(family, socket.SOCK_STREAM, protocol))
        sock.connect(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4])
        return sock

    def knock(self, host: str, port: int) -> socket.socket:
        """Begin to connect, and do not wait for what comes of it."""
        sock = self.keep(socket.socket())
        sock.setblocking(False)
        sock.connect_ex((host, port))
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        return self.keep(listener.accept()[0])

    def close(self) -> None:
        for sock in self._all:
            sock.close()


@pytest.fixture
def sockets(namespace: None) -> Iterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def view(namespace: None) -> Iterator[SockDiag]:
    opened = SockDiag()
    yield opened
    opened.close()


@pytest.fixture
def mptcp(namespace: None) -> int:
    """The protocol number of MPTCP, where the kernel has it."""
    if not MPTCP.exists():
        pytest.skip("this kernel is built without MPTCP")
    return socket.IPPROTO_MPTCP


@pytest.fixture
def link(namespace: None) -> str:
    """A veth interface with the link-local address fe80::1, ready to be dialled."""
    with IPRoute() as route:
        route.link("add", ifname="link0", kind="veth", peer="link1")
        for end in ("link1", "link0"):
            index = socket.if_nametoindex(end)
            route.link("set", index=index, state="up")
        route.addr("add", index=index, address="fe80::1", prefixlen=64, flags=IFA_F_NODAD)
        # Until the kernel gets round to the route, it looks for fe80::1 on the wire.
        until_equal(lambda: route.route("get", dst="fe80::1", oif=index)[0]["type"], RTN_LOCAL)
    return "link0"
