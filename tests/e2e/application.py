"""The incident, in a container: one thread accepts for 8080, another for the health port 8081.

The first connection to 8082, which only the pod itself can make, lets the first thread end of an
error that nobody catches. The process lives on, and so does its health port.
"""

import socket
import threading

dying = threading.Event()


def serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            if dying.is_set() and threading.current_thread().name == "app-acceptor":
                raise RuntimeError("can't start new thread")
            connection.settimeout(1)
            try:
                connection.recv(8192)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
            except OSError:
                continue


application = socket.create_server(("", 8080), backlog=5)
health = socket.create_server(("", 8081))
threading.Thread(target=serve, args=(application,), name="app-acceptor").start()
threading.Thread(target=serve, args=(health,), name="health-acceptor").start()
socket.create_server(("127.0.0.1", 8082)).accept()
dying.set()
