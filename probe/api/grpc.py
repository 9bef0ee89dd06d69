"""The three questions as kubelet's gRPC probe asks them: grpc.health.v1.Health/Check. Pure.

Of the probes that start no process, this one alone lets kubelet say in its Event why the answer
was no: of httpGet it shows the status. What it shows is the message of an error, and nothing of an
answer that says NOT_SERVING (pkg/probe/grpc in Kubernetes); so our no is the error UNAVAILABLE,
which every other client of a health service takes for a no as well.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, in frames of RFC 9113.
Nothing else is offered here, so that whatever is called is taken for Check: the names of methods
come compressed, and decompressing is work that bytes could raise. The client closes, or asks again:
grpcio has one connection for all of a process that ask here, and who closed it after an answer
would break off the others.
"""

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from probe.api.requests import HEAD, Reply, Request

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every client of HTTP/2 begins with (RFC 9113, 3.4), and no request of HTTP/1."""

DATA, HEADERS, SETTINGS = 0, 1, 4
ACKNOWLEDGED, END_STREAM, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8

FRAME = 9
"""Bytes of a frame before what it carries: its length (3), type, flags, and stream (4)."""

FRAMES = 32
"""That are read at once: a quarter of a millisecond's work, answers included. A call takes two of
them; the first one four, with the settings and their acknowledgement."""

PREFIX = 5
"""A gRPC message is preceded by a byte that says whether it is compressed, and its length."""

LONGEST = 64
"""Bytes of the message: a question, and the name of a target."""

FIELD = 0x0A
"""How the only field of a HealthCheckRequest begins: number 1, bytes. Its length comes next."""

SERVING = b"\0\0\0\0\2\x08\1"
"""A HealthCheckResponse after its prefix: field 1, `status`, is 1."""

OK, NOT_FOUND, UNAVAILABLE = b"0", b"5", b"14"
"""grpc-status, by doc/statuscodes.md in the grpc repository."""

SERVICES = (
    "the services here are ready, live and started, and /8080 behind one of them means a target"
)

PRINTED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
"""What stands for itself in a grpc-message, beside letters and digits: not `%`."""

MESSAGE = 1024
"""Bytes of a grpc-message; an Event of Kubernetes has room for as much."""

INDEXED_200 = b"\x88"
"""`:status: 200`, which is entry 8 of HPACK's table (RFC 7541, appendix A)."""

PREFIXED = 127
"""The lengths below it are one byte in HPACK (RFC 7541, 5.1, with a prefix of 7 bits)."""


class UnreadableCall(Exception):
    """What can become no call."""


class Call(NamedTuple):
    """A whole call: the `stream` that is answered, and the `service` that is asked for."""

    stream: int
    service: bytes

    @property
    def request(self) -> Request:
        """The same question over HTTP; without a service it is whether we are ready."""
        return Request(b"GET", b"/" + (self.service or b"ready"), b"HTTP/1.1", (), 0)


class Heard(NamedTuple):
    """What a client has said so far."""

    waits: bool
    """Whether it has begun, and waits for our settings."""
    calls: tuple[Call, ...]
    rest: bytes
    """What is to be read again when there is more of it."""


class _Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    body: bytes
    end: int
    """Where the next one begins."""


def begins(data: bytes) -> bool:
    """Whether it may be a client of HTTP/2 that says this."""
    return PREFACE.startswith(data[: len(PREFACE)])


def read(data: bytes) -> Heard:
    """Read what a client has said, from PREFACE on. Raises UnreadableCall."""
    if len(data) > HEAD:
        raise UnreadableCall
    calls: list[Call] = []
    messages: dict[int, bytes] = {}
    frames, end = 0, len(PREFACE)
    for frame in _frames(data):
        frames += 1
        if frames > FRAMES or (frame.kind == DATA and frame.flags & PADDED):
            raise UnreadableCall
        if frame.kind == DATA:
            message = messages.get(frame.stream, b"") + frame.body
            messages[frame.stream] = message
            if frame.flags & END_STREAM:
                calls.append(Call(frame.stream, _service(message)))
                end = frame.end
    return Heard(frames > 0, tuple(calls), PREFACE + data[end:])


def answer(call: Call, reply: Reply | None) -> bytes:
    """The bytes that say what `reply` says; None: the service is none of the questions."""
    if reply is None:
        reply = Reply(404, SERVICES.encode())
    if reply.status == 200:
        return (
            _frame(HEADERS, END_HEADERS, call.stream, _HEAD)
            + _frame(DATA, 0, call.stream, SERVING)
            + _frame(HEADERS, END_HEADERS | END_STREAM, call.stream, _field(b"grpc-status", OK))
        )
    message = quote(reply.body.strip()[:MESSAGE], safe=PRINTED).encode()[:MESSAGE].strip()
    code = NOT_FOUND if reply.status == 404 else UNAVAILABLE
    fields = _HEAD + _field(b"grpc-status", code) + _field(b"grpc-message", message)
    return _frame(HEADERS, END_HEADERS | END_STREAM, call.stream, fields)


def _frames(data: bytes) -> Iterator[_Frame]:
    """The whole ones."""
    at = len(PREFACE)
    while len(data) >= at + FRAME:
        size = int.from_bytes(data[at : at + 3])
        if size > HEAD:
            raise UnreadableCall
        end = at + FRAME + size
        if len(data) < end:
            return
        stream = int.from_bytes(data[at + 5 : at + FRAME])
        yield _Frame(data[at + 3], data[at + 4], stream, data[at + FRAME : end], end)
        at = end


def _service(message: bytes) -> bytes:
    """Field 1 of a HealthCheckRequest, `service`. Raises UnreadableCall."""
    compressed, size, body = message[:1], int.from_bytes(message[1:PREFIX]), message[PREFIX:]
    if compressed != b"\0" or size != len(body) or size > LONGEST:
        raise UnreadableCall
    if body and body[:2] != bytes((FIELD, len(body) - 2)):
        raise UnreadableCall
    service = body[2:]
    if not (service.isascii() and service.decode().isprintable()):
        raise UnreadableCall
    return service


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + body


def _field(name: bytes, value: bytes) -> bytes:
    """A header as it is, neither compressed nor to be remembered (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    rest = len(text) - PREFIXED
    size = (len(text),) if rest < 0 else (PREFIXED, rest & 0x7F | 0x80, rest >> 7)
    return bytes(size) + text


GREETING = _frame(SETTINGS, 0, 0, b"") + _frame(SETTINGS, ACKNOWLEDGED, 0, b"")
"""Our settings, which are the defaults, and that we have taken the client's."""

_HEAD = INDEXED_200 + _field(b"content-type", b"application/grpc")
