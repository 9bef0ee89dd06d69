"""sock_diag: the kernel's own table of sockets, asked over netlink (sock_diag(7)).

Layouts and numbers are those of the kernel's uapi headers linux/netlink.h, linux/sock_diag.h,
linux/inet_diag.h and linux/tcp.h; integers are in the byte order of the machine, addresses and
ports in that of the network.

What a question costs (Linux 6.18): the listeners, or one exact connection, tens of microseconds of
CPU time however many connections there are. Any dump of connections walks the table of the whole
node, whatever port or namespace it is for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from struct import Struct
from time import monotonic

from probe.imports.socket_lite import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    IPPROTO_TCP,
    MSG_TRUNC,
    SO_RCVTIMEO,
    SOCK_RAW,
    SOL_SOCKET,
    htons,
    if_nametoindex,
    inet_ntop,
    inet_pton,
    ntohs,
    socket,
)
from probe.imports.typing_lite import TypeVar
from probe.kernel import CannotTell, Crowded, Interrupted, KernelError, Refused, denial
from probe.kernel.hosts import LOOPBACK_DEVICE, belonging, reached, tell_apart
from probe.model import MAY_BE_QUEUED, Accepted, Connection, Listener, TcpState

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLA_TYPE_MASK = 0x3FFF

INET_DIAG_INFO = 2
INET_DIAG_SKMEMINFO = 7
INET_DIAG_SKV6ONLY = 11
NO_COOKIE = 0xFFFFFFFF

LISTENERS = 1 << TcpState.LISTEN
CHILDREN = 0xFFE & ~(1 << TcpState.SYN_SENT | 1 << TcpState.CLOSE | LISTENERS)
"""The states, of ESTABLISHED (1) to CLOSING (11), that a server's side can be in."""
WAITING = sum(1 << state for state in MAY_BE_QUEUED)
OPEN = CHILDREN & ~(1 << TcpState.SYN_RECV | 1 << TcpState.TIME_WAIT)
"""Those in which a process may still have a descriptor: of TIME_WAIT, which may be by far the most,
none has."""

HEADER = Struct("=IHHII")
"""nlmsghdr: length, type, flags, sequence, port id"""
BODY = Struct("=4BI HH16s16sIII")
"""inet_diag_req_v2: family, protocol, extensions, pad, states, inet_diag_sockid"""
ROW = Struct("=4B HH16s16sIII 5I")
"""inet_diag_msg: family, state, timer, retransmits, inet_diag_sockid, expires, rqueue, wqueue,
uid, inode. inet_diag_sockid: local port, remote port, local and remote address, interface, cookie.
"""
BRIEF_ROW = Struct("=BBxB2xH16s16s4xQ4xI8xI")
"""Of the same: family, state, retransmits, remote port, both addresses, cookie, rqueue, inode."""
ATTRIBUTE = Struct("=HH")
"""nlattr: length, type"""
U32 = Struct("=I")
ERROR = Struct("=i")
TIMEVAL = Struct("@ll")
DROPS = 4 * 8
"""SK_MEMINFO_DROPS, word 8 of INET_DIAG_SKMEMINFO"""
AGES = Struct("=I4xII")
AGES_AT = 44
"""tcp_info from 44: last_data_sent, (last_ack_sent), last_data_recv, last_ack_recv; milliseconds"""
U64 = Struct("=Q")
BYTES_RECEIVED = 128
"""tcpi_bytes_received, since Linux 4.1"""
BYTES_SENT = 200
"""tcpi_bytes_sent, since Linux 4.19"""

DATA = Struct("=44xI4xI72xQ64xQ")
"""Of the same: last_data_sent, last_data_recv, bytes_received, bytes_sent"""

BUFFER = 32768
"""The kernel cuts a dump into messages of at most this (netlink_dump in af_netlink.c)."""
TRIES = 3
TICK = 0.02
"""Seconds. Ages are counted in ticks of the kernel, 1 to 10 ms, and rounded to milliseconds."""
TIMEOUT = 0.2
"""Seconds. The kernel answers within send() and recv(), so nothing is ever waited for."""

MAX_ERRNO = 4095
REFUSAL = frozenset(
    {
        errno.EPERM,
        errno.EACCES,
        errno.ENOSYS,
        errno.EOPNOTSUPP,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ECONNREFUSED,
    }
)

Bytes = bytes | bytearray
Record = TypeVar("Record")
Decode = Callable[[Bytes, int, int], Record]


def failure(number: int) -> CannotTell:
    """What an errno means that the kernel answered a request with."""
    if not 0 < number <= MAX_ERRNO:
        return Interrupted(f"sock_diag: error {number} instead of an answer")
    text = f"sock_diag: {os.strerror(number)}"
    return Refused(text) if number in REFUSAL else KernelError(text, number)


def messages(data: Bytes, length: int, sequence: int) -> Iterator[tuple[int, int, int, int]]:
    """The messages in `data[:length]` that answer request `sequence`: type, flags, and where the
    payload starts and ends. What is left of the answers to other requests is passed over.
    """
    offset = 0
    while offset < length:
        if length - offset < HEADER.size:
            raise Interrupted("sock_diag: half a message header")
        size, kind, flags, number, _ = HEADER.unpack_from(data, offset)
        start, end = offset + HEADER.size, offset + size
        if start > end or end > length:
            raise Interrupted("sock_diag: half a message")
        if number == sequence:
            yield kind, flags, start, end
        offset += size + 3 & ~3


def parse(
    data: Bytes, length: int, sequence: int, decode: Decode[Record], rows: list[Record]
) -> bool:
    """Append the rows of one datagram; True when the answer is complete.

    Whatever the bytes are, that or a CannotTell is what comes of them.
    """
    for kind, flags, start, end in messages(data, length, sequence):
        if flags & NLM_F_DUMP_INTR:
            raise Interrupted("sock_diag: the sockets changed while they were listed")
        if kind == SOCK_DIAG_BY_FAMILY:
            rows.append(decode(data, start, end))
            if not flags & NLM_F_MULTI:
                return True
        elif kind in (NLMSG_DONE, NLMSG_ERROR):
            (result,) = ERROR.unpack_from(data, start) if end - start >= ERROR.size else (0,)
            if result or kind == NLMSG_ERROR:
                raise failure(-result)
            return True
        elif kind != NLMSG_NOOP:
            raise Interrupted(f"sock_diag: a message of type {kind}")
    return False


def attributes(data: Bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The attributes of a row: type, and where its value starts and ends."""
    while end - offset >= ATTRIBUTE.size:
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if size < ATTRIBUTE.size or offset + size > end:
            raise Interrupted("sock_diag: half an attribute")
        yield kind & NLA_TYPE_MASK, offset + ATTRIBUTE.size, offset + size
        offset += size + 3 & ~3


def text(family: int, packed: bytes) -> str:
    if family == AF_INET:
        return inet_ntop(AF_INET, packed[:4])
    if family == AF_INET6:
        return inet_ntop(AF_INET6, packed)
    raise Interrupted(f"sock_diag: a row of address family {family}")


def decode_listener(data: Bytes, start: int, end: int) -> Listener:
    """A LISTEN row. A link-local address carries its zone, `fe80::1%2`, as dialling it needs."""
    if end - start < ROW.size:
        raise Interrupted("sock_diag: half a row")
    # fmt: off
    (family, _, _, _, port, _, local, _, device, cookie_low, cookie_high,
     _, length, limit, uid, inode) = ROW.unpack_from(data, start)
    # fmt: on
    address = text(family, local)
    if family == AF_INET6 and local[0] == 0xFE and local[1] & 0xC0 == 0x80:
        address = f"{address}%{device}"
    drops = v6only = None
    for kind, value, stop in attributes(data, start + ROW.size, end):
        if kind == INET_DIAG_SKMEMINFO and stop - value >= DROPS + U32.size:
            (drops,) = U32.unpack_from(data, value + DROPS)
        elif kind == INET_DIAG_SKV6ONLY and stop > value:
            v6only = data[value] != 0
    cookie = cookie_high << 32 | cookie_low
    # fmt: off
    return Listener(
        family, address, ntohs(port), cookie, length, limit, drops, inode, uid, v6only, device
    )
    # fmt: on


def decode_connection(data: Bytes, start: int, end: int) -> Connection:
    """A row in any state. A local address ends in `%INDEX` if the socket is bound to an interface,
    as ss(8) writes it: it takes that to look the connection up again.
    """
    if end - start < ROW.size:
        raise Interrupted("sock_diag: half a row")
    # fmt: off
    (family, state, _, retransmits, port, remote_port, local, remote, device, cookie_low,
     cookie_high, _, rqueue, wqueue, _, inode) = ROW.unpack_from(data, start)
    # fmt: on
    host = text(family, local)
    sent = received = data_sent = data_received = ack_received = None
    if state != TcpState.LISTEN:
        for kind, value, stop in attributes(data, start + ROW.size, end):
            if kind != INET_DIAG_INFO:
                continue
            size = stop - value
            if size >= AGES_AT + AGES.size:
                times = AGES.unpack_from(data, value + AGES_AT)
                data_sent, data_received, ack_received = (ms / 1000 for ms in times)
            if size >= BYTES_RECEIVED + U64.size:
                (received,) = U64.unpack_from(data, value + BYTES_RECEIVED)
            if size >= BYTES_SENT + U64.size:
                (sent,) = U64.unpack_from(data, value + BYTES_SENT)
    return Connection(
        state,
        family,
        (f"{host}%{device}" if device else host, ntohs(port)),
        (text(family, remote), ntohs(remote_port)),
        cookie_high << 32 | cookie_low,
        inode,
        rqueue,
        wqueue,
        retransmits,
        sent,
        received,
        data_sent,
        data_received,
        ack_received,
    )


def decode_accepted(data: Bytes, start: int, end: int) -> Accepted:
    """A row in brief: a fifth of the price of `decode_connection`, for walks of tens of thousands.

    Raises Refused where the kernel does not tell how many bytes were sent (before Linux 4.19).
    """
    if end - start < ROW.size:
        raise Interrupted("sock_diag: half a row")
    # fmt: off
    (family, state, retransmits, port, local, remote, cookie, rqueue, inode
     ) = BRIEF_ROW.unpack_from(data, start)
    # fmt: on
    ends = (state, family, local, remote, ntohs(port), cookie, inode, rqueue, retransmits)
    if not inode:
        return Accepted(*ends)
    offset = start + ROW.size
    while end - offset >= ATTRIBUTE.size + DATA.size:  # as attributes() does, but for its price
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if kind & NLA_TYPE_MASK == INET_DIAG_INFO and size >= ATTRIBUTE.size + DATA.size:
            sent_ago, received_ago, received, sent = DATA.unpack_from(data, offset + ATTRIBUTE.size)
            return Accepted(*ends, sent, received, sent_ago / 1000, received_ago / 1000)
        if size < ATTRIBUTE.size:
            raise Interrupted("sock_diag: half an attribute")
        offset += size + 3 & ~3
    raise Refused("sock_diag: this kernel does not tell how much a connection was sent")


def request(
    family: int,
    extension: int,
    states: int,
    port: int,
    remote_port: int = 0,
    local: bytes = b"",
    remote: bytes = b"",
    device: int = 0,
    cookie: int = 0,
) -> bytes:
    """An inet_diag_req_v2: of a dump if only the port is given, else of one exact connection."""
    # fmt: off
    return BODY.pack(
        family, IPPROTO_TCP, 1 << extension - 1, 0, states,
        htons(port), htons(remote_port), local, remote, device, cookie, cookie,
    )
    # fmt: on


def endpoints(server: str, client: str) -> tuple[int, bytes, bytes, int]:
    """The family, both addresses in binary, and the interface that the server's socket may be
    bound to: its zone, or else `lo`, by which everything comes that we send to ourselves.
    """
    local, _, zone = server.partition("%")
    remote, _, other = client.partition("%")
    zone = zone or other
    family = AF_INET6 if ":" in local else AF_INET
    try:
        device = (
            LOOPBACK_DEVICE if not zone else int(zone) if zone.isdigit() else if_nametoindex(zone)
        )
        return family, inet_pton(family, local), inet_pton(family, remote), device
    except OSError:
        raise ValueError(f"not two addresses of one family: {server} and {client}") from None


def connect() -> socket:
    """A netlink socket that hears nobody but the kernel."""
    try:
        netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG)
        try:
            netlink.setsockopt(SOL_SOCKET, SO_RCVTIMEO, TIMEVAL.pack(0, int(TIMEOUT * 1e6)))
            netlink.connect((0, 0))
        except OSError:
            netlink.close()
            raise
    except OSError as error:
        raise denial("sock_diag", error.errno or 0) from None
    return netlink


class Channel:
    """One netlink socket, kept, with one request at a time.

    It asks about the network namespace that the thread was in when the socket was opened. That
    happens again after an interrupted answer, and in a forked child with its first request: two
    processes on one socket would read each other's answers.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(BUFFER)
        self._sequence = 0
        self._owner = os.getpid()
        self._socket: socket | None = connect()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, flags: int, body: bytes, decode: Decode[Record]) -> list[Record]:
        """Send a request and decode the whole answer; ask again when that is interrupted."""
        for _ in range(TRIES - 1):
            try:
                return self._ask(flags, body, decode)
            except Interrupted:
                pass
        return self._ask(flags, body, decode)

    def _ask(self, flags: int, body: bytes, decode: Decode[Record]) -> list[Record]:
        return [row for rows in self.batches(flags, body, decode) for row in rows]

    def batches(self, flags: int, body: bytes, decode: Decode[Record]) -> Iterator[list[Record]]:
        """Send a request and decode the answer, as many rows at a time as the kernel sends.

        Raises Interrupted in the middle of it: what has come so far is then worth nothing.
        """
        if self._socket is None or self._owner != os.getpid():
            self._owner, self._socket = os.getpid(), connect()
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        header = HEADER.pack(
            HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | flags, self._sequence, 0
        )
        try:
            self._socket.send(header + body)
            complete = False
            while not complete:
                length = self._socket.recv_into(self._buffer, 0, MSG_TRUNC)
                if not 0 < length <= BUFFER:
                    raise Interrupted("sock_diag: an answer cut short")
                rows: list[Record] = []
                complete = parse(self._buffer, length, self._sequence, decode, rows)
                yield rows
        except Interrupted:
            self.close()  # and what is left of the answer with it
            raise
        except BlockingIOError:
            self.close()
            raise Interrupted(f"sock_diag: no answer within {TIMEOUT} s") from None
        except OSError as error:
            self.close()
            raise failure(error.errno or 0) from None

    def dump(
        self, extension: int, states: int, port: int, decode: Decode[Record]
    ) -> tuple[Record, ...]:
        """The sockets of both families in these states; port 0 means all ports."""
        rows: list[Record] = []
        for family in (AF_INET, AF_INET6):
            body = request(family, extension, states, port)
            try:
                rows += self.ask(NLM_F_DUMP, body, decode)
            except KernelError as error:
                if error.errno == errno.ENOENT:
                    raise Refused("sock_diag: this kernel has no tcp_diag") from None
                raise
        return tuple(rows)


def at_most(most: int, decode: Decode[Record]) -> Decode[Record]:
    """The same decoding, of so many rows; of one more it raises Crowded."""
    left = most

    def counted(data: Bytes, start: int, end: int) -> Record:
        nonlocal left
        if not left:
            raise Crowded(most)
        left -= 1
        return decode(data, start, end)

    return counted


def age(child: Connection) -> float:
    """Seconds in the accept queue: a child has sent nothing since the kernel made it, and will
    not until it is accepted.
    """
    return child.last_data_sent or 0.0


class SockDiag:
    """The KernelView of sock_diag: it needs no privilege.

    Walks of the whole table (`queued`, `head`, `connections`, `accepted`) use a socket of their
    own each time, so that they may be made in another thread.
    """

    name = "sock_diag"

    def __init__(self) -> None:
        """Raises Refused where the kernel does not answer this process."""
        self._channel = Channel()
        try:
            # Only a dump tells 'no module tcp_diag' from 'no such connection'.
            self.listeners(port=1)
        except CannotTell:
            self.close()
            raise

    def close(self) -> None:
        self._channel.close()

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        decode = decode_listener if most is None else at_most(most, decode_listener)
        try:
            return self._channel.dump(INET_DIAG_SKMEMINFO, LISTENERS, port or 0, decode)
        except Crowded:
            self._channel.close()  # and what is left of the answer with it
            raise

    def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
        family, local, remote, device = endpoints(server[0], client[0])
        body = request(
            family, INET_DIAG_INFO, 0, server[1], client[1], local, remote, device, NO_COOKIE
        )
        try:
            rows = self._channel.ask(0, body, decode_connection)
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        if len(rows) != 1:
            raise Interrupted("sock_diag: an answer without a row")
        return rows[0]

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        queue = (child for child in self._children(port, hosts, WAITING) if child.queued)
        return tuple(sorted(queue, key=age, reverse=True))

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        began = monotonic()
        before = self._length(port, hosts)
        queue = self.queued(port, hosts)
        # An age is that of the moment when the walk came by.
        blur = monotonic() - began + TICK
        # Has every place a row? Whoever came meanwhile may have been seen or not, and then it is
        # enough that the places of before are no more than the rows of before.
        settled = sum(age(row) > blur for row in queue)
        if (
            not presumed
            and settled < before
            and len(queue) < max(before, self._length(port, hosts))
        ):
            return ()
        return tuple(row for row in queue if age(row) >= age(queue[0]) - blur)

    def _length(self, port: int, hosts: tuple[str, ...]) -> int:
        """How many are queued at the listeners of a port, those without a row among them."""
        return sum(listener.length for listener in reached(hosts, self._listeners(port)))

    def connections(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        return self._children(port, hosts, CHILDREN)

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        is_theirs = tell_apart(hosts, self._listeners(port)) if hosts else None
        channel = Channel()
        try:
            for family in (AF_INET, AF_INET6):
                body = request(family, INET_DIAG_INFO, OPEN, port)
                for rows in channel.batches(NLM_F_DUMP, body, decode_accepted):
                    for row in rows:
                        if row.inode and (not is_theirs or is_theirs(text(family, row.local))):
                            yield row
        finally:
            channel.close()

    def _children(self, port: int, hosts: tuple[str, ...], states: int) -> tuple[Connection, ...]:
        rows = self._alone(INET_DIAG_INFO, states, port, decode_connection)
        return belonging(hosts, rows, self._listeners(port)) if hosts else rows

    def _listeners(self, port: int) -> tuple[Listener, ...]:
        return self._alone(INET_DIAG_SKMEMINFO, LISTENERS, port, decode_listener)

    def _alone(
        self, extension: int, states: int, port: int, decode: Decode[Record]
    ) -> tuple[Record, ...]:
        """A dump on a socket of its own."""
        channel = Channel()
        try:
            return channel.dump(extension, states, port, decode)
        finally:
            channel.close()
