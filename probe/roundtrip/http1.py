"""Reads one HTTP/1 answer, as tolerantly as curl: the question is whether the application works.

A reader of our own, since both libraries for it (httptools, h11) import `typing`, which costs
`probe check` more CPU time than the whole round trip. The tests hold it against the standard
library's http.client.
"""

KEPT = 512
"""Bytes kept from the start of a body, to be quoted."""

HEX = b"0123456789abcdefABCDEF"

LINES = 16384
"""Lines of an answer, its chunks among them, that are read: a short one takes as long to read as a
long one."""

LONGEST_NUMBER = 16
"""Digits of a length or a chunk size; more overflow every counter there is."""

LONGEST_LOCATION = 2048
"""Bytes of the address that a redirect leads to."""

SWITCHING = 101
BODILESS = (SWITCHING, 204, 304)


class Malformed(Exception):
    """It is not HTTP any more. The text says what is wrong."""


class AnswerReader:
    """Feed it what comes. It keeps what it cannot use yet, and `keep` bytes of the body at most.

    `status` stays None until the header of the final answer is whole; 1xx are passed over. `length`
    is the Content-Length; `body` counts the bytes of the body so far, `lines` those of the rest.
    After LINES of them nothing more is read. `bodiless`: it has no body, whatever its header says,
    as the answer to HEAD has none.
    """

    def __init__(self, keep: int = KEPT, *, bodiless: bool = False) -> None:
        self.status: int | None = None
        self.length: int | None = None
        self.chunked = False
        self.body = 0
        self.lines = 0
        self.excerpt = b""
        self.location = b""
        self.complete = False
        self._keep = keep
        self._bodiless = bodiless
        self._buffer = bytearray()
        self._code = 0
        self._left = 0
        self._next = self._status_line

    def feed(self, data: bytes) -> None:
        """Take some bytes; once complete, more are ignored. Raises Malformed."""
        self._buffer += data
        while not self.complete and self.lines < LINES and self._next():
            pass

    # Each of these takes its part from the buffer and returns whether it could.

    def _status_line(self) -> bool:
        start = self._buffer[:7].lstrip(b"\r\n")[:5]
        if not b"HTTP/".startswith(start):
            raise Malformed("it does not begin with HTTP/")
        line = self._line()
        if not line:
            return line is not None  # Blank lines before it are passed over.
        _, _, rest = line.partition(b" ")
        code = rest.lstrip(b" ")[:4].split(b" ")[0]
        if len(code) != 3 or not code.isdigit():
            raise Malformed("invalid status code")
        self._code = int(code)
        self._next = self._header
        return True

    def _header(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if not line:
            self._begin_body()
            return True
        name, colon, value = line.partition(b":")
        if not colon and line[:1] not in b" \t":
            raise Malformed("a header line without a colon")
        name, value = name.strip().lower(), value.strip()
        if name == b"content-length":
            self._take_length(value)
        elif name == b"transfer-encoding":
            self.chunked = value.lower().endswith(b"chunked")
        elif name == b"location":
            self.location = value[:LONGEST_LOCATION]
        return True

    def _take_length(self, value: bytes) -> None:
        """Take a length; given more than once, each time the same (RFC 9110, 8.6)."""
        for one in value.split(b","):
            digits = one.strip()
            if not digits.isdigit() or len(digits) > LONGEST_NUMBER:
                raise Malformed("Content-Length is no length")
            if self.length not in (None, int(digits)):
                raise Malformed("two different Content-Lengths")
            self.length = int(digits)

    def _begin_body(self) -> None:
        if 100 <= self._code < 200 and self._code != SWITCHING:
            self.length, self.chunked = None, False
            self._next = self._status_line
            return
        self.status = self._code
        bodiless = self._bodiless or self._code in BODILESS
        if bodiless or (self.length == 0 and not self.chunked):
            self.complete = True
        elif self.chunked:
            self._next = self._chunk_size
        else:
            self._left = -1 if self.length is None else self.length
            self._next = self._plain_body

    def _plain_body(self) -> bool:
        if self._left < 0:
            self._take_body(len(self._buffer))
            return False  # It ends with the connection.
        self._left -= self._take_body(self._left)
        self.complete = self._left == 0
        return False

    def _chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        size = line.partition(b";")[0].strip()
        if not size or size.strip(HEX) or len(size) > LONGEST_NUMBER:
            raise Malformed("invalid chunk size")
        self._left = int(size, 16)
        self._next = self._chunk if self._left else self._trailer
        return True

    def _chunk(self) -> bool:
        self._left -= self._take_body(self._left)
        if self._left:
            return False
        self._next = self._chunk_end
        return True

    def _chunk_end(self) -> bool:
        line = self._line()
        if line is None:
            return False
        if line:
            raise Malformed("a chunk longer than it said")
        self._next = self._chunk_size
        return True

    def _trailer(self) -> bool:
        line = self._line()
        self.complete = line == b""
        return bool(line)

    def _line(self) -> bytes | None:
        """Take a line off the buffer, without its end; None: it is not whole yet."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        self.lines += 1
        return line

    def _take_body(self, most: int) -> int:
        taken = bytes(self._buffer[:most])
        del self._buffer[:most]
        self.body += len(taken)
        if len(self.excerpt) < self._keep:
            self.excerpt += taken[: self._keep - len(self.excerpt)]
        return len(taken)
