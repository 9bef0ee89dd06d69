"""The PROXY header: byte by byte, and as nginx, haproxy and gunicorn take it."""

import sys
from pathlib import Path
from socket import socket

import pytest

from probe.kernel import KernelView
from probe.model import Outcome, Protocol, Target
from probe.roundtrip.proxy_protocol import SIGNATURE, header
from tests.roundtrip.application import Application, saying
from tests.roundtrip.conftest import Trip
from tests.roundtrip.test_servers import HAPROXY_DEFAULTS, PORT, Files, https, nginx, running

V4 = ("10.0.0.1", 40000), ("10.0.0.2", 80)
V6 = ("fe80::1%eth0", 40000), ("fe80::2", 80)
UNIX = ("", 0), ("/run/app.sock", 0)


def test_the_bytes() -> None:
    assert header("1", *V4) == b"PROXY TCP4 10.0.0.1 10.0.0.2 40000 80\r\n"
    assert header("1", *V6) == b"PROXY TCP6 fe80::1 fe80::2 40000 80\r\n"
    assert header("1", *UNIX) == b"PROXY UNKNOWN\r\n"
    ports = b"\x9c\x40\0\x50"
    assert header("2", *V4) == SIGNATURE + b"\x21\x11\0\x0c\x0a\0\0\1\x0a\0\0\2" + ports
    ends = b"\xfe\x80" + bytes(13) + b"\1" + b"\xfe\x80" + bytes(13) + b"\2"
    assert header("2", *V6) == SIGNATURE + b"\x21\x21\0\x24" + ends + ports
    assert header("2", *UNIX) == SIGNATURE + b"\x20\0\0\0"


@pytest.mark.parametrize("version", ["1", "2"])
def test_an_application_that_need_not_say_a_word(trip: Trip, version: str) -> None:
    """It comes before what is sent, and where nothing else is."""
    heard = []

    def handle(connection: socket) -> None:
        heard.append(connection.recv(500))

    for target in (Target(1, Protocol.TCP), Target(1, Protocol.TCP, send=b"hello")):
        with Application(handle) as application:
            asked = target._replace(port=application.port, proxy_protocol=version)
            assert trip(asked).outcome is Outcome.OK
        assert heard[-1].startswith(b"PROXY TCP4 127.0.0.1 " if version == "1" else SIGNATURE)
    with Application(saying(b"220 mail\r\n")) as application:
        greets = Target(application.port, Protocol.TCP, expect=b"220", proxy_protocol=version)
        assert trip(greets).outcome is Outcome.OK


NGINX = """
log_format who "$proxy_protocol_addr $status";
access_log {directory}/who.log who;
server {{
    listen 8080 proxy_protocol;
    listen 8443 ssl proxy_protocol;
    location / {{ return 200 ok; }}
}}
"""


@pytest.mark.parametrize("version", ["1", "2"])
def test_nginx(trip: Trip, view: KernelView, tmp_path: Path, version: str) -> None:
    files = Files(tmp_path)
    with running(view, nginx(tmp_path, files, NGINX.format(directory=tmp_path))):
        for target in (Target(PORT, path="/"), https(files)):
            told = trip(target._replace(proxy_protocol=version), 5.0)
            assert told.outcome is Outcome.OK, told
            assert trip(target).outcome is Outcome.FAILED
    assert (tmp_path / "who.log").read_text().split("\n")[0] == "127.0.0.1 200"
    complaints = (tmp_path / "error.log").read_bytes().count(b"broken header")
    assert complaints == 2, "of those that had none"


HAPROXY = """
frontend web
    bind 127.0.0.1:8080 accept-proxy
    http-request return status 200
"""


@pytest.mark.parametrize("version", ["1", "2"])
def test_haproxy(trip: Trip, view: KernelView, tmp_path: Path, version: str) -> None:
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(HAPROXY_DEFAULTS + HAPROXY)
    with running(view, ["haproxy", "-db", "-f", configuration]):
        told = trip(Target(PORT, path="/", proxy_protocol=version))
        assert told.outcome is Outcome.OK, told


def test_gunicorn(trip: Trip, view: KernelView, tmp_path: Path) -> None:
    """It takes version 1 alone, and of that no UNKNOWN."""
    (tmp_path / "web.py").write_text(
        "def app(environ, start):\n    start('200 OK', [])\n    return [b'ok']\n"
    )
    command: list[str | Path] = [
        *(sys.executable, "-m", "gunicorn", "--proxy-protocol", "--chdir", tmp_path),
        *("--worker-tmp-dir", tmp_path, "--bind", f"127.0.0.1:{PORT}", "web:app"),
    ]
    with running(view, command):
        told = trip(Target(PORT, path="/", proxy_protocol="1"), 5.0)
        assert told.outcome is Outcome.OK, told
