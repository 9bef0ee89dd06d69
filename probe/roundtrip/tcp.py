"""Bare TCP: the application accepted; or read what was sent; or said what was expected."""

from probe.model import Connection, Stage, Target, TcpState
from probe.roundtrip.exchange import LIMIT, Exchange, Result, silence
from probe.roundtrip.wording import QUOTED, describe, escape, shorten, speaks_tls


def accepted(connection: Connection) -> bool:
    """Whether a process holds a descriptor for it. The inode of a LISTEN row is the listener's."""
    return connection.inode != 0 and connection.state != TcpState.LISTEN


class Tcp(Exchange):
    """What counts as an answer depends on the target:

    - neither send nor expect: the application accepted the connection;
    - only send: it accepted, and read everything;
    - expect, with or without send: these bytes are somewhere in the first 64 KiB that it says;
    - several of them: each in its turn. Nothing is sent before what is expected before it has
      come, and what came by then does not answer it. What is left to be sent at the end is a
      farewell, to which no answer is expected;
    - one that is expected and then something to send, but no greeting for half of the time: it is
      an application that is spoken to first, and what is expected is its answer.

    Without expect the kernel is the witness, but a byte from the application proves it as well,
    and so does its closing of the connection: the kernel never closes what nobody accepted.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._target = target
        self._steps, self._last = steps(target)
        self.silent = not self._steps
        self._heard = bytearray()
        """What came since we spoke, or since what was expected before."""
        self._searched = 0
        self._received = 0

    def start(self) -> bytes:
        return self._last if self.silent else self._steps[0][0]

    def feed(self, data: bytes) -> bytes:
        self.answered = True
        if self.result is not None:
            return b""
        if self.silent:
            self.result = Result()
            return b""
        self._heard += data[: LIMIT - self._received]
        self._received += len(data)
        say = b""
        while self.result is None and self._found():
            say += self._next()
        if self.result is None and self._received >= LIMIT:
            self.result = self._without(f"in {LIMIT} bytes: ")
        return say

    def eof(self) -> None:
        if self.result is not None:
            return
        if self.silent:
            self.result = Result()
        elif self._heard:
            self.result = self._without("but ", ", then closed")
        else:
            self.result = self._without("but closed without a word")

    def late(self) -> Result:
        if not self._received:
            return silence()
        return self._without("but " if self._heard else "but no answer")

    def urge(self) -> bytes:
        """The order of a lone pair may have meant nothing."""
        if self._received or len(self._steps) != 1 or self._steps[0][0]:
            return b""
        say, self._last = self._last, b""
        return say

    def so_far(self) -> str:
        return f"{self._received} bytes" if self._received else ""

    def witness(self, connection: Connection) -> None:
        if not self.silent or self.result is not None or not accepted(connection):
            return
        arrived = connection.bytes_received is None or connection.bytes_received >= len(self._last)
        if not self._last or (connection.rqueue == 0 and arrived):
            self.result = Result()

    def finish(self) -> bytes:
        return b"" if self._steps or self.silent else self._last

    def _found(self) -> bool:
        """Whether what is expected has come; if so, it is taken off what was heard."""
        expect = self._steps[0][1]
        at = self._heard.find(expect, self._searched)
        if at >= 0:
            del self._heard[: at + len(expect)]
        self._searched = max(len(self._heard) - len(expect) + 1, 0) if at < 0 else 0
        return at >= 0

    def _next(self) -> bytes:
        """Begin the next step, if there is one: what to say in it."""
        del self._steps[0]
        if not self._steps:
            self.result = Result()
            return b""
        send = self._steps[0][0]
        if send:
            self._heard.clear()
        return send

    def _without(self, how: str, end: str = "") -> Result:
        """Another answer, or none. What was expected may be a secret, and is told apart."""
        expect, heard = self._steps[0][1], bytes(self._heard)
        # As many lines as were expected, with their ends, which may be the difference.
        count = max(expect.count(b"\n"), 1)
        length = sum(len(line) + 1 for line in heard.split(b"\n", count)[:count])
        tls = speaks_tls(heard)
        came = describe(heard, self._target) if tls else in_quotes(heard[:length])
        what = f"{how}{came if heard else ''}{end}"
        frank = f"no {in_quotes(expect)} {what}"
        if in_quotes(expect) == came:
            pairs = enumerate(zip(expect, heard, strict=False))
            same = next((at for at, (ours, theirs) in pairs if ours != theirs), len(heard))
            frank += f"; they differ after {same} bytes"
        return Result(Stage.UNEXPECTED_REPLY, f"not the expected answer {what}", frank=frank)


def in_quotes(data: bytes) -> str:
    return f'"{shorten(escape(data[: 4 * QUOTED + 4]))}"'  # UTF-8 has four bytes at most.


def steps(target: Target) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """What is sent and then expected, step by step; and what is sent after the last of them."""
    found, send = [], b""
    for said, expect in ((target.send, target.expect), *target.then):
        send += said
        if expect:
            found.append((send, expect))
            send = b""
    return found, send
