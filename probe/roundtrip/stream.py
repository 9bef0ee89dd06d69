"""One request over HTTP/2 and its answer, within bounds. What that means is its heirs' to say."""

from __future__ import annotations

from contextlib import suppress

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

from probe.display import printable
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, silence
from probe.roundtrip.wording import FRAME, GOAWAY, SETTINGS, describe, quote, shorten

STREAM = 1

TYPE_AT = 3
"""Where a frame has its type. Every HTTP/2 server begins with SETTINGS (RFC 9113, 3.4)."""

LARGEST = 16384
"""Bytes of the longest frame that we take, the default of HTTP/2 (RFC 9113, 4.2)."""

FRAMES = 128
"""Frames that an answer may have: an empty one costs as much as a full one. A server that answers
sends ten."""

STATUS_DIGITS = 3

FIELDS = 1024
"""Header fields that it may have in all, since one byte can stand for any of them."""

KEPT = 512
"""Bytes kept from the start of the answer, to be quoted."""


def name(error_code: int | None) -> str:
    """RFC 9113's name for it, where h2 knows that."""
    return str(getattr(error_code, "name", error_code))


def announces_end(frame: bytes) -> bool:
    """Whether it is a GOAWAY by which our request is still served: without an error, and not below
    our stream (RFC 9113, 6.8). So servers end a connection that is old or has had its share.
    """
    last, code = (int.from_bytes(frame[at : at + 4], "big") for at in (FRAME, FRAME + 4))
    whole = len(frame) >= FRAME + 8
    return frame[TYPE_AT] == GOAWAY and whole and code == 0 and last & 0x7FFFFFFF >= STREAM


class Stream(Exchange):
    """`headers` go out as they are, with `body` behind them. An heir judges the whole answer."""

    def __init__(self, target: Target, headers: list[tuple[str, str]], body: bytes) -> None:
        self._target = target
        self._headers = [
            (name.encode(), value.encode(errors="surrogateescape")) for name, value in headers
        ]
        self._body = body
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
        self._connection.send_headers(STREAM, self._headers, end_stream=not self._body)
        if self._body:
            self._connection.send_data(STREAM, self._body, end_stream=True)
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
            self._enough(f"{LIMIT} bytes")
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

    def _judge(self) -> None:
        """Take the whole answer: its headers in `_answer`, its body in `_message`."""
        raise NotImplementedError

    def _enough(self, much: str) -> None:
        """Take note that it is not whole, and that no more of it is read."""
        self._fail(f"no whole answer in {much}")

    def _status(self) -> int | None:
        """What :status says; None, and a result, where that is none."""
        said = self._answer.get(b":status", b"")
        if len(said) != STATUS_DIGITS or not said.isdigit():
            self._fail(f"malformed HTTP/2 answer: {quote(said)} is no status")
            return None
        return int(said)

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
            self._enough(f"{FRAMES} HTTP/2 frames")
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
            self._enough(f"{FIELDS} header fields")

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

    def _foreign(self) -> Result:
        what = describe(self._opening, self._target)
        return Result(Stage.UNEXPECTED_REPLY, f"not an HTTP/2 answer: {what}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail)
