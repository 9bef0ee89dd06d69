"""An application that can be broken in every way the issue is about, while it runs.

It says `port N` on stdout once it listens, takes one command a line on stdin and answers `done`:

    accept off|on [last]    the accept loops (or the last) cease to accept, or take it up again
    limit N                 listen() once more, with another backlog
    pace SECONDS            pause after each accept
    answer ok|hang|half|rst [STATUS]    from now on; whoever hangs is let go first
    close, listen           close the listener; open a new one on the same port
    replace                 open a new listener, then close the old one (SO_REUSEPORT)
    emfile, release         use up every file descriptor; give them back
    die                     the accept thread dies of an uncaught error; the process lives
"""

import argparse
import contextlib
import os
import resource
import selectors
import socket
import sys
import threading
import time

REPLY = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Listening:
    """One listener with an accept loop of its own."""

    def __init__(self, app: "App", port: int, *, accepting: bool = True) -> None:
        self.app = app
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if app.options.members > 1 or app.options.reuseport:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind((app.options.bind, port))
        self.socket.listen(app.options.backlog)
        self.accepting = threading.Event()
        if accepting:
            self.accepting.set()
        self.ended = threading.Event()
        self.wake_r, self.wake_w = os.pipe()
        threading.Thread(target=self.loop, name="acceptor", daemon=True).start()

    def loop(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.wake_r, selectors.EVENT_READ)
            selector.register(self.socket, selectors.EVENT_READ)
            self.socket.setblocking(False)
            while True:
                selector.select()
                with contextlib.suppress(BlockingIOError):
                    os.set_blocking(self.wake_r, False)
                    os.read(self.wake_r, 64)
                if self.ended.is_set():
                    return
                if self.app.dying:
                    raise MemoryError("unable to create native thread")
                if not self.accepting.wait(timeout=None):
                    continue
                if self.app.greedy:
                    self.app.take_descriptors()
                try:
                    connection, _ = self.socket.accept()
                except OSError:
                    time.sleep(0.01)  # EMFILE: what a naive server does
                    continue
                threading.Thread(target=self.app.serve, args=(connection,), daemon=True).start()
                if self.app.pace:
                    time.sleep(self.app.pace)

    def close(self) -> None:
        self.ended.set()
        self.accepting.set()
        os.write(self.wake_w, b"x")
        self.socket.close()


def be_healthy(port: int) -> None:
    """The health port: a thread of its own, which knows nothing of the traffic port."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            try:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(REPLY % 200)
            except OSError:
                time.sleep(0.01)


class App:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pace = 0.0
        self.answer = "ok"
        self.let_go = threading.Event()
        self.status = 200
        self.dying = False
        self.greedy = False
        self.hoard: list[int] = []
        _, self.most_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        first = Listening(self, options.port, accepting=not options.late)
        self.port: int = first.socket.getsockname()[1]
        self.members = [first, *self.listeners(options.members - 1)]

    def listeners(self, count: int) -> list[Listening]:
        return [Listening(self, self.port) for _ in range(count)]

    def serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            if self.answer == "rst":
                linger = b"\1\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            data = b""
            while b"\r\n\r\n" not in data:
                received = connection.recv(65536)
                if not received:
                    return
                data += received
            if self.answer == "half":
                connection.sendall(REPLY.replace(b"th: 2", b"th: 1000") % self.status)
            if self.answer in {"hang", "half"}:
                self.let_go.wait()
                return
            connection.sendall(REPLY % self.status)

    def do_accept(self, switch: str, which: str = "all") -> None:
        for member in self.members if which == "all" else self.members[-1:]:
            (member.accepting.set if switch == "on" else member.accepting.clear)()

    def do_limit(self, backlog: str) -> None:
        for member in self.members:
            member.socket.listen(int(backlog))

    def do_pace(self, seconds: str) -> None:
        self.pace = float(seconds)

    def do_answer(self, answer: str, status: str = "200") -> None:
        self.answer, self.status = answer, int(status)
        self.let_go.set()
        self.let_go = threading.Event()

    def do_close(self) -> None:
        for member in self.members:
            member.close()
        self.members = []

    def do_listen(self) -> None:
        self.members = self.listeners(self.options.members)

    def do_replace(self) -> None:
        old, self.members = self.members, self.listeners(self.options.members)
        for member in old:
            member.close()

    def do_emfile(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, self.most_descriptors))
        self.greedy = True
        self.take_descriptors()

    def take_descriptors(self) -> None:
        """All that are left, and those that clients have left by now."""
        with contextlib.suppress(OSError):
            while True:
                self.hoard.append(os.dup(0))

    def do_release(self) -> None:
        self.greedy = False
        while self.hoard:
            os.close(self.hoard.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.most_descriptors, self.most_descriptors))

    def do_die(self) -> None:
        self.dying = True
        for member in self.members:
            os.write(member.wake_w, b"x")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--backlog", type=int, default=5)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--reuseport", action="store_true")
    parser.add_argument("--late", action="store_true", help="listen, but do not accept yet")
    parser.add_argument("--health", type=int, help="a health port, in the same process")
    options = parser.parse_args()
    if options.health:
        threading.Thread(target=be_healthy, args=(options.health,), daemon=True).start()
    app = App(options)
    print("port", app.port, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        getattr(app, f"do_{command}")(*words)
        print("done", flush=True)


if __name__ == "__main__":
    main()
