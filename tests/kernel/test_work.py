"""What a restart would cut off, as one walk of the connection table counts it."""

import socket
import struct
from collections.abc import Iterator

import pytest

from probe.kernel.procfs import Counters
from probe.kernel.sampler import Sampler
from probe.kernel.sockdiag import SockDiag
from probe.model import Work
from tests.kernel.conftest import DUAL_STACK, Sockets, name
from tests.support import until_equal

WITHIN = 30.0


class Port:
    """A listener, pairs of connections to it, and what is seen of them."""

    def __init__(self, sampler: Sampler, sockets: Sockets, host: str = "127.0.0.1") -> None:
        self.sampler = sampler
        self.sockets = sockets
        options = DUAL_STACK if ":" in host else ()
        self.listener = sockets.listen(host, options=options)
        self.port: int = self.listener.getsockname()[1]

    def pair(self, host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
        client = self.sockets.connect(host, self.port)
        return client, self.sockets.accept(self.listener)

    def work(self, *own: tuple[str, int]) -> Work:
        return self.sampler.work(self.port, (), own, WITHIN)

    def shows(self, **fields: object) -> None:
        """Wait until that is seen."""
        until_equal(lambda: {field: getattr(self.work(), field) for field in fields}, fields)


@pytest.fixture
def sampler(view: SockDiag) -> Iterator[Sampler]:
    counters = Counters()
    yield Sampler(view, counters)
    counters.close()


@pytest.fixture
def port(sampler: Sampler, sockets: Sockets) -> Port:
    return Port(sampler, sockets)


def ask(client: socket.socket, server: socket.socket, data: bytes = b"question") -> None:
    client.sendall(data)
    assert server.recv(64) == data


@pytest.mark.parametrize(("left", "working"), [(8, 1), (9, 0)])
def test_the_end_of_a_body_may_lie_unread(port: Port, left: int, working: int) -> None:
    """As php-fpm leaves it, which has the whole request all the same; what is more is not read."""
    client, server = port.pair()
    client.sendall(b"question" + bytes(left))
    assert server.recv(8) == b"question"
    work = port.sampler.work(port.port, (), (), WITHIN, unread=8)
    assert (work.accepted, work.working) == (1, working)
    assert port.work().working == 0
    unread, _ = port.pair()
    unread.sendall(bytes(8))
    assert port.sampler.work(port.port, (), (), WITHIN, unread=8).working == working


def test_nobody(port: Port) -> None:
    assert port.work() == Work(0, resets=0)


def test_queued_is_not_accepted(port: Port) -> None:
    port.sockets.connect("127.0.0.1", port.port).sendall(b"question")
    assert port.work() == Work(0, resets=0)


def test_served_when_it_was_sent_something(port: Port) -> None:
    idle = port.pair()
    assert idle
    _, server = port.pair()
    server.sendall(b"news")
    work = port.work()
    assert (work.accepted, work.served, work.working) == (2, 1, 0)
    assert work.sent_ago is not None
    assert work.sent_ago < WITHIN


def test_worked_on_from_when_it_is_read_until_it_is_answered(port: Port) -> None:
    client, server = port.pair()
    client.sendall(b"question")
    port.shows(accepted=1, working=0)  # It lies unread, as that on which an acceptor died.
    assert server.recv(64)
    port.shows(working=1, served=0)
    server.sendall(b"answer")
    port.shows(working=0, served=1)


def test_worked_on_for_a_client_that_will_say_no_more(port: Port) -> None:
    """It shut its side down, or left: the FIN is not read by whoever is at work."""
    client, server = port.pair()
    ask(client, server)
    client.shutdown(socket.SHUT_WR)
    port.shows(accepted=1, working=1)


def test_a_client_that_came_and_went_is_no_work(port: Port) -> None:
    client, _ = port.pair()
    client.close()
    port.shows(accepted=1, working=0, sent_ago=None)


def test_a_close_of_the_application_counts_and_one_of_the_client_does_not(port: Port) -> None:
    pairs = [port.pair() for _ in range(3)]
    pairs[0][0].close()
    pairs[1][1].close()
    port.shows(accepted=2, resets=0)
    pairs[0][1].close()
    port.shows(accepted=1, resets=0)


def test_a_reset_leaves_the_table_at_once_and_is_counted(port: Port) -> None:
    """The application has its descriptor still."""
    client, server = port.pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    port.shows(accepted=0)
    assert (port.work().resets or 0) >= 1
    assert server.fileno() >= 0


def test_our_own_are_left_out(port: Port) -> None:
    ours, server = port.pair()
    ask(ours, server)
    theirs, server = port.pair()
    ask(theirs, server)
    until_equal(lambda: port.work().working, 2)
    assert port.work(name(ours)).accepted == port.work(name(ours)).working == 1
    assert port.work(("", 0)).accepted == 2


@pytest.mark.parametrize("host", ["::", "::ffff:127.0.0.1"])
def test_ipv4_by_an_ipv6_listener(sampler: Sampler, sockets: Sockets, host: str) -> None:
    port = Port(sampler, sockets, host)
    client, server = port.pair()
    ask(client, server)
    until_equal(lambda: port.work().working, 1)
    assert port.work(name(client)).accepted == 0


def test_a_strangers_listener_on_another_address(port: Port) -> None:
    port.pair()
    other = port.sockets.listen("127.0.0.2", port.port)
    port.sockets.connect("127.0.0.2", port.port)
    port.sockets.accept(other)
    assert port.sampler.work(port.port, ("127.0.0.1",), (), WITHIN).accepted == 1
    assert port.work().accepted == 2


def test_many(port: Port) -> None:
    """More than one message of the kernel's holds; each is counted once."""
    for _ in range(700):
        _, server = port.pair()
        server.sendall(b"x")
    work = port.work()
    assert (work.accepted, work.served) == (700, 700)
