"""HTTP/1: one request, one whole answer. Redirects are not followed: a 3xx is the answer."""

from __future__ import annotations

from probe import __version__
from probe.display import without_secrets
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, authority, silence
from probe.roundtrip.http1 import KEPT, LINES, AnswerReader, Malformed
from probe.roundtrip.wording import asks_for_tls, describe, escape, quote, shorten, use_tls

OVERHEAD = 4 * LIMIT
"""Bytes on the wire after which chunk headers and trailers have been padded for long enough."""

BAD_REQUEST, MISDIRECTED = 400, 421

REDIRECTS = frozenset({301, 302, 303, 307, 308})

ANY_ANSWER = ((100, 499),)
AS_KUBELET = ((200, 399),)


def as_url(path: str) -> bytes:
    """The path as a request line can carry it: what no URL may contain is percent-encoded."""
    return b"".join(
        b"%c" % byte if 0x20 < byte < 0x7F else b"%%%02X" % byte
        for byte in path.encode(errors="surrogateescape")
    )


def head(target: Target, host: str, asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of the request: ours, and in their place or behind them those `asked` for.

    As kubelet has it: Host is whom the request is for, a name may come again, and an empty value
    of what we would send leaves it out.
    """
    ours = {"Host": authority(target, host), "User-Agent": f"accept-probe/{__version__}"}
    ours["Accept"] = "*/*"
    if not asked:
        return list(ours.items())
    own = {name.lower() for name in ours}
    names = {name.lower() for name, value in asked if value or name.lower() != "host"}
    return [
        *((name, value) for name, value in ours.items() if name.lower() not in names),
        *((name, value) for name, value in asked if value or name.lower() not in own),
    ]


def kept(target: Target) -> int:
    """Bytes of the answer's body that are looked at."""
    return LIMIT if target.expect or target.match else KEPT


def good(target: Target) -> tuple[tuple[int, int], ...]:
    """The statuses that are: from and to."""
    return target.status or (AS_KUBELET if target.path else ANY_ANSWER)


def ranges(statuses: tuple[tuple[int, int], ...]) -> str:
    """Statuses in words: `200 to 299, 401`."""
    return ", ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in statuses)


def fault(target: Target, status: int | None, said: bytes, location: bytes) -> Result | None:
    """What is wrong with the status, once it is known; the answer need not be whole."""
    if status is None:
        return None
    if status == BAD_REQUEST and not target.encrypted and asks_for_tls(said):
        detail = f"HTTP {status}: {quote(said)}; {use_tls(target)}"
        return Result(Stage.UNEXPECTED_REPLY, detail, status)
    if any(low <= status <= high for low, high in good(target)):
        return None
    detail = f"HTTP {status}, not {ranges(good(target))}"
    if status in REDIRECTS and location:
        detail += f": {leads(location)}"
    elif said.strip():
        detail += f": {quote(said)}"
    if status == MISDIRECTED and target.encrypted and not target.server_name:
        detail += "; --server-name gives the name to ask for"
    return Result(Stage.STATUS, detail, status)


def judge(target: Target, status: int, said: bytes, location: bytes) -> Result:
    """What a whole answer comes to. `said` is its body, or as much of it as is looked at."""
    if wrong := fault(target, status, said, location):
        return wrong
    if (target.expect or target.match) and (lacks := _lacks(target, said)):
        return lacks._replace(status=status)
    note = f"HTTP {status}: {leads(location)}" if status in REDIRECTS and location else ""
    return Result(status=status, detail=note)


def leads(location: bytes) -> str:
    """Where a redirect leads, without what may be a secret."""
    where = shorten(escape(without_secrets(location.decode(errors="replace")).encode()))
    return f"a redirect to {where}, which is not followed"


def _lacks(target: Target, body: bytes) -> Result | None:
    """What the body was to hold and does not."""
    if target.expect not in body:
        missing = f'no "{shorten(escape(target.expect))}"'
    elif missing := _mismatch(target.match, body) if target.match else "":
        missing = f"{missing} {shorten(target.match)}"
    else:
        return None
    size = f"{len(body)} bytes" if len(body) < LIMIT else f"the first {LIMIT} bytes"
    came = f"in {size} of the body: {quote(body)}" if body.strip() else "but an empty body"
    return Result(Stage.UNEXPECTED_REPLY, f"{missing} {came}")


def _mismatch(pattern: str, body: bytes) -> str:
    from probe.pattern import TooDear, compiled

    try:
        return "" if compiled(pattern).matches(body) else "nothing that matches"
    except TooDear:
        return "too many ways to match"


class Http(Exchange):
    """Good is 200 to 399 when a path was given, as for kubelet; else any answer below 500; unless
    the target says which statuses are, and what the body is to hold.

    The answer counts once it is whole, or 64 KiB of its body are there. A 400 that asks for TLS is
    no answer of the application: whoever holds the port could not read our request.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        asked: list[tuple[str, str]] = []
        if target.headers:
            from probe.roundtrip import headers

            asked = headers.read(target)
            self.secrets = headers.secrets(asked)
        lines = head(target, host, asked)
        if not any(name.lower() == "connection" for name, _ in asked):
            lines.append(("Connection", "close"))
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
        reader = self._reader
        status = reader.status or 0
        if status < 100:
            self._malformed(f"status {status}")
        else:
            self.result = judge(self._target, status, reader.excerpt, reader.location)

    def _fault(self) -> Result | None:
        reader = self._reader
        return fault(self._target, reader.status, reader.excerpt, reader.location)

    def _malformed(self, fault: str) -> None:
        if self._opening.lstrip().startswith(b"HTTP/"):
            self._fail(f"malformed HTTP answer: {fault}")
        else:
            self._fail(f"not an HTTP/1 answer: {describe(self._opening, self._target)}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail, self._reader.status)
