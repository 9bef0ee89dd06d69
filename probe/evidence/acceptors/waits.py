"""Which sockets a sleeping thread waits for, read from its system call's arguments.

accept names a descriptor; poll and select point at arrays in the process's memory, which is read
nowhere else; epoll and io_uring are told by the kernel in /proc/PID/fdinfo (proc(5)).
"""

import contextlib
import os
import re
import select
import socket
import struct
from types import TracebackType
from typing import NamedTuple, Self

from probe.evidence.acceptors import syscalls
from probe.evidence.acceptors.owners import EPOLL, Descriptors
from probe.evidence.proc.tasks import Gone, link, read, socket_link
from probe.evidence.records.audit import ThreadState

READABLE = select.EPOLLIN | select.EPOLLRDNORM
PRIVATE = 0xF << 28
"""EPOLLET, EPOLLONESHOT, EPOLLWAKEUP, EPOLLEXCLUSIVE: all that a disarmed entry keeps."""
ENTRY = re.compile(
    rb"tfd: *(\d+) events: *([0-9a-f]+) +data: *[0-9a-f]+ +pos:\S+ ino:([0-9a-f]+) sdev:([0-9a-f]+)"
)
MAX_ENTRIES = 50_000
"""An epoll instance's entries are printed under its lock, 35 ms for 20,000; so not above this."""
ENTRY_BYTES = 80
LARGE = 1 << 16
"""Bytes of fdinfo from which on an instance is read once in an audit, not once in a sample."""
MAX_NESTED = 5
"""Deeper the kernel does not nest epoll instances (EP_MAX_NESTS in fs/eventpoll.c)."""
MAX_DESCRIPTORS = 4096
"""How many descriptors of one poll or select are resolved; each costs a readlink."""
POLLFD = struct.Struct("=ihh")
ARMED = re.compile(rb"^\s*op=(?:6|13),", re.MULTILINE)
"""In a ring's PollList: IORING_OP_POLL_ADD or IORING_OP_ACCEPT (include/uapi/linux/io_uring.h)."""


class Decision(NamedTuple):
    """What one thread does about one socket, in one sample."""

    decided: ThreadState
    how: str = ""
    why: str = ""


class Undecidable(Exception):
    """It cannot be known what is waited for; str() says why."""


def _device(status: os.stat_result) -> int:
    """A device number the way the kernel prints it in fdinfo."""
    return os.major(status.st_dev) << 20 | os.minor(status.st_dev)


def _devices() -> tuple[int, int]:
    """Where sockets and where epoll instances live; inodes are unique only within a device."""
    with socket.socket() as any_socket, select.epoll() as any_epoll:
        return _device(os.fstat(any_socket.fileno())), _device(os.fstat(any_epoll.fileno()))


def entry_decides(events: int) -> Decision:
    """What an entry of an epoll instance does for whoever sleeps on that instance."""
    if not events & ~PRIVATE:
        return Decision(ThreadState.NOT_WAITING, why="its epoll entry is one-shot and disarmed")
    if not events & READABLE:
        return Decision(ThreadState.NOT_WAITING, why="its epoll entry does not ask for connections")
    if events & select.EPOLLET:
        return Decision(ThreadState.WATCHING, why="edge-triggered")
    return Decision(ThreadState.WAITING)


_WEIGHT = {ThreadState.NOT_WAITING: 0, ThreadState.WATCHING: 1, ThreadState.WAITING: 2}


def _weaker(one: Decision, other: Decision) -> Decision:
    return min(one, other, key=lambda decision: _WEIGHT[decision.decided])


def _stronger(one: Decision, other: Decision) -> Decision:
    return max(one, other, key=lambda decision: _WEIGHT[decision.decided])


class EpollInstances:
    """What the large epoll instances hold; lives as long as an audit, so that each is read once."""

    def __init__(self) -> None:
        self.large: dict[tuple[int, int], dict[int, Decision]] = {}
        self.too_large: set[tuple[int, int]] = set()
        self.sockets, self.epolls = _devices()


class ProcessView:
    """One process in one sample: what its threads' system calls wait for.

    A context manager, since it may hold the process's memory open. Errors of single reads come
    out as Undecidable; a process that is gone as FileNotFoundError or ProcessLookupError.
    """

    def __init__(
        self, proc: str, pid: int, files: Descriptors, sockets: frozenset[int], kept: EpollInstances
    ) -> None:
        self.proc = proc
        self.pid = pid
        self._files = files
        self._sockets = {socket_link(inode): inode for inode in sockets}
        self._kept = kept
        self._links: dict[int, str] = {}
        self._epolls: dict[int, dict[int, Decision]] = {}
        self._arrays: dict[tuple[int, ...], dict[int, Decision]] = {}
        self._memory: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    def awaited(self, tid: int, call: str, arguments: tuple[int, ...]) -> dict[int, Decision]:
        """By inode, what a thread in this system call does about our sockets; {}: nothing."""
        if call in syscalls.ACCEPT:
            return self._on(tid, _descriptor(arguments[0]))
        if call in syscalls.EPOLL:
            return self._epoll(tid, _descriptor(arguments[0]))
        if call in syscalls.POLL or call in syscalls.SELECT:
            key = (call in syscalls.POLL, *arguments[:2])
            if key not in self._arrays:
                read_array = self._poll if call in syscalls.POLL else self._select
                self._arrays[key] = self._any(tid, read_array(tid, *arguments[:2]))
            return self._arrays[key]
        return {}

    def edges(self) -> set[int]:
        """The sockets that some epoll instance watches edge-triggered, whoever sleeps on it.

        Go and others sleep elsewhere and look at it now and then. What cannot be read is left out:
        a thread that slept on it was said to be unknown.
        """
        watched = set()
        for fd in self._files.epolls:
            with contextlib.suppress(Undecidable):
                for inode, decision in self._epoll(self.pid, fd).items():
                    if decision.decided is ThreadState.WATCHING:
                        watched.add(inode)
        return watched

    def ring(self) -> str:
        """Why an io_uring of the process may be accepting where no system call shows it, or ""."""
        for fd in self._files.rings:
            try:
                told = read(f"{self.proc}/{self.pid}/fdinfo/{fd}", LARGE)
            except Gone:
                continue
            except OSError as error:
                return f"its io_uring cannot be read: {error.strerror}"
            if b"PollList:" not in told:
                return "the kernel does not tell what its io_uring waits for"
            if ARMED.search(told):
                return "its io_uring has an accept or a poll armed"
        return ""

    def _link(self, tid: int, fd: int) -> str:
        if fd not in self._links:
            try:
                self._links[fd] = link(f"{self.proc}/{self.pid}/task/{tid}/fd/{fd}")
            except OSError as error:
                raise Undecidable(f"its descriptors cannot be read: {error.strerror}") from error
        return self._links[fd]

    def _on(self, tid: int, fd: int) -> dict[int, Decision]:
        inode = self._sockets.get(self._link(tid, fd))
        return {} if inode is None else {inode: Decision(ThreadState.WAITING)}

    def _any(self, tid: int, fds: list[int]) -> dict[int, Decision]:
        """Of descriptors that are all polled for reading: our sockets, and epolls that hold one."""
        found: dict[int, Decision] = {}
        for fd in fds[:MAX_DESCRIPTORS]:
            leads_to = self._link(tid, fd)
            if leads_to in self._sockets:
                found[self._sockets[leads_to]] = Decision(ThreadState.WAITING)
            elif leads_to == EPOLL:
                _add(found, self._epoll(tid, fd))
        if not found and len(fds) > MAX_DESCRIPTORS:
            raise Undecidable(f"it polls {len(fds)} descriptors, more than are looked at")
        return found

    def _poll(self, tid: int, address: int, count: int) -> list[int]:
        """The descriptors of a struct pollfd array that ask for POLLIN."""
        count &= 0xFFFFFFFF
        array = self._read(tid, address, count * POLLFD.size)
        return [fd for fd, events, _ in POLLFD.iter_unpack(array) if fd >= 0 and events & READABLE]

    def _select(self, tid: int, count: int, address: int) -> list[int]:
        """The descriptors in select's set for reading, a bit each."""
        count &= 0xFFFFFFFF
        if not address:
            return []
        bits = int.from_bytes(self._read(tid, address, (count + 7) // 8), "little")
        return [fd for fd in range(count) if bits >> fd & 1]

    def _read(self, tid: int, address: int, size: int) -> bytes:
        """The process's memory. Nothing but the arrays of poll and select is ever asked for."""
        if not size:
            return b""
        if size > LARGE * POLLFD.size:
            raise Undecidable(f"its system call points at {size} bytes of descriptors")
        try:
            if self._memory is None:
                self._memory = os.open(
                    f"{self.proc}/{self.pid}/task/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC
                )
            array = os.pread(self._memory, size, address)
        except Gone:
            raise
        except OSError as error:
            raise Undecidable(f"its memory cannot be read: {error.strerror}") from error
        if len(array) < size:
            raise Undecidable("its memory was read in part")
        return array

    def _epoll(self, tid: int, fd: int, depth: int = 0) -> dict[int, Decision]:
        """By inode, the entries of an epoll instance for our sockets, through nested ones too."""
        if fd in self._epolls:
            return self._epolls[fd]
        if (self.pid, fd) in self._kept.large:
            return self._kept.large[self.pid, fd]
        told = self._entries(tid, fd)
        found: dict[int, Decision] = {}
        for entry in ENTRY.finditer(told):
            target, events, inode, device = entry.groups()
            if int(device, 16) == self._kept.sockets:
                if (number := int(inode, 16)) in self._sockets.values():
                    _add(found, {number: entry_decides(int(events, 16))})
            elif (
                int(device, 16) == self._kept.epolls
                and depth < MAX_NESTED
                and self._link(tid, int(target)) == EPOLL
            ):
                outer = entry_decides(int(events, 16))
                inner = self._epoll(tid, int(target), depth + 1)
                _add(found, {key: _weaker(outer, value) for key, value in inner.items()})
        self._epolls[fd] = found
        if len(told) > LARGE:
            self._kept.large[self.pid, fd] = found
        return found

    def _entries(self, tid: int, fd: int) -> bytes:
        """What the kernel tells of an epoll instance."""
        limit = MAX_ENTRIES * ENTRY_BYTES
        if self._files.total > MAX_ENTRIES or (self.pid, fd) in self._kept.too_large:
            raise Undecidable("its epoll is too large to read")
        try:
            told = read(f"{self.proc}/{self.pid}/task/{tid}/fdinfo/{fd}", limit)
        except Gone:
            return b""
        except OSError as error:
            raise Undecidable(f"its epoll cannot be read: {error.strerror}") from error
        if len(told) >= limit:
            self._kept.too_large.add((self.pid, fd))
            raise Undecidable("its epoll is too large to read")
        return told


def _add(found: dict[int, Decision], more: dict[int, Decision]) -> None:
    for inode, decision in more.items():
        found[inode] = _stronger(found[inode], decision) if inode in found else decision


def _descriptor(register: int) -> int:
    """A descriptor is an int: the lower half of the register."""
    return register & 0xFFFFFFFF
