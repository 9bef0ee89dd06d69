"""One connection of ours to the application: without blocking, without waiting.

A driver calls `step()`, and again whenever the socket is ready for one of `events` or the time
`wake` has come, until that gives the result. Connecting, the exchange, the exact lookups of the
application's side, the time-out and the farewell all happen in there.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from enum import Enum
from select import POLLIN, POLLOUT
from struct import pack

from probe.display import hide, printable
from probe.imports.socket_lite import (
    AF_UNIX,
    IPPROTO_TCP,
    SHUT_WR,
    SO_ERROR,
    SO_LINGER,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_QUICKACK,
    socket,
)
from probe.imports.typing_lite import TypeVar
from probe.kernel import CannotTell, KernelView
from probe.model import Connection, Outcome, Phases, RoundTrip, Stage, Target, TcpState
from probe.roundtrip.address import Address
from probe.roundtrip.exchange import CannotAsk, Result, silence
from probe.roundtrip.protocols import exchange
from probe.roundtrip.tcp import accepted
from probe.roundtrip.wording import shorten

FIRST_LOOKUP = 0.0005
"""Seconds from the handshake to the first lookup; the pauses then double up to LONGEST_PAUSE. An
application that answers sooner is never looked up. A lookup costs 15 us."""

LONGEST_PAUSE = 0.05

SHARE = 10
"""A lookup that takes long, as in /proc, is followed by a pause of so many times its length."""

FAREWELL = 0.05
"""Seconds that the application is given to close its side. It is read from as long, since closing
a socket with unread bytes sends a reset, which a healthy application would count as an error."""

CHUNK = 16384
CHUNKS = 8
"""Bytes that one read takes, and reads in one step, so that a flood cannot occupy the driver."""

DRAINED = 1 << 20
"""Bytes of an answer's unwanted rest that are read for the sake of politeness."""

BLIND_WAIT = 30.0
"""Seconds to hold a connection of which nobody can tell whether it is queued."""

AT_ONCE = pack("ii", 1, 0)
"""A struct linger that makes close() send a reset."""

OURS = frozenset(
    {
        errno.EACCES,
        errno.EADDRNOTAVAIL,
        errno.EAFNOSUPPORT,
        errno.EINVAL,
        errno.EMFILE,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENODEV,
        errno.ENOMEM,
        errno.ENXIO,
        errno.EPERM,
        errno.EPROTOTYPE,
    }
)
"""Errors of connect() that say nothing of the application: no port, descriptor, memory or route,
no permission for a unix socket, or one of another type.
"""

REFUSALS = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EHOSTDOWN})

UNIX_REFUSALS = {
    errno.EAGAIN: "its accept queue is full",
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
}
"""Errors of connect() to a unix socket that tell of the application (unix(7), connect(2))."""

CUT_OFF = frozenset({errno.ECONNRESET, errno.EPIPE})
"""The application has closed, and has not read what we sent."""

LONGEST_DETAIL = 400
"""Characters."""

Told = TypeVar("Told")


class Part(Enum):
    CONNECTING = 1
    TALKING = 2
    LEAVING = 3
    LINGERING = 4
    CLOSED = 5


class Attempt:
    """A round trip in progress, then its result; and perhaps a connection that lingers after it.

    After a failure, a connection that is or may become an entry in the application's accept queue
    is `lingers`: closed, it would stay there as an entry that nobody wants, and the next attempt
    would add another. `poll()` it until that is False; it closes the connection then.

    `started` is when the round trip began and `timeout` how many seconds it may take, on the
    clock given. Of the phases, `connect` and `total` begin when we dial, `accept` and `tls` with
    the end of `connect`, `first_byte` with the end of `tls` (without TLS: of `connect`). The
    accept delay is an upper bound: the first lookup, or the first byte, that showed the connection
    to be accepted.

    `frank`: the result is for the eyes of who wrote the target, and may tell what it expects.
    """

    def __init__(
        self,
        target: Target,
        address: Address,
        view: KernelView,
        started: float,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        frank: bool = False,
    ) -> None:
        self.result: RoundTrip | None = None
        self.accepted = False
        self.blind = False
        """Held, but nobody can tell whether it is queued."""
        self._target = target
        self._address = address
        self._view = view
        self._started = started
        self._timeout = timeout
        self._deadline = started + timeout
        self._clock = clock
        self._frank = frank
        self._part = Part.CLOSED
        self._outbox = b""
        self._mute = False
        """The application is to speak first, or to do no more than accept."""
        self._reset = False
        self._shut = False
        self._drained = 0
        self._unix = address.family == AF_UNIX
        self._local = ("", 0)
        self._remote = (address.host, address.port)
        self._dialled = self._connected = self._ready = started
        self._phases = Phases()
        self._lookup_at = self._deadline
        self._pause = FIRST_LOOKUP
        self._leave_by = self._deadline
        self._urge_at = started + timeout / 2 if target.then else self._deadline
        self._secrets: tuple[str, ...] = ()
        try:
            self._exchange = exchange(target, address.host)
            self._secrets = self._exchange.secrets
            self._socket = socket(address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        except CannotAsk as error:
            self._give_up(str(error))
            return
        except OSError as error:
            self._give_up(f"no socket to be had: {error.strerror}")
            return
        self._part = Part.CONNECTING
        self._dialled = clock()
        try:
            failed = self._socket.connect_ex(address.socket_address)
        except OSError as error:
            failed = error.errno or errno.EINVAL
        if failed not in (0, errno.EINPROGRESS):
            self._cannot_connect(failed)

    # --- for the driver

    @property
    def events(self) -> int:
        """What to wait for: POLLIN, POLLOUT or both."""
        if self._part is Part.CONNECTING:
            return POLLOUT
        return POLLIN | POLLOUT if self._outbox else POLLIN

    @property
    def wake(self) -> float:
        """When to step in any case."""
        if self._part is Part.LEAVING:
            return self._leave_by
        return min(self._lookup_at, self._urge_at, self._deadline)

    @property
    def local(self) -> tuple[str, int]:
        """Our end of the connection, once it is made; on a unix socket, its inode."""
        return self._local

    def fileno(self) -> int:
        return self._socket.fileno()

    def extend(self, seconds: float) -> None:
        """Wait so much longer for whatever is waited for: nobody was there to step."""
        self._deadline += seconds
        self._lookup_at += seconds
        self._urge_at += seconds
        self._leave_by += seconds

    def step(self) -> RoundTrip | None:
        """Do all that can be done now. The result, once there is nothing left to drive."""
        if self._part is Part.CONNECTING:
            self._connect()
        if self._part is Part.TALKING:
            self._talk()
        if self._part is Part.LEAVING:
            self._leave()
        elif self.result is None and self._clock() >= self._deadline:
            self._time_out()
        return self.result if self._part in (Part.LINGERING, Part.CLOSED) else None

    # --- for the owner of a connection that lingers

    @property
    def lingers(self) -> bool:
        """Closing the connection would leave, or might leave, an entry in the accept queue."""
        return self._part is Part.LINGERING

    def poll(self, now: float) -> bool:
        """Whether the lingering connection still waits. If not, it is closed, and `accepted` tells
        whether the application took it.
        """
        if self._part is Part.LINGERING and not self._waits(now):
            self.close()
        return self._part is Part.LINGERING

    def _waits(self, now: float) -> bool:
        try:
            self._socket.recv(1)
            self.accepted = True  # Whoever speaks or closes has accepted.
            return False
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            seen = self._view.lookup(self._local, self._remote)
        except CannotTell:
            self.blind = True
            return now < self._deadline + BLIND_WAIT
        self.blind = False
        self.accepted = seen is not None and accepted(seen)
        if seen is not None and seen.state == TcpState.LISTEN and self._mute:
            # The end of our handshake was dropped and nothing is left to send that would end it:
            # it would never be accepted. Nobody there knows of it; a reset leaves it like that.
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, AT_ONCE)
            return False
        return seen is not None and (
            seen.queued or seen.state in (TcpState.SYN_RECV, TcpState.LISTEN)
        )

    def close(self) -> None:
        """Close the connection at once, whatever it is doing. A second time does nothing."""
        if self._part is Part.CLOSED:
            return
        self._part = Part.CLOSED
        self._drain()
        self._socket.close()

    # --- connecting

    def _connect(self) -> None:
        failed = self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        if failed:
            self._cannot_connect(failed)
            return
        name = self._socket.getsockname()
        self._local = ("", os.fstat(self.fileno()).st_ino) if self._unix else (name[0], name[1])
        try:
            peer = self._socket.getpeername()
        except OSError:
            return  # Not yet.
        if name == peer:
            # The kernel gave us the very port we dial, where nobody listens: TCP's simultaneous
            # open, with ourselves. A reset, since a port in TIME_WAIT may keep the application
            # from listening there.
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, AT_ONCE)
            self._cannot_connect(errno.ECONNREFUSED)
            return
        now = self._clock()
        self._connected = self._ready = now
        self._phases = self._phases._replace(connect=now - self._dialled)
        self._lookup_at = now + FIRST_LOOKUP
        self._part = Part.TALKING
        self._outbox = self._introduction() + self._exchange.start()
        self._mute = not self._outbox
        self._send()

    def _introduction(self) -> bytes:
        """What is said before the protocol of the target begins."""
        if not self._target.proxy_protocol:
            return b""
        from probe.roundtrip.proxy_protocol import header

        return header(self._target.proxy_protocol, self._local, self._remote)

    def _cannot_connect(self, failed: int) -> None:
        why = os.strerror(failed)
        if self._unix and failed in UNIX_REFUSALS:
            self._fail(Stage.REFUSED, f"{self._address}: {UNIX_REFUSALS[failed]}")
        elif failed in OURS:
            self._give_up(f"could not connect to {self._address}: {why}")
        elif failed in REFUSALS:
            self._fail(Stage.REFUSED, f"{self._address}: {why}")
        elif failed == errno.ETIMEDOUT:
            self._fail(Stage.SYN_DROPPED, f"no answer to our SYN to {self._address}")
        else:
            self._was_reset(failed)

    # --- talking

    def _talk(self) -> None:
        self._send()
        self._receive()
        if self._part is Part.TALKING and self._address.remote and self._said_all():
            self._judge(Result())
        if self._part is Part.TALKING and self._clock() >= self._urge_at:
            self._urge_at = self._deadline
            self._outbox += self._ask(self._exchange.urge) or b""
            self._send()
        if self._part is Part.TALKING and self._clock() >= self._lookup_at:
            self._look_up()

    def _said_all(self) -> bool:
        """Whether a silent exchange has no more to do: who can see the other end would go on."""
        secured = self._exchange.secured or not self._target.encrypted
        return self._exchange.silent and secured and not self._outbox

    def _send(self) -> None:
        try:
            while self._outbox:
                self._outbox = self._outbox[self._socket.send(self._outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            # Reset or closed: what the application said before that can still be read.
            self._reset = True
            self._outbox = b""

    def _receive(self) -> None:
        for _ in range(CHUNKS):
            try:
                data = self._socket.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError as error:
                self._was_reset(error.errno or errno.ECONNRESET)
                return
            if self._reset and not data:
                # No end of what the application says: our own send was told of the reset.
                self._was_reset(errno.ECONNRESET)
                return
            self._heard()
            if data:
                self._outbox += self._ask(self._exchange.feed, data) or b""
                self._note_phases()
            else:
                self._ask(self._exchange.eof)
            self._send()
            if self._exchange.result is not None:
                self._judge(self._exchange.result)
                return
            # An application that writes its answer in pieces may wait with the next for our ACK,
            # which the kernel likes to delay: 40 ms that would be counted as the application's.
            if not self._unix:
                self._socket.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 1)

    def _heard(self) -> None:
        """Whoever speaks or closes has accepted."""
        if not self.accepted:
            self._accept()

    def _accept(self) -> None:
        self.accepted = True
        self._lookup_at = self._deadline
        self._phases = self._phases._replace(accept=self._clock() - self._connected)

    def _note_phases(self) -> None:
        phases = self._phases
        if phases.tls is None and self._exchange.secured:
            self._ready = self._clock()
            self._phases = phases._replace(tls=self._ready - self._connected)
        if phases.first_byte is None and self._exchange.answered:
            self._phases = self._phases._replace(first_byte=self._clock() - self._ready)

    def _ask(self, question: Callable[..., Told], *heard: object) -> Told | None:
        """Ask the exchange, of whatever protocol. What it raises, the application made it raise by
        what it said: that is an answer like any other that is none, and never *unknown*.
        """
        try:
            return question(*heard)
        except MemoryError:
            raise  # That is ours.
        except Exception as error:  # noqa: BLE001 - see above
            detail = f"an answer that we cannot read: {type(error).__name__}: {error}"
            self._exchange.result = Result(Stage.UNEXPECTED_REPLY, detail)
            return None

    def _was_reset(self, number: int) -> None:
        so_far = self._ask(self._exchange.so_far)
        if so_far and number in CUT_OFF:
            # Whether the close of an application reaches us as an end or as a reset depends on
            # whether our last bytes reached it first. What it said is the reason in both cases.
            self._ask(self._exchange.eof)
        if self._exchange.result is not None:
            self._settle(self._exchange.result, Part.CLOSED)
            return
        if so_far:
            when = f"after {so_far}"
        elif self.accepted:
            when = "after it was accepted, before any answer"
        else:
            when = "before it was seen to be accepted"
        self._fail(Stage.RESET, f"{os.strerror(number).lower()} {when}")

    def _look_up(self) -> None:
        """Look the application's side up: for the accept delay, and for a silent exchange."""
        began = self._clock()
        try:
            seen = self._view.lookup(self._local, self._remote)
        except CannotTell:
            seen = None
        if seen is not None:
            if accepted(seen) and not self.accepted:
                self._accept()
            self._ask(self._exchange.witness, seen)
            if self._exchange.result is not None:
                self._judge(self._exchange.result)
                return
            if seen.state == TcpState.SYN_RECV and self._exchange.silent and not self._target.send:
                # TCP_DEFER_ACCEPT: the kernel makes no connection before it has data, which we
                # have none of. It takes the end of our side as well.
                self._shut_down()
        if not self.accepted or self._exchange.silent:
            now = self._clock()
            self._lookup_at = now + max(self._pause, (now - began) * SHARE)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    # --- the end

    def _judge(self, result: Result) -> None:
        self._outbox += self._ask(self._exchange.finish) or b""
        self._leave_by = min(self._clock() + FAREWELL, self._deadline)
        self._settle(result, Part.LEAVING)

    def _fail(self, stage: Stage, detail: str) -> None:
        self._settle(Result(stage, detail), Part.CLOSED)

    def _settle(self, result: Result, part: Part) -> None:
        outcome = Outcome.OK if result.stage is None else Outcome.FAILED
        self._end(outcome, result, part)

    def _give_up(self, why: str, part: Part = Part.CLOSED) -> None:
        """We could not ask, or not see the answer."""
        self._end(Outcome.UNKNOWN, Result(detail=why), part)

    def _end(self, outcome: Outcome, result: Result, part: Part) -> None:
        phases = self._phases._replace(total=self._clock() - self._dialled)
        detail = (self._frank and result.frank) or result.detail
        detail = hide(detail, self._secrets + (() if self._frank else self._target.secrets))
        self.result = RoundTrip(
            self._started,
            outcome,
            result.stage,
            shorten(printable(detail), LONGEST_DETAIL),
            result.status,
            self.accepted,
            phases,
        )
        if part is Part.CLOSED:
            self.close()
        else:
            self._part = part

    def _time_out(self) -> None:
        """Time is up: the application's side of the connection tells where the request hangs."""
        if self._ask(self._exchange.so_far):
            self._settle(self._late(), Part.CLOSED)
            return
        try:
            seen = self._view.lookup(self._local, self._remote)
        except CannotTell as error:
            self._time_out_blind(str(error))
            return
        if self._part is Part.CONNECTING:
            self._fail(*unconnected(seen))
        elif seen is None:
            self._time_out_blind("its other end is not in this network namespace")
        else:
            if accepted(seen) and not self.accepted:
                self._accept()
            self._ask(self._exchange.witness, seen)
            if self._exchange.result is not None:
                self._judge(self._exchange.result)
            else:
                self._settle(*self._hangs(seen))

    def _late(self) -> Result:
        return self._ask(self._exchange.late) or self._exchange.result or silence()

    def _time_out_blind(self, why: str) -> None:
        """What the client's socket alone knows."""
        if self._part is Part.CONNECTING:
            self._fail(Stage.SYN_DROPPED, f"no answer to our SYN ({why})")
            return
        part = Part.CLOSED if self.accepted else Part.LINGERING
        if self._exchange.silent:
            self._give_up(f"cannot tell whether it was accepted: {why}", part)
            return
        late = self._late()
        seen = "accepted" if self.accepted else "cannot tell whether it was accepted"
        self._settle(late._replace(detail=f"{late.detail}; {seen}: {why}"), part)

    def _hangs(self, seen: Connection) -> tuple[Result, Part]:
        """The table of stages for a connection that the kernel shows."""
        waited = f"for {self._clock() - self._connected:.3g} s"
        if seen.state == TcpState.LISTEN:
            detail = f"the end of our handshake was dropped: {queue(seen)}"
            return Result(Stage.HANDSHAKE_INCOMPLETE, detail), Part.LINGERING
        if seen.state == TcpState.SYN_RECV:
            detail = f"not ended {waited}, retransmits: {seen.retransmits}"
            return Result(Stage.HANDSHAKE_INCOMPLETE, detail), Part.LINGERING
        if seen.queued:
            return Result(Stage.QUEUED, f"not accepted {waited}"), Part.LINGERING
        late = self._late()
        if not seen.rqueue:
            if late.stage is Stage.UNANSWERED:
                within = f"within {self._timeout:.3g} s"
                late = late._replace(detail=f"{late.detail} {within}")
            return late, Part.CLOSED
        unread = f"{seen.rqueue} bytes of ours unread"
        if late.stage is Stage.TLS:
            return late._replace(detail=f"{late.detail}, {unread}"), Part.CLOSED
        return Result(Stage.UNREAD, f"accepted, but {unread} {waited}"), Part.CLOSED

    def _leave(self) -> None:
        """End our side, wait a moment for the application to end its own."""
        self._send()
        if not self._outbox and not self._shut:
            self._shut_down()
        if self._drain() or self._clock() >= self._leave_by:
            self.close()

    def _shut_down(self) -> None:
        """Say that we shall send no more."""
        self._shut = True
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            return  # The application was faster.

    def _drain(self) -> bool:
        """Read what nobody wants; True at its end."""
        try:
            while self._drained < DRAINED and (data := self._socket.recv(CHUNK)):
                self._drained += len(data)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def unconnected(seen: Connection | None) -> tuple[Stage, str]:
    """Where a connect() hangs."""
    if seen is None:
        return Stage.SYN_DROPPED, "no answer to our SYN, and no listener in this network namespace"
    if seen.state == TcpState.LISTEN:
        return Stage.SYN_DROPPED, f"no answer to our SYN: {queue(seen)}"
    return Stage.HANDSHAKE_INCOMPLETE, f"no answer to our SYN, retransmits: {seen.retransmits}"


def queue(listener: Connection) -> str:
    """How full it is, from a LISTEN row. /proc does not tell the limit."""
    limit = f" of {listener.wqueue}" if listener.wqueue else ""
    return f"{listener.rqueue}{limit} queued"
