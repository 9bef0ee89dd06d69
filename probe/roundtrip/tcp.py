"""Bare TCP: the application accepted; or read what was sent; or said what was expected."""

from probe.model import Connection, Stage, Target
from probe.roundtrip.exchange import LIMIT, Exchange, Result, silence
from probe.roundtrip.wording import quote

LISTEN = 10


def accepted(connection: Connection) -> bool:
    """Whether a process holds a descriptor for it. The inode of a LISTEN row is the listener's."""
    return connection.inode != 0 and connection.state != LISTEN


class Tcp(Exchange):
    """What counts as an answer depends on the target:

    - neither send nor expect: the application accepted the connection;
    - only send: it accepted, and read everything;
    - expect, with or without send: these bytes are somewhere in the first 64 KiB that it says.

    Without expect the kernel is the witness, but a byte from the application proves it as well,
    and so does its closing of the connection: the kernel never closes what nobody accepted.
    """

    def __init__(self, target: Target, host: str) -> None:
        self._send = target.send
        self._expect = target.expect
        self._received = bytearray()
        self.silent = not target.expect

    def start(self) -> bytes:
        return self._send

    def feed(self, data: bytes) -> bytes:
        self.answered = True
        if self.result is not None:
            return b""
        if self.silent:
            self.result = Result()
            return b""
        searched = max(len(self._received) - len(self._expect) + 1, 0)
        self._received += data
        if self._received.find(self._expect, searched, LIMIT) >= 0:
            self.result = Result()
        elif len(self._received) >= LIMIT:
            self.result = self._without(f"in {LIMIT} bytes: {quote(self._received)}")
        return b""

    def eof(self) -> None:
        if self.result is not None:
            return
        if self.silent:
            self.result = Result()
        elif self._received:
            self.result = self._without(f"but {quote(self._received)}, then closed")
        else:
            self.result = self._without("but closed without a word")

    def late(self) -> Result:
        return self._without(f"but {quote(self._received)}") if self._received else silence()

    def so_far(self) -> str:
        return f"{len(self._received)} bytes" if self._received else ""

    def witness(self, connection: Connection) -> None:
        if not self.silent or self.result is not None or not accepted(connection):
            return
        arrived = connection.bytes_received is None or connection.bytes_received >= len(self._send)
        if not self._send or (connection.rqueue == 0 and arrived):
            self.result = Result()

    def _without(self, what: str) -> Result:
        return Result(Stage.UNEXPECTED_REPLY, f"no {quote(self._expect)} {what}")
