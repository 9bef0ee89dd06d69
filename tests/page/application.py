"""An application whose accepting thread ends when that is told, and is there again likewise; its
health port has a thread of its own, and nothing to do with that.
"""

import ctypes
import socket
import sys
import threading

PR_SET_NAME = 15


def accept(listener: socket.socket, told: threading.Event, name: str) -> None:
    """Answer whoever comes, until the first who comes after the end was told."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
    while True:
        connection, _ = listener.accept()
        with connection:
            if told.is_set():
                return
            if connection.recv(4096):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def begin(listener: socket.socket, told: threading.Event, name: str) -> threading.Thread:
    thread = threading.Thread(target=accept, args=(listener, told, name), daemon=True)
    thread.start()
    return thread


def main() -> None:
    """Listen on a port of the kernel's, and print it; heed `stop` and `go` on stdin."""
    name = sys.argv[1]
    listener, health = (socket.create_server(("127.0.0.1", 0), backlog=20) for _ in range(2))
    begin(health, threading.Event(), "health")
    told = threading.Event()
    thread = begin(listener, told, name)
    print(listener.getsockname()[1], flush=True)
    for line in sys.stdin:
        if line == "stop\n":
            told.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()
            print("stopped", flush=True)
        else:
            told.clear()
            thread = begin(listener, told, name)


if __name__ == "__main__":
    main()
