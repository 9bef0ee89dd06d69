"""Applications to make round trips with: a listening socket, and a thread that obeys a script."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

Handler = Callable[[socket.socket], object]

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that sends RST."""


def listen(
    host: str = "127.0.0.1", backlog: int = 16, *, v6only: bool = False, protocol: int = 0
) -> socket.socket:
    """A listener that nobody accepts from, on any port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
    listener.bind((host, 0))
    listener.listen(backlog)
    return listener


def port_of(listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


class Application:
    """Accepts one connection after the other and hands each to `handle`, until the block ends.

    What `handle` raises is raised again at the end of the block. A connection that it has not
    closed is closed when it returns.
    """

    def __init__(self, handle: Handler, listener: socket.socket | None = None) -> None:
        self.listener = listener or listen()
        self.port = port_of(self.listener)
        self.ending = threading.Event()
        self._handle = handle
        self._errors: list[Exception] = []
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ending.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
        self._thread.join()
        self.listener.close()
        if self._errors and error is None:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                try:
                    self._handle(connection)
                except Exception as error:  # noqa: BLE001 - raised again in __exit__
                    self._errors.append(error)


def open_sockets() -> set[str]:
    """The sockets of this process, by inode."""
    links = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.add(str(descriptor.readlink()))
    return {link for link in links if link.startswith("socket:")}


def request(connection: socket.socket) -> bytes:
    """Read an HTTP request to the end of its header."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(4096)
        assert more, "the client left"
        data += more
    return data


def until_closed(connection: socket.socket) -> bytes:
    """Read until the client closes; ConnectionResetError if it resets."""
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def answer(body: bytes = b"fine", status: str = "200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status.encode(), len(body)) + body


def replying(reply: bytes) -> Handler:
    """Read an HTTP request, send these bytes, see the client leave without a reset."""

    def handle(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(reply)
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection) == b""

    return handle


def saying(banner: bytes) -> Handler:
    """Speak first, and wait for the client to leave."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(banner)
        until_closed(connection)

    return handle
