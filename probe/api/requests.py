"""What a client asks, read before anything that costs time sees it; and an answer's bytes. Pure.

A request here is small: a line, a few headers that matter, no body. `read` looks for that and for
nothing else, in a time that its limits bound, whatever the bytes are. What it hands on is written
anew from what it understood: the headers that nobody here reads are left out, so that their size,
number and contents cost nothing further on.
"""

import json
import re
from http import HTTPStatus
from typing import Any, NamedTuple

LINE = 1024
"""Bytes of a request line."""

HEADERS = 64
"""How many there may be."""

HEAD = 16 * 1024
"""Bytes of line and headers. A browser sends the cookies of every page on localhost along."""

VALUES = 1024
"""Bytes of all headers that are read here."""

READ_HERE = frozenset({b"accept", b"connection", b"forwarded", b"host", b"via", b"x-forwarded-for"})
"""What an answer depends on. Not Expect: it asks leave to send a body, which is refused anyway. Not
Upgrade: a server may leave it unheard (RFC 9110, 7.8)."""

SERVER = "accept-probe"
"""The Server header: no versions, here or of what we are made of."""

_BEGINNING = re.compile(rb"[A-Z]{0,7}\Z|[A-Z]{1,7} ")
_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS|TRACE|CONNECT) "
    rb"(?:https?://[^/?# ]*(?=[/? ]))?([!-~]*) HTTP/1\.([01])"
)
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")


class Request(NamedTuple):
    """A whole request: of its headers, those that are read here; `size`, the bytes it took."""

    method: bytes
    target: bytes
    version: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    size: int

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    @property
    def query(self) -> bytes:
        return self.target.partition(b"?")[2]

    @property
    def closes(self) -> bool:
        """Whether the client wants no more than this answer, as kubelet does."""
        said = {option.strip() for option in self.value(b"connection").lower().split(b",")}
        return b"close" in said or (self.version == b"HTTP/1.0" and b"keep-alive" not in said)

    @property
    def head(self) -> bytes:
        """The request, written anew, as the only one of its connection."""
        lines = [b" ".join((self.method, self.target, self.version))]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"connection"]
        return b"\r\n".join((*lines, b"connection: close", b"", b""))

    def value(self, wanted: bytes) -> bytes:
        """Everything that the headers of this name say."""
        return b",".join(value for name, value in self.headers if name == wanted)


class Reply(NamedTuple):
    """What is said to a client. `body` is bytes of `content_type`."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    allow: str = ""
    degraded: bool = False
    """Whether Envoy is to send it traffic only while there is not enough room elsewhere."""
    policy: str = ""
    """The Content-Security-Policy of a page."""

    @property
    def headers(self) -> dict[str, str]:
        allow = {"Allow": self.allow} if self.allow else {}
        degraded = {"X-Envoy-Degraded": "true"} if self.degraded else {}
        policy = {"Content-Security-Policy": self.policy, "Referrer-Policy": "no-referrer"}
        return {
            "Content-Type": self.content_type,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Server": SERVER,
            **allow,
            **degraded,
            **(policy if self.policy else {}),
        }

    def endless(self, date: str) -> bytes:
        """The bytes before a body that ends with the connection."""
        return self._beginning({**self.headers, "Date": date, "Connection": "close"})

    def whole(
        self,
        date: str,
        version: bytes = b"HTTP/1.1",
        *,
        bodiless: bool = False,
        keep: bool = False,
    ) -> bytes:
        """The bytes of the answer; `keep` if the client may ask again on the same connection."""
        headers = {**self.headers, "Content-Length": str(len(self.body)), "Date": date}
        if not keep:
            headers["Connection"] = "close"
        elif version == b"HTTP/1.0":
            headers["Connection"] = "keep-alive"
        return self._beginning(headers, version) + (b"" if bodiless else self.body)

    def _beginning(self, headers: dict[str, str], version: bytes = b"HTTP/1.1") -> bytes:
        lines = [f"{version.decode()} {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join((*lines, "", "")).encode()


def line(code: int, said: str) -> Reply:
    return Reply(code, f"{code:d}: {said}\n".encode())


def wants_html(accept: str) -> bool:
    """Tell whether an Accept header is a browser's that goes to an address: nobody else says so."""
    return "text/html" in accept


def as_json(code: int, body: dict[str, Any]) -> Reply:
    return Reply(code, json.dumps(body).encode() + b"\n", "application/json")


DEFECT = line(500, "a defect of the sidecar; its log has more")


class Refusal(NamedTuple):
    """What is not taken. `why` is a line for people, without the status."""

    status: HTTPStatus
    why: str

    @property
    def answer(self) -> Reply:
        allow = "GET,HEAD" if self.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        return line(self.status, self.why)._replace(allow=allow)


UNREADABLE = Refusal(HTTPStatus.BAD_REQUEST, "not a request that can be read")
LONG_LINE = Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, f"a request line has {LINE} bytes at most")
LARGE = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"headers are {HEADERS} at most and {HEAD} bytes; those that are read here, {VALUES} bytes",
)
BODY = Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request here takes a body")
METHOD = Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "there are GET and HEAD, and they take no body")


def read(data: bytes) -> Request | Refusal | None:
    """Return the first request in `data`, or why there is none; None while it may still come.

    Stricter than RFC 9112 must be: a line ends with CR LF, nothing is folded, names are tokens.
    Said once, as that page has it: Host; HTTP/1.0 may do without.
    """
    began = len(data) - len(data.lstrip(b"\r\n"))  # which it says to pass over, in 2.2
    end = data.find(b"\r\n\r\n", began)
    if max(began, end, len(data) if end < 0 else 0) > HEAD:
        return LARGE
    head = data[began:] if end < 0 else data[began:end]
    refusal = _too_much(head) or _broken(head)
    if refusal is not None:
        return refusal
    if end < 0:
        return None
    line, *headers = head.split(b"\r\n")
    asked = _LINE.fullmatch(line)
    if asked is None:
        return UNREADABLE
    method, target, minor = asked.groups()
    if not target.startswith(b"/"):
        if target[:1] not in (b"", b"?"):
            return UNREADABLE
        target = b"/" + target  # http://host and http://host?query
    told = _headers(headers, method)
    if isinstance(told, Refusal):
        return told
    hosts = sum(name == b"host" for name, _ in told)
    if hosts > 1 or (minor == b"1" and not hosts):
        return UNREADABLE
    return Request(method, target, b"HTTP/1." + minor, tuple(told), end + 4)


def _too_much(head: bytes) -> Refusal | None:
    if head.find(b"\r\n", 0, LINE + 2) < 0 and len(head) > LINE:
        return LONG_LINE
    if head.count(b"\n") > HEADERS:
        return LARGE
    return None


def _broken(head: bytes) -> Refusal | None:
    """Tell at once what can never become a request: TLS, binary noise, lines of another kind."""
    lines = head.count(b"\r\n")
    if (
        not _BEGINNING.match(head)
        or head.count(b"\n") != lines
        or head.count(b"\r") - head.endswith(b"\r") != lines
    ):
        return UNREADABLE
    return None


def _headers(lines: list[bytes], method: bytes) -> list[tuple[bytes, bytes]] | Refusal:
    """Return the headers that are read here, or why this is not a request for here."""
    told: list[tuple[bytes, bytes]] = []
    room = VALUES
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            return UNREADABLE
        name = name.lower()
        value = value.strip(b" \t")
        if name in READ_HERE:
            room -= len(value)
            if room < 0:
                return LARGE
            if not value.decode("latin-1").isprintable() or not value.isascii():
                return UNREADABLE
            told.append((name, value))
        elif name == b"content-length" and not value.isdigit():
            return UNREADABLE
        elif name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return BODY if method in (b"GET", b"HEAD") else METHOD
    return told
