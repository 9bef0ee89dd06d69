"""kubelet's gRPC probe: by grpcio, as kubelet's library does it, by h2 on the bytes, and fuzzed."""

import asyncio
import contextlib
from urllib.parse import unquote_to_bytes

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    SettingsAcknowledged,
    StreamEnded,
    TrailersReceived,
)
from hypothesis import given
from hypothesis import strategies as st

from probe.api.grpc import (
    GREETING,
    MESSAGE,
    PREFACE,
    Call,
    Heard,
    UnreadableCall,
    answer,
    begins,
    read,
)
from probe.api.requests import HEAD, Reply
from probe.model import Protocol, Target
from tests.api.service import check, exchange, get, healthy, serving, stalled

STREAM = 1
SERVING = health_pb2.HealthCheckResponse.SERVING
METHOD = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/grpc.health.v1.Health/Check"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


def calling(service: str = "ready") -> tuple[H2Connection, bytes]:
    """A client that has called, and all that it says by then."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.send_headers(STREAM, METHOD)
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    client.send_data(STREAM, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    return client, client.data_to_send()


def told(client: H2Connection, said: bytes) -> tuple[dict[str, str], bytes]:
    """The headers and trailers of an answer, and its message; the stream has ended by then."""
    events: list[Event] = client.receive_data(GREETING + said)
    assert any(isinstance(event, StreamEnded) for event in events)
    fields: dict[str, str] = {}
    message = b""
    for event in events:
        if isinstance(event, ResponseReceived | TrailersReceived):
            fields |= {bytes(name).decode(): bytes(value).decode() for name, value in event.headers}
        elif isinstance(event, DataReceived):
            message += event.data
    return fields, message


# --- what is answered


async def test_the_three_questions_are_answered_with_the_reason() -> None:
    async with serving() as service:
        assert await check(service, "started") == (
            "UNAVAILABLE: not started: starting: 8080 not seen yet"
        )
        service.publish(healthy())
        for name in ("", "ready", "live", "started"):
            assert await check(service, name) == "SERVING"
        service.publish(stalled(live=False))
        line = "accept_queue_stalled: 8080 accept queue stalled: 6 of 5 queued, nothing accepted"
        assert await check(service, "ready") == f"UNAVAILABLE: not ready: {line} for 12 s"
        assert await check(service, "") == f"UNAVAILABLE: not ready: {line} for 12 s"
        assert await check(service, "live") == f"UNAVAILABLE: not live: {line} for 12 s"
        assert await check(service, "started") == "SERVING"


async def test_a_target_can_be_asked_about_as_over_http() -> None:
    async with serving(Target(8080), Target(50051, Protocol.GRPC)) as service:
        service.publish(healthy())
        assert await check(service, "ready/8080") == "SERVING"
        assert await check(service, "ready/50051") == (
            "UNAVAILABLE: not ready: starting: 50051 not seen yet"
        )
        assert (await check(service, "ready/8443")).startswith("NOT_FOUND: 404: ")


async def test_the_application_s_own_service_is_not_ours() -> None:
    async with serving() as service:
        service.publish(healthy())
        for name in ("shop.Checkout", "status", "metrics"):
            assert await check(service, name) == (
                "NOT_FOUND: the services here are ready, live and started, "
                "and /8080 behind one of them means a target"
            )


async def test_no_answer_is_lost_where_many_ask_at_once() -> None:
    """Over one connection: grpcio shares it among the channels of a process."""
    async with serving() as service:
        service.publish(healthy())
        answers = await asyncio.gather(*(check(service, "ready") for _ in range(8)))
    assert answers == ["SERVING"] * 8


@given(st.text(max_size=2 * MESSAGE))
def test_any_reason_comes_through_whole_or_cut_off(reason: str) -> None:
    client, _ = calling()
    body = reason.encode()
    fields, message = told(client, answer(Call(STREAM, b"ready"), Reply(503, body)))
    said = unquote_to_bytes(fields["grpc-message"])
    assert (fields["grpc-status"], message) == ("14", b"")
    assert body.strip().startswith(said.rsplit(b"%", 1)[0])
    if len(fields["grpc-message"]) < MESSAGE - 2:
        assert said == body.strip()


def test_a_good_answer_is_what_protobuf_makes_of_it() -> None:
    client, _ = calling()
    fields, message = told(client, answer(Call(STREAM, b"ready"), Reply(200, b"ready\n")))
    expected = health_pb2.HealthCheckResponse(status=SERVING).SerializeToString()
    assert fields[":status"] == "200"
    assert fields["content-type"] == "application/grpc"
    assert fields["grpc-status"] == "0"
    assert message == b"\0" + len(expected).to_bytes(4, "big") + expected


# --- what is read


@given(st.text("ready live", max_size=40), st.integers(0))
def test_a_call_is_read_however_it_is_cut(service: str, cut: int) -> None:
    _, said = calling(service)
    cut %= len(said)
    assert begins(said[:cut])
    before = read(said[:cut])
    assert not before.calls
    (call,) = read(before.rest + said[cut:]).calls if cut >= len(PREFACE) else read(said).calls
    assert call == Call(STREAM, service.encode())
    assert call.request.path == f"/{service or 'ready'}".encode()


async def test_a_connection_may_be_kept_and_asked_again() -> None:
    """As Envoy does; grpcio makes one connection of one channel."""
    async with serving() as service:

        def ask() -> list[int]:
            with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                live = health_pb2.HealthCheckRequest(service="live")
                return [stub.Check(live, timeout=30).status for _ in range(40)]

        assert await asyncio.to_thread(ask) == [SERVING] * 40
        assert service.server.accepts == 1


def test_whoever_waits_for_our_settings_gets_them() -> None:
    """grpc-go calls only then."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    settings = client.data_to_send()
    assert not read(settings[:-1]).waits
    assert read(settings) == Heard(True, (), settings)
    assert {type(event) for event in client.receive_data(GREETING)} == {
        RemoteSettingsChanged,
        SettingsAcknowledged,
    }


def frame(kind: int, flags: int = 0, body: bytes = b"", stream: int = STREAM) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


DATA, SETTINGS, PING, END, PADDED = 0, 4, 6, 1, 8

UNREADABLE = {
    "frames without end": frame(SETTINGS, stream=0) * 1500,
    "pings without end": frame(SETTINGS, stream=0) + frame(PING, body=bytes(8), stream=0) * 900,
    "a frame that is too large": frame(SETTINGS, stream=0) + b"\xff\xff\xff\0\0\0\0\0\1",
    "padding": frame(SETTINGS, stream=0) + frame(DATA, END | PADDED, bytes(8)),
    "no message": frame(SETTINGS, stream=0) + frame(DATA, END),
    "a compressed message": frame(SETTINGS, stream=0) + frame(DATA, END, b"\1" + bytes(4)),
    "a shorter message": frame(SETTINGS, stream=0) + frame(DATA, END, b"\0\0\0\0\7"),
    "another field": frame(SETTINGS, stream=0) + frame(DATA, END, b"\0\0\0\0\2\x12\0"),
    "a long name": frame(SETTINGS, stream=0)
    + frame(DATA, END, b"\0\0\0\0\x66\x0a\x64" + bytes(100)),
    "no text": frame(SETTINGS, stream=0) + frame(DATA, END, b"\0\0\0\0\3\x0a\1\xff"),
    "HTTP/1": b"GET /ready HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=list(UNREADABLE))
async def test_what_can_become_no_call_is_closed_without_a_word(
    raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnreadableCall):
        read(PREFACE + raw)
    async with serving() as service, asyncio.timeout(30):
        assert await exchange(service.port, PREFACE + raw) in (b"", GREETING)
        assert (await get(service.port, "/live")).status == 200
    assert [one for one in caplog.records if one.name != "asyncio"] == []


@given(st.binary(max_size=400))
def test_any_bytes_are_a_call_or_none(noise: bytes) -> None:
    with contextlib.suppress(UnreadableCall):
        for call in read(PREFACE + frame(SETTINGS, stream=0) + noise).calls:
            assert len(answer(call, None)) < HEAD
