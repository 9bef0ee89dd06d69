"""gRPC: one unary grpc.health.v1.Health/Check over HTTP/2.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md; the service:
https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto. Its two messages have
one field each, so that they are encoded and decoded here by hand.
"""

from urllib.parse import unquote_to_bytes

from probe import __version__
from probe.model import Stage, Target
from probe.roundtrip import headers
from probe.roundtrip.exchange import Result, authority
from probe.roundtrip.stream import Stream
from probe.roundtrip.wording import quote

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

LONGEST_CODE = 10
"""Digits of a grpc-status that are read as a number."""

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


class Grpc(Stream):
    """Good is grpc-status 0 with a HealthCheckResponse that says SERVING."""

    def __init__(self, target: Target, host: str) -> None:
        asked = [(name.lower(), value) for name, value in headers.read(target)]
        self.secrets = headers.secrets(asked)
        ours = {"host": authority(target, host), "user-agent": f"accept-probe/{__version__}"}
        ours |= {name: value for name, value in asked if name in ours and value}
        super().__init__(
            target,
            [
                (":method", "POST"),
                (":scheme", "https" if target.encrypted else "http"),
                (":path", PATH),
                (":authority", ours["host"]),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", ours["user-agent"]),
                *((name, value) for name, value in asked if name not in ours),
            ],
            health_request(target.service),
        )

    def _judge(self) -> None:
        http = self._answer.get(b":status", b"")
        code = self._answer.get(b"grpc-status")
        if code is None and http != b"200":
            self._judge_status()
        elif code is None:
            self._fail("the answer has no grpc-status")
        elif code != b"0":
            self.result = Result(Stage.STATUS, self._refusal(code))
        else:
            self._judge_message()

    def _judge_status(self) -> None:
        if (status := self._status()) is not None:
            said = f": {quote(self._message)}" if self._message.strip() else ""
            detail = f"HTTP {status} and no grpc-status{said}"
            self.result = Result(Stage.STATUS, detail, status)

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
