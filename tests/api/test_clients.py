"""What a client sends costs little, whatever it is; no crowd takes another's answer."""

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.api import clients
from probe.api.clients import ANSWERED_A_TURN, Limits, Turns
from probe.api.requests import HEAD, LINE, VALUES, Refusal, Request, read
from probe.imports.aiohttp_lean import web
from tests.api.service import check, exchange, get, read_reply, request, serving, stalled

PATIENT = 30.0
"""Seconds within which what must happen in a moment has happened, on however slow a machine."""

START = b"GET /live HTTP/1.1\r\nHost: localhost\r\n"

HOSTILE = {
    "a header with thousands of items": START + b"Accept: application/x" + b",a" * 3900,
    "several of them": START + (b"Accept: application/x" + b",a" * 3900 + b"\r\n") * 3,
    "thousands of parameters": START + b"Accept: a/b" + b";q" * 4000,
    "as many as are read": START + b"Accept: " + b"*/*," * (VALUES // 4 - 1),
    "cookies": START + b"Cookie: " + b"a=b; " * 3000,
    "thousands of headers": START + b"a:\r\n" * 4000,
    "sixty long headers": START + b"".join(b"X%d: %b\r\n" % (n, b"a" * 240) for n in range(60)),
    "long names": START + (b"X" * 250 + b": a\r\n") * 60,
    "a query of thousands": b"GET /live?" + b"a&" * 4000 + b" HTTP/1.1\r\nHost: a",
    "percent-encoding": b"GET /" + b"%e2" * (LINE // 3 - 10) + b" HTTP/1.1\r\nHost: a",
    "slashes": b"GET " + b"/" * (LINE - 20) + b" HTTP/1.1\r\nHost: a",
    "dots": b"GET " + b"/.." * (LINE // 3 - 10) + b" HTTP/1.1\r\nHost: a",
    "a name of labels without end": b"GET http://" + b"xn--." * 190 + b"/ HTTP/1.1\r\nHost: a",
    "a method of 8 KiB": b"A" * 8192 + b" / HTTP/1.1\r\nHost: a",
    "a body": START + b"Content-Length: 30000\r\n\r\n" + bytes(30000),
    "a chunk for each byte": START + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 5000,
    "a chunk's extension": START + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a=b;" * 7000,
    "compressed": START + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "empty lines": b"\r\n" * 15000 + START,
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "frames without end": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 1500,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
def test_no_request_takes_more_of_the_loop_than_one_that_is_answered(hostile: bytes) -> None:
    """As CPU time of the loop's own thread, side by side with a request for no page."""

    async def cost(port: int, raw: bytes) -> float:
        def ask() -> None:
            client = socket.create_connection(("127.0.0.1", port), PATIENT)
            with client, suppress(OSError):
                client.sendall(raw)
                while client.recv(65536):
                    pass

        begun = time.thread_time()
        await asyncio.to_thread(ask)
        return time.thread_time() - begun

    async def body() -> None:
        async with serving() as service:
            ordinary = request("/nothing", close=True)
            raw = hostile + b"\r\nConnection: close\r\n\r\n"
            pairs = [
                (await cost(service.port, ordinary), await cost(service.port, raw))
                for _ in range(7)
            ]
            usual, taken = (min(times) for times in zip(*pairs, strict=True))
            assert taken < 3 * usual, f"{taken * 1e3:.2f} ms against {usual * 1e3:.2f} ms"

    asyncio.run(body())


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [
                *(b"GET ", b"HEAD ", b"POST ", b"/live", b"http://a", b"?a", b" HTTP/1.1", b"\r\n"),
                *(b"\r\n\r\n", b"\n", b"\r", b"Host: a\r\n", b"Host", b":", b" ", b"\t", b"\0"),
                *(b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Via: 1.1 a\r\n"),
                *(b"Accept: */*\r\n", b"a" * LINE, b"X: " + b"a" * HEAD + b"\r\n"),
            ]
        ),
    ),
    max_size=14,
)


@given(PIECES)
def test_whatever_comes_is_read_or_refused_within_bounds(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    asked = read(data)
    if isinstance(asked, Request):
        assert 0 < asked.size <= len(data)
        assert len(asked.head) <= LINE + VALUES + 1024
        assert asked.head.endswith(b"\r\n\r\n")
        assert asked.head.isascii()
        assert asked.head.startswith((b"GET /", b"HEAD /", b"POST /"))
        again = read(asked.head)
        assert isinstance(again, Request)
        assert again.head == asked.head, "what is handed on says the same again"
    elif isinstance(asked, Refusal):
        assert asked.answer.body.count(b"\n") == 1
        assert len(asked.answer.whole("now")) < 1024
    else:
        assert len(data) <= HEAD


def test_only_what_is_read_here_is_handed_on() -> None:
    asked = read(
        b"\r\nGET http://elsewhere/ready?verbose HTTP/1.1\r\nHost:  localhost \r\n"
        b"Cookie: a=b\r\nEXPECT: 100-continue\r\nUpgrade: websocket\r\nAccept: */*\r\n"
        b"Content-Length: 00\r\n\r\nGET"
    )
    assert isinstance(asked, Request)
    assert asked.path == b"/ready"
    assert asked.head == (
        b"GET /ready?verbose HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n"
        b"connection: close\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, START + b"Host: other\r\n\r\n"),
        (400, b"GET /live HTTP/1.1\r\n\r\n"),
        (400, START + b"Content-Length: 1x\r\n\r\n"),
        (400, START + b"Via : a\r\n\r\n"),
        (400, b"GET /live HTTP/1.1\nHost: a\n\n"),
        (405, b"POST /live HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"),
        (413, START + b"Content-Length: 1\r\n\r\n"),
        (414, b"GET /" + b"a" * LINE),
        (431, START + b"a: b\r\n" * 70),
        (431, START + b"Accept: " + b"a" * (VALUES + 1) + b"\r\n\r\n"),
        (431, START + b"Cookie: " + b"a" * HEAD),
    ],
)
def test_what_is_not_taken_is_refused_as_soon_as_it_shows(status: int, data: bytes) -> None:
    refusal = read(data)
    assert isinstance(refusal, Refusal)
    assert refusal.answer.whole("now").startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
@pytest.mark.parametrize("path", ["/ready", "/live?verbose", "/healthz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_asks_once_and_who_asks_again_hear_the_same(
    method: str, path: str, accept: str
) -> None:
    async with serving() as service:
        service.publish(stalled())
        once = await get(service.port, path, f"Accept: {accept}", method=method)
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _ in range(2):
            writer.write(request(path, f"Accept: {accept}", method=method))
            again = await read_reply(reader, method)
            for reply in (once, again):
                assert reply.headers.pop("date").endswith(" GMT")
            assert again.headers == {
                name: value for name, value in once.headers.items() if name != "connection"
            }
            assert (again.status, again.body) == (once.status, once.body)
            once.headers["date"] = again.headers["date"] = " GMT"
        assert once.headers["connection"] == "close"
        writer.close()
        await writer.wait_closed()


async def test_a_request_may_come_in_pieces_but_not_in_hundreds() -> None:
    async def said_by_letters(port: int, raw: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            for letter in raw:
                writer.write(bytes([letter]))
                await asyncio.sleep(0.002)
        answer = await asyncio.wait_for(reader.read(), PATIENT)
        writer.transport.abort()
        return answer

    async with serving() as service:
        assert b" 200 OK" in await said_by_letters(service.port, b"GET /live HTTP/1.0\r\n\r\n")
        long = b"GET /live HTTP/1.0\r\nX: " + b"a" * 90
        assert b" 400 " in await said_by_letters(service.port, long)


async def test_who_says_no_more_still_gets_its_answer() -> None:
    async with serving() as service:
        answer = await exchange(service.port, request("/live") + request("/started"), finish=True)
        assert answer.count(b"HTTP/1.1 ") == 2


# --- crowds


async def test_kinds_take_turns() -> None:
    turns = Turns()
    called: list[str] = []
    for _ in range(100):
        turns.take("crowd", lambda: called.append("crowd"))
    turns.take("kubelet", lambda: called.append("kubelet"))
    await asyncio.sleep(0)
    assert len(called) == ANSWERED_A_TURN
    assert "kubelet" in called
    for _ in range(100 // ANSWERED_A_TURN):
        await asyncio.sleep(0)
    assert len(called) == 101


def ask_as_kubelet_does(port: int) -> int:
    """Ask at once on a new connection, in a thread; return the status."""
    with socket.create_connection(("127.0.0.1", port), PATIENT) as client:
        client.sendall(request("/live", close=True))
        return int(client.recv(4096).split()[1])


async def test_more_askers_than_places_are_all_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("YOUNG", "SILENT"):
        monkeypatch.setattr(clients, patience, PATIENT)  # They share this loop, and may be slow.
    async with serving(limits=Limits(connections=4)) as service:
        replies = await asyncio.gather(*(get(service.port, "/live") for _ in range(60)))
        assert {reply.status for reply in replies} == {200}


async def test_a_crowd_that_comes_again_and_again_costs_nobody_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "YOUNG", 0.2)
    monkeypatch.setattr(clients, "SILENT", PATIENT)
    async with serving(limits=Limits(connections=16)) as service:

        async def come_again() -> None:
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
                try:
                    await reader.read()
                except ConnectionError:
                    pass
                finally:
                    writer.transport.abort()

        crowd = [asyncio.create_task(come_again()) for _ in range(32)]
        for _ in range(5):
            assert await asyncio.to_thread(ask_as_kubelet_does, service.port) == 200
            assert await check(service, "live") == "SERVING"
        assert service.server.accepts > 32, "the crowd did come again"
        for one in crowd:
            one.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_who_waited_outside_in_silence_is_not_let_in_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "YOUNG", PATIENT)
    monkeypatch.setattr(clients, "SILENT", 0.01)
    async with serving(limits=Limits(connections=4)) as service:
        inside = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(4)]
        with socket.create_connection(("127.0.0.1", service.port)) as silent:
            time.sleep(0.02)  # noqa: ASYNC251  # The loop does not accept meanwhile.
            silent.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""
        for reader, writer in inside:
            writer.write(request("/live"))
            assert (await read_reply(reader)).status == 200, "who is inside stays"
            writer.transport.abort()


async def test_a_request_under_way_makes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "UNDER_WAY", 3600.0)
    go_on = asyncio.Event()
    all_under_way = asyncio.Barrier(5)

    async def wait(_: web.Request) -> web.Response:
        await all_under_way.wait()
        await go_on.wait()
        return web.Response(text="done")

    async with serving(
        limits=Limits(connections=4), routes=[web.get("/evidence/wait", wait)]
    ) as service:
        waiting = [asyncio.create_task(get(service.port, "/evidence/wait")) for _ in range(4)]
        await all_under_way.wait()
        outside = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(20)]
        asking = asyncio.create_task(asyncio.to_thread(ask_as_kubelet_does, service.port))
        await asyncio.sleep(0.1)
        go_on.set()
        assert [(await one).text for one in waiting] == ["done"] * 4
        assert await asking == 200
        for _, writer in outside:
            writer.transport.abort()


async def test_who_rests_between_requests_makes_room_for_who_asks() -> None:
    async with serving(limits=Limits(connections=4, patience=3600)) as service:
        resting = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(4)]
        for reader, writer in resting:
            writer.write(request("/live"))
            assert (await read_reply(reader)).status == 200
        assert (await asyncio.wait_for(get(service.port, "/live"), PATIENT)).status == 200
        assert await asyncio.wait_for(resting[0][0].read(), PATIENT) == b"", "the first of them"
        for _, writer in resting:
            writer.transport.abort()


@pytest.mark.parametrize(("descriptors", "affordable"), [(32, 16), (256, 156), (1024, 512)])
def test_connections_know_the_limit_of_descriptors(descriptors: int, affordable: int) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, most))
    try:
        assert Limits().affordable == affordable
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


STARVED = """
import asyncio, logging, os, resource, sys, time
from tests.api.service import serving

logging.basicConfig(format="log: %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

async def main():
    async with serving() as service:
        taken = []
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        print(service.port, flush=True)
        loop = asyncio.get_running_loop()
        read = asyncio.Event()
        loop.add_reader(0, read.set)
        begun = time.process_time()
        await read.wait()
        print(time.process_time() - begun, flush=True)
        for one in taken:
            os.close(one)
        loop.remove_reader(0)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_without_descriptors_it_says_so_once_and_waits() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STARVED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    try:
        port = int(child.stdout.readline())
        crowd = [socket.create_connection(("127.0.0.1", port), PATIENT) for _ in range(100)]
        # What must not happen shows itself in tens of thousands of lines within this time.
        threading.Event().wait(1.5)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert float(child.stdout.readline()) < 0.5, "seconds of CPU: the loop did not spin"
        with socket.create_connection(("127.0.0.1", port), PATIENT) as client:
            client.settimeout(PATIENT)
            client.sendall(request("/live", close=True))
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK"), "as soon as there are some"
        for one in crowd:
            one.close()
    finally:
        child.kill()
        _, said = child.communicate()
    assert said.count(b"\n") == 1
    assert os.strerror(24).lower().encode() in said
