"""Python applications that listen, each in its own way; and each can stop accepting.

Usage: servers.py MODE PORT. It prints "ready", then obeys lines on stdin: "break" ends the
accepting as it would end by a fault, without closing the listener; each is answered by a line.
"""

import asyncio
import ctypes
import mmap
import os
import resource
import select
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
broken = threading.Event()
HOST = "127.0.0.1"
BACKLOG = 16


def listener(port: int, **options: bool) -> socket.socket:
    return socket.create_server((HOST, port), backlog=BACKLOG, **options)


def dial(port: int) -> socket.socket:
    """A client. Not by create_connection: it imports, which another user may not be able to."""
    client = socket.socket()
    client.connect((HOST, port))
    return client


def commands() -> Iterator[str]:
    for line in sys.stdin:
        yield line.strip()


def say(word: str) -> None:
    print(word, flush=True)


def start(name: str, run: Callable[[], object], *, daemon: bool = True) -> threading.Thread:
    """A thread whose name the kernel knows as well, as Python does by itself only since 3.14."""
    set_name = 15

    def named() -> None:
        libc.prctl(set_name, name.encode())
        run()

    thread = threading.Thread(target=named, name=name, daemon=daemon)
    thread.start()
    return thread


def obey(stop: Callable[[], None]) -> None:
    """Answer "break" when it is done, for ever."""
    say("ready")
    for word in commands():
        if word == "break":
            stop()
        say(word)


def accept_all(port: int) -> None:
    """Blocking accept() in a thread that dies of an Error, as in the incident."""
    listening = listener(port)

    def loop() -> None:
        with suppress(SystemExit):
            while True:
                connection, _ = listening.accept()
                connection.close()
                if broken.is_set():
                    sys.exit("cannot start a thread")

    thread = start("acceptor", loop)

    def stop() -> None:
        broken.set()
        dial(port).close()
        thread.join()

    obey(stop)


def serve_socketserver(port: int) -> None:
    with socketserver.ThreadingTCPServer((HOST, port), socketserver.BaseRequestHandler) as server:
        start("acceptor", server.serve_forever)
        obey(server.shutdown)


def blocked_loop(loop: asyncio.AbstractEventLoop, port: int) -> None:
    """An event loop of which a handler takes a lock that is never released."""
    started = threading.Event()
    blocked = threading.Event()
    never = threading.Lock()
    never.acquire()

    def block() -> None:
        blocked.set()
        never.acquire()

    async def main() -> None:
        await asyncio.start_server(lambda _, writer: writer.close(), HOST, port, backlog=BACKLOG)
        started.set()
        await asyncio.Event().wait()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())

    start("loop", run)
    started.wait()

    def stop() -> None:
        loop.call_soon_threadsafe(block)
        blocked.wait()

    obey(stop)


def serve_asyncio(port: int) -> None:
    blocked_loop(asyncio.new_event_loop(), port)


def serve_uvloop(port: int) -> None:
    import uvloop

    blocked_loop(uvloop.new_event_loop(), port)


def asyncio_without_descriptors(port: int) -> None:
    """Break: no descriptor is left, so asyncio takes the listener out of its epoll for a second."""
    loop = asyncio.new_event_loop()

    async def main() -> None:
        await asyncio.start_server(lambda _, writer: writer.close(), HOST, port, backlog=BACKLOG)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        say("ready")
        while line := await reader.readline():
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, 4096))
            say(line.decode().strip())

    loop.set_exception_handler(lambda *_: None)
    loop.run_until_complete(main())


def serve_epoll(port: int, flags: int = 0, nested: int = 0) -> None:
    """A loop of our own on epoll; in broken state it waits on, for anything but the listener.

    But for one that is edge-triggered or one-shot: there the entry stays as it is, and its event
    is not followed by an accept.
    """
    listening = listener(port)
    listening.setblocking(False)
    holder = select.epoll()
    holder.register(listening, select.EPOLLIN | flags)
    epoll = nest(holder, nested)
    wake, woken = os.pipe()
    epoll.register(wake, select.EPOLLIN)
    stopped = threading.Event()

    def take() -> None:
        with suppress(BlockingIOError):
            listening.accept()[0].close()
        if flags & select.EPOLLONESHOT:
            holder.modify(listening, select.EPOLLIN | flags)

    def loop() -> None:
        while True:
            if wake in [fd for fd, _ in epoll.poll()]:
                stopped.set()
                os.read(wake, 1)
            elif not broken.is_set():
                take()

    def stop() -> None:
        broken.set()
        if flags & select.EPOLLONESHOT:
            kept.append(dial(port))
            until(lambda: b"events: 40000000" in fdinfo(holder.fileno()))
        elif not flags & select.EPOLLET:
            holder.unregister(listening)
        os.write(woken, b"x")
        stopped.wait()

    start("loop", loop)
    obey(stop)


def nest(epoll: select.epoll, times: int) -> select.epoll:
    """An epoll instance that holds one that holds one, `times` deep."""
    for _ in range(times):
        kept.append(epoll)
        inner, epoll = epoll, select.epoll()
        epoll.register(inner, select.EPOLLIN)
    return epoll


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


kept: list[Any] = []


def fdinfo(fd: int) -> bytes:
    return Path(f"/proc/self/fdinfo/{fd}").read_bytes()


def serve_waiting(port: int, wait: Callable[[socket.socket, int], None]) -> None:
    """A loop that waits by `wait(listener, wake)`, and in broken state for the pipe alone."""
    listening = listener(port)
    wake, woken = os.pipe()
    stopped = threading.Event()

    def loop() -> None:
        while not broken.is_set():
            wait(listening, wake)
            if not broken.is_set():
                listening.accept()[0].close()
        stopped.set()
        threading.Event().wait()

    start("loop", loop)

    def stop() -> None:
        broken.set()
        os.write(woken, b"x")
        stopped.wait()

    obey(stop)


def by_poll(listening: socket.socket, wake: int) -> None:
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(listening, select.POLLIN)
    poll.poll()


def by_select(listening: socket.socket, wake: int) -> None:
    select.select([listening.fileno(), wake], [], [])


def by_ppoll(listening: socket.socket, wake: int) -> None:
    array = struct.pack("=ihhihh", listening.fileno(), select.POLLIN, 0, wake, select.POLLIN, 0)
    libc.ppoll(ctypes.create_string_buffer(array), ctypes.c_ulong(2), None, None)


def by_epoll_in_poll(listening: socket.socket, wake: int) -> None:
    """poll() on an epoll instance that holds the listener, as GLib and others embed one."""
    with select.epoll() as epoll:
        epoll.register(listening, select.EPOLLIN)
        poll = select.poll()
        poll.register(epoll, select.POLLIN)
        poll.register(wake, select.POLLIN)
        poll.poll()


def by_epoll_pwait2(listening: socket.socket, wake: int) -> None:
    with select.epoll() as epoll:
        epoll.register(listening, select.EPOLLIN)
        epoll.register(wake, select.EPOLLIN)
        events = ctypes.create_string_buffer(24)
        libc.syscall(441, epoll.fileno(), events, 1, None, None, 0)


def serve_io_uring(port: int) -> None:
    """One accept armed in a ring, by the bare system calls; break: it completes, none follows.

    Layouts are those of include/uapi/linux/io_uring.h.
    """
    listening = listener(port)
    parameters = ctypes.create_string_buffer(120)
    ring = libc.syscall(425, 8, parameters)
    if ring < 0:
        say(f"no io_uring: {os.strerror(ctypes.get_errno())}")
        return
    _, tail, *_, array = struct.unpack_from("=7I", parameters.raw, 40)
    queue = mmap.mmap(ring, array + 8 * 4, offset=0)
    entries = mmap.mmap(ring, 64 * 8, offset=0x10000000)
    entries[0:64] = struct.pack("=BBHiQQIIQ24x", 13, 0, 0, listening.fileno(), 0, 0, 0, 0, 42)
    queue[array : array + 4] = struct.pack("=I", 0)
    queue[tail : tail + 4] = struct.pack("=I", 1)
    get_events = 1

    completed = threading.Event()

    def loop() -> None:
        libc.syscall(426, ring, 1, 1, get_events, None, 0)
        completed.set()
        threading.Event().wait()

    start("loop", loop)

    def stop() -> None:
        kept.append(dial(port))
        completed.wait()

    until(lambda: b"op=13" in fdinfo(ring))
    obey(stop)


def first_thread_ends(port: int) -> None:
    """The first thread ends and leaves the accepting to another: the process shows as a zombie."""
    listening = listener(port)

    def loop() -> None:
        while True:
            listening.accept()[0].close()

    start("acceptor", loop, daemon=False)
    say("ready")
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)


def spin(port: int) -> None:
    """It never waits: accept() on a non-blocking socket over and over; broken, it only spins."""
    listening = listener(port)
    listening.setblocking(False)
    stopped = threading.Event()

    def loop() -> None:
        while not broken.is_set():
            with suppress(BlockingIOError):
                listening.accept()[0].close()
        while True:
            stopped.set()

    def stop() -> None:
        broken.set()
        stopped.wait()

    start("spinner", loop)
    obey(stop)


def two_listeners(port: int) -> None:
    """One thread, which waits for the second of two."""
    kept.append(listener(port))
    second = listener(port + 1)
    start("acceptor", second.accept)
    obey(lambda: None)


def reuseport(port: int) -> None:
    """Four members of a SO_REUSEPORT group, three of them with a thread that accepts."""

    def loop(member: socket.socket) -> None:
        while True:
            member.accept()[0].close()

    members = [listener(port, reuse_port=True) for _ in range(4)]
    kept.extend(members)
    for member in members[1:]:
        start("acceptor", partial(loop, member))
    obey(lambda: None)


def crowded(port: int) -> None:
    """An epoll instance with a great many entries, the listener behind all of them.

    An entry is a file and a number, and outlives the closing of that number: so a few files can
    have more entries than the process may have descriptors.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    numbers, files = range(100, 100 + int(os.environ["NUMBERS"])), int(os.environ["FILES"])
    epoll = select.epoll()
    for _ in range(files):
        silent, _ = os.pipe()
        for number in numbers:
            os.dup2(silent, number)
            epoll.register(number, select.EPOLLIN)
    listening = listener(port)
    epoll.register(listening, select.EPOLLIN)
    kept.append(listening)
    start("loop", epoll.poll)
    obey(lambda: None)


def many_threads(port: int) -> None:
    """One thread that accepts among a great many that wait for nothing."""
    threading.stack_size(1 << 16)
    never = threading.Event()
    for _ in range(int(os.environ["COUNT"])):
        start("worker", never.wait)
    accept_all(port)


def forked_opaque(port: int) -> None:
    """A child shares the listener and lets nobody look; neither waits."""
    kept.append(listener(port))
    told, tell = os.pipe()
    if not os.fork():
        set_dumpable, parent_death_signal = 4, 1
        libc.prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0)
        libc.prctl(set_dumpable, 0, 0, 0, 0)
        os.write(tell, b"x")
        signal.pause()
    os.read(told, 1)
    obey(lambda: None)


def forked(port: int) -> None:
    """A thread of the parent accepts; the child has inherited the listener and does nothing."""
    listening = listener(port)
    child = os.fork()
    if not child:
        signal.pause()
    start("acceptor", listening.accept)
    say("ready")
    say(str(child))
    threading.Event().wait()


def changes_hands(port: int, generation: Callable[[socket.socket, "Baton"], None]) -> None:
    """Acceptors that replace each other: "next" lets the present one hand over, "break" hangs it.

    "serve" is one more connection that is accepted. All by a connection, as clients would.
    """
    baton = Baton()
    listening = listener(port)
    start("acceptor", partial(generation, listening, baton))
    say("ready")
    for word in commands():
        baton.order = word
        baton.obeyed.clear()
        dial(port).close()
        baton.obeyed.wait()
        say(word)


class Baton:
    """What the present acceptor is to do with the next connection, and whether it has."""

    def __init__(self) -> None:
        self.order = ""
        self.obeyed = threading.Event()

    def take(self, listening: socket.socket) -> bool:
        """Accept one; hang for good if told so; whether to hand over now."""
        listening.accept()[0].close()
        if self.order == "break":
            self.obeyed.set()
            threading.Event().wait()
        if self.order == "next":
            return True
        self.obeyed.set()
        return False


def successor(listening: socket.socket, baton: Baton) -> None:
    """A new thread takes over, and the one before ends."""
    while not baton.take(listening):
        pass

    def run() -> None:
        former.join()
        baton.obeyed.set()
        successor(listening, baton)

    former = threading.current_thread()
    start("acceptor", run)


def rotation(listening: socket.socket, baton: Baton) -> None:
    """Each thread accepts once and ends; so no two connections are accepted by the same."""
    if baton.take(listening):
        baton.obeyed.set()
    start("acceptor", partial(rotation, listening, baton))


def taking_turns(listening: socket.socket, baton: Baton) -> None:
    """A fixed pool: whoever has accepted idles until it is its turn again."""
    turns = [threading.Semaphore(0) for _ in range(3)]
    turns[0].release()

    def run(number: int) -> None:
        while True:
            turns[number].acquire()
            if baton.take(listening):
                baton.obeyed.set()
            turns[(number + 1) % len(turns)].release()

    for number in range(len(turns)):
        start("acceptor", partial(run, number))
    threading.Event().wait()


def shrinking(listening: socket.socket, baton: Baton) -> None:
    """Two threads in turn; at "next" whoever is idle ends: a pool that shrinks."""
    turn = threading.Event()
    started = threading.Event()

    def second() -> None:
        started.set()
        turn.wait()
        while True:
            baton.take(listening)
            baton.obeyed.set()

    start("acceptor", second)
    started.wait()
    while not baton.take(listening):
        pass
    turn.set()
    # It idles now, as a thread of a pool does, and ends when nothing has come for a while.
    baton.obeyed.set()
    time.sleep(0.5)


def recycled_workers(port: int) -> None:
    """One worker at a time, forked by a parent that holds the listener and never accepts."""
    listening = listener(port)
    orders, told = os.pipe()
    answers, answer = os.pipe()

    def work() -> None:
        while True:
            listening.accept()[0].close()
            order = os.read(orders, 1)
            if order == b"n":
                os._exit(0)
            os.write(answer, order)
            if order == b"b":
                signal.pause()

    def fork() -> int:
        child = os.fork()
        if not child:
            parent_death_signal = 1
            libc.prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0)
            work()
        return child

    worker = fork()
    say("ready")
    for word in commands():
        os.write(told, word[:1].encode())
        dial(port).close()
        if word == "next":
            os.waitpid(worker, 0)
            worker = fork()
        else:
            os.read(answers, 1)
        say(word)


def helped(port: int) -> None:
    """A helper of another name has inherited the listener and does nothing about it."""
    listening = listener(port)
    listening.set_inheritable(True)
    helper = subprocess.Popen(["sleep", "60"], close_fds=False)
    start("acceptor", listening.accept)
    say("ready")
    say(str(helper.pid))
    threading.Event().wait()


MODES: dict[str, Callable[[int], None]] = {
    "helped": helped,
    "successor": lambda port: changes_hands(port, successor),
    "rotation": lambda port: changes_hands(port, rotation),
    "turns": lambda port: changes_hands(port, taking_turns),
    "shrinking": lambda port: changes_hands(port, shrinking),
    "recycled": recycled_workers,
    "accept": accept_all,
    "socketserver": serve_socketserver,
    "asyncio": serve_asyncio,
    "uvloop": serve_uvloop,
    "emfile": asyncio_without_descriptors,
    "epoll": serve_epoll,
    "epoll-exclusive": lambda port: serve_epoll(port, select.EPOLLEXCLUSIVE),
    "epoll-edge": lambda port: serve_epoll(port, select.EPOLLET),
    "epoll-oneshot": lambda port: serve_epoll(port, select.EPOLLONESHOT),
    "epoll-nested": lambda port: serve_epoll(port, nested=2),
    "epoll-nested-edge": lambda port: serve_epoll(port, select.EPOLLET, nested=1),
    "epoll-pwait2": lambda port: serve_waiting(port, by_epoll_pwait2),
    "epoll-in-poll": lambda port: serve_waiting(port, by_epoll_in_poll),
    "poll": lambda port: serve_waiting(port, by_poll),
    "ppoll": lambda port: serve_waiting(port, by_ppoll),
    "select": lambda port: serve_waiting(port, by_select),
    "io-uring": serve_io_uring,
    "first-thread-ends": first_thread_ends,
    "spin": spin,
    "forked": forked,
    "forked-opaque": forked_opaque,
    "crowded": crowded,
    "many-threads": many_threads,
    "two-listeners": two_listeners,
    "reuseport": reuseport,
}


def become(uid: int) -> None:
    """Another user. Who changes without exec is closed to others, unless it says otherwise."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    set_dumpable = 4
    if "OPAQUE" not in os.environ:
        libc.prctl(set_dumpable, 1, 0, 0, 0)


if __name__ == "__main__":
    if "UID" in os.environ:
        become(int(os.environ["UID"]))
    MODES[sys.argv[1]](int(sys.argv[2]))
