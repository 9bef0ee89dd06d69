"""What a client can do to the sidecar's own port: little, and nothing to a verdict."""

import asyncio
import gc
import logging
import socket
import time
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.api import clients
from probe.api.clients import Limits
from probe.imports.aiohttp_lean import web
from tests.api.service import (
    Service,
    exchange,
    get,
    healthy,
    read_reply,
    request,
    seen,
    serving,
    stalled,
)

PATIENT = 30.0
"""Seconds within which what must happen in a moment has happened, on however slow a machine."""


async def still_answers(service: Service) -> None:
    reply = await asyncio.wait_for(get(service.port, "/live"), PATIENT)
    assert (reply.status, reply.text) == (200, "live\n")


# --- paths and methods


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/ready", "/healthz", "/status", "/metrics"])
async def test_only_get_and_head_are_taken(path: str, method: str) -> None:
    async with serving() as service:
        reply = await get(service.port, path, method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET,HEAD")
    assert reply.text == f"405: {path} takes GET and HEAD\n"


@pytest.mark.parametrize(
    "path", ["/", "/readyx", "/ready/", "/READY", "//ready", "/status.json", "/%00", "/..%2fready"]
)
async def test_what_is_not_there_is_404_and_says_what_is(path: str) -> None:
    async with serving() as service:
        for method in ("GET", "POST"):
            reply = await get(service.port, path, method=method)
            assert reply.status == 404
            assert "/ready" in reply.text
            assert "/metrics" in reply.text


@pytest.mark.parametrize(
    "raw",
    [
        request("/ready"),
        request("/nothing"),
        request("/ready", method="POST"),
        request("/ready", "Expect: a miracle"),
        request("/ready", "Content-Length: 3") + b"abc",
        b"nonsense\r\n\r\n",
        request("/evidence/fault"),
    ],
)
async def test_no_answer_names_a_version_of_what_we_are_made_of(raw: bytes) -> None:
    async def fail(_: web.Request) -> web.Response:
        raise RuntimeError("a defect")

    async with serving(routes=[web.get("/evidence/fault", fail)]) as service:
        raw = raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        answer = (await exchange(service.port, raw)).lower()
    assert b"server: accept-probe\r\n" in answer
    assert b"python" not in answer
    assert b"aiohttp" not in answer


async def test_a_defect_of_ours_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_: web.Request) -> web.Response:
        raise RuntimeError("this very defect")

    async with serving(routes=[web.get("/evidence/fault", fail)]) as service:
        reply = await get(service.port, "/evidence/fault")
        await still_answers(service)
    assert (reply.status, reply.text) == (500, "500: a defect of the sidecar; its log has more\n")
    assert "this very defect" in caplog.text


# --- requests that are none

MALFORMED = {
    "binary noise": bytes(range(256)),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "an empty line and noise": b"\r\n\r\n\x00\r\n\r\n",
    "version 9": b"GET /ready HTTP/9.9\r\nHost: a\r\n\r\n",
    "unknown method": b"BREW /ready HTTP/1.1\r\nHost: a\r\n\r\n",
    "header without colon": b"GET /ready HTTP/1.1\r\nHost a\r\n\r\n",
    "header name with spaces": b"GET /ready HTTP/1.1\r\nHo st: a\r\n\r\n",
    "folded header": b"GET /ready HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "NUL in a header": b"GET /ready HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "bare CR": b"GET /ready HTTP/1.1\rHost: a\r\r",
    "two lengths": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "negative length": b"GET /ready HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "length and chunks": b"GET /ready HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"GET /ready HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a line of 9,000 bytes": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a header of 9,000 bytes": b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=list(MALFORMED))
async def test_what_cannot_be_read_gets_one_line_and_is_closed(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as service:
        async with asyncio.timeout(PATIENT):
            answer = await exchange(service.port, raw)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        assert status in (400, 413, 414, 431)
        assert body.startswith(str(status).encode())
        assert body.count(b"\n") == 1
        await still_answers(service)
    # Who can reach the port must not be able to fill the log.
    noise = [one for one in caplog.records if one.name != "asyncio"]
    assert noise == []


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=64),
        st.sampled_from(
            [
                b"GET /ready HTTP/1.1\r\n",
                b"HEAD /metrics HTTP/1.1\r\n",
                b"GET /status HTTP/1.0\r\n",
                b"Host: a\r\n",
                b"Expect: 100-continue\r\n",
                b"Connection: upgrade\r\nUpgrade: websocket\r\n",
                b"Content-Length: 5\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"\r\n",
                b"\r\n\r\n",
                b"0\r\n\r\n",
            ]
        ),
    ),
    max_size=12,
)


def test_no_bytes_bring_it_down(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []

    @settings(
        max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(pieces=PIECES)
    def attack(pieces: list[bytes]) -> None:
        raw = b"".join(pieces)
        answer = loop.run_until_complete(
            asyncio.wait_for(exchange(service.port, raw, finish=True), PATIENT)
        )
        assert not answer or answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answer
        assert b" 500 " not in answer.partition(b"\r\n")[0]

    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: faults.append(str(context)))
        context = serving(limits=Limits(patience=0.2))
        service = runner.run(context.__aenter__())
        attack()
        runner.run(still_answers(service))
        runner.run(context.__aexit__(None, None, None))
    assert faults == []
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


async def test_where_the_pages_cannot_be_loaded_all_else_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def missing() -> web.AppRunner:
        raise ModuleNotFoundError("this very defect")

    async with serving() as service:
        service.server._pages = missing
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _ in range(2):
            writer.write(request("/evidence"))
            assert (await read_reply(reader)).status == 500
        await still_answers(service)
        writer.close()
        await writer.wait_closed()
    assert "this very defect" in caplog.text


# --- bodies


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\n\r\nabcde",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
    ],
)
async def test_a_body_is_refused(head: bytes) -> None:
    async with serving() as service:
        answer = await exchange(service.port, b"GET /ready HTTP/1.1\r\nHost: a\r\n" + head)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"413: no request here takes a body\n")


async def test_an_empty_body_is_none() -> None:
    async with serving() as service:
        assert (await get(service.port, "/live", "Content-Length: 0")).status == 200


async def test_a_body_without_end_is_not_waited_for() -> None:
    async with serving() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("/ready", "Content-Length: 1000000000000", method="POST"))
        assert (await read_reply(reader)).status == 405
        sent = 0
        async with asyncio.timeout(PATIENT):
            with suppress(ConnectionError):
                while True:
                    writer.write(bytes(4096))
                    await writer.drain()
                    sent += 4096
        assert sent < 16 << 20, "what the kernel buffers, and no more"
        await still_answers(service)


# --- slow clients


@pytest.mark.parametrize(
    "start", [b"", b"G", b"GET /ready HTTP/1.1\r\n", b"GET /ready HTTP/1.1\r\nX:"]
)
async def test_who_never_finishes_the_first_request_is_cut_off(start: bytes) -> None:
    async with serving(limits=Limits(patience=0.3)) as service:
        began = time.monotonic()
        async with asyncio.timeout(PATIENT):
            assert await exchange(service.port, start) == b""
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("first", [b"", request("/live")])
async def test_a_drop_at_a_time_is_too_slow_for_the_first_request_and_for_the_next(
    first: bytes,
) -> None:
    """Slowloris: each byte comes in time, the request never does."""
    async with serving(limits=Limits(patience=0.5)) as service:
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        if first:
            writer.write(first)
            assert (await read_reply(reader)).status == 200
        writer.write(b"GET /ready HTTP/1.1\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"a: b\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(PATIENT):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        assert 0.4 <= time.monotonic() - began < 5.0
        dripping.cancel()
        writer.transport.abort()
        await still_answers(service)


async def test_who_asks_in_time_may_stay() -> None:
    async with serving(limits=Limits(patience=0.6)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _ in range(5):
            writer.write(request("/live"))
            assert (await read_reply(reader)).status == 200
            await asyncio.sleep(0.3)
        writer.close()
        await writer.wait_closed()


async def test_who_does_not_take_the_answers_is_cut_off() -> None:
    async with serving(limits=Limits(patience=0.5)) as service:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", service.port))
            client.send(request("/metrics") * 400)  # 6 MB of answers, which nobody reads.

            async def knock() -> None:
                """The kernel gives up silently: only who sends again hears of it."""
                while True:
                    await asyncio.sleep(0.05)
                    client.send(b"G")

            with pytest.raises(ConnectionError):
                await asyncio.wait_for(knock(), PATIENT)
        await still_answers(service)


# --- much


async def test_a_request_without_end_is_cut_off_early() -> None:
    async with serving() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /ready HTTP/1.1\r\n")
        sent = 0
        async with asyncio.timeout(PATIENT):
            with suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"X-Header: " + b"a" * 1000 + b"\r\n")
                    await writer.drain()
                    sent += 1012
                    await asyncio.sleep(0)
        assert sent < 16 << 20, "what the kernel buffers, and no more"
        writer.transport.abort()
        await still_answers(service)


async def test_the_connection_that_was_silent_longest_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crowd of idle connections must not keep kubelet out."""
    monkeypatch.setattr(clients, "YOUNG", 0.0)
    async with serving(limits=Limits(connections=8, patience=3600)) as service:
        idle = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(8)]
        reader, writer = idle[0]
        writer.write(request("/live"))
        await read_reply(reader)  # Now the second is the one that was silent longest.
        await still_answers(service)
        assert await idle[1][0].read() == b"", "closed, to make room"
        writer.write(request("/live"))
        assert (await read_reply(reader)).status == 200, "and the first is still there"
        for _, one in idle:
            one.transport.abort()


async def test_a_thousand_connections_leave_no_more_than_the_limit() -> None:
    async with serving(limits=Limits(connections=32, patience=3600)) as service:
        crowd = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(200)]
        await still_answers(service)
        ended = await asyncio.gather(
            *(asyncio.wait_for(reader.read(), PATIENT) for reader, _ in crowd[:168])
        )
        assert set(ended) == {b""}
        reader, writer = crowd[-1]
        writer.write(request("/live"))
        assert (await read_reply(reader)).status == 200
        for _, one in crowd:
            one.transport.abort()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as service:
        service.publish(stalled())
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        paths = ["/live", "/ready", "/nothing", "/status", "/metrics"] * 40
        writer.write(b"".join(request(path) for path in paths))
        async with asyncio.timeout(PATIENT):
            got = [(await read_reply(reader)).status for _ in paths]
        assert got == [200, 503, 404, 200, 200] * 40
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("path", ["/ready", "/status", "/metrics"])
async def test_the_loop_turns_between_any_two_answers(path: str) -> None:
    """Else who sends a thousand requests in one piece stops the monitor meanwhile."""
    async with serving() as service:
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        counting = asyncio.create_task(count_turns())
        before = turns
        writer.write(request(path) * 300)
        for _ in range(300):
            await read_reply(reader)
        assert turns - before >= 300
        counting.cancel()
        writer.close()
        await writer.wait_closed()


async def test_an_answer_larger_than_all_buffers_is_given_whole_and_others_meanwhile() -> None:
    page = bytes(range(256)) * 64_000
    async with serving() as service:
        service.metrics.render = lambda: page  # type: ignore[method-assign]  # 50 targets and more
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("/metrics") + request("/live"))
        await still_answers(service)
        assert (await read_reply(reader)).body == page
        assert (await read_reply(reader)).text == "live\n"
        writer.close()
        await writer.wait_closed()


async def test_the_pages_that_take_long_take_turns() -> None:
    """However many ask for /metrics at once, a question is answered after the next page."""
    rendered = 0
    async with serving() as service:
        render = service.metrics.render

        def counted() -> bytes:
            nonlocal rendered
            rendered += 1
            return render()

        service.metrics.render = counted  # type: ignore[method-assign]  # counts, and calls it
        crowd = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(60)]
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        for _, one in crowd:
            one.write(request("/metrics"))
        writer.write(request("/ready"))
        await read_reply(reader)
        assert rendered < 30
        for other, one in crowd:
            assert (await read_reply(other)).status == 200
            one.close()
        assert rendered == 60
        writer.close()
        await writer.wait_closed()


async def test_requests_leave_nothing_behind() -> None:
    """What the thousandth request leaves is what memory grows by for ever."""
    # asyncio keeps cancelled timers for a while; its debug mode, the stack of each with them.
    asyncio.get_running_loop().set_debug(False)
    async with serving() as service:
        service.publish(healthy(), seen(service.board.clock()))

        async def requests(number: int) -> int:
            for _ in range(number):
                for path in ("/ready", "/status", "/metrics", "/nothing"):
                    await get(service.port, path)
                await exchange(service.port, b"nonsense\r\n\r\n")
            await asyncio.sleep(0.05)
            gc.collect()
            return len(gc.get_objects())

        await requests(20)
        before = await requests(20)
        after = await requests(200)
        assert after - before < 50


# --- other ways to speak HTTP


async def test_http_1_0() -> None:
    async with serving() as service:
        answer = await exchange(service.port, b"GET /live HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nlive\n")
        kept = b"GET /live HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = await exchange(service.port, kept + b"GET /ready HTTP/1.0\r\n\r\n")
        assert answer.count(b"HTTP/1.0 ") == 2


async def test_what_a_client_expects_before_its_body_is_nothing_to_us() -> None:
    async with serving() as service:
        for expected in ("100-continue", "a miracle"):
            raw = request("/live", f"Expect: {expected}", close=True)
            assert (await exchange(service.port, raw)).startswith(b"HTTP/1.1 200 OK")
        raw = request("/live", "Expect: 100-continue", "Content-Length: 5", close=True)
        assert (await exchange(service.port, raw)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_an_upgrade_is_declined_by_answering(protocol: str) -> None:
    async with serving() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("/live", "Connection: Upgrade", f"Upgrade: {protocol}"))
        assert (await read_reply(reader)).status == 200
        writer.write(request("/live"))
        assert (await asyncio.wait_for(read_reply(reader), PATIENT)).status == 200
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_leaves_in_the_middle_is_nothing_special() -> None:
    async with serving() as service:
        for raw in (b"", b"GET /re", request("/metrics"), request("/status") * 50):
            for finish in (False, True):
                _, writer = await asyncio.open_connection("127.0.0.1", service.port)
                writer.write(raw)
                if finish:
                    writer.write_eof()
                writer.transport.abort()
        await still_answers(service)


async def test_closing_ends_the_connections_there_are() -> None:
    async with serving() as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(request("/live"))
        await read_reply(reader)
        async with asyncio.timeout(PATIENT):
            await service.server.close()
            assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", service.port)
        writer.close()
        await writer.wait_closed()
