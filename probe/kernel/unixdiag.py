"""Unix sockets, asked of sock_diag: the accept queue of a listener, and who waits in it.

Layouts and numbers are those of linux/unix_diag.h; what they mean, of net/unix/diag.c and af_unix.c
(measured on Linux 6.18). All of it is told to anyone in the network namespace that a socket was
made in. What is otherwise than with TCP:

- Full means length > limit, as there, and then connect() waits, or fails with EAGAIN. Nothing is
  dropped.
- UNIX_DIAG_ICONS is the queue in its order, first in, first out: the inode of each client, 0 for
  one that has closed its end, whose entry stays until it is accepted.
- A connection has neither ages nor counts of bytes.
- A socket has its path as its maker wrote it, which may lie in another mount namespace. Which file
  it is, device and inode tell.
- A question by inode goes through the table of the namespace, 22 us; the listeners of it all are
  told in 70 us, 10,000 connections beside them or not.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from stat import S_ISSOCK
from struct import Struct

from probe.display import printable
from probe.imports.socket_lite import AF_UNIX
from probe.imports.typing_lite import NamedTuple
from probe.kernel import Blind, CannotTell, Interrupted, KernelError, KernelView, Refused
from probe.kernel.procfs import Counters
from probe.kernel.sampler import ListenTable, Sampler, dumped
from probe.kernel.sockdiag import NLM_F_DUMP, NO_COOKIE, U32, Bytes, Channel, attributes
from probe.model import Accepted, Connection, Listener, Protocol, Target, TcpState

SHOW_NAME, SHOW_FILE, SHOW_PEER, SHOW_WAITING, SHOW_LENGTH, SHOW_UID = 1, 2, 4, 8, 16, 64
"""UDIAG_SHOW_NAME, _VFS, _PEER, _ICONS, _RQLEN, _UID"""
NAME, FILE, PEER, WAITING, LENGTH, SHUTDOWN, UID = 0, 1, 2, 3, 4, 6, 7
"""UNIX_DIAG_NAME, _VFS, _PEER, _ICONS, _RQLEN, _SHUTDOWN, _UID"""

REQUEST = Struct("=BBHIIIII")
"""unix_diag_req: family, protocol, pad, states, inode, show, cookie"""
ROW = Struct("=BBBBIII")
"""unix_diag_msg: family, type, state, pad, inode, cookie"""
PAIR = Struct("=II")
"""unix_diag_vfs: inode, device; unix_diag_rqlen: rqueue, wqueue"""

EVERY_STATE = 0xFFFFFFFF
BOTH_WAYS = 3
"""SHUTDOWN_MASK: the other end was closed."""

IDENTITY = SHOW_NAME | SHOW_FILE | SHOW_LENGTH | SHOW_UID
QUEUE = IDENTITY | SHOW_WAITING
CONNECTION = SHOW_NAME | SHOW_FILE | SHOW_PEER | SHOW_LENGTH
GONE = 0
"""The inode of a client in a queue that has closed its end."""
NO_FILE = "there is no such file"


class Row(NamedTuple):
    """One unix socket. What was not asked for, or is not told, is None or empty."""

    state: int
    inode: int
    cookie: int
    name: str = ""
    """Its path as it was bound, `@name` for an abstract one."""
    file: tuple[int, int] | None = None
    """The inode, of which 32 bits are told, and the device of its path."""
    peer: int | None = None
    """The inode of the other end; 0 for one that waits to be accepted, or was closed."""
    waiting: tuple[int, ...] | None = None
    """A listener's queue: the inodes of the clients, the oldest first; 0 for one that has left."""
    length: int = 0
    """Of a listener, connections that wait; else unread bytes."""
    limit: int = 0
    shutdown: int = 0
    uid: int = 0


def decode(data: Bytes, start: int, end: int) -> Row:
    if end - start < ROW.size:
        raise Interrupted("unix_diag: half a row")
    _, _, state, _, inode, cookie_low, cookie_high = ROW.unpack_from(data, start)
    name, file, peer, waiting = "", None, None, None
    length = limit = shutdown = uid = 0
    for attribute, value, stop in attributes(data, start + ROW.size, end):
        size = stop - value
        if attribute == NAME:
            name = written(bytes(data[value:stop]))
        elif attribute == FILE and size >= PAIR.size:
            file = PAIR.unpack_from(data, value)
        elif attribute == PEER and size >= U32.size:
            (peer,) = U32.unpack_from(data, value)
        elif attribute == WAITING:
            waiting = tuple(
                U32.unpack_from(data, at)[0] for at in range(value, stop - U32.size + 1, U32.size)
            )
        elif attribute == LENGTH and size >= PAIR.size:
            length, limit = PAIR.unpack_from(data, value)
        elif attribute == SHUTDOWN and size:
            shutdown = data[value]
        elif attribute == UID and size >= U32.size:
            (uid,) = U32.unpack_from(data, value)
    cookie = cookie_high << 32 | cookie_low
    # fmt: off
    return Row(
        state, inode, cookie, name, file, peer, waiting, length, limit, shutdown, uid
    )
    # fmt: on


def written(name: bytes) -> str:
    """The kernel's name of a socket as people write it: abstract ones begin with an @. Whoever made
    it may have chosen any bytes, so it is made printable.
    """
    shown = b"@" + name[1:] if name[:1] == b"\0" else name.partition(b"\0")[0]
    return printable(shown.decode(errors="backslashreplace"))


def request(states: int, show: int, inode: int = 0, cookie: int | None = None) -> bytes:
    """A unix_diag_req: of a dump without an inode, else of that one socket."""
    low, high = (NO_COOKIE, NO_COOKIE) if cookie is None else (cookie & 0xFFFFFFFF, cookie >> 32)
    return REQUEST.pack(AF_UNIX, 0, 0, states, inode, show, low, high)


def taken(before: Sequence[int], after: Sequence[int]) -> int | None:
    """How many connections were accepted between two sights of a queue; None: it is not told.

    Entries leave it at the front alone, and one whose client has left stays where it is. So any
    client that is in both tells by how much the queue has moved.
    """
    places = {client: place for place, client in enumerate(after) if client}
    for place, client in enumerate(before):
        if client in places:
            moved = place - places[client]
            return moved if moved >= 0 else None
    return None


def dump(channel: Channel, states: int, show: int) -> list[Row]:
    """The unix sockets of the namespace in these states. Raises Refused where there is no
    unix_diag.

    A row that is longer than a datagram ends the kernel's answer without a word, and hides those
    behind it (unix_diag_dump): so what was not found together with the queues is looked for again.
    """
    try:
        return channel.ask(NLM_F_DUMP, request(states, show), decode)
    except KernelError as error:
        if error.errno == errno.ENOENT:
            raise Refused("sock_diag: this kernel has no unix_diag") from None
        raise


def exact(channel: Channel, show: int, inode: int, cookie: int | None = None) -> Row | None:
    """One socket; None where there is no such any more."""
    try:
        rows = channel.ask(0, request(EVERY_STATE, show, inode, cookie), decode)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # ESTALE: its number was given anew
            return None
        raise
    if len(rows) != 1:
        raise Interrupted("unix_diag: an answer without a row")
    return rows[0]


def with_queue(channel: Channel, inode: int, cookie: int) -> Row | None:
    """A listener with its queue; without it, where that is longer than the kernel can tell: 8,000
    connections (a datagram of unix_diag_dump) of it, or of a listener beside it.
    """
    try:
        return exact(channel, QUEUE, inode, cookie)
    except KernelError as error:
        if error.errno != errno.EMSGSIZE:  # a thousand: a page of unix_diag_get_exact
            raise
    for row in dump(channel, 1 << TcpState.LISTEN, QUEUE):
        if row.cookie == cookie:
            return row
    return exact(channel, IDENTITY, inode, cookie)


def listener(row: Row) -> Listener:
    """The record of a listener: without drops, since nothing is dropped."""
    # fmt: off
    return Listener(
        AF_UNIX, row.name, 0, row.cookie, row.length, row.limit, None, row.inode, row.uid
    )
    # fmt: on


def listeners(channel: Channel) -> tuple[Listener, ...]:
    """Every listening unix socket of the namespace, in the order of their names."""
    rows = dump(channel, 1 << TcpState.LISTEN, IDENTITY)
    return tuple(sorted(map(listener, rows), key=lambda one: one.address))


class UnixView:
    """The KernelView of one unix socket, told by its path. It needs no privilege but that to find
    the path; a port and hosts mean nothing to it.

    A client is told by the inode of its socket: `("", inode)`.
    """

    name = "sock_diag"

    def __init__(self, path: str, *, from_afar: bool = False) -> None:
        """`from_afar`: where the path leads nowhere here, a listener that was bound to that path in
        another mount namespace will do; nobody can connect to it. Raises CannotTell.
        """
        self.path = path
        self.accepts = 0
        """Connections that were accepted from one `listeners` to the next, at most, in all."""
        self.absence = ""
        """Why there was no listener at the last `listeners`."""
        self._from_afar = from_afar
        self._channel = Channel()
        self._file: tuple[int, int] | None = None
        """The path's device and inode, when it was found last."""
        self._row: Row | None = None
        try:
            dump(self._channel, 1 << TcpState.LISTEN, SHOW_LENGTH)
        except CannotTell:
            self.close()
            raise

    def close(self) -> None:
        self._channel.close()

    # --- the listener

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        before = self._row
        self._row = self._find()
        self._count(before, self._row)
        return () if self._row is None else (listener(self._row),)

    def _find(self) -> Row | None:
        """The listener with its queue, by one exact question while it is the same one."""
        self.absence, channel = "", self._channel
        file = self._locate()
        known = self._row
        if known is not None and self._file == file:
            found = with_queue(channel, known.inode, known.cookie)
            if found is not None and found.state == TcpState.LISTEN:
                return found
        rows = dump(channel, 1 << TcpState.LISTEN, IDENTITY)
        found = self._pick(rows, file)
        if file is not None:
            self._file = file
        return None if found is None else with_queue(channel, found.inode, found.cookie)

    def _locate(self) -> tuple[int, int] | None:
        """The inode and the device of the path, as unix_diag has them; None: it is abstract, or
        leads nowhere. Raises Refused where that may not be known.
        """
        if self.path.startswith("@"):
            return None
        try:
            status = os.stat(self.path)  # noqa: PTH116 - pathlib costs what `check` cannot pay
        except (FileNotFoundError, NotADirectoryError):
            self.absence = NO_FILE
            return None
        except OSError as error:
            raise Refused(f"{self.path}: {error.strerror}") from None
        if not S_ISSOCK(status.st_mode):
            self.absence = "it is no socket"
            return None
        self.absence = "nobody listens on it"
        device = os.major(status.st_dev) << 20 | os.minor(status.st_dev)
        return status.st_ino & 0xFFFFFFFF, device

    def _pick(self, rows: list[Row], file: tuple[int, int] | None) -> Row | None:
        """The one that is meant."""
        if self.path.startswith("@"):
            return next((row for row in rows if row.name == self.path), None)
        if file is not None:
            bound = (row for row in rows if row.file == file)
            # btrfs, for one, tells stat(2) another device than its sockets have.
            name = self.path.rpartition("/")[2]
            alike = (
                row
                for row in rows
                if row.file and row.file[0] == file[0] and row.name.rpartition("/")[2] == name
            )
            return next(bound, None) or next(alike, None)
        namesakes = [row for row in rows if row.name == self.path]
        if self._file is not None or self.absence != NO_FILE or not namesakes:
            return None
        if not self._from_afar:
            raise Refused(
                f"{self.path} is bound in another mount namespace: share its directory as a volume"
            )
        if len(namesakes) > 1:
            raise Refused(
                f"{len(namesakes)} sockets are bound to {self.path}, in other mount namespaces"
            )
        return namesakes[0]

    def _count(self, before: Row | None, after: Row | None) -> None:
        """Count what was accepted; what cannot be told may have been one."""
        if after is None or (
            before is not None and before.cookie == after.cookie and before.length == 0
        ):
            return
        moved = None
        if before is not None and before.cookie == after.cookie:
            moved = taken(before.waiting or (), after.waiting or ())
        self.accepts += 1 if moved is None else moved

    # --- connections

    def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
        """The server's side of one connection, told by the inode of its client. None: there is
        none any more. While it waits it has no inode, as with TCP.
        """
        channel, inode = self._channel, client[1]
        if inode == GONE:
            return self._queued(GONE) if self._waiting()[:1] == (GONE,) else None
        ours = exact(channel, SHOW_PEER, inode)
        if ours is None or ours.peer is None:
            return None
        if not ours.peer:
            return None if ours.shutdown == BOTH_WAYS else self._queued(inode)
        theirs = exact(channel, SHOW_LENGTH, ours.peer)
        return self._queued(inode)._replace(
            inode=ours.peer, rqueue=0 if theirs is None else theirs.length
        )

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        return tuple(self._queued(client) for client in self._waiting() if client)

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        """As of any view; where all clients have left, the `presumed` head is one of those."""
        waiting = self._waiting()
        first = next(filter(None, waiting if presumed else waiting[:1]), GONE)
        return (self._queued(first),) if first or (presumed and waiting) else ()

    def connections(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        accepted = (
            self._queued(row.peer or 0)._replace(
                state=TcpState.ESTABLISHED if row.peer else TcpState.CLOSE_WAIT,
                cookie=row.cookie,
                inode=row.inode,
                rqueue=row.length,
            )
            for row in self._accepted()
        )
        return (*self.queued(port), *accepted)

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        """Nothing tells how much data went which way, or when. While its client is there, a
        connection counts as one that has received more than lies unread, and was sent nothing: it
        may be worked on.
        """
        for row in self._accepted():
            yield Accepted(
                TcpState.ESTABLISHED if row.peer else TcpState.CLOSE,
                AF_UNIX,
                b"",
                b"",
                row.peer or 0,
                row.cookie,
                row.inode,
                row.length,
                received=row.length + 1 if row.peer else 0,
            )

    def _queued(self, client: int) -> Connection:
        bound = self.path if self._row is None else self._row.name
        return Connection(TcpState.ESTABLISHED, AF_UNIX, (bound, 0), ("", client), client, 0, 0, 0)

    def _waiting(self) -> tuple[int, ...]:
        """The clients in the queue, as `Row.waiting` has them."""
        known = self._row
        if known is None:
            return ()
        channel = Channel()  # another thread may ask
        try:
            row = with_queue(channel, known.inode, known.cookie)
        finally:
            channel.close()
        if row is None:
            return ()
        if row.waiting is None and row.length:
            raise Refused(f"the kernel does not tell which {row.length} connections are queued")
        return row.waiting or ()

    def _accepted(self) -> list[Row]:
        """The connections of the listener that a process has a descriptor of."""
        known = self._row
        if known is None:
            return []
        channel = Channel()
        try:
            every = dump(channel, 1 << TcpState.ESTABLISHED, CONNECTION)
        finally:
            channel.close()
        ours = known.name, known.file  # They have those of the listener.
        return [row for row in every if row.inode and (row.name, row.file) == ours]


class UnixSampler(Sampler):
    """Samples of one unix socket: its accepts are told by its own queue, of itself alone."""

    def __init__(self, view: UnixView) -> None:
        super().__init__(view, None)
        self._unix = view

    def _dump(self, port: int | None, now: float) -> ListenTable:
        listeners = self._unix.listeners()
        return dumped(now, listeners, self._unix.accepts)._replace(absence=self._unix.absence)

    def _figure(self, read: Callable[[Counters], int]) -> int | None:
        return 0  # No connection is ever reset: it stays until the application closes it.


def open_socket(path: str, *, from_afar: bool = False) -> KernelView:
    """The view of a unix socket; where the kernel refuses to tell of those, one that says so.
    Raises CannotTell only for a passing shortage.
    """
    try:
        return UnixView(path, from_afar=from_afar)
    except Refused as refused:
        return Blind(str(refused))


def open_sampler(target: Target) -> Sampler:
    """The sampler of a target on a unix socket, and with it its view. Raises as `open_socket`."""
    # Who asks nothing needs no way to it.
    view = open_socket(target.socket, from_afar=target.protocol is Protocol.QUEUE)
    return UnixSampler(view) if isinstance(view, UnixView) else Sampler(view, None)
