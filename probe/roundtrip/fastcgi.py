"""FastCGI: one GET as a web server passes it on, and the whole answer of php-fpm, say."""

from probe import __version__
from probe.model import Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, authority, silence
from probe.roundtrip.fcgi import RECORDS, MalformedRecord, RecordReader, request
from probe.roundtrip.wording import describe, quote

PING = "/ping"
"""What is asked for without a path: the ping.path that php-fpm's own configuration proposes."""

OVERHEAD = 4 * LIMIT
"""Bytes on the wire after which padding and standard error have been sent for long enough."""

KEPT = 512
"""Bytes kept from the start of what came, to be quoted."""


class FastCgi(Exchange):
    """Good is as with http: 200 to 399 when a path was given, else any answer below 500.

    A path is php-fpm's `ping.path`, which a worker answers without any script, or the file of a
    script. Without one, `/ping` is asked for, and 404 is good as well: so a worker answers where no
    ping.path is set.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        self._good = range(200, 400) if target.path else range(100, 500)
        self._host = authority(target, host)
        self._reader = RecordReader()
        self._opening = b""
        self._received = 0

    def start(self) -> bytes:
        asked = (self._target.path or PING).encode(errors="surrogateescape")
        script, _, query = asked.partition(b"?")
        return request(
            (
                (b"GATEWAY_INTERFACE", b"CGI/1.1"),
                (b"SERVER_SOFTWARE", b"accept-probe/" + __version__.encode()),
                (b"SERVER_PROTOCOL", b"HTTP/1.1"),
                (b"REQUEST_METHOD", b"GET"),
                (b"REQUEST_URI", asked),
                (b"SCRIPT_NAME", script),
                (b"SCRIPT_FILENAME", script),
                (b"QUERY_STRING", query),
                (b"HTTP_HOST", self._host.encode()),
            )
        )

    def feed(self, data: bytes) -> bytes:
        self.answered = True
        if self.result is not None:
            return b""
        self._received += len(data)
        self._opening += data[: KEPT - len(self._opening)]
        reader = self._reader
        try:
            reader.feed(data)
        except MalformedRecord as error:
            self._malformed(str(error))
            return b""
        enough = self._received >= OVERHEAD or reader.records >= RECORDS
        if reader.complete or reader.body >= LIMIT:
            self._judge()
        elif enough and reader.status is None:
            self._fail(f"no header of an answer in {self.so_far()}")
        elif enough:
            self._judge()
        return b""

    def eof(self) -> None:
        if self.result is None and not (bad := self._bad_status()):
            self._fail(f"closed after {self.so_far()}" if self.answered else "closed, no answer")
        elif self.result is None:
            self.result = bad

    def late(self) -> Result:
        if not self.answered:
            return silence()
        return self._bad_status() or Result(
            Stage.UNANSWERED, f"answer stopped after {self.so_far()}", self._reader.status
        )

    def so_far(self) -> str:
        return f"{self._received} bytes of records" if self.answered else ""

    def _judge(self) -> None:
        reader = self._reader
        if reader.refused:
            self._fail(f"the request was refused: {reader.refused}")
        elif reader.status is None:
            said = f": {quote(reader.errors)}" if reader.errors.strip() else ""
            self._fail(f"the request ended without an answer{said}")
        else:
            self.result = self._bad_status() or Result(status=reader.status)

    def _bad_status(self) -> Result | None:
        """What is wrong with the status, once it is known; the answer need not be whole."""
        code, reader = self._reader.status, self._reader
        if code is None or code in self._good:
            return None
        said = next((text for text in (reader.errors, reader.excerpt) if text.strip()), b"")
        detail = f"status {code}, not {self._good.start} to {self._good.stop - 1}"
        return Result(Stage.STATUS, f"{detail}: {quote(said)}" if said else detail, code)

    def _malformed(self, fault: str) -> None:
        if self._opening[:1] == b"\x01":
            self._fail(f"malformed FastCGI answer: {fault}")
        else:
            self._fail(f"not a FastCGI answer: {describe(self._opening, self._target)}")

    def _fail(self, detail: str) -> None:
        self.result = Result(Stage.UNEXPECTED_REPLY, detail, self._reader.status)
