"""Every fault of the field, raised for real, and what the sidecar must say of it, and how soon."""

import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.faults.harness import Sidecar, application, flowing, sidecar, watched

STALLED = {"reason": "accept_queue_stalled", "ready": False}
SATURATED = {"reason": "accept_queue_saturated", "ready": False}
UNANSWERED = {"reason": "round_trip_failed", "stage": "unanswered", "ready": False}
HEALTHY = {"condition": "healthy", "ready": True, "live": True}

TRAFFIC = Path(__file__).with_name("traffic.py")


@contextmanager
def traffic(port: int, *, rate: float, clients: int = 200) -> Iterator[None]:
    """Requests at a steady rate from a process of its own, whatever becomes of them."""
    with flowing(sys.executable, str(TRAFFIC), str(port), str(rate), str(clients)):
        yield


@contextmanager
def burst(port: int, count: int) -> Iterator[None]:
    """`count` connections at once, which wait for their turn."""
    with ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield


@contextmanager
def tls_application(context: ssl.SSLContext) -> Iterator[tuple[int, list[ssl.SSLContext]]]:
    """Answers over TLS; the context in the list is the one for the next connection."""
    contexts = [context]

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with (
                suppress(OSError),
                connection,
                contexts[0].wrap_socket(connection, server_side=True) as secured,
            ):
                secured.recv(65536)
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1], contexts
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


NGINX = """
user root; daemon off; master_process on; worker_processes 2;
pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 256; }}
http {{ client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
access_log off; server {{ listen 127.0.0.1:{port} {options}; return 200 "ok"; }} }}
"""


@contextmanager
def nginx(folder: Path, port: int, options: str) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "conf").write_text(NGINX.format(folder=folder, port=port, options=options))
    command = ["nginx", "-p", str(folder), "-c", str(folder / "conf"), "-e", str(folder / "error")]
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


# --- what must make it unready


@pytest.mark.parametrize("backlog", ["5", "4096"])
def test_dead_accept_loop_without_traffic(backlog: str) -> None:
    with application("--backlog", backlog) as app, watched(app) as probe:
        app.tell("die")
        event = probe.until(5, **STALLED)
        assert f" of {backlog} queued, nothing accepted for 3" in event["message"]
        status, body = probe.get("/ready")
        assert status == 503
        assert body.startswith("not ready: accept_queue_stalled: ")
        assert probe.get("/live")[0] == 200


@pytest.mark.parametrize("backlog", ["5", "4096"])
def test_dead_accept_loop_with_traffic(backlog: str) -> None:
    with (
        application("--backlog", backlog) as app,
        watched(app) as probe,
        traffic(app.port, rate=50),
    ):
        app.tell("die")
        probe.until(6, **STALLED)


def test_dead_accept_loop_beside_a_busy_health_port() -> None:
    """The incident: other listeners of the namespace accept all the while."""
    with (
        application() as app,
        application() as health,
        watched(app) as probe,
        traffic(health.port, rate=50),
    ):
        app.tell("die")
        probe.until(6, **STALLED)


def test_live_fails_for_a_lasting_stall_and_recovers_with_it() -> None:
    with application() as app, watched(app, "--live-after", "5s") as probe:
        app.tell("accept off")
        probe.until(8, **STALLED, live=True)
        probe.until(4, reason="accept_queue_stalled", live=False)
        assert probe.get("/live")[0] == 503
        app.tell("accept on")
        probe.until(3, **HEALTHY)
        assert probe.get("/live")[0] == 200


def test_a_dead_application_is_left_with_one_entry_of_ours() -> None:
    with application("--backlog", "5") as app, watched(app) as probe:
        app.tell("die")
        probe.until(5, **STALLED)
        probe.throughout(10, ready=False)
        (listener,) = probe.status()["targets"][0]["listeners"]
        assert listener["length"] == 1


def test_stopped_and_continued() -> None:
    with application() as app, watched(app) as probe:
        app.stop()
        probe.until(5, **STALLED)
        app.resume()
        probe.until(3, **HEALTHY)


def test_deadlocked_handlers() -> None:
    with application() as app, watched(app) as probe:
        app.tell("answer hang")
        probe.until(7, **UNANSWERED)
        app.tell("answer ok")
        probe.until(3, **HEALTHY)


def test_half_a_response_then_silence() -> None:
    with application() as app, watched(app) as probe:
        app.tell("answer half")
        probe.until(7, **UNANSWERED)


def test_emfile() -> None:
    with application() as app, watched(app) as probe:
        app.tell("emfile")
        probe.until(6, **STALLED)
        app.tell("release")
        probe.until(3, **HEALTHY)


def test_accept_slower_than_arrivals_is_saturated_and_stays_live() -> None:
    with (
        application("--backlog", "16") as app,
        watched(app, "--live-after", "4s") as probe,
        traffic(app.port, rate=100),
    ):
        app.tell("pace 0.1")
        probe.until(12, **SATURATED)
        probe.throughout(8, live=True, ready=False)
        assert probe.get("/live")[0] == 200
        app.tell("pace 0")
        probe.until(10, **HEALTHY)


def test_listener_closed_and_reopened() -> None:
    with application() as app, watched(app) as probe:
        app.tell("close")
        event = probe.until(3, reason="not_listening", ready=False)
        assert event["live"]
        app.tell("listen")
        probe.until(3, **HEALTHY)


def test_process_restarted() -> None:
    with application() as app, watched(app) as probe:
        app.end()
        probe.until(3, reason="not_listening", ready=False, live=True)
        with application("--port", str(app.port)):
            probe.until(3, **HEALTHY)


def test_one_of_four_reuseport_listeners_dead() -> None:
    with (
        application("--members", "4") as app,
        watched(app) as probe,
        traffic(app.port, rate=50),
    ):
        app.tell("accept off last")
        event = probe.until(10, **STALLED)
        assert event["message"].endswith("(1 of 4 listeners)")


def test_tcp_abort_on_overflow() -> None:
    Path("/proc/sys/net/ipv4/tcp_abort_on_overflow").write_text("1")
    with application() as app, watched(app) as probe, traffic(app.port, rate=50):
        app.tell("die")
        probe.until(6, **STALLED)


@pytest.mark.parametrize(("path", "status"), [("/", "404"), ("", "500"), ("/health", "503")])
def test_bad_status(path: str, status: str) -> None:
    options = ("--path", path) if path else ()
    with application() as app, watched(app, *options) as probe:
        app.tell(f"answer status {status}")
        event = probe.until(5, reason="round_trip_failed", stage="status", ready=False)
        assert status in event["message"]
        assert event["live"]


def test_rst_on_accept() -> None:
    with application() as app, watched(app) as probe:
        app.tell("answer rst")
        probe.until(5, reason="round_trip_failed", stage="reset", ready=False)


def test_tls_handshake_that_never_ends() -> None:
    with (
        application() as app,
        sidecar("--port", str(app.port), "--protocol", "https", "--insecure") as probe,
    ):
        probe.until(8, reason="round_trip_failed", stage="tls", ready=False)


def test_wrong_certificate(tmp_path: Path) -> None:
    """Not ready while it is not the authority's; then it is renewed, on the same listener."""
    authority, hidden = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    right, wrong = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("app.test").configure_cert(right)
    hidden.issue_cert("app.test").configure_cert(wrong)
    with (
        tls_application(wrong) as (port, context),
        sidecar(
            *("--port", str(port), "--protocol", "https"),
            *("--ca-file", str(tmp_path / "ca.pem"), "--server-name", "app.test"),
        ) as probe,
    ):
        event = probe.until(6, reason="round_trip_failed", stage="tls", ready=False)
        assert "certificate" in event["message"]
        context[0] = right
        probe.until(3, **HEALTHY)


def test_late_start() -> None:
    """It listens at once and initialises for a while: not ready, but never not live."""
    with (
        application("--late") as app,
        sidecar("--port", str(app.port), "--live-after", "4s") as probe,
    ):
        probe.until(6, **STALLED)
        probe.throughout(4, live=True, ready=False)
        app.tell("accept on")
        probe.until(3, **HEALTHY)


def test_remembers_across_its_own_restart_what_has_accepted(tmp_path: Path) -> None:
    keep = ("--evidence-dir", str(tmp_path), "--live-after", "4s")
    with application() as app:
        with watched(app, *keep):
            app.tell("accept off")
        with sidecar("--port", str(app.port), *keep) as probe:
            probe.until(15, reason="accept_queue_stalled", live=False)


def test_sock_diag_refused() -> None:
    """By seccomp, as a runtime's profile may: the fallback judges by the round trip alone."""
    refusing = (sys.executable, "-m", "tests.faults.refuse_sock_diag")
    with application() as app, watched(app, wrapper=refusing) as probe:
        assert any("sock_diag is refused" in event["message"] for event in probe.events)
        assert probe.status()["view"] == "procfs"
        app.tell("answer hang")
        probe.until(8, **UNANSWERED)


def test_tcp_without_sock_diag() -> None:
    """There, only the connection table in /proc proves that a connection was accepted."""
    refusing = (sys.executable, "-m", "tests.faults.refuse_sock_diag")
    with application() as app, watched(app, "--protocol", "tcp", wrapper=refusing) as probe:
        assert probe.status()["view"] == "procfs"
        app.tell("accept off")
        probe.until(6, **STALLED)  # as the count of accepts proves
        app.tell("accept on")
        probe.until(3, **HEALTHY)


def test_own_loop_blocked_ends_the_sidecar() -> None:
    """A blocked loop is this thread's doing here: the watchdog must end the process."""
    block = (
        "import asyncio, time\n"
        "from probe.sidecar.watchdog import Watchdog\n"
        "async def main():\n"
        "    Watchdog(asyncio.get_running_loop(), print, interval=0.1, patience=5).start()\n"
        "    await asyncio.sleep(0.3)\n"
        "    time.sleep(30)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", block], timeout=20, check=False)
    assert ended.returncode == 70


def test_frozen_sidecar_lives_on() -> None:
    with application() as app, watched(app) as probe:
        probe.process.send_signal(signal.SIGSTOP)
        time.sleep(12)  # longer than the watchdog's patience, were it awake
        probe.process.send_signal(signal.SIGCONT)
        probe.throughout(3, **HEALTHY)


def test_shutting_down() -> None:
    with application() as app, watched(app) as probe:
        probe.process.send_signal(signal.SIGTERM)
        assert probe.process.wait(10) == 0


@pytest.mark.parametrize("end", ["close", "accept off"])
def test_an_application_that_ends_after_the_sidecar_was_told_to_is_no_incident(end: str) -> None:
    """It closes its listener, or stops accepting, and then it is gone."""
    with application() as app, watched(app, "--drain", "3s", "--stalled-for", "500ms") as probe:
        probe.process.send_signal(signal.SIGTERM)
        probe.until(10, message="not ready any more: shutting down")
        app.tell(end)
        with burst(app.port, 1 if end == "accept off" else 0):
            assert probe.process.wait(10) == 0
        assert incidents(probe) == []


def test_an_application_that_ends_before_the_sidecar_is_told_to_is_no_incident() -> None:
    """As in a pod that is deleted: a native sidecar gets SIGTERM last."""
    with application() as app, watched(app, "--drain", "3s") as probe:
        app.end()
        probe.until(10, condition="unhealthy", reason="not_listening")
        probe.process.send_signal(signal.SIGTERM)
        assert probe.process.wait(10) == 0
        assert incidents(probe) == []


def test_an_application_that_ends_beside_a_sidecar_that_stays_is_one() -> None:
    with application() as app, watched(app) as probe:
        app.end()
        assert probe.until(20, event="evidence")["level"] == "warning"


def incidents(probe: Sidecar) -> list[str]:
    """The lines of its log, to the end of it, that somebody would be woken for."""
    while probe.next(1):
        pass
    return [event["message"] for event in probe.events if event["level"] != "info"]


# --- what must not


def test_bursts_above_the_backlog_that_drain_within_a_second() -> None:
    with application("--backlog", "5") as app, watched(app) as probe:
        for _ in range(4):
            with burst(app.port, 40):
                probe.throughout(2, ready=True)
        assert probe.get("/ready")[0] == 200


def test_a_pause_of_a_second_and_a_half() -> None:
    with application() as app, watched(app) as probe:
        for _ in range(3):
            app.stop()
            probe.throughout(1.5, ready=True)
            app.resume()
            probe.throughout(1.5, ready=True)


def test_backlog_of_one_with_steady_traffic() -> None:
    with (
        application("--backlog", "1") as app,
        watched(app) as probe,
        traffic(app.port, rate=100),
    ):
        probe.throughout(12, ready=True)


def test_slow_but_steady_accepts() -> None:
    with application("--backlog", "128") as app, watched(app) as probe:
        app.tell("pace 0.2")
        with traffic(app.port, rate=3):
            probe.throughout(12, ready=True)


def test_idle_at_ten_times_the_pace() -> None:
    """Nothing but our own round trips. The ten minutes in full: `python -m bench idle`."""
    with application() as app, watched(app, "--interval", "100ms") as probe:
        probe.throughout(20, ready=True)
        assert probe.status()["targets"][0]["samples"] > 150


def test_listener_replaced_without_a_gap() -> None:
    with (
        application("--reuseport") as app,
        watched(app) as probe,
        traffic(app.port, rate=50),
    ):
        for _ in range(5):
            app.tell("replace")
            probe.throughout(1.5, ready=True)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.parametrize("options", ["", "reuseport"])
def test_nginx_reloaded_under_load(tmp_path: Path, options: str) -> None:
    with (
        nginx(tmp_path, 8080, options) as server,
        sidecar("--port", "8080") as probe,
        traffic(8080, rate=100),
    ):
        probe.until(10, **HEALTHY)
        for _ in range(5):
            server.send_signal(signal.SIGHUP)
            probe.throughout(2, ready=True)


def test_an_error_page_at_the_root() -> None:
    with application() as app, watched(app) as probe:
        app.tell("answer status 404")
        probe.throughout(5, ready=True)
