"""What is asked for, and what is good: headers, secrets, methods, statuses, bodies, redirects."""

import os
from base64 import b64encode
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from probe import __version__
from probe.kernel import KernelView
from probe.model import Outcome, Protocol, Stage, Target
from probe.roundtrip import address, blocking
from probe.roundtrip.exchange import LIMIT, CannotAsk, Result
from probe.roundtrip.http import Http
from probe.roundtrip.protocols import exchange
from tests.roundtrip.application import Application, answer, replying, request, until_closed
from tests.roundtrip.conftest import Trip

PASSWORD = "correct-horse-battery-staple"
Headers = tuple[tuple[str, str], ...]


def sent(headers: Headers, **asked: Any) -> list[str]:
    """The lines of the request that follow the first."""
    target = Target(8080)._replace(headers=headers, **asked)
    lines = Http(target, "10.1.2.3").start().decode().split("\r\n")
    return lines[1 : lines.index("")]


def result(target: Target, data: bytes) -> Result | None:
    spoken = Http(target, "127.0.0.1")
    spoken.start()
    spoken.feed(data)
    return spoken.result


HOST = "Host: 10.1.2.3:8080"
CLOSE = "Connection: close"
ACCEPT = "Accept: */*"
AGENT = f"User-Agent: accept-probe/{__version__}"


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        ((), [HOST, AGENT, ACCEPT, CLOSE]),
        (
            (("Host", "shop.example"),),
            [AGENT, ACCEPT, CLOSE, "Host: shop.example"],
        ),
        (
            (("Host", ""), ("X", "1"), ("x", "2"), ("Y", "")),
            [
                HOST,
                AGENT,
                ACCEPT,
                CLOSE,
                "X: 1",
                "x: 2",
                "Y: ",
            ],
        ),
        (
            (("user-agent", "curl"), ("ACCEPT", "text/plain")),
            [HOST, CLOSE, "user-agent: curl", "ACCEPT: text/plain"],
        ),
        (
            (("User-Agent", ""), ("Accept", "")),
            [HOST, CLOSE],
        ),
        (
            (("Connection", "Upgrade"), ("Upgrade", "websocket")),
            [
                HOST,
                AGENT,
                ACCEPT,
                "Connection: Upgrade",
                "Upgrade: websocket",
            ],
        ),
    ],
    ids=["none", "host", "repeated and empty", "replaced", "left out", "connection"],
)
def test_headers_as_kubelet_has_them(headers: Headers, lines: list[str]) -> None:
    assert sent(headers) == lines


def test_who_is_asked_for_stands_apart_from_the_address() -> None:
    assert sent((), server_name="shop.example")[0] == "Host: shop.example:8080"
    assert sent((), server_name="shop.example", port=80)[0] == "Host: shop.example"


def test_a_secret_is_read_with_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes renews one: from one moment to the next `token` leads to another file."""
    for number in "12":
        (tmp_path / number).mkdir()
        (tmp_path / number / "token").write_text(f"s3cret-{number}\n")
    (tmp_path / "..data").symlink_to("1")
    (tmp_path / "token").symlink_to("..data/token")
    monkeypatch.setenv("SCHEME", "Bearer")
    asked = (("Authorization", f"${{env:SCHEME}} ${{file:{tmp_path}/token}}!"),)
    assert "Authorization: Bearer s3cret-1!" in sent(asked)
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(tmp_path / "..data")
    assert "Authorization: Bearer s3cret-2!" in sent(asked)


def test_a_secret_that_is_not_to_be_had_is_no_fault_of_the_application(
    tmp_path: Path, view: KernelView
) -> None:
    (tmp_path / "lines").write_text("one\ntwo")
    (tmp_path / "long").write_text("x" * 9000)
    os.mkfifo(tmp_path / "fifo")
    for name, why in {
        "absent": "No such file or directory",
        "lines": "holds more than one line of text",
        "long": "more than 8192 bytes",
        "fifo": "not a regular file",
        ".": "not a regular file",
        "lines/x": "Not a directory",
    }.items():
        target = Target(1, headers=(("X-Token", f"${{file:{tmp_path}/{name}}}"),))
        for protocol in (Protocol.HTTP, Protocol.GRPC):
            with pytest.raises(CannotAsk, match="header X-Token: ") as raised:
                exchange(target._replace(protocol=protocol), "127.0.0.1")
            assert str(raised.value).endswith(why)
        told = blocking.run(target, address(target, ()), view, 1)
        assert (told.outcome, told.stage) == (Outcome.UNKNOWN, None)


def repeating(status: str, before: str = "") -> bytes:
    return answer(f"{before}{PASSWORD}".encode(), status)


@pytest.mark.parametrize("before", ["no user ", "x" * 60, "<html><title>" + "y" * 70])
@pytest.mark.parametrize("source", ["file", "env", "line"])
def test_what_a_header_holds_is_shown_to_nobody(
    trip: Trip,
    view: KernelView,
    before: str,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither whole, nor its beginning where the quotation of an answer ends."""
    (tmp_path / "file").write_text(PASSWORD)
    monkeypatch.setenv("TOKEN", PASSWORD)
    value = {"file": f"${{file:{tmp_path}/file}}", "env": "${env:TOKEN}", "line": PASSWORD}[source]
    with Application(replying(repeating("401 Unauthorized", before))) as application:
        asked = (("Authorization", f"Bearer {value}"), ("Host", "shop.example"))
        target = Target(application.port, path="/", headers=asked)
        results = [trip(target)]
        where = address(target, view.listeners(application.port))
        results.append(blocking.run(target, where, view, 2, frank=True))
    for told in results:
        assert told.stage is Stage.STATUS
        assert PASSWORD[:4] not in told.detail
        assert PASSWORD not in str(target) or source == "line"


def test_nor_is_what_basic_stands_for(trip: Trip) -> None:
    with Application(replying(repeating("401 Unauthorized", "wrong: "))) as application:
        encoded = b64encode(f"somebody:{PASSWORD}".encode()).decode()
        asked = (("Authorization", f"Basic {encoded}"),)
        told = trip(Target(application.port, path="/", headers=asked))
    assert told.detail == 'HTTP 401, not 200 to 399: "wrong: ..."'


def test_nor_is_a_part_of_a_cookie(trip: Trip) -> None:
    with Application(replying(repeating("401 Unauthorized", "bad session "))) as application:
        asked = (("Cookie", f'theme=dark; id="{PASSWORD}"'),)
        told = trip(Target(application.port, path="/", headers=asked))
    assert told.detail == 'HTTP 401, not 200 to 399: "bad session ..."'


@pytest.mark.parametrize(
    ("method", "body"), [("GET", b""), ("OPTIONS", b"x"), ("POST", b'{"a":1}')]
)
def test_a_method_and_a_body(trip: Trip, method: str, body: bytes) -> None:
    heard = []

    def handle(connection: socket) -> None:
        heard.append(request(connection))
        connection.sendall(answer())
        until_closed(connection)

    with Application(handle) as application:
        told = trip(Target(application.port, method=method, send=body))
    assert told.outcome is Outcome.OK
    assert heard[0].startswith(f"{method} / HTTP/1.1\r\n".encode())
    assert heard[0].endswith(b"\r\n\r\n" + body)
    length = [line for line in heard[0].split(b"\r\n") if line.startswith(b"Content-Length")]
    assert length == ([b"Content-Length: %d" % len(body)] if body else [])


def test_the_answer_to_head_has_no_body_whatever_it_says(trip: Trip) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with Application(replying(head)) as application:
        told = trip(Target(application.port, path="/", method="HEAD"))
    assert (told.outcome, told.status) == (Outcome.OK, 200)


@pytest.mark.parametrize(
    ("status", "good"),
    [(200, True), (204, True), (299, True), (401, True), (301, False), (404, False)],
)
def test_statuses_that_are_good(status: int, good: bool) -> None:
    target = Target(1, path="/healthz", status=((200, 299), (401, 401)))
    told = result(target, b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
    assert told is not None
    assert (told.stage is None) == good
    assert told.detail == ("" if good else f"HTTP {status}, not 200 to 299, 401")


def test_a_redirect_is_an_answer_and_is_not_followed(trip: Trip) -> None:
    """Its query may hold a token."""
    head = b"HTTP/1.1 302 x\r\nLocation: https://login.example/?next=s3cret\r\n"
    head += b"Content-Length: 0\r\n\r\n"
    with Application(replying(head)) as application:
        good = trip(Target(application.port, path="/"))
        bad = trip(Target(application.port, path="/", status=((200, 200),)))
    where = "a redirect to https://login.example/, which is not followed"
    assert (good.outcome, good.detail) == (Outcome.OK, f"HTTP 302: {where}")
    assert (bad.stage, bad.detail) == (Stage.STATUS, f"HTTP 302, not 200: {where}")


def chunked(*pieces: bytes) -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "detail"),
    [
        (Target(1, expect=b'"up"'), ""),
        (Target(1, match=r'"db": *"up"'), ""),
        (Target(1, expect=b"up", match="^{"), ""),
        (Target(1, expect=b"down"), 'no "down" in 20 bytes of the body: "{"db": "up", "x": 1}"'),
        (
            Target(1, expect=b"up", match="down$"),
            'nothing that matches down$ in 20 bytes of the body: "{"db": "up", "x": 1}"',
        ),
    ],
)
def test_what_the_body_must_hold(target: Target, detail: str) -> None:
    told = result(target, chunked(b'{"db": "', b'up", "x": 1}'))
    stage = Stage.UNEXPECTED_REPLY if detail else None
    assert told == Result(stage, detail, 200)


def test_a_bounded_part_of_the_body_is_searched() -> None:
    told = result(Target(1, expect=b"ok"), answer(b"x" * LIMIT + b"ok"))
    assert told is not None
    assert told.detail.startswith(f'no "ok" in the first {LIMIT} bytes of the body: "xxx')
    told = result(Target(1, match="ok$"), answer(b"x" * (LIMIT - 2) + b"ok"))
    assert told == Result(status=200)


def test_a_status_that_is_bad_is_told_before_the_body() -> None:
    told = result(Target(1, path="/", expect=b"ok"), answer(b"ok", "500 No"))
    assert told == Result(Stage.STATUS, 'HTTP 500, not 200 to 399: "ok"', 500)


def test_an_empty_body_holds_nothing() -> None:
    told = result(Target(1, expect=b"ok"), answer(b""))
    assert told == Result(Stage.UNEXPECTED_REPLY, 'no "ok" but an empty body', 200)
