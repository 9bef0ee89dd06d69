"""What an application said, in words for a message: short, and nothing that cannot be printed."""

from probe.display import printable
from probe.model import Target

QUOTED = 80
"""Characters of an application's answer that a message may repeat."""

RECORDS = range(20, 24)
ALERT = 21
TLS_MAJOR = 3
"""A TLS record begins with its type and, in every version, a 3 (RFC 8446, 5.1)."""

ALERT_AT = 6
"""Where an alert says which it is: after the header of the record and the level."""

ALERTS = {
    10: "unexpected message",
    22: "record overflow",
    40: "handshake failure",
    47: "illegal parameter",
    50: "decode error",
    70: "protocol version",
    80: "internal error",
}
"""What a TLS server tells those who speak something else, by number (RFC 8446, 6)."""

FRAME = 9
"""Bytes of the header of an HTTP/2 frame: length, type, flags, stream (RFC 9113, 4.1)."""

SETTINGS, GOAWAY = 4, 7
"""The types of the frames that an HTTP/2 server begins with. Both are of stream 0."""

SECURE = frozenset({"https", "ssl", "tls"})
PLAIN = frozenset({"http", "plaintext", "port"})


def shorten(text: str, most: int = QUOTED) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def escape(data: bytes | bytearray) -> str:
    """Bytes in the way that --send and --expect are written: what differs looks different."""
    return printable(data.replace(b"\\", b"\\\\").decode(errors="backslashreplace"))


def quote(data: bytes | bytearray) -> str:
    """The line of an answer that says most, in quotes: the title of HTML, else the first with a
    word in it. Of what is no text, the first bytes.
    """
    start = bytes(data[: 64 * QUOTED])
    lines = texts(start) if start.lstrip()[:1] == b"<" else start.split(b"\n")
    line = next((line for line in lines if any(map(_in_words, line))), start).strip()
    line, _, _ = line.partition(b"\n")
    if is_binary(line):
        return f'binary data "{shorten(escape(start[:QUOTED]))}"'
    return f'"{shorten(escape(line.strip()))}"'


def is_binary(data: bytes) -> bool:
    """Whether more than a quarter of its beginning is nothing that text has."""
    text = data[:QUOTED].decode(errors="replace")
    odd = [
        letter
        for letter in text
        if letter == "\ufffd" or not (letter.isprintable() or letter.isspace())
    ]
    return 4 * len(odd) > len(text)


def _in_words(byte: int) -> bool:
    return byte > 0x7F or chr(byte).isalnum()


def texts(html: bytes) -> list[bytes]:
    """What stands between the tags, the title first; no style and no script."""
    titles, others = [], []
    for part in html.split(b"<")[1:]:
        tag, _, text = part.partition(b">")
        name = (tag.lower().split() or [b""])[0]
        if name == b"title":
            titles.append(text.strip())
        elif name not in (b"style", b"script"):
            others.append(text.strip())
    return titles + others


def asks_for_tls(body: bytes) -> bool:
    """Whether a refusal says that its port takes no plain HTTP: nginx, Apache, Go, Tomcat, Jetty
    and others each have a sentence of their own for it. A link is none.
    """
    body = body.lower()
    said = b" ".join(texts(body)) if body.lstrip()[:1] == b"<" else body
    text = b" ".join(word for word in said.split() if b"://" not in word).decode(errors="replace")
    words = set("".join(letter if letter.isalnum() else " " for letter in text).split())
    return not words.isdisjoint(SECURE) and not words.isdisjoint(PLAIN)


def speaks_tls(data: bytes | bytearray) -> bool:
    return len(data) > 1 and data[0] in RECORDS and data[1] == TLS_MAJOR


def speaks_http2(data: bytes | bytearray) -> bool:
    return len(data) >= FRAME and data[3] in (SETTINGS, GOAWAY) and data[5:FRAME] == bytes(4)


def use_tls(target: Target) -> str:
    """That the port speaks TLS, and how it is asked then; of no use where we speak it already."""
    return "" if target.encrypted else f"the port speaks TLS: {target.protocol}s://"


def describe(data: bytes | bytearray, target: Target) -> str:
    """What came instead of an answer of the target's protocol."""
    if speaks_tls(data):
        what = "TLS"
        if data[0] == ALERT and len(data) > ALERT_AT:
            what = f"a TLS alert ({ALERTS.get(data[ALERT_AT], f'number {data[ALERT_AT]}')})"
        return "; ".join(filter(None, (what, use_tls(target))))
    if speaks_http2(data):
        grpc = "grpcs" if target.encrypted else "grpc"
        return f"the port speaks HTTP/2: --http-version 2, or if that is gRPC: {grpc}://"
    return quote(data)
