"""The HTTP exchange on bytes alone."""

import io
from collections.abc import Iterable
from http.client import HTTPResponse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from probe import __version__
from probe.model import Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT, Result
from probe.roundtrip.http import OVERHEAD, Http
from probe.roundtrip.http1 import LINES, AnswerReader
from probe.roundtrip.wording import QUOTED

ANY = Target(8080)
PATH = Target(8080, path="/healthz")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


def talk(target: Target, *data: bytes, eof: bool = False) -> Http:
    exchange = Http(target, "127.0.0.1")
    exchange.start()
    for one in data:
        assert exchange.feed(one) == b""
    if eof:
        exchange.eof()
    return exchange


def result(target: Target, *data: bytes, eof: bool = False) -> Result | None:
    return talk(target, *data, eof=eof).result


def test_the_request() -> None:
    assert Http(PATH, "10.1.2.3").start().split(b"\r\n") == [
        b"GET /healthz HTTP/1.1",
        b"Host: 10.1.2.3:8080",
        f"User-Agent: accept-probe/{__version__}".encode(),
        b"Accept: */*",
        b"Connection: close",
        b"",
        b"",
    ]


@pytest.mark.parametrize(
    ("target", "dialled", "host"),
    [
        (Target(8080), "127.0.0.1", "127.0.0.1:8080"),
        (Target(80), "127.0.0.1", "127.0.0.1"),
        (Target(443), "127.0.0.1", "127.0.0.1:443"),
        (Target(443, Protocol.HTTPS), "127.0.0.1", "127.0.0.1"),
        (Target(8443, Protocol.HTTPS, server_name="a.example"), "::1", "a.example:8443"),
        (Target(8080, host="web.default.svc"), "10.0.0.1", "web.default.svc:8080"),
        (Target(8080, host="web.default.svc."), "10.0.0.1", "web.default.svc:8080"),
        (Target(8080), "::1", "[::1]:8080"),
        (Target(8080, host="::1"), "::1", "[::1]:8080"),
        (Target(8080), "fe80::1%2", "[fe80::1]:8080"),
    ],
)
def test_the_host_header(target: Target, dialled: str, host: str) -> None:
    assert f"\r\nHost: {host}\r\n".encode() in Http(target, dialled).start()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", b"/"),
        ("/a?b=c%20d&e=/f#g", b"/a?b=c%20d&e=/f#g"),
        ("/a b", b"/a%20b"),
        ("/ü", b"/%C3%BC"),
        ("/a\r\nX-Evil: 1", b"/a%0D%0AX-Evil:%201"),
    ],
)
def test_the_request_line_holds_any_path(path: str, line: bytes) -> None:
    start = Http(Target(1, path=path), "127.0.0.1").start()
    assert start.startswith(b"GET %b HTTP/1.1\r\nHost:" % line)


@pytest.mark.parametrize("status", [200, 204, 301, 304, 399, 400, 401, 404, 418, 499])
def test_without_a_path_any_answer_below_500_is_good(status: int) -> None:
    head = b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nLocation: http://elsewhere/\r\n\r\n" % status
    where = f"HTTP {status}: a redirect to http://elsewhere/, which is not followed"
    assert result(ANY, head) == Result(status=status, detail=where if status == 301 else "")


@pytest.mark.parametrize("status", [500, 503, 599, 700])
def test_500_and_above_is_bad_in_any_case(status: int) -> None:
    head = b"HTTP/1.1 %d x\r\nContent-Length: 9\r\n\r\nno lunch\n" % status
    assert result(ANY, head) == Result(
        Stage.STATUS, f'HTTP {status}, not 100 to 499: "no lunch"', status
    )
    assert result(PATH, head) == Result(
        Stage.STATUS, f'HTTP {status}, not 200 to 399: "no lunch"', status
    )


PLAIN_AT_A_TLS_PORT = [
    b"<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>",
    b'<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>400 Bad Request'
    b"</title>\n</head><body>\n<h1>Bad Request</h1>\n<p>Your browser sent a request that this "
    b"server could not understand.<br />\nReason: You're speaking plain HTTP to an SSL-enabled "
    b"server port.<br />",
    b"Client sent an HTTP request to an HTTPS server.\n",
    b"Bad Request\r\nThis combination of host and port requires TLS.\r\n",
]
"""As nginx, Apache, Go and Tomcat say it."""


@pytest.mark.parametrize("target", [ANY, PATH], ids=["any", "path"])
@pytest.mark.parametrize("body", PLAIN_AT_A_TLS_PORT, ids=["nginx", "apache", "go", "tomcat"])
def test_a_400_that_asks_for_tls_is_no_answer_of_the_application(
    target: Target, body: bytes
) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + body
    for cut in (1, len(answer)):
        pieces = [answer[at : at + cut] for at in range(0, len(answer), cut)]
        found = result(target, *pieces, eof=True)
        assert found is not None
        assert (found.stage, found.status) == (Stage.UNEXPECTED_REPLY, 400)
        assert found.detail.startswith('HTTP 400: "')
        assert found.detail.endswith('"; the port speaks TLS: https://')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<h1>Bad Request (400)</h1>",
        b"see https://docs.example/ssl and http://docs.example/port",
        b'<html lang="en"><meta http-equiv="x"><a href="https://tls.example/port">no such shop</a>',
        b"<style>.port {}</style><script>tls, http</script>",
        b'{"error": "name is missing"}',
    ],
)
def test_any_other_400_is_the_applications_own(body: bytes) -> None:
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    assert result(ANY, answer) == Result(status=400)
    over_tls = Target(8443, Protocol.HTTPS)
    asks = b"HTTP/1.1 400 x\r\n\r\n" + PLAIN_AT_A_TLS_PORT[0]
    assert result(over_tls, asks, eof=True) == Result(status=400)


def test_a_name_helps_where_a_server_asks_for_another() -> None:
    answer = b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n"
    over_tls = Target(8443, Protocol.HTTPS, path="/")
    detail = "HTTP 421, not 200 to 399"
    hint = "; --server-name gives the name to ask for"
    for target, expected in (
        (over_tls, detail + hint),
        (over_tls._replace(server_name="shop.example"), detail),
        (PATH, detail),
    ):
        assert result(target, answer) == Result(Stage.STATUS, expected, 421)


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 399])
def test_with_a_path_200_to_399_is_good(status: int) -> None:
    assert result(PATH, b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status) == Result(
        status=status
    )


@pytest.mark.parametrize("status", [101, 400, 404, 499])
def test_with_a_path_anything_else_is_bad(status: int) -> None:
    found = result(PATH, b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % status)
    assert found == Result(Stage.STATUS, f"HTTP {status}, not 200 to 399", status)


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\nfine",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\ncontent-length:4\r\nX-Empty:\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n2;a=b\r\nne\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\nfine",
        OK + b"and what nobody asked for",
        OK + OK,
    ],
)
def test_a_whole_answer_is_known_as_such_however_it_comes(reply: bytes) -> None:
    assert result(PATH, reply) == Result(status=200)
    assert result(PATH, *(bytes((one,)) for one in reply)) == Result(status=200)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n",
    ],
)
def test_a_body_without_a_length_ends_with_the_connection(head: bytes) -> None:
    exchange = talk(PATH, head + b"\r\nfine")
    assert exchange.result is None
    exchange.eof()
    assert exchange.result == Result(status=200)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "closed, no answer"),
        (b"HTTP/1.1 200 OK\r\n", "closed after 17 bytes of the header"),
        (OK[:-1], "closed after 3 of 4 bytes of the body"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfi",
            "closed after 2 bytes of the body",
        ),
    ],
)
def test_closed_before_the_end(data: bytes, detail: str) -> None:
    found = result(PATH, *([data] if data else []), eof=True)
    assert found is not None
    assert (found.stage, found.detail) == (Stage.UNEXPECTED_REPLY, detail)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 2", "answer stopped after 10 bytes of the header"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "answer stopped after 25 bytes of the header"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(512),
            "answer stopped after 512 of 1000 bytes of the body",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n",
            "answer stopped after 4 bytes of the body",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nfine", "answer stopped after 4 bytes of the body"),
    ],
)
def test_half_an_answer_and_then_silence_is_unanswered(data: bytes, detail: str) -> None:
    late = talk(PATH, *([data] if data else [])).late()
    assert (late.stage, late.detail) == (Stage.UNANSWERED, detail)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 'not an HTTP/1 answer: "SSH-2.0-OpenSSH_9.2p1"'),
        (
            b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            'not an HTTP/1 answer: "RTSP/1.0 200 OK"',
        ),
        (
            b"\x00\x01\xff\x1b[2J",
            r'not an HTTP/1 answer: binary data "\x00\x01\xff\x1b[2J"',
        ),
        (
            b"\x15\x03\x01\x00\x02\x02\x46",
            "not an HTTP/1 answer: a TLS alert (protocol version); the port speaks TLS: https://",
        ),
        (b"HTTP/1.1 abc\r\n\r\n", "malformed HTTP answer: invalid status code"),
        (b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n", "malformed HTTP answer: status 0"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "malformed HTTP answer: two different Content-Lengths",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n",
            "malformed HTTP answer: two different Content-Lengths",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\n",
            "malformed HTTP answer: Content-Length is no length",
        ),
        (
            b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64",
            "not an HTTP/1 answer: the port speaks HTTP/2: --http-version 2, or if that is gRPC: grpc://",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "malformed HTTP answer: Content-Length is no length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "malformed HTTP answer: invalid chunk size",
        ),
    ],
)
def test_what_is_not_http(data: bytes, detail: str) -> None:
    found = result(PATH, data)
    assert found is not None
    assert (found.stage, found.detail) == (Stage.UNEXPECTED_REPLY, detail)


def feed_until_result(exchange: Http, chunks: Iterable[bytes], limit: int) -> int:
    """Feed until there is a result; how many bytes that took, at most `limit`."""
    fed = 0
    for chunk in chunks:
        exchange.feed(chunk)
        fed += len(chunk)
        if exchange.result is not None or fed >= limit:
            return fed
    return fed


def repeat(chunk: bytes) -> Iterable[bytes]:
    while True:
        yield chunk


@pytest.mark.parametrize(
    "endless",
    [b"a" * 4096, b"X: y\r\n" * 100, b"X: " + b"y" * 4093, b"HTTP/1.1 100 Continue\r\n\r\n"],
    ids=["one name", "many headers", "long values", "interim answers"],
)
def test_a_header_without_end_is_refused_at_64_kib(endless: bytes) -> None:
    exchange = talk(PATH, b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n")
    fed = feed_until_result(exchange, repeat(endless), 1 << 20)
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY, f"the header of the answer is longer than {LIMIT} bytes"
    )
    assert fed <= LIMIT + len(endless)


def test_short_lines_are_counted_as_bytes_are() -> None:
    """Each costs as much as a long one."""
    exchange = talk(PATH, b"HTTP/1.1 200 OK\r\n")
    assert feed_until_result(exchange, repeat(b"a:\n" * 100), LIMIT) <= 3 * (LINES + 100)
    assert exchange.result == Result(
        Stage.UNEXPECTED_REPLY, f"the header of the answer has more than {LINES} lines"
    )
    exchange = talk(PATH, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert feed_until_result(exchange, repeat(b"1\nx\n" * 100), LIMIT) <= 2 * (LINES + 200)
    assert exchange.result == Result(status=200)


def test_a_header_of_1_mib_in_one_piece_is_refused() -> None:
    found = result(PATH, b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n")
    assert found == Result(
        Stage.UNEXPECTED_REPLY, f"the header of the answer is longer than {LIMIT} bytes"
    )


@pytest.mark.parametrize(
    "head",
    [b"", b"Content-Length: 9999999\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["until closed", "with a length", "chunked"],
)
def test_64_kib_of_body_are_an_answer(head: bytes) -> None:
    exchange = talk(PATH, b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    piece = b"a" * 1000
    chunk = b"3e8\r\n" + piece + b"\r\n" if b"chunked" in head else piece
    fed = feed_until_result(exchange, repeat(chunk), 1 << 20)
    assert exchange.result == Result(status=200)
    assert LIMIT <= fed <= LIMIT + LIMIT // 10


def test_chunks_that_are_all_padding_end() -> None:
    exchange = talk(PATH, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    feed_until_result(exchange, repeat(b"1;" + b"x" * 4096 + b"\r\na\r\n"), 1 << 20)
    assert exchange.result == Result(status=200)


@given(st.lists(st.binary(max_size=2000), max_size=40), st.booleans())
def test_any_bytes_give_a_result_or_wait_for_more(data: list[bytes], path: bool) -> None:
    exchange = talk(PATH if path else ANY, *data)
    assert exchange.late().stage is not None
    exchange.eof()
    found = exchange.result
    assert found is not None
    assert found.detail.count("\n") == 0
    assert len(found.detail) < QUOTED + 100


replies = st.builds(
    lambda version, status, phrase, headers, body: (
        b"HTTP/%b %d %b\r\n" % (version, status, phrase)
        + b"".join(b"%b: %b\r\n" % header for header in headers)
        + b"\r\n"
        + body
    ),
    st.sampled_from([b"1.0", b"1.1"]),
    st.integers(0, 999),
    st.sampled_from([b"", b"OK", b"Not Found"]),
    st.lists(
        st.sampled_from(
            [
                (b"Content-Length", b"0"),
                (b"Content-Length", b"5"),
                (b"Transfer-Encoding", b"chunked"),
                (b"Transfer-Encoding", b"gzip, chunked"),
                (b"Connection", b"close"),
                (b"Connection", b"upgrade"),
                (b"Upgrade", b"websocket"),
                (b"X", b"y" * 100),
            ]
        ),
        max_size=4,
    ),
    st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"x" * 70000]),
)


@given(
    st.lists(replies, min_size=1, max_size=3),
    st.lists(st.integers(0, 200), max_size=30),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=3),
)
def test_how_the_bytes_are_cut_makes_no_difference(
    messages: list[bytes], cuts: list[int], flips: list[tuple[int, int]]
) -> None:
    stream = bytearray(b"".join(messages))
    for at, byte in flips:
        stream[at % len(stream)] = byte
    whole = talk(ANY, bytes(stream), eof=True)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(bytes(stream[at : at + cut]))
        at += cut
    pieces.append(bytes(stream[at:]))
    cut_up = talk(ANY, *(piece for piece in pieces if piece), eof=True)
    assert cut_up.result is not None
    assert whole.result is not None
    assert cut_up.result._replace(detail="") == whole.result._replace(detail="")


class Wire:
    """What http.client reads from in place of a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def chunked(body: bytes, sizes: list[int]) -> bytes:
    out, at = b"", 0
    for size in sizes:
        piece = body[at : at + size]
        out += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        at += size
    rest = body[at:]
    return out + (b"%x;x=y\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\nX: y\r\n\r\n"


@given(
    st.sampled_from([200, 204, 304, 404, 503]),
    st.sampled_from(["length", "chunked", "close"]),
    st.binary(max_size=300),
    st.lists(st.integers(1, 50), max_size=5),
    st.lists(st.sampled_from([b"X: y", b"Server: a b", b"Empty:"]), max_size=3),
    st.integers(1, 50),
)
def test_reads_what_the_standard_library_reads(
    status: int, framing: str, body: bytes, sizes: list[int], headers: list[bytes], cut: int
) -> None:
    assume(framing != "chunked" or status not in (204, 304))  # where http.client is not right
    head = [b"HTTP/1.1 %d Phrase of it" % status, *headers]
    if framing == "length":
        head.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        head.append(b"Transfer-Encoding: chunked")
    sent = body if framing != "chunked" else chunked(body, sizes)
    stream = b"\r\n".join([*head, b"", b""]) + sent
    theirs = HTTPResponse(Wire(stream), method="GET")  # type: ignore[arg-type]  # all it needs
    with theirs:
        theirs.begin()
        expected = theirs.read()
    ours = AnswerReader()
    for at in range(0, len(stream), cut):
        ours.feed(stream[at : at + cut])
    assert (ours.status, ours.body, ours.excerpt) == (theirs.status, len(expected), expected)
    assert ours.complete is (framing != "close" or status in (204, 304))


def test_the_limits_are_in_order() -> None:
    assert LIMIT < OVERHEAD
