"""FastCGI: what a server may answer, cut anywhere, and records that are not what they say."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.model import Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT
from probe.roundtrip.fastcgi import OVERHEAD, FastCgi
from probe.roundtrip.fcgi import (
    BEGIN_REQUEST,
    END_REQUEST,
    LONGEST_HEADER,
    PARAMS,
    RECORDS,
    STDERR,
    STDIN,
    STDOUT,
    MalformedRecord,
    RecordReader,
    pair,
)

PONG = b"Content-type: text/plain;charset=UTF-8\r\n\r\npong"


def record(kind: int, content: bytes = b"", *, padding: int = 0, request: int = 1) -> bytes:
    header = struct.pack(">BBHHBB", 1, kind, request, len(content), padding, 0)
    return header + content + bytes(padding)


def end(protocol_status: int = 0) -> bytes:
    return record(END_REQUEST, struct.pack(">IBxxx", 0, protocol_status))


def answer(*outputs: bytes) -> bytes:
    return b"".join(record(STDOUT, output) for output in (*outputs, b"")) + end()


def asked(path: str = "") -> FastCgi:
    exchange = FastCgi(Target(9000, Protocol.FASTCGI, path=path), "127.0.0.1")
    exchange.start()
    return exchange


def heard(data: bytes, path: str = "", *, closes: bool = True) -> FastCgi:
    exchange = asked(path)
    if data:
        exchange.feed(data)
    if closes:
        exchange.eof()
    return exchange


def records(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        _, kind, request, length, padding, _ = struct.unpack_from(">BBHHBB", data)
        assert request == 1
        found.append((kind, data[8 : 8 + length]))
        data = data[8 + length + padding :]
    return found


def test_the_request_is_whole() -> None:
    target = Target(9000, Protocol.FASTCGI, path="/status?json&full=%20")
    sent = records(FastCgi(target, "127.0.0.1").start())
    assert [kind for kind, _ in sent] == [BEGIN_REQUEST, PARAMS, PARAMS, STDIN]
    assert sent[0][1] == struct.pack(">HB5x", 1, 0)
    assert sent[2:] == [(PARAMS, b""), (STDIN, b"")]
    for name, value in (
        (b"REQUEST_METHOD", b"GET"),
        (b"SCRIPT_NAME", b"/status"),
        (b"QUERY_STRING", b"json&full=%20"),
        (b"HTTP_HOST", b"127.0.0.1:9000"),
    ):
        assert pair(name, value) in sent[1][1]


@pytest.mark.parametrize("length", [0, 1, 127, 128, 2000])
def test_lengths_of_parameters_take_one_byte_or_four(length: int) -> None:
    written = pair(b"N" * length, b"")
    assert (
        written[:1] == bytes([length])
        if length < 128
        else written[:4] == struct.pack(">I", length | 1 << 31)
    )
    assert written.endswith(b"N" * length)


@pytest.mark.parametrize(
    ("data", "path", "status"),
    [
        (answer(PONG), "", 200),
        (answer(PONG), "/ping", 200),
        (answer(b"Status: 404 Not Found\r\n\r\n"), "", 404),
        (answer(b"Status: 302\n", b"\nx"), "/x", 302),
        (answer(b"Location: /y\r\n\r\n"), "/x", 302),
        (record(STDERR, b"warned") + answer(PONG), "/x", 200),
        (record(10, b"values", request=0) + answer(PONG), "", 200),
    ],
)
def test_good_answers(data: bytes, path: str, status: int) -> None:
    result = heard(data, path).result
    assert result is not None
    assert (result.stage, result.status) == (None, status), result


@pytest.mark.parametrize(
    ("data", "stage", "detail"),
    [
        (
            answer(b"Status: 404 Not Found\r\n\r\nFile not found.\n"),
            Stage.STATUS,
            'status 404, not 200 to 399: "File not found."',
        ),
        (
            record(STDERR, b"PHP message: no database") + answer(b"Status: 500\r\n\r\n"),
            Stage.STATUS,
            'status 500, not 200 to 399: "PHP message: no database"',
        ),
        (
            end(2),
            Stage.UNEXPECTED_REPLY,
            "the request was refused: it is overloaded (FCGI_OVERLOADED)",
        ),
        (end(9), Stage.UNEXPECTED_REPLY, "the request was refused: protocol status 9"),
        (end(), Stage.UNEXPECTED_REPLY, "the request ended without an answer"),
        (
            record(STDERR, b"out of memory") + end(),
            Stage.UNEXPECTED_REPLY,
            'the request ended without an answer: "out of memory"',
        ),
        (b"", Stage.UNEXPECTED_REPLY, "closed, no answer"),
        (b"\1\6", Stage.UNEXPECTED_REPLY, "closed after 2 bytes of records"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            Stage.UNEXPECTED_REPLY,
            'not a FastCGI answer: "HTTP/1.1 400 Bad Request"',
        ),
        (
            record(STDOUT, PONG, request=2),
            Stage.UNEXPECTED_REPLY,
            "malformed FastCGI answer: a record of request 2, and there is one, number 1",
        ),
        (record(99), Stage.UNEXPECTED_REPLY, "malformed FastCGI answer: a record of type 99"),
        (
            record(END_REQUEST, b"abc"),
            Stage.UNEXPECTED_REPLY,
            "malformed FastCGI answer: an end of 3 bytes",
        ),
        (
            answer(b"no header\r\n\r\n"),
            Stage.UNEXPECTED_REPLY,
            "malformed FastCGI answer: a header line without a colon",
        ),
        (
            answer(b"Status: fine\r\n\r\n"),
            Stage.UNEXPECTED_REPLY,
            "malformed FastCGI answer: invalid status code",
        ),
    ],
)
def test_bad_answers(data: bytes, stage: Stage, detail: str) -> None:
    result = heard(data, "/ping").result
    assert result is not None
    assert (result.stage, result.detail) == (stage, detail)


def test_a_record_that_is_longer_than_what_comes() -> None:
    """What follows is taken for its content; the close, or the time-out, is the end of it."""
    lie = bytearray(answer(PONG))
    struct.pack_into(">H", lie, 4, 0xFFFF)
    exchange = heard(bytes(lie), closes=False)
    assert exchange.result is None
    assert exchange.late().stage is Stage.UNANSWERED
    result = heard(bytes(lie)).result
    assert result is not None
    assert result.detail == f"closed after {len(lie)} bytes of records"


@pytest.mark.parametrize("kind", [4, 6])
def test_a_record_that_is_shorter_than_it_says(kind: int) -> None:
    """Its last bytes are read as a header, and are none. By 4 the content, by 6 the padding."""
    lie = bytearray(answer(PONG))
    if kind == 4:
        struct.pack_into(">H", lie, 4, len(PONG) - 3)
    else:
        lie[6] = 3
    result = heard(bytes(lie)).result
    assert result is not None
    assert result.stage is Stage.UNEXPECTED_REPLY
    assert result.detail.startswith("malformed FastCGI answer: a record of ")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (record(STDOUT, b"x" * (LONGEST_HEADER + 1)), "a header longer than"),
        (record(STDERR) * RECORDS, "no header of an answer in"),
        (record(STDERR, b"e" * 60000) * (OVERHEAD // 60000 + 1), "no header of an answer in"),
    ],
)
def test_what_never_ends_is_ended(data: bytes, detail: str) -> None:
    result = heard(data, closes=False).result
    assert result is not None
    assert result.stage is Stage.UNEXPECTED_REPLY
    assert detail in result.detail


def test_enough_of_a_body_is_an_answer() -> None:
    endless = record(STDOUT, PONG) + record(STDOUT, b"x" * 40000) * 2
    result = heard(endless, closes=False).result
    assert result is not None
    assert (result.stage, result.status) == (None, 200)
    assert LIMIT < 80000


pieces = st.lists(st.binary(max_size=30), max_size=4)


@given(
    head=pieces,
    body=pieces,
    cuts=st.lists(st.integers(1, 30), max_size=20),
    padding=st.integers(0, 9),
)
def test_cuts_make_no_difference(
    head: list[bytes], body: list[bytes], cuts: list[int], padding: int
) -> None:
    whole = b"".join(
        record(STDOUT, part, padding=padding)
        for part in (
            b"X: 1\r\n",
            *(b"Y: " + part.hex().encode() + b"\r\n" for part in head),
            b"\r\n",
        )
    )
    whole += b"".join(record(STDOUT, part, padding=padding) for part in body) + end()
    reader, rest = RecordReader(), whole
    for cut in cuts:
        reader.feed(rest[:cut])
        rest = rest[cut:]
    reader.feed(rest)
    assert reader.complete
    assert (reader.status, reader.body) == (200, len(b"".join(body)))
    assert b"".join(body).startswith(reader.excerpt)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_whatever_comes_is_read_or_malformed(parts: list[bytes]) -> None:
    reader = RecordReader()
    with suppress(MalformedRecord):
        for part in parts:
            reader.feed(part)
    assert reader.records <= len(b"".join(parts)) / 8
