"""The gRPC exchange: against h2's server side on bytes, against grpcio on sockets, and fuzzed."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import hpack
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded
from hypothesis import given
from hypothesis import strategies as st

from probe import __version__
from probe.model import Outcome, Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.grpc import Grpc, health_request, health_status
from probe.roundtrip.stream import FIELDS, FRAMES
from probe.roundtrip.wording import QUOTED
from tests.roundtrip.application import Application, saying
from tests.roundtrip.conftest import Trip

TARGET = Target(50051, Protocol.GRPC)
HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def framed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


SERVING = framed(b"\x08\x01")


# --- the messages


@given(st.text(max_size=300))
def test_the_request_is_what_protobuf_makes_of_it(service: str) -> None:
    message = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert health_request(service) == framed(message)


@given(st.sampled_from(list(health_pb2.HealthCheckResponse.ServingStatus.values())))
def test_the_response_is_read_as_protobuf_does(status: int) -> None:
    message = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    assert health_status(message) == status


@given(st.binary(max_size=60))
def test_any_response_is_a_status_or_a_value_error(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert health_status(message) >= 0


@pytest.mark.parametrize("unknown", [b"\x10\x05", b"\x1a\x03abc", b"\x21" + bytes(8), b"\x2d1234"])
def test_fields_of_the_future_are_passed_over(unknown: bytes) -> None:
    assert health_status(unknown + b"\x08\x01" + unknown) == 1


@pytest.mark.parametrize("half", [b"\x08", b"\x08\xff", b"\x1a\x09ab", b"\x21\0", b"\x0b", b"\xff"])
def test_half_a_response_is_an_error(half: bytes) -> None:
    with pytest.raises(ValueError):
        health_status(half)


# --- the exchange, against the server side of h2


class Server:
    """Takes the request, and keeps the bytes that `script` makes of the answer."""

    def __init__(self, exchange: Grpc) -> None:
        self.connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ended = False
        for event in self.connection.receive_data(exchange.start()):
            if isinstance(event, RequestReceived):
                self.headers = {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, DataReceived):
                self.body += event.data
            elif isinstance(event, StreamEnded):
                self.ended = True

    def answer(self, *parts: list[tuple[str, str]] | bytes, end: bool = True) -> bytes:
        """Headers, messages and trailers in this order; the last part ends the stream."""
        for index, part in enumerate(parts):
            last = end and index == len(parts) - 1
            if isinstance(part, bytes):
                self.connection.send_data(1, part, end_stream=last)
            else:
                self.connection.send_headers(1, part, end_stream=last)
        return self.connection.data_to_send()


def answer(*parts: list[tuple[str, str]] | bytes, end: bool = True, service: str = "") -> Grpc:
    exchange = Grpc(TARGET._replace(service=service), "127.0.0.1")
    data = Server(exchange).answer(*parts, end=end)
    for at in range(0, len(data), 7):
        exchange.feed(data[at : at + 7])
    return exchange


def test_the_call() -> None:
    server = Server(Grpc(TARGET._replace(service="pkg.Service"), "127.0.0.1"))
    assert server.ended
    assert server.body == health_request("pkg.Service")
    assert server.headers == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": "127.0.0.1:50051",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": f"accept-probe/{__version__}",
    }
    assert Server(Grpc(TARGET._replace(tls=True), "::1")).headers[":scheme"] == "https"


def test_serving() -> None:
    assert answer(HEAD, SERVING, OK).result == Result()


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (b"", "UNKNOWN, not SERVING"),
        (b"\x08\x00", "UNKNOWN, not SERVING"),
        (b"\x08\x02", "NOT_SERVING, not SERVING"),
        (b"\x08\x03", "SERVICE_UNKNOWN, not SERVING"),
        (b"\x08\x63", "status 99, not SERVING"),
    ],
)
def test_not_serving(message: bytes, detail: str) -> None:
    assert answer(HEAD, framed(message), OK).result == Result(Stage.STATUS, detail)


@pytest.mark.parametrize(
    ("trailers", "detail"),
    [
        (
            [("grpc-status", "12")],
            "UNIMPLEMENTED: the server does not offer grpc.health.v1.Health",
        ),
        (
            [("grpc-status", "5"), ("grpc-message", "unknown")],
            "NOT_FOUND: the server's health service does not know 'pkg.Service'",
        ),
        (
            [("grpc-status", "14"), ("grpc-message", "database%20is%0Agone")],
            'UNAVAILABLE: "database is"',
        ),
        ([("grpc-status", "16")], "UNAUTHENTICATED"),
        ([("grpc-status", "77")], 'grpc-status "77"'),
        ([("grpc-status", "abc")], 'grpc-status "abc"'),
    ],
)
def test_a_status_that_is_not_ok(trailers: list[tuple[str, str]], detail: str) -> None:
    expected = Result(Stage.STATUS, detail)
    assert answer(HEAD, trailers, service="pkg.Service").result == expected
    assert answer(HEAD + trailers, service="pkg.Service").result == expected, "trailers only"


@pytest.mark.parametrize(
    ("parts", "result"),
    [
        (
            ([(":status", "404")], b"not here"),
            Result(Stage.STATUS, 'HTTP 404 and no grpc-status: "not here"', 404),
        ),
        ((HEAD, SERVING), Result(Stage.UNEXPECTED_REPLY, "the answer has no grpc-status")),
        ((HEAD, OK), Result(Stage.UNEXPECTED_REPLY, "not a HealthCheckResponse: 0 bytes")),
        (
            (HEAD, SERVING + b"more", OK),
            Result(Stage.UNEXPECTED_REPLY, "not a HealthCheckResponse: 11 bytes"),
        ),
        (
            (HEAD, b"\1\0\0\0\2\x08\x01", OK),
            Result(Stage.UNEXPECTED_REPLY, "not a HealthCheckResponse: 7 bytes"),
        ),
        (
            (HEAD, framed(b"\x08"), OK),
            Result(Stage.UNEXPECTED_REPLY, "not a HealthCheckResponse: half a number"),
        ),
    ],
)
def test_an_unexpected_answer(parts: tuple[list[tuple[str, str]] | bytes], result: Result) -> None:
    assert answer(*parts).result == result


@pytest.mark.parametrize(
    ("parts", "part"),
    [((), "no headers"), ((HEAD,), "the headers"), ((HEAD, SERVING), "the message")],
)
def test_half_an_answer(parts: tuple[list[tuple[str, str]] | bytes], part: str) -> None:
    exchange = answer(*parts, end=False)
    late = exchange.late()
    assert late.stage is Stage.UNANSWERED
    assert late.detail.endswith(f" bytes: {part}, no trailers")
    exchange.eof()
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY
    assert exchange.result.detail.startswith("closed after ")


def test_no_answer_at_all() -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    assert exchange.late() == Result(Stage.UNANSWERED, "no answer")
    exchange.eof()
    assert exchange.result == Result(Stage.UNEXPECTED_REPLY, "closed, no answer")


def test_the_server_resets_the_call() -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    server = Server(exchange)
    server.connection.reset_stream(1, ErrorCodes.REFUSED_STREAM)
    exchange.feed(server.connection.data_to_send())
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY, "the server reset the call: HTTP/2 REFUSED_STREAM"
    )


def goaway(last: int, code: int = 0, more: bytes = b"") -> bytes:
    payload = last.to_bytes(4, "big") + code.to_bytes(4, "big") + more
    return len(payload).to_bytes(3, "big") + b"\7" + bytes(5) + payload


@pytest.mark.parametrize("last", [1, 3, 2**31 - 1])
@pytest.mark.parametrize("place", ["before", "amid", "after"])
def test_a_connection_that_ends_with_our_call_still_serves_it(last: int, place: str) -> None:
    """As nginx ends it after `keepalive_requests`, and each server in the end."""
    exchange = Grpc(TARGET, "127.0.0.1")
    server = Server(exchange)
    parts = [server.answer(HEAD, SERVING, end=False), server.answer(OK)]
    parts.insert({"before": 0, "amid": 1, "after": 2}[place], goaway(last))
    exchange.feed(b"".join(parts) if last == 1 else parts[0])
    for part in parts[1:]:
        exchange.feed(part)
    assert exchange.result == Result()


def test_a_call_that_is_not_served_any_more() -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.feed(Server(exchange).connection.data_to_send() + goaway(0, 0, b"max_age"))
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY, 'the server sent GOAWAY: HTTP/2 NO_ERROR: "max_age"'
    )
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.feed(Server(exchange).connection.data_to_send() + goaway(1))
    exchange.eof()
    assert exchange.result is not None
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY


def test_the_server_is_about_to_leave() -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    server = Server(exchange)
    server.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
    exchange.feed(server.connection.data_to_send())
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY, "the server sent GOAWAY: HTTP/2 ENHANCE_YOUR_CALM"
    )


def test_a_polite_end() -> None:
    exchange = answer(HEAD, SERVING, OK)
    assert b"\x07\0\0\0\0\0" in exchange.finish(), "GOAWAY"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", 'not an HTTP/2 answer: "HTTP/1.1 400 Bad Request"'),
        (b"220 mail ESMTP\r\n", 'not an HTTP/2 answer: "220 mail ESMTP"'),
        (b"no", 'not an HTTP/2 answer: "no"'),
        (
            b"\x15\3\3\0\2\2\x46",
            "not an HTTP/2 answer: a TLS alert (protocol version); the port speaks TLS: grpcs://",
        ),
    ],
)
def test_not_http2(data: bytes, detail: str) -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    exchange.feed(data)
    assert len(data) < 4 or exchange.result is not None
    assert exchange.late() == Result(Stage.UNEXPECTED_REPLY, detail)
    exchange.eof()
    assert exchange.result == Result(Stage.UNEXPECTED_REPLY, detail)


@pytest.mark.parametrize(
    ("name", "value", "stage", "detail"),
    [
        (b":status", b"abc", Stage.UNEXPECTED_REPLY, 'answer: "abc" is no status'),
        (b":status", b"", Stage.UNEXPECTED_REPLY, 'answer: "" is no status'),
        (b":status", b"9" * 5000, Stage.UNEXPECTED_REPLY, "999… is no status"),
        (b":status", b"\xff\xfe", Stage.UNEXPECTED_REPLY, r'"\xff\xfe" is no status'),
        (b"grpc-status", b"0" * 5000, Stage.STATUS, 'grpc-status "0000'),
        (b"grpc-status", b"\xd9\xa3", Stage.STATUS, 'grpc-status "٣"'),
        (b"X" * 9000, b"", Stage.UNEXPECTED_REPLY, "uppercase header name b'XXX"),
        (b"content-length", b"\x1b[2J", Stage.UNEXPECTED_REPLY, "Invalid content-length"),
    ],
)
def test_headers_that_are_none(name: bytes, value: bytes, stage: Stage, detail: str) -> None:
    headers = {b":status": b"200", name: value}
    block = hpack.Encoder().encode(headers.items())
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    exchange.feed(settings() + len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block)
    assert exchange.result is not None
    assert exchange.result.stage is stage
    assert detail.replace("…", "") in exchange.result.detail.replace('…"', "")
    assert exchange.result.detail.isprintable()
    assert len(exchange.result.detail) < QUOTED + 60


def settings() -> bytes:
    return Server(Grpc(TARGET, "127.0.0.1")).connection.data_to_send()


@pytest.mark.parametrize(
    "endless",
    [
        b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",
        b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x64",
        b"\0\x0f\xff\xfa\0\0\0\0\1" + bytes(0xFFF),
        b"\0\x0f\xff\x01\0\0\0\0\1"
        + b"\x82" * 0xFFF
        + (b"\0\x0f\xff\x09\0\0\0\0\1" + bytes(0xFFF)),
    ],
    ids=["pings", "settings", "unknown frames", "headers"],
)
def test_frames_without_end(endless: bytes) -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    exchange.feed(settings())
    fed = sent = 0
    while exchange.result is None:
        sent += len(exchange.feed(endless))
        fed += len(endless)
        assert fed < LIMIT + len(endless)
    assert sent < 2 * LIMIT
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY


@pytest.mark.parametrize(
    ("frame", "most"),
    [
        (b"\0\0\0\4\0\0\0\0\0", FRAMES),
        (b"\0\0\0\0\0\0\0\0\1", FRAMES),
        (b"\0\0\4\1\4\0\0\0\1\x48\x82\x64\1", FRAMES),
        (b"\0\1\4\1\4\0\0\0\1\x08\x03103" + b"\x5f\0" * 127, FIELDS // 127 + 2),
    ],
    ids=["settings", "data", "interim answers", "header fields"],
)
def test_frames_are_counted_as_bytes_are(frame: bytes, most: int) -> None:
    """An empty one costs as much as a full one; and a field of the header one byte."""
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    exchange.feed(settings())
    fed = 1
    while exchange.result is None:
        exchange.feed(frame)
        fed += 1
    assert exchange.result.stage is Stage.UNEXPECTED_REPLY
    assert fed <= most + 1


def talk(data: bytes, cuts: list[int]) -> None:
    exchange = Grpc(TARGET, "127.0.0.1")
    exchange.start()
    at = 0
    for cut in [*cuts, len(data)]:
        exchange.feed(data[at : at + cut])
        at += cut
    assert exchange.late().stage is not None
    exchange.eof()
    exchange.finish()
    assert exchange.result is not None
    assert "\n" not in exchange.result.detail
    assert len(exchange.result.detail) < QUOTED + 200


cuts = st.lists(st.integers(0, 60), max_size=20)


@given(st.binary(max_size=500), cuts)
def test_any_bytes_give_a_result(data: bytes, cuts: list[int]) -> None:
    talk(data, cuts)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=40)
        ),
        max_size=12,
    ),
    cuts,
)
def test_any_frames_give_a_result(
    frames: list[tuple[int, int, int, bytes]], cuts: list[int]
) -> None:
    data = settings()
    for kind, flags, stream, payload in frames:
        data += len(payload).to_bytes(3, "big") + bytes((kind, flags))
        data += stream.to_bytes(4, "big") + payload
    talk(data, cuts)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), cuts)
def test_any_damage_to_a_good_answer_gives_a_result(
    damage: list[tuple[int, int]], cuts: list[int]
) -> None:
    data = bytearray(Server(Grpc(TARGET, "127.0.0.1")).answer(HEAD, SERVING, OK))
    for at, byte in damage:
        data[at % len(data)] = byte
    talk(bytes(data), cuts)


# --- grpcio's server

Configure = Callable[[grpc.Server], int]


@contextlib.contextmanager
def served(configure: Configure, *, health_service: bool = True) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(2))
    if health_service:
        servicer = health.HealthServicer()
        serving = health_pb2.HealthCheckResponse
        servicer.set("good.Service", serving.SERVING)
        servicer.set("bad.Service", serving.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = configure(server)
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def plain(server: grpc.Server) -> int:
    return int(server.add_insecure_port("127.0.0.1:0"))


def test_grpcio(trip: Trip) -> None:
    with served(plain) as port:
        for service in ("", "good.Service"):
            result = trip(Target(port, Protocol.GRPC, service=service), 5.0)
            assert result.outcome is Outcome.OK, result
            assert result.phases.first_byte is not None
        for service, detail in (
            ("bad.Service", "NOT_SERVING, not SERVING"),
            ("no.Service", "NOT_FOUND: the server's health service does not know 'no.Service'"),
        ):
            result = trip(Target(port, Protocol.GRPC, service=service), 5.0)
            assert (result.stage, result.detail) == (Stage.STATUS, detail)


def test_grpcio_without_a_health_service(trip: Trip) -> None:
    with served(plain, health_service=False) as port:
        result = trip(Target(port, Protocol.GRPC), 5.0)
    assert (result.stage, result.detail) == (
        Stage.STATUS,
        "UNIMPLEMENTED: the server does not offer grpc.health.v1.Health",
    )


def test_grpcio_over_tls(trip: Trip, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    own = authority.issue_cert("grpc.example")

    def secure(server: grpc.Server) -> int:
        chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
        credentials = grpc.ssl_server_credentials([(own.private_key_pem.bytes(), chain)])
        return int(server.add_secure_port("127.0.0.1:0", credentials))

    with served(secure) as port:
        target = Target(
            port, Protocol.GRPC, tls=True, ca_file=str(ca_file), server_name="grpc.example"
        )
        result = trip(target, 5.0)
        assert result.outcome is Outcome.OK, result
        assert result.phases.tls is not None
        result = trip(target._replace(server_name="other.example"), 5.0)
        assert result.stage is Stage.TLS
        result = trip(target._replace(tls=False), 2.0)
        assert result.outcome is Outcome.FAILED


def test_an_http1_server_is_told_apart(trip: Trip) -> None:
    with Application(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as application:
        result = trip(Target(application.port, Protocol.GRPC))
    assert result.detail == 'not an HTTP/2 answer: "HTTP/1.1 400 Bad Request"'


def test_a_grpc_server_is_not_an_http1_server(trip: Trip) -> None:
    with served(plain) as port:
        result = trip(Target(port), 5.0)
    assert result.stage in (Stage.UNEXPECTED_REPLY, Stage.RESET)
