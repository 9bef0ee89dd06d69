"""The page and the stream of what it shows: who is given what, and what that may hold of us."""

import asyncio
import hashlib
import json
import re
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from probe.api.clients import Limits
from probe.api.view.live import PAGE, LiveLimits
from probe.kernel import open_view
from probe.model import Target
from tests.api.service import Service, get, healthy, request, seen, serving, stalled

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
EVENTS = "Accept: text/event-stream"
AT_ONCE = LiveLimits(period=0.05)

PATIENT = 30.0
"""Seconds within which what must happen in a moment has happened, on however slow a machine."""


class Looking:
    """One client of the stream."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self.status = 0

    async def start(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(head.split()[1])
        self.headers = head.lower()

    async def document(self) -> Any:
        """The next; raises IncompleteReadError where none comes any more."""
        event = await self.reader.readuntil(b"\n\n")
        kind, data = event.partition(b"event: ")[2].rstrip().split(b"\n")
        assert kind == b"view"
        return json.loads(data.removeprefix(b"data: "))


@asynccontextmanager
async def looking(service: Service, *headers: str) -> AsyncIterator[Looking]:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 22)
    writer.write(request("/view", EVENTS, *headers))
    client = Looking(reader)
    await client.start()
    try:
        yield client
    finally:
        writer.close()


async def test_a_browser_is_given_the_page_and_nobody_else() -> None:
    async with serving() as service:
        page = await get(service.port, "/", BROWSER)
        assert page.status == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.body == PAGE.read_bytes()
        assert (await get(service.port, "/", BROWSER, method="HEAD")).status == 200
        for accept in ("Accept: */*", "Accept: application/json", "User-Agent: kube-probe/1.33"):
            other = await get(service.port, "/", accept)
            assert other.status == 404
            assert other.text.startswith("404: nothing here; there are /ready, /live")


async def test_the_page_may_run_its_own_script_and_ask_us_alone() -> None:
    async with serving() as service:
        page = await get(service.port, "/", BROWSER)
    policy = dict(
        part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")
    )
    for tag in ("script", "style"):
        [content] = re.findall(
            rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page.body, re.DOTALL
        )
        digest = b64encode(hashlib.sha256(content).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert b"style=" not in page.body
    assert not re.findall(rb"\bon\w+=", page.body)
    elsewhere = set(re.findall(rb"https?://[^\s\"'<]+", page.body))
    assert elsewhere == {b"http://www.w3.org/2000/svg"}, "it asks nobody else for anything"
    assert b"innerHTML" not in page.body, "what others have written is text"


async def test_the_view_is_told_once_or_live() -> None:
    async with serving(live=AT_ONCE) as service:
        service.publish(healthy(), seen(service.board.clock()))
        once = await get(service.port, "/view")
        assert once.headers["content-type"] == "application/json"
        assert json.loads(once.body)["headline"] == "All is well: ready and live"
        async with looking(service) as client:
            assert client.status == 200
            assert "content-type: text/event-stream" in client.headers
            assert (await client.document())["condition"] == "healthy"
            service.publish(stalled(), seen(service.board.clock()))
            document = await client.document()
            while document["condition"] == "healthy":
                document = await client.document()
            assert document["headline"] == "Not ready: 8080 accepts no connections"
            assert document["targets"][0]["history"]["condition"] in ("x", "hx")


async def test_however_many_targets_there_are_news_come_before_they_are_called_old() -> None:
    limits = LiveLimits(period=100.0, targets=1, longest=0.2)
    targets = [Target(port) for port in range(8000, 8100)]
    async with serving(*targets, live=limits) as service, looking(service) as client:
        await client.document()
        async with asyncio.timeout(PATIENT):
            await client.document()


async def test_whoever_comes_has_the_whole_history_and_then_the_news() -> None:
    async with serving(live=AT_ONCE) as service:
        now = service.board.clock()
        for ago in range(100, -1, -1):
            service.publish(healthy(), seen(now - ago))
        async with looking(service) as client:
            first = (await client.document())["targets"][0]["history"]
            later = (await client.document())["targets"][0]["history"]
        assert (len(first["condition"]), len(later["condition"])) == (101, 10)
        assert first["last"] == later["last"]


async def test_only_so_many_look_at_once() -> None:
    async with serving(live=AT_ONCE._replace(viewers=2)) as service:
        async with looking(service) as one, looking(service):
            await one.document()
            async with looking(service) as third:
                assert third.status == 503
            assert (await get(service.port, "/live")).status == 200
        # Once somebody has gone, the next is let in.
        await a_place_is_free(service)


MANY = [Target(port) for port in range(8000, 8060)]
"""More than the kernel takes of one answer, once they have a past."""


def fill_ten_minutes(service: Service) -> None:
    for target in MANY:
        for ago in range(600, -1, -20):
            service.publish(healthy(target.name), seen(service.board.clock() - ago))


async def test_who_takes_nothing_is_cut_off_and_takes_nothing_from_others() -> None:
    limits = AT_ONCE._replace(viewers=2, patience=0.5, targets=1000)
    async with serving(*MANY, live=limits) as service:
        fill_ten_minutes(service)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect(("127.0.0.1", service.port))
            silent.sendall(request("/view", EVENTS))
            async with looking(service) as client:
                await client.document()
                assert client.status == 200
                await a_place_is_free(service, meanwhile=client)
                await client.document()


async def test_who_asks_once_and_takes_nothing_is_counted_and_cut_off() -> None:
    limits = AT_ONCE._replace(viewers=1, patience=0.5, targets=1000)
    view = open_view()
    async with serving(*MANY, live=limits) as service:
        fill_ten_minutes(service)
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            silent.connect(("127.0.0.1", service.port))
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(silent, request("/view"))
            await asyncio.get_running_loop().sock_recv(silent, 1)
            kept = view.lookup(silent.getsockname(), ("127.0.0.1", service.port))
            assert kept is not None
            assert 0 < kept.wqueue < 1 << 16, "the kernel keeps little of it"
            assert (await get(service.port, "/view")).status == 503
            async with asyncio.timeout(60):
                while (whole := await get(service.port, "/view")).status == 503:
                    pass
    view.close()
    assert whole.status == 200
    assert len(whole.body) > 2 << 16
    assert len(json.loads(whole.body)["targets"]) == 60


async def a_place_is_free(service: Service, meanwhile: Looking | None = None) -> None:
    async with asyncio.timeout(60):
        while True:
            async with looking(service) as client:
                if client.status == 200:
                    return
            if meanwhile is not None:
                await meanwhile.document()


async def test_whoever_asks_a_question_comes_before_those_who_look() -> None:
    async with (
        serving(limits=Limits(connections=2), live=AT_ONCE) as service,
        looking(service) as first,
        looking(service) as second,
    ):
        await second.document()
        ending = asyncio.create_task(end_of(first))
        async with asyncio.timeout(60):
            while not ending.done():  # at once, and from the time on that a request is left alone
                assert (await get(service.port, "/live")).status == 200


async def end_of(client: Looking) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionResetError):
        while True:
            await client.document()


async def test_streams_end_with_the_sidecar() -> None:
    async with serving(live=AT_ONCE) as service, looking(service) as client:
        document = await client.document()
        service.board.shut_down()
        while not document["shutting_down"]:
            document = await client.document()
        assert document["headline"] == "Shutting down: not ready"
        with pytest.raises(asyncio.IncompleteReadError):
            await client.document()


async def test_from_outside_the_pod_it_shows_what_status_shows() -> None:
    async with serving(live=AT_ONCE) as service:
        service.publish(healthy(), seen(service.board.clock()))
        service.publish(stalled(at=service.board.clock()), seen(service.board.clock()))
        service.board.evidence_saved("8080", "20261126T044012Z-8080-stalled", "thread `acceptor`")
        inside = await get(service.port, "/view")
        outside = await get(service.port, "/view", source="127.0.0.6")
        async with looking(service, "X-Forwarded-For: 10.0.0.9") as client:
            streamed = await client.document()
    assert "acceptor" in inside.text
    assert "20261126T044012Z" in inside.text
    for shown in (outside.text, json.dumps(streamed)):
        assert "acceptor" not in shown
        assert "20261126T044012Z" not in shown


def test_what_nobody_looks_at_takes_no_memory() -> None:
    program = (
        "import sys, probe.commands.serve; late = ('probe.api.view', 'probe.api.html', "
        "'probe.judge.outlook'); print([name for name in sys.modules if name.startswith(late)])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"
