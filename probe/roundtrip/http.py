"""HTTP/1: one GET, one whole answer. Redirects are not followed: a 3xx is the answer."""

from probe import __version__
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, authority, silence
from probe.roundtrip.http1 import LINES, AnswerReader, Malformed
from probe.roundtrip.wording import asks_for_tls, describe, quote, use_tls

OVERHEAD = 4 * LIMIT
"""Bytes on the wire after which chunk headers and trailers have been padded for long enough."""

KEPT = 512
"""Bytes kept from the start of the answer, to be quoted."""

BAD_REQUEST, MISDIRECTED = 400, 421


def escape(path: str) -> bytes:
    """The path as a request line can carry it: what no URL may contain is percent-encoded."""
    return b"".join(
        b"%c" % byte if 0x20 < byte < 0x7F else b"%%%02X" % byte
        for byte in path.encode(errors="surrogateescape")
    )


class Http(Exchange):
    """Good is 200 to 399 when a path was given, as for kubelet; else any answer below 500.

    The answer counts once it is whole, or 64 KiB of its body are there. A 400 that asks for TLS is
    no answer of the application: whoever holds the port could not read our request.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        self._good = range(200, 400) if target.path else range(100, 500)
        self._request = (
            b"GET %b HTTP/1.1\r\n"
            b"Host: %b\r\n"
            b"User-Agent: accept-probe/%b\r\n"
            b"Accept: */*\r\n"
            b"Connection: close\r\n\r\n"
        ) % (escape(target.path or "/"), authority(target, host).encode(), __version__.encode())
        self._reader = AnswerReader()
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
        elif bad := self._bad_status():
            self.result = bad
        else:
            self._fail(f"closed after {self.so_far()}" if self.answered else "closed, no answer")

    def late(self) -> Result:
        if not self.answered:
            return silence()
        return self._bad_status() or Result(
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
        status = self._reader.status or 0
        if status < 100:
            self._malformed(f"status {status}")
        else:
            self.result = self._bad_status() or Result(status=status)

    def _bad_status(self) -> Result | None:
        """What is wrong with the status, once it is known; the answer need not be whole."""
        status, said, target = self._reader.status, self._reader.excerpt, self._target
        if status is None:
            return None
        if status == BAD_REQUEST and not target.encrypted and asks_for_tls(said):
            detail = f"HTTP {status}: {quote(said)}; {use_tls(target)}"
            return Result(Stage.UNEXPECTED_REPLY, detail, status)
        if status in self._good:
            return None
        detail = f"HTTP {status}, not {self._good.start} to {self._good.stop - 1}"
        if said.strip():
            detail += f": {quote(said)}"
        if status == MISDIRECTED and target.encrypted and not target.server_name:
            detail += "; --server-name gives the name to ask for"
        return Result(Stage.STATUS, detail, status)

    def _malformed(self, fault: str) -> None:
        if self._opening.lstrip().startswith(b"HTTP/"):
            self._fail(f"malformed HTTP answer: {fault}")
        else:
            self._fail(f"not an HTTP/1 answer: {describe(self._opening, self._target)}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail, self._reader.status)
