"""HTTP/1: one request, one whole answer. Redirects are not followed: a 3xx is the answer."""

from __future__ import annotations

from probe import __version__
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, authority, silence
from probe.roundtrip.http1 import KEPT, LINES, AnswerReader, Malformed
from probe.roundtrip.wording import describe

OVERHEAD = 4 * LIMIT
"""Bytes on the wire after which chunk headers and trailers have been padded for long enough."""

OK = 200


def as_url(path: str) -> bytes:
    """The path as a request line can carry it: what no URL may contain is percent-encoded."""
    return b"".join(
        b"%c" % byte if 0x20 < byte < 0x7F else b"%%%02X" % byte
        for byte in path.encode(errors="surrogateescape")
    )


def ordinary(target: Target, host: str) -> dict[str, str]:
    """The headers of a request that nobody wants otherwise."""
    agent = f"accept-probe/{__version__}"
    return {"Host": authority(target, host), "User-Agent": agent, "Accept": "*/*"}


def kept(target: Target) -> int:
    """Bytes of the answer's body that are looked at."""
    return LIMIT if target.expect or target.match else KEPT


class Http(Exchange):
    """What is good is said in `probe.roundtrip.answers`.

    The answer counts once it is whole, or 64 KiB of its body are there.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        lines = [*ordinary(target, host).items(), ("Connection", "close")]
        if target.headers:
            from probe.roundtrip import headers

            asked = headers.read(target)
            self.secrets = headers.secrets(asked)
            lines = headers.merge(lines, asked)
        if target.send or target.method == "POST":
            lines.append(("Content-Length", str(len(target.send))))
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines)
        self._request = b"%b %b HTTP/1.1\r\n%b\r\n%b" % (
            target.method.encode(),
            as_url(target.path or "/"),
            fields.encode(errors="surrogateescape"),
            target.send,
        )
        self._reader = AnswerReader(kept(target), bodiless=target.method == "HEAD")
        self._opening = b""
        self._received = 0

    def start(self) -> bytes:
        return self._request

    def feed(self, data: bytes) -> bytes:
        self.answered = True
        view = memoryview(data)
        while view and self.result is None:
            room = (LIMIT if self._reader.status is None else OVERHEAD) - self._received
            self._parse(bytes(view[:room]))
            view = view[room:]
        return b""

    def _parse(self, data: bytes) -> None:
        self._received += len(data)
        if len(self._opening) < KEPT:
            self._opening += data[: KEPT - len(self._opening)]
        reader = self._reader
        fault = ""
        try:
            reader.feed(data)
        except Malformed as error:
            fault = str(error)
        if reader.complete or reader.body >= LIMIT:
            self._judge()
        elif fault:
            self._malformed(fault)
        elif reader.status is None and self._received >= LIMIT:
            self._fail(f"the header of the answer is longer than {LIMIT} bytes")
        elif reader.status is None and reader.lines >= LINES:
            self._fail(f"the header of the answer has more than {LINES} lines")
        elif self._received >= OVERHEAD or reader.lines >= LINES:
            self._judge()

    def eof(self) -> None:
        if self.result is not None:
            return
        reader = self._reader
        if reader.status is not None and reader.length is None and not reader.chunked:
            self._judge()
        elif wrong := self._fault():
            self.result = wrong
        else:
            self._fail(f"closed after {self.so_far()}" if self.answered else "closed, no answer")

    def late(self) -> Result:
        if not self.answered:
            return silence()
        return self._fault() or Result(
            Stage.UNANSWERED, f"answer stopped after {self.so_far()}", self._reader.status
        )

    def so_far(self) -> str:
        if not self.answered:
            return ""
        reader = self._reader
        if reader.status is None:
            return f"{self._received} bytes of the header"
        whole = "" if reader.length is None or reader.chunked else f" of {reader.length}"
        return f"{reader.body}{whole} bytes of the body"

    def _judge(self) -> None:
        reader, target = self._reader, self._target
        status = reader.status or 0
        if status < 100:
            self._malformed(f"status {status}")
        elif status == OK and not (target.status or target.expect or target.match):
            self.result = Result(status=status)
        else:
            from probe.roundtrip.answers import judge  # what most answers have no need of

            self.result = judge(target, status, reader.excerpt, reader.location)

    def _fault(self) -> Result | None:
        from probe.roundtrip.answers import fault

        reader = self._reader
        return fault(self._target, reader.status, reader.excerpt, reader.location)

    def _malformed(self, fault: str) -> None:
        if self._opening.lstrip().startswith(b"HTTP/"):
            self._fail(f"malformed HTTP answer: {fault}")
        else:
            self._fail(f"not an HTTP/1 answer: {describe(self._opening, self._target)}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail, self._reader.status)
