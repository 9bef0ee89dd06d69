"""Where the sidecar answers, and what it says when it cannot."""

import asyncio
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from probe.api.server import listen
from tests.api.service import get, serving

WITHOUT_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")


def refusal(host: str, port: int) -> str:
    with pytest.raises(OSError, match="cannot listen on") as caught:
        listen(host, port)
    text = str(caught.value)
    assert "\n" not in text
    return text


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_everywhere_is_both_families_on_one_port() -> None:
    async with serving(host="") as service:
        assert len(service.server.addresses) == 1
        for address in ("127.0.0.1", "127.8.9.10", "::1"):
            assert (await get(service.port, "/live", to=address)).status == 200


async def test_everywhere_where_ipv6_is_switched_off() -> None:
    await asyncio.to_thread(WITHOUT_IPV6.write_text, "1")
    async with serving(host="") as service:
        assert (await get(service.port, "/live")).status == 200


async def test_everywhere_where_the_kernel_has_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    # This kernel has it; what it says when it has not is all that is made up here.
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with serving(host="") as service:
        assert service.server.addresses == [("0.0.0.0", service.port)]
        assert (await get(service.port, "/live")).status == 200


@pytest.mark.parametrize(
    ("host", "other"), [("127.0.0.1", "127.0.0.2"), ("::1", "127.0.0.1"), ("0.0.0.0", "::1")]
)
async def test_one_address_is_that_address_alone(host: str, other: str) -> None:
    async with serving(host=host) as service:
        to = "127.0.0.1" if host == "0.0.0.0" else host
        assert (await get(service.port, "/live", to=to)).status == 200
        with pytest.raises(ConnectionRefusedError):
            await get(service.port, "/live", to=other)


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give localhost both its addresses, whatever this machine's /etc/hosts says."""
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, type: [  # noqa: A006
            (socket.AF_INET6, type, socket.IPPROTO_TCP, "", ("::1", port, 0, 0)),
            (socket.AF_INET, type, socket.IPPROTO_TCP, "", ("127.0.0.1", port)),
        ],
    )


def bound(host: str) -> set[str]:
    sockets = listen(host, 9809)
    addresses = {one.getsockname()[0] for one in sockets}
    for one in sockets:
        one.close()
    return addresses


def test_the_name_that_every_machine_has() -> None:
    assert "127.0.0.1" in bound("localhost")


@pytest.mark.usefixtures("two_addresses")
def test_a_name_is_every_address_it_has() -> None:
    assert bound("localhost") == {"127.0.0.1", "::1"}


@pytest.mark.usefixtures("two_addresses")
def test_an_address_of_a_name_that_is_not_here_is_left_out() -> None:
    """Pods without IPv6 have localhost at ::1 in /etc/hosts all the same."""
    WITHOUT_IPV6.write_text("1")
    assert bound("localhost") == {"127.0.0.1"}


@pytest.mark.usefixtures("two_addresses")
def test_a_name_of_which_one_address_is_in_use_leaves_no_socket_behind() -> None:
    with socket.create_server(("127.0.0.1", 9809)):
        before = open_descriptors()
        assert "already in use" in refusal("localhost", 9809)
        assert open_descriptors() == before


@pytest.mark.parametrize("held", ["0.0.0.0", "127.0.0.1", "::1", "::"])
def test_an_address_in_use(held: str) -> None:
    family = socket.AF_INET6 if ":" in held else socket.AF_INET
    with socket.create_server((held, 9809), family=family):
        assert refusal("", 9809) == (
            "cannot listen on :9809: the address is already in use; choose another with --listen"
        )


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("192.0.2.1", "cannot listen on 192.0.2.1:9809: this host has no such address"),
        ("2001:db8::1", "cannot listen on [2001:db8::1]:9809: this host has no such address"),
        (
            "no-such-name.invalid",
            "cannot listen on no-such-name.invalid:9809: the name does not resolve",
        ),
    ],
)
def test_an_address_that_is_not_ours(host: str, text: str) -> None:
    assert refusal(host, 9809) == text


def test_a_port_for_which_it_takes_a_capability() -> None:
    program = textwrap.dedent(
        """
        from probe.api.server import listen
        try:
            listen("", 80)
        except OSError as error:
            print(error)
        """
    )
    # Root gets its capabilities back at exec, but for those that the bounding set leaves out.
    without = ["setpriv", "--bounding-set", "-net_bind_service", sys.executable, "-c", program]
    said = subprocess.run(without, capture_output=True, text=True, check=True).stdout
    assert said == (
        "cannot listen on :80: permission denied; ports below 1024 take CAP_NET_BIND_SERVICE\n"
    )
