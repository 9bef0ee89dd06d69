"""The guard of what only clients in the pod may see."""

import pytest

from probe.imports.aiohttp_lean import web
from tests.api.service import Reply, get, serving

SECRET = "peers, threads and stacks"


async def show(request: web.Request) -> web.StreamResponse:
    return web.Response(text=SECRET)


ROUTES = [web.get("/evidence", show)]


def refused(reply: Reply) -> bool:
    if reply.status == 200:
        assert reply.text == SECRET
        return False
    assert reply.status == 403
    assert SECRET not in reply.text
    assert "kubectl port-forward" in reply.text
    assert reply.text.count("\n") == 1
    return True


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0"])
async def test_ipv4_loopback_is_local_on_a_socket_of_either_family(host: str) -> None:
    async with serving(host=host, routes=ROUTES) as service:
        assert not refused(await get(service.port, "/evidence"))


async def test_ipv6_loopback_is_local() -> None:
    async with serving(routes=ROUTES) as service:
        assert not refused(await get(service.port, "/evidence", to="::1"))


async def test_the_address_of_the_pod_is_not(pod_address: str) -> None:
    async with serving(routes=ROUTES) as service:
        assert refused(await get(service.port, "/evidence", to=pod_address))
        assert refused(await get(service.port, "/evidence", source=pod_address))


async def test_where_a_service_mesh_hands_on_from_is_not() -> None:
    async with serving(routes=ROUTES) as service:
        assert refused(await get(service.port, "/evidence", source="127.0.0.6"))


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-For: 127.0.0.1",
        "x-forwarded-for: 10.0.0.9",
        "Forwarded: for=10.0.0.9",
        "Via: x",
    ],
)
async def test_no_header_lets_in_and_one_of_a_proxy_keeps_out(header: str) -> None:
    async with serving(routes=ROUTES) as service:
        assert refused(await get(service.port, "/evidence", header))
        assert refused(await get(service.port, "/evidence", header, source="127.0.0.6"))


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("localhost:9809", True),
        ("LOCALHOST:1", True),
        ("127.0.0.1:9809", True),
        ("[::1]:9809", True),
        ("evil.example", False),
        ("evil.example:9809", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
async def test_a_web_page_with_a_name_that_leads_here_is_not_local(host: str, local: bool) -> None:
    async with serving(routes=ROUTES) as service:
        assert refused(await get(service.port, "/evidence", f"Host: {host}")) is not local


async def test_what_is_not_guarded_is_for_everyone() -> None:
    async with serving(routes=ROUTES) as service:
        for path in ("/live", "/status", "/metrics"):
            assert (await get(service.port, path, source="127.0.0.6")).status == 200
