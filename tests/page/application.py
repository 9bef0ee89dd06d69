"""An application whose accepting thread ends when that is told, and is there again likewise."""

import ctypes
import socket
import sys
import threading

NAME = b"<i>acceptor</i>"
"""What the thread is called: the most that a name may have, and no markup."""

PR_SET_NAME = 15


def accept(listener: socket.socket, told: threading.Event) -> None:
    """Answer whoever comes, until the first who comes after the end was told."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, NAME)
    while True:
        connection, _ = listener.accept()
        with connection:
            if told.is_set():
                return
            if connection.recv(4096):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def main() -> None:
    """Listen on a port of the kernel's, and print it; heed `stop` and `go` on stdin."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=20)
    print(listener.getsockname()[1], flush=True)
    told = threading.Event()
    thread = threading.Thread(target=accept, args=(listener, told), daemon=True)
    thread.start()
    for line in sys.stdin:
        if line == "stop\n":
            told.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join()
            print("stopped", flush=True)
        else:
            told.clear()
            thread = threading.Thread(target=accept, args=(listener, told), daemon=True)
            thread.start()


if __name__ == "__main__":
    main()
