"""HTTP/2: against h2's server side on bytes, and against nginx with and without TLS."""

from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from probe.kernel import KernelView
from probe.model import Outcome, Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.http2 import Http2
from probe.roundtrip.stream import FRAMES
from tests.roundtrip.conftest import Trip
from tests.roundtrip.test_servers import PORT, TLS_PORT, Files, https, nginx, running

ANY = Target(8080, http_version="2")
HEALTH = ANY._replace(path="/healthz")


class Server:
    """Takes the request as it comes, and makes the bytes of an answer."""

    def __init__(self, exchange: Http2) -> None:
        self.connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.connection.initiate_connection()
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        for event in self.connection.receive_data(exchange.start()):
            if isinstance(event, RequestReceived):
                self.headers = [(str(name), str(value)) for name, value in event.headers]
            elif isinstance(event, DataReceived):
                self.body += event.data

    def answer(self, status: str, body: bytes = b"", *headers: tuple[str, str]) -> bytes:
        self.connection.send_headers(1, [(":status", status), *headers], end_stream=not body)
        for at in range(0, len(body), 1000):
            end = at + 1000 >= len(body)
            self.connection.send_data(1, body[at : at + 1000], end_stream=end)
        return self.connection.data_to_send()


def result(target: Target, *answered: object) -> Result | None:
    exchange = Http2(target, "127.0.0.1")
    data = Server(exchange).answer(*answered)  # type: ignore[arg-type]
    for at in range(0, len(data), 7):
        exchange.feed(data[at : at + 7])
    return exchange.result


def test_the_request() -> None:
    target = HEALTH._replace(
        method="POST",
        send=b"ping",
        headers=(("Host", "shop.example"), ("X-Trace", "a"), ("x-trace", "b"), ("Accept", "")),
    )
    server = Server(Http2(target, "10.1.2.3"))
    assert server.body == b"ping"
    agent = server.headers.pop(4)
    assert agent[0] == "user-agent"
    assert server.headers == [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/healthz"),
        (":authority", "shop.example"),
        ("x-trace", "a"),
        ("x-trace", "b"),
        ("content-length", "4"),
    ]
    assert dict(Server(Http2(ANY, "::1")).headers)[":authority"] == "[::1]:8080"


def test_an_answer_is_judged_as_that_of_http_1() -> None:
    assert result(ANY, "404", b"no such page") == Result(status=404)
    assert result(HEALTH, "204") == Result(status=204)
    assert result(HEALTH, "404", b"no such page") == Result(
        Stage.STATUS, 'HTTP 404, not 200 to 399: "no such page"', 404
    )
    assert result(HEALTH._replace(expect=b"up"), "200", b"all is up") == Result(status=200)
    assert result(HEALTH._replace(match="up$"), "200", b"up or down") == Result(
        Stage.UNEXPECTED_REPLY,
        'nothing that matches up$ in 10 bytes of the body: "up or down"',
        200,
    )
    assert result(HEALTH, "302", b"", ("location", "/login?s3cret")) == Result(
        None, "HTTP 302: a redirect to /login, which is not followed", 302
    )
    head = HEALTH._replace(method="HEAD")
    assert result(head, "200", b"", ("content-length", "1000")) == Result(status=200)


def test_of_a_long_answer_the_beginning_is_enough() -> None:
    """As of HTTP/1: so long a page is one, and what it was to hold is looked for in what came."""
    assert result(HEALTH, "200", b"x" * 65000) == Result(status=200)
    expecting = result(HEALTH._replace(expect=b"y"), "200", b"x" * 65000)
    assert expecting is not None
    assert expecting.stage is Stage.UNEXPECTED_REPLY
    exchange = Http2(HEALTH, "127.0.0.1")
    data = Server(exchange).answer("200", b"x" * (FRAMES * 100))
    for at in range(0, len(data), LIMIT):
        exchange.feed(data[at : at + LIMIT])
    assert exchange.result == Result(status=200)


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", '"HTTP/1.1 400 Bad Request"'),
        (b"\x15\3\1\0\2\2\x28", "a TLS alert (handshake failure); the port speaks TLS: https://"),
        (b"-ERR unknown command\r\n", '"-ERR unknown command"'),
    ],
)
def test_what_does_not_speak_it_is_told(said: bytes, detail: str) -> None:
    exchange = Http2(ANY, "127.0.0.1")
    exchange.start()
    exchange.feed(said)
    assert exchange.result == Result(Stage.UNEXPECTED_REPLY, f"not an HTTP/2 answer: {detail}")


PAGES = """
server {
    listen 8080 http2;
    listen 8443 ssl http2;
    location = /ok { return 200 "$server_protocol $request_method"; }
    location = /down { return 503 "no database"; }
    location / { return 404; }
}
"""


def test_nginx(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    files = Files(tmp_path)
    with running(view, nginx(tmp_path, files, PAGES)):
        for target in (Target(PORT, http_version="2"), https(files)._replace(http_version="2")):
            for path, outcome, status in (
                ("/ok", Outcome.OK, 200),
                ("/down", Outcome.FAILED, 503),
                ("", Outcome.OK, 404),
            ):
                told = trip(target._replace(path=path), 5.0)
                assert (told.outcome, told.status) == (outcome, status), told
            asked = target._replace(path="/ok", expect=b"HTTP/2.0 GET")
            assert trip(asked, 5.0).outcome is Outcome.OK
            assert trip(target._replace(path="/ok", method="HEAD"), 5.0).outcome is Outcome.OK
        plain = trip(Target(PORT))
        assert plain.detail == (
            "not an HTTP/1 answer: the port speaks HTTP/2: --http-version 2, "
            "or if that is gRPC: grpc://"
        )
        encrypted = trip(Target(TLS_PORT, Protocol.HTTP, http_version="2"))
        assert encrypted.outcome is Outcome.FAILED
