"""Whatever an application says, cut anywhere: there is a result, or a wish for more.

Every exchange is held to the same: nothing is raised, a message is short and printable, and the
work is bounded however dear the bytes are to read.
"""

import ssl
import struct
import time
from collections.abc import Iterator

import hpack
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.model import Connection, Protocol, Stage, Target
from probe.roundtrip import attempt as attempts
from probe.roundtrip.exchange import Exchange
from probe.roundtrip.protocols import exchange

NAME = "hostile.example"
LONGEST = 400
TALK = ((b"USER x\r\n", b"331"), (b"QUIT\r\n", b""))

TARGETS = [
    Target(80),
    Target(80, path="/healthz"),
    Target(443, Protocol.HTTPS, verify=False),
    Target(1, Protocol.TCP, send=b"PING\r\n", expect=b"+PONG\r\n"),
    Target(1, Protocol.TCP, expect=b"220", then=TALK),
    Target(1, Protocol.TCP, expect=b"220", then=TALK, tls=True, verify=False),
    Target(1, Protocol.TCP),
    Target(1, Protocol.GRPC),
    Target(1, Protocol.GRPC, tls=True, verify=False),
    Target(80, path="/healthz", expect=b"fine", match="^(a+)+$"),
    Target(80, method="HEAD", status=((204, 204),)),
    Target(80, http_version="2", match="fine"),
    Target(443, Protocol.HTTPS, http_version="2", verify=False),
    Target(9000, Protocol.FASTCGI),
    Target(0, Protocol.FASTCGI, path="/ping", socket="/run/app.sock"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def block(headers: list[tuple[bytes, bytes]]) -> bytes:
    return bytes(hpack.Encoder().encode(headers))


http = st.sampled_from(
    [
        b"HTTP/1.1 ", b"200 OK", b"503 No", b"400 x", b"100 \r\n\r\n", b"999", b"\xb2\xb3\xb9",
        b"\r\n", b"\n", b"\r\n\r\n", b"Content-Length: ", b"5, 5", b"-1", b"9" * 17, b"\xd9\xa3",
        b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n", b"0\r\n\r\n", b"f" * 16, b"a: b\r\n",
        b"<title>", b"</title>", b"<html", b"HTTPS port", b"\x1b]0;x\x07", "\u202e\u0000".encode(),
    ]
)  # fmt: skip
words = st.sampled_from(
    [b"220 mail\r\n", b"331 who\r\n", b"+PONG\r\n", b"+PON", b"-ERR \xff\r\n", b"22", b"2"]
)
values = st.sampled_from([b"", b"0", b"200", b"abc", b"9" * 5000, b"\xff\xfe", b"a%0ab%", b"12"])
names = st.sampled_from(
    [b":status", b"grpc-status", b"grpc-message", b"content-length", b":path", b"X", b"\n", b""]
)
blocks = st.lists(st.tuples(names, values), max_size=5).map(block)
payloads = blocks | st.binary(max_size=40) | st.just(b"\0\0\0\0\2\x08\1")
frames = st.builds(
    frame, st.integers(0, 11), st.sampled_from([0, 1, 4, 5, 8, 255]), st.integers(0, 3), payloads
)
records = st.builds(
    lambda kind, version, data: bytes((kind, 3, version)) + len(data).to_bytes(2, "big") + data,
    st.integers(19, 25),
    st.integers(0, 4),
    st.binary(max_size=60),
)
fastcgi = st.builds(
    lambda kind, number, length, data: struct.pack(">BBHHH", 1, kind, number, length, 0) + data,
    st.integers(2, 11),
    st.sampled_from([0, 1, 1, 1, 2]),
    st.integers(0, 30),
    st.sampled_from([b"Status: 500\r\n\r\n", b"a: b\r\n\r\npong", b"\x1b]0;x", bytes(8), b""]),
)
said = st.lists(http | words | frames | records | fastcgi | st.binary(max_size=30), max_size=12)
cuts = st.lists(st.integers(1, 40), max_size=30)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    at = 0
    for cut in [*cuts, len(data) or 1]:
        if piece := data[at : at + cut]:
            yield piece
        at += cut


def hold(spoken: Exchange, data: bytes, cuts: list[int], *, closes: bool) -> None:
    """Feed it, and see that all it says is fit for a log."""
    for piece in pieces(data, cuts):
        spoken.feed(piece)
        spoken.so_far()
    end = Connection(1, 2, ("", 1), ("", 2), 1, 7, 0, 0)
    spoken.witness(end)
    if closes:
        spoken.eof()
        assert spoken.result is not None
    found = spoken.result or spoken.late()
    spoken.finish()
    for text in (found.detail, found.frank):
        assert text.isprintable()
        assert len(text) <= LONGEST


@settings(max_examples=60, derandomize=True)
@pytest.mark.parametrize("target", TARGETS, ids=str)
@given(said=said, cuts=cuts, closes=st.booleans())
def test_any_answer_has_a_result(
    target: Target, said: list[bytes], cuts: list[int], closes: bool
) -> None:
    spoken = exchange(target, "127.0.0.1")
    spoken.start()
    version2 = target.protocol is Protocol.GRPC or target.http_version == "2"
    start = b"\0\0\0\4\0\0\0\0\0" if version2 and closes else b""
    hold(spoken, start + b"".join(said), cuts, closes=closes)


_SERVER: list[ssl.SSLContext] = []


@settings(max_examples=30, derandomize=True)
@pytest.mark.parametrize("target", [one for one in TARGETS if one.encrypted], ids=str)
@given(said=said, cuts=cuts, closes=st.booleans())
def test_so_has_any_answer_inside_tls(
    target: Target, said: list[bytes], cuts: list[int], closes: bool
) -> None:
    if not _SERVER:
        _SERVER.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        trustme.CA().issue_cert(NAME).configure_cert(_SERVER[0])
    spoken = exchange(target, "127.0.0.1")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = _SERVER[0].wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(spoken.start())
    while not spoken.secured or incoming.pending:
        try:
            server.do_handshake()
            server.read(65536)
        except ssl.SSLWantReadError:
            incoming.write(spoken.feed(outgoing.read()))
    for one in said:
        server.write(one)
    hold(spoken, outgoing.read(), cuts, closes=closes)


def settled(payload: bytes, count: int) -> bytes:
    return b"\0\0\0\4\0\0\0\0\0" + payload * count


BIG = 1 << 20
DEAR = {
    "pings": (Protocol.GRPC, settled(frame(6, 0, 0, bytes(8)), BIG // 17)),
    "empty settings": (Protocol.GRPC, settled(b"", 0) * (BIG // 9)),
    "many settings": (Protocol.GRPC, settled(frame(4, 0, 0, b"\0\3\0\0\0\1" * 2700), 60)),
    "empty data": (
        Protocol.GRPC,
        settled(frame(1, 4, 1, block([(b":status", b"200")])), 1)
        + frame(0, 0, 1, b"") * (BIG // 9),
    ),
    "interim answers": (
        Protocol.GRPC,
        settled(frame(1, 4, 1, block([(b":status", b"103")])), BIG // 14),
    ),
    "fields of a byte": (
        Protocol.GRPC,
        settled(frame(1, 4, 1, b"\x08\x03103" + b"\x5f\0" * 900), BIG // 2000),
    ),
    "chunks of a byte": (
        Protocol.HTTP,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\nx\n" * (BIG // 4),
    ),
    "headers of a byte": (Protocol.HTTP, b"HTTP/1.1 200 OK\n" + b"a:\n" * (BIG // 3)),
    "blank lines": (Protocol.HTTP, b"\n" * BIG),
    "near misses": (Protocol.TCP, b"aaaaaaaaab" * (BIG // 10)),
    "records": (Protocol.HTTPS, b"\x16\3\3\0\1\0" * (BIG // 6)),
    "alerts": (Protocol.HTTPS, b"\x15\3\3\0\2\1\x5a" * (BIG // 7)),
}


DEAR |= {
    f"{name}, of a page": (Protocol.HTTP, data)
    for name, (protocol, data) in DEAR.items()
    if protocol is Protocol.GRPC
}
DEAR["a page of near misses"] = (
    Protocol.HTTP,
    b"HTTP/1.1 200 OK\r\n\r\n" + b"aaaaaaaaab" * (BIG // 10),
)


@pytest.mark.parametrize("dear", DEAR)
def test_no_answer_costs_more_than_a_tenth_of_a_second(dear: str) -> None:
    """Of CPU time, in all; the best of three, since the machine has other things to do."""
    protocol, data = DEAR[dear]
    version = "2" if "of a page" in dear else "1.1"
    target = Target(
        1, protocol, expect=b"a" * 4000 + b"z", verify=False, http_version=version, match="(a+)+$"
    )
    took = []
    for _ in range(3):
        spoken = exchange(target, "127.0.0.1")
        spoken.start()
        began = time.thread_time()
        for at in range(0, len(data), attempts.CHUNK):
            if spoken.result is None:
                spoken.feed(data[at : at + attempts.CHUNK])
        took.append(time.thread_time() - began)
        assert spoken.result is not None
    assert min(took) < 0.1, took


def test_a_handshake_without_end_ends() -> None:
    """A certificate that is never whole is no reason to read for ever."""
    spoken = exchange(TARGETS[2], "127.0.0.1")
    spoken.start()
    # A ServerHello that is announced to be 16 MB long.
    fed, piece = 0, b"\x16\3\3\x40\0" + b"\2\xff\xff\xff" + bytes(16380)
    while spoken.result is None:
        spoken.feed(piece)
        fed += len(piece)
    assert spoken.result.stage is Stage.TLS
    assert fed < 3 * BIG
