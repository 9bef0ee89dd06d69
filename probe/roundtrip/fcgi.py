"""FastCGI on the wire: the records of one request, and a reader of those that come back.

FastCGI Specification 1.0, sections 3.3 to 5.5; the answer itself is one of CGI (RFC 3875, 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct

VERSION = 1
BEGIN_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR = 1, 3, 4, 5, 6, 7
GET_VALUES_RESULT, UNKNOWN_TYPE = 10, 11
RESPONDER = 1
REQUEST = 1
"""The id of the one request that a connection of ours carries; 0 is the connection's own."""

COMPLETE = 0
REFUSALS = {
    1: "it takes one request on a connection (FCGI_CANT_MPX_CONN)",
    2: "it is overloaded (FCGI_OVERLOADED)",
    3: "it is no responder (FCGI_UNKNOWN_ROLE)",
}
"""What FCGI_END_REQUEST says beside FCGI_REQUEST_COMPLETE."""

HEADER = Struct(">BBHHBx")
"""version, type, request id, length of the content, length of the padding after it"""
BEGIN = Struct(">HB5x")
END = Struct(">IB3x")

KEPT = 512
"""Bytes kept from the start of a body and of what goes to standard error, to be quoted."""

LONGEST_HEADER = 16384
"""Bytes of the header of an answer: PHP itself knows no bound, web servers take 4 to 8 KiB."""

RECORDS = 16384
"""Records of an answer that are read: a short one takes as long as a long one."""


class MalformedRecord(Exception):
    """It is not FastCGI, or not any more. The text says what is wrong."""


def record(kind: int, content: bytes = b"") -> bytes:
    return HEADER.pack(VERSION, kind, REQUEST, len(content), 0) + content


def pair(name: bytes, value: bytes) -> bytes:
    """A parameter: both lengths, in one byte or four, then both."""
    lengths = (
        bytes([size]) if size < 0x80 else (size | 0x80000000).to_bytes(4)
        for size in (len(name), len(value))
    )
    return b"".join(lengths) + name + value


def request(parameters: Iterable[tuple[bytes, bytes]]) -> bytes:
    """All that is sent: a request without a body. The connection is closed after it."""
    return b"".join(
        (
            record(BEGIN_REQUEST, BEGIN.pack(RESPONDER, 0)),
            record(PARAMS, b"".join(pair(name, value) for name, value in parameters)),
            record(PARAMS),
            record(STDIN),
        )
    )


class RecordReader:
    """Feed it what comes. It keeps a record that is not whole, 64 KiB, and KEPT bytes of the rest.

    `status` stays None until the header of the answer is whole; `body` counts the bytes after it.
    `refused` is why the request was not served, where that was said.
    """

    def __init__(self) -> None:
        self.status: int | None = None
        self.body = 0
        self.excerpt = b""
        self.errors = b""
        """The beginning of what went to standard error."""
        self.complete = False
        self.refused = ""
        self.records = 0
        self._buffer = bytearray()
        self._header = bytearray()

    def feed(self, data: bytes) -> None:
        """Take some bytes; once complete, more are ignored. Raises MalformedRecord."""
        self._buffer += data
        for kind, content in self._whole():
            self._take(kind, content)

    def _whole(self) -> Iterator[tuple[int, bytes]]:
        """The records that have come, one after the other."""
        while not self.complete and self.records < RECORDS:
            if self._buffer and self._buffer[0] != VERSION:
                raise MalformedRecord(f"a record of version {self._buffer[0]}")
            if len(self._buffer) < HEADER.size:
                return
            _, kind, number, length, padding = HEADER.unpack_from(self._buffer)
            if number not in (0, REQUEST):
                raise MalformedRecord(
                    f"a record of request {number}, and there is one, number {REQUEST}"
                )
            end = HEADER.size + length
            if len(self._buffer) < end + padding:
                return
            content = bytes(self._buffer[HEADER.size : end])
            del self._buffer[: end + padding]
            self.records += 1
            yield kind, content

    def _take(self, kind: int, content: bytes) -> None:
        if kind == STDOUT:
            self._take_output(content)
        elif kind == STDERR:
            self.errors += content[: KEPT - len(self.errors)]
        elif kind == END_REQUEST:
            if len(content) < END.size:
                raise MalformedRecord(f"an end of {len(content)} bytes")
            _, why = END.unpack_from(content)
            self.refused = "" if why == COMPLETE else REFUSALS.get(why, f"protocol status {why}")
            self.complete = True
        elif kind not in (GET_VALUES_RESULT, UNKNOWN_TYPE):
            raise MalformedRecord(f"a record of type {kind}")

    def _take_output(self, content: bytes) -> None:
        if self.status is not None:
            self._take_body(content)
            return
        self._header += content
        lines = self._header.replace(b"\r\n", b"\n")
        head, end, body = lines.partition(b"\n\n")
        if end:
            self.status = status_of(bytes(head))
            self._header.clear()
            self._take_body(bytes(body))
        elif len(self._header) > LONGEST_HEADER:
            raise MalformedRecord(f"a header longer than {LONGEST_HEADER} bytes")

    def _take_body(self, content: bytes) -> None:
        self.body += len(content)
        self.excerpt += content[: KEPT - len(self.excerpt)]


def status_of(header: bytes) -> int:
    """What the header of a CGI answer comes to: 200 without a Status, 302 with a Location."""
    found = 200
    for line in header.split(b"\n"):
        name, colon, value = line.partition(b":")
        name = name.strip().lower()
        if not colon:
            raise MalformedRecord("a header line without a colon")
        if name == b"status":
            code = value.strip()[:4].split(b" ")[0]
            if len(code) != 3 or not code.isdigit():
                raise MalformedRecord("invalid status code")
            return int(code)
        if name == b"location":
            found = 302
    return found
