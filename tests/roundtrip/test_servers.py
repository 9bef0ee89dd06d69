"""Round trips with the servers that people run. What is not installed is skipped.

Debian: nginx-light, haproxy, redis-server, memcached. gunicorn comes with the test requirements.
"""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from probe.kernel import KernelView
from probe.model import Outcome, Protocol, Stage, Target
from probe.roundtrip import Attempt, address
from tests.roundtrip.conftest import Trip
from tests.roundtrip.test_grpc import plain, served

PORT = 8080
TLS_PORT = 8443
NAME = "web.example"


@contextlib.contextmanager
def running(
    view: KernelView, command: list[str | Path], port: int = PORT
) -> Iterator[subprocess.Popen[bytes]]:
    """The server, from when it listens until the end of the block."""
    program = shutil.which(command[0], path="/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin")
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    with subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as server:
        assert server.stderr is not None
        try:
            deadline = time.monotonic() + 20
            while not view.listeners(port):
                if server.poll() is not None:
                    pytest.fail(f"{command[0]}: {server.stderr.read().decode()}")
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                time.sleep(0.01)
            yield server
        finally:
            server.send_signal(signal.SIGCONT)
            server.terminate()
            server.communicate(timeout=10)


class Files:
    """A certificate and its authority as files."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        certificate = authority.issue_cert(NAME)
        self.ca = directory / "ca.pem"
        self.certificate = directory / "certificate.pem"
        authority.cert_pem.write_to_path(self.ca)
        certificate.private_key_and_cert_chain_pem.write_to_path(self.certificate)


def https(files: Files) -> Target:
    return Target(TLS_PORT, Protocol.HTTPS, path="/", ca_file=str(files.ca), server_name=NAME)


NGINX = """
user root;
daemon off;
master_process off;
pid {directory}/pid;
error_log {directory}/error.log info;
events {{}}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    ssl_certificate {files.certificate};
    ssl_certificate_key {files.certificate};
    {more}
}}
"""

PAGES = """
server {
    listen 8080;
    listen [::]:8080;
    listen 8443 ssl;
    location /ok { return 200 "fine"; }
    location /moved { return 302 /ok; }
    location /down { return 503 "no database"; }
    location /large { root %s; }
    location / { return 404; }
}
"""

CALLS = """
keepalive_requests 1;
server {
    listen 8080 http2;
    listen 8443 ssl http2;
    location / { grpc_pass grpc://127.0.0.1:%d; }
}
"""


def nginx(directory: Path, files: Files, more: str) -> list[str | Path]:
    """The command that starts it with this configuration."""
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory=directory, files=files, more=more))
    return ["nginx", "-p", directory, "-c", configuration]


def test_nginx(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    files = Files(tmp_path)
    (tmp_path / "large").write_bytes(bytes(500_000))
    with running(view, nginx(tmp_path, files, PAGES % tmp_path)):
        for path, outcome, status in (
            ("", Outcome.OK, 404),
            ("/ok", Outcome.OK, 200),
            ("/moved", Outcome.OK, 302),
            ("/large", Outcome.OK, 200),
            ("/down", Outcome.FAILED, 503),
            ("/none", Outcome.FAILED, 404),
        ):
            result = trip(Target(PORT, path=path))
            assert (result.outcome, result.status) == (outcome, status), result
        assert trip(Target(PORT, host="::1", path="/ok")).outcome is Outcome.OK
        assert trip(Target(PORT, Protocol.TCP)).outcome is Outcome.OK
        result = trip(https(files)._replace(path="/ok"))
        assert result.outcome is Outcome.OK, result
        for path in ("", "/ok"):
            result = trip(Target(TLS_PORT, path=path))
            assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.UNEXPECTED_REPLY)
            assert result.detail == (
                'HTTP 400: "400 The plain HTTP request was sent to HTTPS port"; '
                "the port speaks TLS: https://"
            )
        assert trip(https(files)._replace(server_name="other.example")).stage is Stage.TLS
    requests = (tmp_path / "access.log").read_text()
    assert '"GET /ok HTTP/1.1" 200 4 "-" "accept-probe/' in requests
    complaints = (tmp_path / "error.log").read_text().splitlines()
    assert not [line for line in complaints if "reset" in line or "send()" in line]


def test_nginx_that_ends_each_connection_with_its_call(
    trip: Trip, view: KernelView, tmp_path: Path
) -> None:
    """Its GOAWAY comes before the answer of the application behind it."""
    files = Files(tmp_path)
    with served(plain) as port, running(view, nginx(tmp_path, files, CALLS % port)):
        for target in (Target(PORT), https(files)._replace(path="", tls=True)):
            result = trip(target._replace(protocol=Protocol.GRPC), 5.0)
            assert result.outcome is Outcome.OK, result
        result = trip(Target(PORT))
        assert result.detail.endswith(
            "the port speaks HTTP/2: --http-version 2, or if that is gRPC: grpc://"
        )
        assert trip(Target(TLS_PORT, Protocol.GRPC)).outcome is Outcome.FAILED


MUTUAL = """
server {
    listen 8443 ssl;
    ssl_client_certificate %s;
    ssl_verify_client on;
    location / { return 200 "$ssl_client_verify $ssl_client_s_dn"; }
}
"""


def test_nginx_that_asks_for_a_certificate(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    files = Files(tmp_path)
    ours = str(files.certificate)
    with running(view, nginx(tmp_path, files, MUTUAL % files.ca), TLS_PORT):
        without = trip(https(files))
        assert (without.stage, without.status) == (Stage.STATUS, 400)
        assert "No required SSL certificate was sent" in without.detail
        shown = https(files)._replace(cert_file=ours, expect=b"SUCCESS")
        assert trip(shown).outcome is Outcome.OK
        told = trip(shown._replace(http_version="2"))
        assert told.stage is Stage.TLS
        assert told.detail.endswith("no application protocol: it does not speak h2")


HAPROXY_DEFAULTS = """
defaults
    mode http
    timeout client 5s
    timeout server 5s
    timeout connect 5s
"""

HAPROXY = (
    HAPROXY_DEFAULTS
    + """
frontend web
    bind 127.0.0.1:8080 defer-accept
    bind 127.0.0.1:8443 ssl crt {files.certificate} alpn h2,http/1.1
    http-request return status 200 content-type text/plain string fine if {{ path /ok }}
    default_backend nobody
backend nobody
"""
)


def test_haproxy(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    files = Files(tmp_path)
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(files=files))
    with running(view, ["haproxy", "-db", "-f", configuration]):
        assert trip(Target(PORT, path="/ok")).outcome is Outcome.OK
        assert trip(Target(PORT, Protocol.TCP)).outcome is Outcome.OK, "it defers its accepts"
        result = trip(Target(PORT))
        assert (result.stage, result.status) == (Stage.STATUS, 503), "no backend"
        result = trip(https(files)._replace(path="/ok"))
        assert result.outcome is Outcome.OK, result
        grpc = https(files)._replace(protocol=Protocol.GRPC, tls=True)
        result = trip(grpc)
        assert (result.stage, result.detail) == (
            Stage.STATUS,
            'HTTP 503 and no grpc-status: "503 Service Unavailable"',
        )


def test_redis(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    command = ["redis-server", "--port", "8080", "--bind", "127.0.0.1", "--save", ""]
    with running(view, [*command, "--dir", tmp_path]) as server:
        assert trip(Target(PORT, Protocol.TCP)).outcome is Outcome.OK
        ping = Target(PORT, Protocol.TCP, send=b"PING\r\n", expect=b"PONG")
        assert trip(ping).outcome is Outcome.OK
        result = trip(ping._replace(send=b"NONSENSE\r\n"), 0.5)
        assert result.stage is Stage.UNEXPECTED_REPLY
        assert "ERR unknown command" in result.detail
        talk = ping._replace(then=((b"ECHO hello\r\n", b"hello"), (b"QUIT\r\n", b"")))
        assert trip(talk).outcome is Outcome.OK
        result = trip(Target(PORT, Protocol.HTTPS, verify=False))
        assert result.stage is Stage.TLS
        result = trip(Target(PORT))
        assert result.stage is Stage.UNEXPECTED_REPLY, "it takes the header Host for an attack"
        server.send_signal(signal.SIGSTOP)
        assert trip(ping, 0.3).stage is Stage.QUEUED


def test_redis_over_tls(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    files = Files(tmp_path)
    command: list[str | Path] = [
        "redis-server", "--port", "0", "--tls-port", "8080", "--bind", "127.0.0.1", "--save", "",
        "--tls-cert-file", files.certificate, "--tls-key-file", files.certificate,
        "--tls-ca-cert-file", files.ca, "--tls-auth-clients", "no", "--dir", tmp_path,
    ]  # fmt: skip
    with running(view, command):
        ping = Target(PORT, Protocol.TCP, send=b"PING\r\n", expect=b"PONG")
        over_tls = ping._replace(tls=True, ca_file=str(files.ca), server_name=NAME)
        assert trip(over_tls, 5.0).outcome is Outcome.OK
        assert trip(ping).outcome is Outcome.FAILED, "it closes without a word"


def test_redis_stopped_and_continued(view: KernelView, tmp_path: Path) -> None:
    """Our connection waits in its queue while it is stopped, and is accepted when it goes on."""
    command = ["redis-server", "--port", "8080", "--bind", "127.0.0.1", "--save", ""]
    target = Target(PORT, Protocol.TCP)
    with running(view, [*command, "--dir", tmp_path]) as server:
        server.send_signal(signal.SIGSTOP)
        attempt = Attempt(
            target, address(target, view.listeners(PORT)), view, time.monotonic(), 0.2
        )
        while attempt.step() is None:
            time.sleep(max(attempt.wake - time.monotonic(), 0))
        assert attempt.poll(time.monotonic())
        server.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 10
        while attempt.poll(time.monotonic()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert attempt.accepted
        assert not attempt.lingers


def test_memcached(trip: Trip, view: KernelView) -> None:
    command = ["memcached", "-u", "root", "-l", "127.0.0.1", "-p", "8080", "-U", "0"]
    with running(view, [*command]):
        assert trip(Target(PORT, Protocol.TCP)).outcome is Outcome.OK
        version = Target(PORT, Protocol.TCP, send=b"version\r\n", expect=b"VERSION 1.")
        assert trip(version).outcome is Outcome.OK


GUNICORN = """
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        time.sleep(60)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"""


def test_gunicorn(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    (tmp_path / "wsgi.py").write_text(GUNICORN)
    command: list[str | Path] = [
        sys.executable, "-m", "gunicorn", "--chdir", tmp_path, "--worker-tmp-dir", tmp_path,
        "--bind", "127.0.0.1:8080", "--workers", "1", "--graceful-timeout", "1",
        "--no-control-socket", "wsgi:application",
    ]  # fmt: skip
    with running(view, command):
        assert trip(Target(PORT, path="/"), 10).outcome is Outcome.OK
        assert trip(Target(PORT, path="/stuck"), 0.5).stage is Stage.UNANSWERED
        assert trip(Target(PORT, path="/"), 0.5).stage is Stage.QUEUED, "its worker is stuck"


EMFILE = """
import resource, socket, sys, time
listener = socket.create_server(("127.0.0.1", 8080))
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
while True:
    try:
        listener.accept()
    except OSError:
        time.sleep(0.01)
"""


def test_an_application_without_descriptors_left(trip: Trip, view: KernelView) -> None:
    """It calls accept for ever, and each call fails: to its clients it looks dead."""
    with running(view, [sys.executable, "-c", EMFILE]):
        for protocol in (Protocol.HTTP, Protocol.TCP):
            assert trip(Target(PORT, protocol), 0.3).stage is Stage.QUEUED
