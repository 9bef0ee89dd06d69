"""The application of `probe demo`: one port for traffic, another for its health.

Its accept thread hands each connection to a worker, as many do, and dies of the first error that
it does not catch; the health port has a thread of its own and knows nothing of that.
"""

import ctypes
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

BACKLOG = 50
"""What java.net.ServerSocket takes when it is not told otherwise."""


class Quiet(BaseHTTPRequestHandler):
    """Says ok to everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *_: object) -> None:
        """Keep the timeline free of access logs."""


PR_SET_NAME = 15


class Traffic(ThreadingHTTPServer):
    """The traffic port; once `exhausted` is set, its accept thread can start no worker."""

    request_queue_size = BACKLOG
    exhausted = threading.Event()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        # So that /proc calls the thread what we call it, as a JVM does; Python does from 3.14 on.
        ctypes.CDLL(None).prctl(PR_SET_NAME, threading.current_thread().name.encode())
        super().serve_forever(poll_interval)

    def handle_error(self, request: object, client_address: object) -> None:
        """Let it out: an accept loop that catches nothing is the defect on show."""
        raise

    def process_request(self, request: object, client_address: object) -> None:
        if self.exhausted.is_set():
            raise RuntimeError("can't start new thread")
        super().process_request(request, client_address)  # type: ignore[arg-type]  # as it came


def _excepthook(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread else "a thread"
    error = arguments.exc_value
    print(f"Exception in thread {name}: {type(error).__name__}: {error}", flush=True)


def main() -> None:
    """Print both ports; break at the first line on stdin, end with it."""
    threading.excepthook = _excepthook
    traffic = Traffic(("127.0.0.1", 0), Quiet)
    health = HTTPServer(("127.0.0.1", 0), Quiet)
    for name, server in (("app-acceptor", traffic), ("health", health)):
        threading.Thread(target=server.serve_forever, name=name, daemon=True).start()
    print(traffic.server_port, health.server_port, flush=True)
    sys.stdin.readline()
    traffic.exhausted.set()
    # The next connection is the last that the accept thread takes.
    with socket.create_connection(("127.0.0.1", traffic.server_port)):
        sys.stdin.read()


if __name__ == "__main__":
    main()
