"""/proc/net: the counters of the network namespace, and a poor man's view of its sockets.

The files are those of the calling thread's network namespace at the time they are opened; the
descriptors are kept, and stay with that namespace. Formats: proc_net_tcp.rst of the kernel's
documentation, and net/ipv4/proc.c.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import pack

from probe.imports.socket_lite import AF_INET, AF_INET6, inet_ntop
from probe.imports.typing_lite import NamedTuple
from probe.kernel import CannotTell, Crowded, Interrupted, Refused, denial
from probe.kernel.hosts import belonging
from probe.model import Accepted, Connection, Listener, TcpState

CHUNK = 1 << 16
CLOSED = -1
"""A descriptor that no file has."""
LISTEN = TcpState.LISTEN
NOT_CHILDREN = (TcpState.SYN_SENT, TcpState.CLOSE, LISTEN)


class NamespaceCounters(NamedTuple):
    """What the network namespace has counted so far, over all its sockets.

    `listen_drops` counts every cause, `listen_overflows` those of a full accept queue.
    """

    passive_opens: int
    listen_overflows: int
    listen_drops: int


def open_file(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise denial(path, error.errno or 0) from None


def read_chunk(descriptor: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, CHUNK, offset)
    except OSError as error:
        raise Interrupted(f"/proc/net: {os.strerror(error.errno or 0)}") from None


def counter(data: bytes, group: bytes, name: bytes) -> int:
    """One figure of a file in which a line of names is followed by a line of values."""
    try:
        names, values = (line.split() for line in data.split(b"\n") if line.startswith(group))
        return int(values[names.index(name)])
    except (ValueError, IndexError):
        # gVisor has the line of names in netstat, and none of values.
        raise Refused(f"/proc/net: this kernel does not count {name.decode()}") from None


EPHEMERAL = range(32768, 61000)
"""What the kernel gives out where nobody has said otherwise (ip-sysctl.rst)."""


def ephemeral_ports(proc: str = "/proc") -> range:
    """The ports that this network namespace gives to who names none (ip_local_port_range)."""
    try:
        with open(f"{proc}/sys/net/ipv4/ip_local_port_range", "rb") as file:  # noqa: PTH123
            first, last = map(int, file.read(64).split())
    except (OSError, ValueError):
        return EPHEMERAL
    return range(first, last + 1)


class Counters:
    """PassiveOpens, ListenOverflows and ListenDrops, by kept descriptors.

    `proc` is where procfs is mounted. Raises Refused where a file or a figure is missing.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._snmp = open_file(f"{proc}/thread-self/net/snmp")
        try:
            self._netstat = open_file(f"{proc}/thread-self/net/netstat")
        except CannotTell:
            os.close(self._snmp)
            raise

    def passive_opens(self) -> int:
        """Connections that came in so far: a quarter of the cost of `read()`."""
        return counter(read_chunk(self._snmp, 0), b"Tcp:", b"PassiveOpens")

    def resets(self) -> int:
        """Connections that were reset while established, by either side, so far (EstabResets)."""
        return counter(read_chunk(self._snmp, 0), b"Tcp:", b"EstabResets")

    def read(self) -> NamespaceCounters:
        """All three figures, of this moment."""
        netstat = read_chunk(self._netstat, 0)
        return NamespaceCounters(
            self.passive_opens(),
            counter(netstat, b"TcpExt:", b"ListenOverflows"),
            counter(netstat, b"TcpExt:", b"ListenDrops"),
        )

    def close(self) -> None:
        files, self._snmp, self._netstat = (self._snmp, self._netstat), CLOSED, CLOSED
        for descriptor in files:
            if descriptor != CLOSED:
                os.close(descriptor)


def endpoint(field: bytes) -> tuple[str, int]:
    """Decode 0100007F:1F90: the address in words of the machine's byte order, and the port."""
    digits, port = field.split(b":")
    family = {8: AF_INET, 32: AF_INET6}.get(len(digits))
    if family is None:
        raise ValueError(field)
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    return inet_ntop(family, pack(f"={len(digits) // 8}I", *words)), int(port, 16)


def parse(line: bytes) -> tuple[Connection, int]:
    """A line of /proc/net/tcp or tcp6, and the uid in it; Interrupted if it is not one.

    The cookie of a listener is its inode, that of a connection a hash of its two ends: the best
    there is to tell one from another.
    """
    try:
        _, local, remote, state, queues, _, retransmits, uid, _, inode = line.split()[:10]
        wqueue, rqueue = queues.split(b":")
        ends = hash(int((local + remote).replace(b":", b""), 16))
        connection = Connection(
            int(state, 16),
            AF_INET if len(local) < 32 else AF_INET6,
            endpoint(local),
            endpoint(remote),
            int(inode) if int(state, 16) == LISTEN else ends,
            int(inode),
            int(rqueue, 16),
            int(wqueue, 16),
            int(retransmits, 16),
        )
        return connection, int(uid)
    except (ValueError, OSError):
        raise Interrupted("/proc/net/tcp: not a line of it") from None


def rows(descriptor: int) -> Iterator[tuple[Connection, int]]:
    """The lines of a file but for its title, read no further than they are asked for."""
    offset, rest, title = 0, b"", True
    while chunk := read_chunk(descriptor, offset):
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not title:
                yield parse(line)
            title = False
    if rest:
        raise Interrupted("/proc/net/tcp: half a line at its end")


def plain(end: tuple[str, int]) -> tuple[str, int]:
    """An address as both families may write it: without a zone, and IPv4 as IPv4."""
    return end[0].partition("%")[0].removeprefix("::ffff:"), end[1]


class ProcNet:
    """The KernelView of /proc/net/tcp and tcp6, for where sock_diag is refused.

    Limits and drops are unknown, cookies are inodes. `listeners` reads no further than the first
    row that is not one, since Linux lists them first; to find that row the kernel may have to go
    through its table of connections all the same, which takes milliseconds. `lookup` needs every
    row, and reads them only if `walk` says that this is acceptable.
    """

    name = "procfs"

    def __init__(self, proc: str = "/proc", *, walk: bool = False) -> None:
        """Raises Refused also where the files are there but say nothing.

        gVisor has them, with all lengths 0 and the listeners anywhere; it has no counters either,
        and those it does not pretend to have.
        """
        counters = Counters(proc)
        try:
            counters.read()
        finally:
            counters.close()
        self._walk = walk
        self._files: list[int] = []
        try:
            self._files.append(open_file(f"{proc}/thread-self/net/tcp"))
            if os.access(f"{proc}/thread-self/net/tcp6", os.F_OK):  # not in a kernel without IPv6
                self._files.append(open_file(f"{proc}/thread-self/net/tcp6"))
        except CannotTell:
            self.close()
            raise

    def close(self) -> None:
        files, self._files = self._files, []
        for descriptor in files:
            os.close(descriptor)

    def listeners(
        self, port: int | None = None, *, most: int | None = None
    ) -> tuple[Listener, ...]:
        found: list[Listener] = []
        for descriptor in self._open_files():
            for row, uid in rows(descriptor):
                if row.state != LISTEN:
                    break
                if port in (None, row.local[1]):
                    if len(found) == most:
                        raise Crowded(most)
                    # fmt: off
                    found.append(Listener(
                        row.family, *row.local, row.cookie, row.rqueue, None, None, row.inode, uid
                    ))
                    # fmt: on
        return tuple(found)

    def lookup(self, client: tuple[str, int], server: tuple[str, int]) -> Connection | None:
        """As of any view, but that the wqueue of a listener is 0 and not its limit."""
        if not self._walk:
            raise CannotTell("/proc/net/tcp: one connection takes reading all of them")
        local, remote = plain(server), plain(client)
        takers = [(host, local[1]) for host in (local[0], "0.0.0.0", "::")]
        listener = None
        for row in self._all():
            if (plain(row.local), plain(row.remote)) == (local, remote):
                return row
            if row.state == LISTEN and plain(row.local) in takers:
                listener = row
        return listener

    def queued(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        """Always CannotTell: nothing in /proc says which is the oldest."""
        raise CannotTell("/proc/net/tcp: the order of the accept queue is not in it")

    def head(
        self, port: int, hosts: tuple[str, ...] = (), *, presumed: bool = False
    ) -> tuple[Connection, ...]:
        """Always CannotTell, as queued() is."""
        return self.queued(port)

    def connections(self, port: int, hosts: tuple[str, ...] = ()) -> tuple[Connection, ...]:
        children = tuple(
            row for row in self._all() if row.local[1] == port and row.state not in NOT_CHILDREN
        )
        return belonging(hosts, children, self.listeners(port)) if hosts else children

    def accepted(self, port: int, hosts: tuple[str, ...] = ()) -> Iterator[Accepted]:
        """Always CannotTell: what was sent, and when, is not in /proc."""
        raise CannotTell("/proc/net/tcp: what connections were sent is not in it")

    def _all(self) -> Iterator[Connection]:
        for descriptor in self._open_files():
            for row, _ in rows(descriptor):
                yield row

    def _open_files(self) -> list[int]:
        if not self._files:
            raise CannotTell("/proc/net/tcp: the view is closed")
        return self._files
