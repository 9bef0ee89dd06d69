"""gRPC: one unary grpc.health.v1.Health/Check over HTTP/2.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md; the service:
https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto. Its two messages have
one field each, so that they are encoded and decoded here by hand.
"""

from contextlib import suppress
from urllib.parse import unquote_to_bytes

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

from probe import __version__
from probe.display import printable
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, authority, silence
from probe.roundtrip.wording import FRAME, GOAWAY, SETTINGS, describe, quote, shorten

STREAM = 1
PATH = "/grpc.health.v1.Health/Check"
SERVING = 1
HEALTH = {0: "UNKNOWN", SERVING: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

NOT_FOUND, UNIMPLEMENTED = 5, 12
# fmt: off
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",
    "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)
# fmt: on
"""grpc-status by number (doc/statuscodes.md in the grpc repository)."""

PREFIX = 5
"""A gRPC message is preceded by a byte that says whether it is compressed, and its length."""

TYPE_AT = 3
"""Where a frame has its type. Every HTTP/2 server begins with SETTINGS (RFC 9113, 3.4)."""

LARGEST = 16384
"""Bytes of the longest frame that we take, the default of HTTP/2 (RFC 9113, 4.2)."""

FRAMES = 128
"""Frames that an answer may have: an empty one costs as much as a full one. A server that answers
sends ten."""

STATUS_DIGITS = 3
LONGEST_CODE = 10
"""Digits of a grpc-status that are read as a number."""

FIELDS = 1024
"""Header fields that it may have in all, since one byte can stand for any of them."""

KEPT = 512
"""Bytes kept from the start of the answer, to be quoted."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Protobuf wire types."""


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at` and where the next byte is. Raises ValueError."""
    number = 0
    for index, byte in enumerate(data[at : at + 10]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("half a number")


def health_request(service: str) -> bytes:
    """A HealthCheckRequest (field 1: service) in a gRPC frame: not compressed, length, message."""
    name = service.encode(errors="surrogateescape")
    message = b"\x0a" + varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def health_status(message: bytes) -> int:
    """Field 1 of a HealthCheckResponse; 0 (UNKNOWN) when it is not there. Raises ValueError."""
    status, at = 0, 0
    while at < len(message):
        key, at = read_varint(message, at)
        kind = key & 7
        if kind == VARINT:
            number, at = read_varint(message, at)
            if key >> 3 == 1:
                status = number
        elif kind == BYTES:
            size, at = read_varint(message, at)
            at += size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
    if at > len(message):
        raise ValueError("half a field")
    return status


def name(error_code: int | None) -> str:
    """RFC 9113's name for it, where h2 knows that."""
    return str(getattr(error_code, "name", error_code))


def announces_end(frame: bytes) -> bool:
    """Whether it is a GOAWAY by which our call is still served: without an error, and not below our
    stream (RFC 9113, 6.8). So servers end a connection that has become old or has had its calls.
    """
    last, code = (int.from_bytes(frame[at : at + 4], "big") for at in (FRAME, FRAME + 4))
    whole = len(frame) >= FRAME + 8
    return frame[TYPE_AT] == GOAWAY and whole and code == 0 and last & 0x7FFFFFFF >= STREAM


class Grpc(Exchange):
    """Good is grpc-status 0 with a HealthCheckResponse that says SERVING."""

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        self._headers = [
            (":method", "POST"),
            (":scheme", "https" if target.encrypted else "http"),
            (":path", PATH),
            (":authority", authority(target, host)),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"accept-probe/{__version__}"),
        ]
        self._connection = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._opening = b""
        self._received = 0
        self._unread = bytearray()
        """The beginning of a frame that is not whole yet."""
        self._frames = 0
        self._fields = 0
        self._answer: dict[bytes, bytes] = {}
        """The headers and, over them, the trailers."""
        self._message = b""

    def start(self) -> bytes:
        self._connection.initiate_connection()
        self._connection.send_headers(STREAM, self._headers)
        self._connection.send_data(STREAM, health_request(self._target.service), end_stream=True)
        return self._connection.data_to_send()

    def feed(self, data: bytes) -> bytes:
        self.answered = True
        if self.result is not None:
            return b""
        self._opening += data[: KEPT - len(self._opening)]
        self._received += len(data)
        self._unread += data
        if len(self._opening) > TYPE_AT and not self._is_http2():
            self.result = self._foreign()
        while self.result is None and (frame := self._next_frame()):
            self._receive(frame)
        if self.result is None and self._received >= LIMIT:
            self._fail(f"no whole answer in {LIMIT} bytes")
        return self._connection.data_to_send()

    def eof(self) -> None:
        if self.result is not None:
            return
        if not self.answered:
            self._fail("closed, no answer")
        elif self._is_http2():
            self._fail(f"closed after {self.so_far()}")
        else:
            self.result = self._foreign()

    def late(self) -> Result:
        if not self.answered:
            return silence()
        if not self._is_http2():
            return self._foreign()
        return Result(Stage.UNANSWERED, f"answer stopped after {self.so_far()}")

    def so_far(self) -> str:
        if not self.answered:
            return ""
        part = "the message" if self._message else "the headers" if self._answer else "no headers"
        return f"{self._received} bytes: {part}, no trailers"

    def finish(self) -> bytes:
        with suppress(H2Error):  # It may be closed already.
            self._connection.close_connection()
        return self._connection.data_to_send()

    def _is_http2(self) -> bool:
        return self._opening[TYPE_AT : TYPE_AT + 1] in (bytes((SETTINGS,)), bytes((GOAWAY,)))

    def _next_frame(self) -> bytes:
        """Take a frame off what has come; empty: none is whole, or there were too many."""
        size = FRAME + int.from_bytes(self._unread[:TYPE_AT], "big")
        if len(self._unread) < FRAME:
            return b""
        if size > FRAME + LARGEST:
            self._fail(f"malformed HTTP/2 answer: a frame of {size - FRAME} bytes")
        elif self._frames == FRAMES:
            self._fail(f"no whole answer in {FRAMES} HTTP/2 frames")
        if self.result is not None or len(self._unread) < size:
            return b""
        self._frames += 1
        frame = bytes(self._unread[:size])
        del self._unread[:size]
        return frame

    def _receive(self, frame: bytes) -> None:
        if announces_end(frame):
            return  # h2 would take nothing after it.
        try:
            for event in self._connection.receive_data(frame):
                self._take(event)
        except H2Error as error:
            self._fail(f"malformed HTTP/2 answer: {shorten(printable(str(error)))}")
        if self.result is None and self._fields > FIELDS:
            self._fail(f"no whole answer in {FIELDS} header fields")

    def _take(self, event: Event) -> None:
        if self.result is not None:
            return
        if isinstance(event, InformationalResponseReceived):
            self._fields += len(event.headers)
        elif isinstance(event, ResponseReceived | TrailersReceived):
            self._fields += len(event.headers)
            self._answer.update(event.headers)
        elif isinstance(event, DataReceived):
            self._message += event.data
        elif isinstance(event, StreamEnded):
            self._judge()
        elif isinstance(event, StreamReset):
            self._fail(f"the server reset the call: HTTP/2 {name(event.error_code)}")
        elif isinstance(event, ConnectionTerminated):
            said = f": {quote(event.additional_data)}" if event.additional_data else ""
            self._fail(f"the server sent GOAWAY: HTTP/2 {name(event.error_code)}{said}")

    def _judge(self) -> None:
        http = self._answer.get(b":status", b"")
        code = self._answer.get(b"grpc-status")
        if code is None and http != b"200":
            self._judge_status(http)
        elif code is None:
            self._fail("the answer has no grpc-status")
        elif code != b"0":
            self.result = Result(Stage.STATUS, self._refusal(code))
        else:
            self._judge_message()

    def _judge_status(self, http: bytes) -> None:
        if len(http) != STATUS_DIGITS or not http.isdigit():
            self._fail(f"malformed HTTP/2 answer: {quote(http)} is no status")
            return
        said = f": {quote(self._message)}" if self._message.strip() else ""
        detail = f"HTTP {int(http)} and no grpc-status{said}"
        self.result = Result(Stage.STATUS, detail, int(http))

    def _refusal(self, code: bytes) -> str:
        """Why a grpc-status that is not OK was given, in words."""
        number = int(code) if code.isdigit() and len(code) < LONGEST_CODE else -1
        text = CODES[number] if 0 <= number < len(CODES) else f"grpc-status {quote(code)}"
        if number == UNIMPLEMENTED:
            return f"{text}: the server does not offer grpc.health.v1.Health"
        if number == NOT_FOUND:
            return f"{text}: the server's health service does not know {self._target.service!r}"
        message = unquote_to_bytes(self._answer.get(b"grpc-message", b""))
        return f"{text}: {quote(message)}" if message else text

    def _judge_message(self) -> None:
        compressed, size = self._message[:1], int.from_bytes(self._message[1:PREFIX], "big")
        if compressed != b"\0" or size != len(self._message) - PREFIX:
            self._fail(f"not a HealthCheckResponse: {len(self._message)} bytes")
            return
        try:
            health = health_status(self._message[PREFIX:])
        except ValueError as error:
            self._fail(f"not a HealthCheckResponse: {error}")
            return
        if health == SERVING:
            self.result = Result()
        else:
            word = HEALTH.get(health, f"status {health}")
            self.result = Result(Stage.STATUS, f"{word}, not SERVING")

    def _foreign(self) -> Result:
        what = describe(self._opening, self._target)
        return Result(Stage.UNEXPECTED_REPLY, f"not an HTTP/2 answer: {what}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail)
