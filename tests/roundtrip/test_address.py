"""Where a target is dialled, and that every kind of listener can be."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from probe.commands import check
from probe.config import load
from probe.kernel import KernelView
from probe.kernel.hosts import NoAddress, find, resolve
from probe.model import Listener, Outcome, Protocol, Stage, Target
from probe.roundtrip import Address, address
from tests.roundtrip.application import (
    Application,
    Handler,
    answer,
    listen,
    port_of,
    replying,
    until_closed,
)
from tests.roundtrip.conftest import Trip

V4, V6 = socket.AF_INET, socket.AF_INET6


def listener(host: str, *, v6only: bool | None = None) -> Listener:
    family = V6 if ":" in host else V4
    return Listener(family, host, 80, 1, 0, 5, 0, 1, 0, v6only)


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [
        ([], "127.0.0.1"),
        ([listener("0.0.0.0")], "127.0.0.1"),
        ([listener("127.0.0.3")], "127.0.0.3"),
        ([listener("10.1.2.3")], "10.1.2.3"),
        ([listener("::", v6only=True)], "::1"),
        ([listener("::", v6only=False)], "127.0.0.1"),
        ([listener("::")], "127.0.0.1"),
        ([listener("2001:db8::1", v6only=False)], "2001:db8::1"),
        ([listener("fe80::1%2")], "fe80::1%2"),
        ([listener("::ffff:127.0.0.1", v6only=False)], "127.0.0.1"),
        ([listener("::ffff:0.0.0.0")], "127.0.0.1"),
        ([listener("0.0.0.0"), listener("::", v6only=True)], "127.0.0.1"),
        ([listener("10.1.2.3"), listener("::", v6only=True)], "::1"),
        ([listener("::1"), listener("10.1.2.4"), listener("10.1.2.3")], "10.1.2.3"),
        ([listener("0.0.0.0")] * 4, "127.0.0.1"),
    ],
)
def test_without_a_host_what_the_listeners_are_bound_to(
    bound: list[Listener], dialled: str
) -> None:
    for order in (bound, bound[::-1]):
        family = V6 if ":" in dialled else V4
        assert address(Target(80), order) == Address(family, dialled, 80)


@pytest.mark.parametrize(
    ("host", "resolved", "bound", "dialled"),
    [
        ("10.0.0.1", (), [listener("0.0.0.0")], "10.0.0.1"),
        ("::1", (), [], "::1"),
        ("fe80::1%lo", (), [], "fe80::1%lo"),
        ("::ffff:10.0.0.1", (), [], "10.0.0.1"),
        ("web", ("10.0.0.1", "10.0.0.2"), [], "10.0.0.1"),
        ("web", ("10.0.0.1", "10.0.0.2"), [listener("10.0.0.2")], "10.0.0.2"),
        ("web", ("10.0.0.1", "10.0.0.2"), [listener("0.0.0.0")], "10.0.0.1"),
        ("localhost", ("127.0.0.1", "::1"), [listener("::1")], "::1"),
        ("localhost", ("127.0.0.1", "::1"), [listener("::", v6only=True)], "::1"),
        ("localhost", ("127.0.0.1", "::1"), [listener("::", v6only=False)], "127.0.0.1"),
        ("localhost", ("127.0.0.1", "::1"), [listener("192.0.2.1")], "127.0.0.1"),
    ],
)
def test_with_a_host(
    host: str, resolved: tuple[str, ...], bound: list[Listener], dialled: str
) -> None:
    assert address(Target(80, host=host), bound, resolved).host == dialled


# --- real listeners


def add_address(host: str, interface: int = 1) -> None:
    with IPRoute() as routes:
        if ":" not in host:
            routes.addr("add", index=interface, address=host, prefixlen=32)
            return
        # Without duplicate address detection, which takes a second. The kernel makes the route
        # to the address a little later than the address.
        routes.addr("add", index=interface, address=host, prefixlen=64, flags=0x02)
        route = f"{socket.inet_pton(V6, host).hex()} 80 "
        while not any(
            line.startswith(route) and line.split()[8] == "80200001"
            for line in Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()
        ):
            time.sleep(0.001)


def assert_round_trips(trip: Trip, port: int) -> None:
    for target in (Target(port), Target(port, Protocol.TCP)):
        result = trip(target)
        assert result.outcome is Outcome.OK, result
        assert result.accepted
        assert result.phases.accept is not None


def lenient(connection: socket.socket) -> None:
    """Answer an HTTP request, if one comes."""
    if connection.recv(4096):
        connection.sendall(answer())


@pytest.mark.parametrize(
    ("host", "v6only"),
    [
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("127.0.0.77", False),
        ("10.9.8.7", False),
        ("::", False),
        ("::", True),
        ("::1", True),
        ("2001:db8::7", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:0.0.0.0", False),
    ],
)
def test_every_binding_is_reached(trip: Trip, host: str, v6only: bool) -> None:
    if "7" in host[-1:] and not host.startswith("127"):
        add_address(host)
    with Application(lenient, listen(host, v6only=v6only)) as application:
        assert_round_trips(trip, application.port)


def test_a_link_local_listener(trip: Trip) -> None:
    with IPRoute() as routes:
        routes.link("add", ifname="left", kind="veth", peer="right")
        for name in ("left", "right"):
            routes.link("set", ifname=name, state="up")
        (index,) = routes.link_lookup(ifname="left")
    add_address("fe80::7", index)
    bound = socket.socket(V6)
    bound.bind(("fe80::7", 0, 0, index))
    bound.listen()
    with Application(lenient, bound) as application:
        assert_round_trips(trip, application.port)


def test_a_dual_stack_listener_without_ipv6_on_loopback(trip: Trip) -> None:
    """As in most pods: IPv6 is in the kernel, but no interface has an address."""
    with Application(lenient, listen("::")) as application:
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        assert_round_trips(trip, application.port)


def test_an_ipv4_client_of_a_dual_stack_listener(trip: Trip) -> None:
    """Its server's side is an IPv6 socket with mapped addresses; the lookup finds it as IPv4."""
    with Application(lenient, listen("::")) as application:
        for host in ("127.0.0.1", "::1", "localhost"):
            result = trip(Target(application.port, Protocol.TCP, host=host))
            assert result.outcome is Outcome.OK, (host, result)


def test_reuseport_members(trip: Trip) -> None:
    with contextlib.ExitStack() as stack:
        port = 0
        for _ in range(4):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(("0.0.0.0", port))
            port = port_of(one)
            one.listen()
            stack.enter_context(Application(lenient, one))
        for _ in range(5):
            assert_round_trips(trip, port)


def test_an_mptcp_listener(trip: Trip) -> None:
    try:
        bound = listen(protocol=socket.IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with Application(lenient, bound) as application:
        assert_round_trips(trip, application.port)


def test_a_queued_connection_of_an_mptcp_listener(trip: Trip) -> None:
    try:
        bound = listen(protocol=socket.IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel has no MPTCP: {error}")
    with bound:
        for target in (Target(port_of(bound)), Target(port_of(bound), Protocol.TCP)):
            assert trip(target, 0.2).stage is Stage.QUEUED


def deferring(seconds: int = 30) -> socket.socket:
    bound = listen()
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, seconds)
    return bound


@pytest.mark.parametrize("handle", [lenient, until_closed], ids=["closes", "waits"])
def test_a_listener_that_defers_its_accepts(trip: Trip, handle: Handler) -> None:
    """Without data there is no connection to accept; the end of our side will do."""
    with Application(handle, deferring()) as application:
        for _ in range(5):
            result = trip(Target(application.port, Protocol.TCP))
            assert result.outcome is Outcome.OK, result
            assert result.accepted
        assert trip(Target(application.port, Protocol.TCP, send=b"x")).outcome is Outcome.OK


def test_a_listener_that_defers_its_accepts_answers_http(trip: Trip) -> None:
    with Application(replying(answer()), deferring()) as application:
        assert trip(Target(application.port)).outcome is Outcome.OK


def test_a_dead_application_that_defers_its_accepts(trip: Trip, view: KernelView) -> None:
    with deferring() as bound:
        target = Target(port_of(bound), Protocol.TCP)
        assert trip(target, 0.2).stage is Stage.QUEUED
        assert trip(target._replace(protocol=Protocol.HTTP), 0.2).stage is Stage.QUEUED


# --- names


def test_numbers_and_nothing_need_no_resolver() -> None:
    for host in ("", "127.0.0.1", "::1", "fe80::1%lo", "fe80::1%2"):
        assert resolve(host, 0) == ()


def test_localhost() -> None:
    assert resolve("localhost", 5)[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a" * 70, "bad name", "ü" * 70, "nul\0", "\udcff"]
)
def test_a_name_without_an_address(host: str) -> None:
    with pytest.raises(NoAddress) as raised:
        resolve(host, 10)
    assert str(raised.value).startswith(f"{host}: ")


@pytest.fixture
def silent_resolver() -> Iterator[None]:
    """The machine's name server, in this namespace, takes questions and says nothing."""
    lines = Path("/etc/resolv.conf").read_text().splitlines()
    servers = [line.split()[1] for line in lines if line.startswith("nameserver")]
    with contextlib.ExitStack() as stack:
        for server in servers or ["127.0.0.1"]:
            if not server.startswith("127."):
                add_address(server)
            family = V6 if ":" in server else V4
            mute = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            mute.bind((server, 53))
        yield


@pytest.mark.usefixtures("silent_resolver")
def test_a_resolver_that_does_not_answer_costs_the_time_out_and_no_more() -> None:
    began = time.monotonic()
    with pytest.raises(NoAddress) as raised:
        find("slow.example", 0.3)
    assert 0.3 <= time.monotonic() - began < 1
    assert str(raised.value) == "slow.example: no answer from the resolver within 0.3 s"
    left_behind = [one for one in threading.enumerate() if one.name == "resolve slow.example"]
    assert all(one.daemon for one in left_behind)


@pytest.mark.usefixtures("silent_resolver")
def test_nor_to_who_asks_a_sidecar_by_its_name() -> None:
    config = load("check", ["--sidecar", "slow.example:9809"], {})
    began = time.monotonic()
    status, line, _ = check.examine(config, 0.3)
    assert 0.3 <= time.monotonic() - began < 1
    assert status == 3
    assert line.startswith("could not tell: sidecar at slow.example:9809: ")
