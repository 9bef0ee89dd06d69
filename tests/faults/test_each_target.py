"""Two applications beside one sidecar: what becomes of one is told of that one alone."""

import socket
from contextlib import ExitStack

from tests.faults.harness import application, sidecar
from tests.support import until, until_equal

FAST = ("--interval", "200ms", "--stalled-for", "600ms", "--live-after", "1s")


def test_the_stall_of_one_restarts_that_one_alone() -> None:
    with application() as nginx, application() as php, ExitStack() as clients:
        targets = ("--port", str(nginx.port), "--port", str(php.port))
        with sidecar(*targets, *FAST) as watching:
            until_equal(lambda: watching.get("/ready"), (200, "ready\n"))
            php.stop()
            # A client beside our own connection, as there is one.
            clients.enter_context(socket.create_connection(("127.0.0.1", php.port)))
            watching.until(20, target=str(php.port), live=False)
            # It is not live once its evidence is saved; then the answer of both is no, too.
            until(lambda: watching.get(f"/live/{php.port}")[0] == 503, "the end of the gate")
            code, line = watching.get("/live")
            assert code == 503
            assert line.startswith(f"not live: accept_queue_stalled: {php.port} accept queue")
            for question in ("ready", "live", "started"):
                assert watching.get(f"/{question}/{nginx.port}") == (200, f"{question}\n")
                assert watching.get(f"/{question}?exclude={php.port}")[0] == 200
            nginx.stop()
            clients.enter_context(socket.create_connection(("127.0.0.1", nginx.port)))
            watching.until(20, target=str(nginx.port), ready=False)
            code, line = watching.get("/ready")
            assert code == 503
            assert f"; 1 more of 2 targets: {nginx.port} accept_queue_stalled\n" in line
            php.resume()
            nginx.resume()
            until_equal(lambda: watching.get("/ready"), (200, "ready\n"))
            assert watching.get(f"/live/{php.port}") == (200, "live\n")
