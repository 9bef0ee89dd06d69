"""A thread dump from a HotSpot JVM, by its own attach protocol.

The protocol (HotSpot's attachListener_posix.cpp): a client puts `.attach_pidN` into the JVM's
/tmp and sends SIGQUIT; the JVM, seeing that file, opens the socket `.java_pidN` beside it and
from then on answers commands there. N is the JVM's pid in its own namespace.

Two dangers rule this module. SIGQUIT ends a process that does not handle it, so it is sent only
to what was found twice to be a JVM that does, and through a pidfd, so that it cannot reach a
successor with the same pid. And the JVM's /tmp belongs to the application, perhaps to an
attacker: every name in it is taken relative to a directory descriptor, no symbolic link is
followed, and a socket must prove by its peer credentials that the JVM itself listens on it.
"""

import os
import re
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import NamedTuple

from probe.evidence.proc.files import Unavailable, read, reason
from probe.evidence.proc.tasks import parse_stat, parse_status
from probe.evidence.records.facts import ProcessState

RAW_LIMIT = 8 << 20
"""Bytes of a dump that are read at most; 2,000 threads make 3 MB."""

MAPS_LIMIT = 32 << 20
"""Bytes of /proc/PID/maps that are read at most; 2,000 threads make 0.5 MB."""

UNABLE = {
    "T": ProcessState.STOPPED,
    "t": ProcessState.TRACED,
    "Z": ProcessState.ZOMBIE,
    "X": ProcessState.DEAD,
}
"""The states in which a process answers nobody."""

SIGQUIT_CAUGHT = 1 << (signal.SIGQUIT - 1)


class Jvm(NamedTuple):
    """What the guard needs to know of a process, read at one moment."""

    started: int
    """Start time in clock ticks since boot: with the pid, who it is."""
    inner_pid: int
    """Its pid in its own PID namespace, by which it names its files."""
    uid: int
    state: str
    catches_sigquit: bool


class ThreadDump(NamedTuple):
    """What the JVM said. `complete` is false when it was cut at a limit, of size or of time."""

    text: bytes
    complete: bool


class JavaThread(NamedTuple):
    """One thread of a dump. `inner_tid` is its id in the JVM's own PID namespace.

    `stack` begins with the innermost frame; what a thread waits for or holds stands under it,
    after a "- ".
    """

    name: str
    inner_tid: int
    state: str
    stack: tuple[str, ...]

    @property
    def frame(self) -> str:
        """Where it is."""
        return self.stack[0] if self.stack else ""


def inspect(pid: int) -> Jvm:
    """Read what the guard needs of a process. Raises Unavailable when it is gone or hidden."""
    fields = parse_status(read(f"/proc/{pid}/status"))
    seen = parse_stat(read(f"/proc/{pid}/stat"))
    return Jvm(
        started=seen.start_time,
        inner_pid=int(fields.get(b"NSpid", [b"%d" % pid])[-1]),
        uid=int(fields[b"Uid"][1]),
        state=seen.state,
        catches_sigquit=bool(int(fields[b"SigCgt"][0], 16) & SIGQUIT_CAUGHT),
    )


def is_hotspot(pid: int) -> bool:
    """Whether it has HotSpot's libjvm.so mapped executable, and nothing of OpenJ9.

    Raises Unavailable where its memory map is hidden from us (another user).
    """
    found = False
    for line in read(f"/proc/{pid}/maps", MAPS_LIMIT).split(b"\n"):
        if b"libj9vm" in line:
            return False
        if b"libjvm.so" in line:
            _, permissions, _, _, _, path = line.split(None, 5)
            if b"x" in permissions and path.removesuffix(b" (deleted)").endswith(b"/libjvm.so"):
                found = True
    return found


def require_signalable(pid: int, known: Jvm) -> None:
    """Raise Unavailable unless it is still the known process and SIGQUIT is safe right now."""
    now = inspect(pid)
    if now.started != known.started:
        raise Unavailable(f"process {pid} was replaced meanwhile")
    require_hotspot(pid, now)
    if not now.catches_sigquit:
        raise Unavailable("the JVM does not handle SIGQUIT (not ready yet, or run with -Xrs)")


def require_hotspot(pid: int, process: Jvm) -> None:
    """Raise Unavailable unless the process is a HotSpot JVM in a state to answer."""
    if process.state in UNABLE:
        raise Unavailable(f"process {pid} is {UNABLE[process.state]}: it cannot answer")
    if not is_hotspot(pid):
        raise Unavailable(f"process {pid} is not a HotSpot JVM")


def thread_dump(pid: int, *, seconds: float, limit: int = RAW_LIMIT) -> ThreadDump:
    """A thread dump of at most `limit` bytes. Raises Unavailable.

    The first one signals the JVM, and leaves a socket file in its /tmp and a thread in it. Each
    holds the application up at a safepoint: 1 ms or so, 140 ms with 2,000 threads.
    """
    deadline = time.monotonic() + seconds
    process = require_jvm(pid)
    with temporary_directory(pid) as tmp:
        if not exists(tmp, socket_name(process)):
            open_socket(pid, process, tmp, deadline)
        with connect(pid, process, tmp, deadline) as connection:
            return ask(connection, b"threaddump", deadline, limit)


def prepare(pid: int, *, seconds: float) -> bool:
    """Attach once while all is well, so that it works later: a full heap can break the first.

    True when the socket had to be opened, False when it was there. Raises Unavailable.
    """
    process = require_jvm(pid)
    with temporary_directory(pid) as tmp:
        if exists(tmp, socket_name(process)):
            return False
        open_socket(pid, process, tmp, time.monotonic() + seconds)
        return True


def require_jvm(pid: int) -> Jvm:
    """The first look. Raises Unavailable unless it is a HotSpot JVM that can answer us."""
    process = inspect(pid)
    require_hotspot(pid, process)
    if os.geteuid() not in (0, process.uid):
        raise Unavailable(f"the JVM answers its own user only, uid {process.uid}")
    return process


def socket_name(process: Jvm) -> str:
    return f".java_pid{process.inner_pid}"


@contextmanager
def temporary_directory(pid: int) -> Iterator[int]:
    """A descriptor of the JVM's own /tmp, across mount namespaces. Raises Unavailable.

    Each step is taken by itself: a /tmp that is a symbolic link could lead into our own files.
    """
    opened: list[int] = []
    try:
        opened.append(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY))
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
        opened.append(os.open("tmp", flags, dir_fd=opened[0]))
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise Unavailable(f"its /tmp cannot be opened: {reason(error)}") from error
    try:
        yield opened[1]
    finally:
        for descriptor in opened:
            os.close(descriptor)


def exists(tmp: int, name: str) -> bool:
    """Whether anything at all, a dangling link included, has that name."""
    try:
        os.lstat(name, dir_fd=tmp)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unavailable(f"its /tmp cannot be read: {reason(error)}") from error
    return True


def open_socket(pid: int, process: Jvm, tmp: int, deadline: float) -> None:
    """Make the JVM open its attach socket: the one place that signals. Raises Unavailable."""
    with handle(pid) as pidfd, trigger(tmp, f".attach_pid{process.inner_pid}"):
        require_signalable(pid, process)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGQUIT)
        except OSError as error:
            raise Unavailable(f"the JVM cannot be signalled: {reason(error)}") from error
        pause = 0.001
        while not exists(tmp, socket_name(process)):
            if time.monotonic() + pause > deadline:
                raise Unavailable("the JVM did not open its attach socket in time")
            time.sleep(pause)
            pause = min(pause * 2, 0.05)


@contextmanager
def handle(pid: int) -> Iterator[int]:
    """A descriptor of the process itself, which a successor with the same pid never answers to."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Unavailable(f"process {pid} cannot be signalled: {reason(error)}") from error
    try:
        yield pidfd
    finally:
        os.close(pidfd)


@contextmanager
def trigger(tmp: int, name: str) -> Iterator[None]:
    """The file that makes SIGQUIT mean 'attach', removed at the end. Raises Unavailable.

    One of our own that a killed capture left behind is replaced; anything else is left alone.
    """
    with suppress(FileNotFoundError):
        left = os.lstat(name, dir_fd=tmp)
        if stat.S_ISREG(left.st_mode) and left.st_uid == os.geteuid() and left.st_size == 0:
            os.unlink(name, dir_fd=tmp)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(name, flags, 0o600, dir_fd=tmp))
    except FileExistsError as error:
        raise Unavailable(f"something that is not ours has the name {name} in its /tmp") from error
    except OSError as error:
        raise Unavailable(f"its /tmp cannot be written to: {reason(error)}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(name, dir_fd=tmp)


@contextmanager
def connect(pid: int, process: Jvm, tmp: int, deadline: float) -> Iterator[socket.socket]:
    """A connection to the JVM's attach socket, and to nobody else's. Raises Unavailable.

    The name is opened once and the inode connected to, so that it cannot be swapped in between.
    """
    name = socket_name(process)
    try:
        inode = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=tmp)
    except OSError as error:
        raise Unavailable(f"{name} cannot be opened: {reason(error)}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            if not stat.S_ISSOCK(os.fstat(inode).st_mode):
                raise Unavailable(f"{name} in its /tmp is not a socket")
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            connection.connect(f"/proc/self/fd/{inode}")
        except OSError as error:
            raise Unavailable(f"{name} cannot be connected to: {reason(error)}") from error
        finally:
            os.close(inode)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        listening, uid, _ = PEER.unpack(credentials)
        if (listening, uid) != (pid, process.uid):
            raise Unavailable(f"{name} belongs to process {listening} of uid {uid}, not to the JVM")
        yield connection


PEER = struct.Struct("iII")


def ask(connection: socket.socket, command: bytes, deadline: float, limit: int) -> ThreadDump:
    """Send one command of protocol version 1, and read the answer. Raises Unavailable."""
    answer = bytearray()
    complete = False
    try:
        connection.sendall(b"1\0" + command + b"\0\0\0\0")
        while len(answer) < limit + STATUS_LIMIT:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = connection.recv(1 << 16)
            if not chunk:
                complete = True
                break
            answer += chunk
    except OSError as error:
        if b"\n" not in answer:
            raise Unavailable(f"the JVM did not answer: {reason(error)}") from error
    status, _, text = bytes(answer).partition(b"\n")
    if status != b"0":
        said = text[:80].decode(errors="replace")
        raise Unavailable(f"the JVM refused {command.decode()}: {said!r}")
    return ThreadDump(text[:limit], complete and len(text) <= limit)


STATUS_LIMIT = 16
"""Bytes that the answer's first line, its status, may take beside the text."""

HEADER = re.compile(rb'^"(.*)" [^"\n]*?\bnid=(0x[0-9a-f]{1,8}|\d{1,10})\b', re.MULTILINE)
"""The name ends at the last quote of the line, so that a line is gone over once, however long."""
STATE = re.compile(rb"\n   java\.lang\.Thread\.State: (\S{1,40})")
LINE = re.compile(rb"\n\t(?:at )?([^\n]{1,300})")

NAME = 300
"""Characters kept of a thread's name, as of each line of its stack."""

LINES = 40
"""Lines kept of each stack, locks among them, from the innermost frame."""


def threads(dump: bytes) -> tuple[JavaThread, ...]:
    """The threads of a dump, the JVM's own too, which have no state; virtual ones are not in it.

    () of a text that is no dump: whatever the JVM said instead is worth keeping as it is.
    """
    found = []
    headers = list(HEADER.finditer(dump))
    ends = [header.start() for header in headers[1:]] + [len(dump)]
    for header, end in zip(headers, ends, strict=False):
        state = STATE.search(dump, header.end(), end)
        lines = islice(LINE.finditer(dump, header.end(), end), LINES)
        found.append(
            JavaThread(
                name=header[1].decode(errors="replace")[:NAME],
                inner_tid=int(header[2], 16 if header[2].startswith(b"0x") else 10),
                state=state[1].decode() if state else "",
                stack=tuple(line[1].decode(errors="replace") for line in lines),
            )
        )
    return tuple(found)


def inner_tid(pid: int, tid: int) -> int:
    """A thread's id in its own PID namespace, as dumps have it. Raises Unavailable."""
    fields = parse_status(read(f"/proc/{pid}/task/{tid}/status"))
    return int(fields.get(b"NSpid", [b"%d" % tid])[-1])
