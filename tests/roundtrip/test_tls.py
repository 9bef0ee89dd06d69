"""TLS around the other protocols, with a test authority of our own."""

import contextlib
import datetime
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from probe.model import Outcome, Protocol, Stage, Target
from probe.roundtrip.exchange import CannotAsk, Result
from probe.roundtrip.http import Http
from probe.roundtrip.tls import Tls, context
from tests.roundtrip.application import (
    Application,
    Handler,
    answer,
    listen,
    port_of,
    request,
    until_closed,
)
from tests.roundtrip.conftest import Trip

NAME = "web.example"


class Authority:
    """A test CA, its file, and the certificates that it signs."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.file)

    def context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        certificate = self.ca.issue_cert(*names, not_after=yesterday if expired else None)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(server)
        return server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def over_tls(server: ssl.SSLContext, handle: Handler) -> Handler:
    """Do the handshake, then `handle` what is inside; a failed handshake is the client's matter."""

    def shake(connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            try:
                inside = server.wrap_socket(connection, server_side=True)
            except (ssl.SSLError, ConnectionError):
                return
            stack.enter_context(inside)
            inside.settimeout(10)
            handle(inside)

    return shake


def inside(reply: bytes) -> Handler:
    """Answer an HTTP request, take the client's farewell, and see it leave without a reset."""

    def handle(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        request(connection)
        connection.sendall(reply)
        connection.unwrap().close()

    return handle


def https(port: int, authority: Authority, **fields: str) -> Target:
    target = Target(port, Protocol.HTTPS, ca_file=str(authority.file), server_name=NAME)
    return target._replace(**fields)  # type: ignore[arg-type]


def test_https(trip: Trip, authority: Authority) -> None:
    with Application(over_tls(authority.context(NAME), inside(answer()))) as application:
        result = trip(https(application.port, authority))
    assert result[1:-1] == (Outcome.OK, None, "", 200, True)
    phases = result.phases
    assert phases.tls is not None
    assert phases.accept is not None
    assert phases.first_byte is not None
    assert phases.total is not None
    assert phases.connect is not None
    assert phases.connect + phases.tls + phases.first_byte <= phases.total


def test_a_server_that_waits_for_acks_does_not_wait_for_ours(
    trip: Trip, authority: Authority
) -> None:
    """By Nagle's algorithm the answer waits until its session tickets are acknowledged, which our
    kernel likes to do 40 ms later.
    """
    with Application(over_tls(authority.context(NAME), inside(answer()))) as application:
        results = [trip(https(application.port, authority)) for _ in range(10)]
    assert {result.outcome for result in results} == {Outcome.OK}
    assert min(result.phases.first_byte or 1 for result in results) < 0.02


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_in_use(trip: Trip, authority: Authority, version: ssl.TLSVersion) -> None:
    server = authority.context(NAME)
    server.minimum_version = server.maximum_version = version
    with Application(over_tls(server, inside(answer(b"x" * 40_000)))) as application:
        assert trip(https(application.port, authority)).outcome is Outcome.OK


def test_the_name_is_that_of_the_host_or_of_the_address(trip: Trip, authority: Authority) -> None:
    server = authority.context("127.0.0.1", "localhost")
    with Application(over_tls(server, inside(answer()))) as application:
        for host in ("", "127.0.0.1", "localhost"):
            target = https(application.port, authority, host=host, server_name="")
            result = trip(target)
            assert result.outcome is Outcome.OK, (host, result)


def test_the_server_name_is_sent(trip: Trip, authority: Authority) -> None:
    names = []
    server = authority.context(NAME)
    server.sni_callback = lambda _, name, __: names.append(name)
    with Application(over_tls(server, inside(answer()))) as application:
        assert trip(https(application.port, authority)).outcome is Outcome.OK
        unverified = Target(application.port, Protocol.HTTPS, verify=False)
        assert trip(unverified).outcome is Outcome.OK
        assert trip(unverified._replace(server_name=NAME)).outcome is Outcome.OK
        named = unverified._replace(server_name=f"{NAME}.")
        assert trip(named).outcome is Outcome.OK
        assert (
            trip(https(application.port, authority, server_name=f"{NAME}.")).outcome is Outcome.OK
        )
    assert names == [NAME, None, NAME, NAME, NAME], "the dot at its end is no part of the name"


@pytest.mark.parametrize(
    ("names", "expired", "fields", "detail"),
    [
        (
            ["other.example"],
            False,
            {},
            "certificate not accepted: Hostname mismatch, certificate is not valid for "
            "'web.example'",
        ),
        (
            [NAME],
            False,
            {"server_name": ""},
            "certificate not accepted: IP address mismatch, certificate is not valid for "
            "'127.0.0.1'; --server-name gives one that it is for",
        ),
        ([NAME], True, {}, "certificate not accepted: certificate has expired"),
        (
            [NAME],
            False,
            {"ca_file": ""},
            "certificate not accepted: unable to get local issuer certificate",
        ),
    ],
    ids=["wrong name", "no name", "expired", "unknown authority"],
)
def test_a_certificate_that_is_not_accepted(
    trip: Trip,
    authority: Authority,
    names: list[str],
    expired: bool,
    fields: dict[str, str],
    detail: str,
) -> None:
    server = authority.context(*names, expired=expired)
    with Application(over_tls(server, inside(answer()))) as application:
        result = trip(https(application.port, authority, **fields))
        assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.TLS)
        assert result.detail == detail
        assert result.accepted
        assert result.phases.tls is None
        unverified = https(application.port, authority, **fields)._replace(verify=False)
        assert trip(unverified).outcome is Outcome.OK


def test_another_authority(trip: Trip, authority: Authority, tmp_path: Path) -> None:
    with Application(over_tls(authority.context(NAME), inside(answer()))) as application:
        result = trip(https(application.port, Authority(tmp_path)))
    assert result.stage is Stage.TLS
    assert result.detail.startswith("certificate not accepted: ")


def test_a_self_signed_certificate_as_its_own_authority(trip: Trip, tmp_path: Path) -> None:
    """As curl does, and as people do who run an application without an authority."""
    root = trustme.CA()
    middle = root.create_child_ca()
    file = tmp_path / "middle.pem"
    middle.cert_pem.write_to_path(file)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    middle.issue_cert(NAME).configure_cert(server)
    with Application(over_tls(server, inside(answer()))) as application:
        target = Target(application.port, Protocol.HTTPS, ca_file=str(file), server_name=NAME)
        assert trip(target).outcome is Outcome.OK


def test_a_client_certificate_that_we_do_not_have(trip: Trip, authority: Authority) -> None:
    server = authority.context(NAME)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(authority.file)
    with Application(over_tls(server, inside(answer()))) as application:
        result = trip(https(application.port, authority))
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.TLS)
    assert result.detail == (
        "tlsv13 alert certificate required; --cert-file and --key-file give ours"
    )


def test_no_common_version(trip: Trip, authority: Authority) -> None:
    server = authority.context(NAME)
    server.set_ciphers("ECDHE-RSA-AES256-GCM-SHA384")
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with Application(over_tls(server, inside(answer()))) as application:
        result = trip(https(application.port, authority))
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.TLS)
    assert "\n" not in result.detail


def test_a_handshake_that_nobody_answers(trip: Trip, authority: Authority) -> None:
    """Accepted and read, but not one byte of a ServerHello."""
    with Application(until_closed) as application:
        for protocol in (Protocol.HTTPS, Protocol.GRPC, Protocol.TCP):
            target = https(application.port, authority)._replace(protocol=protocol, tls=True)
            result = trip(target, 0.3)
            assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.TLS)
            assert result.detail == "the handshake got no answer"
            assert result.accepted


def test_a_handshake_that_nobody_reads(trip: Trip, authority: Authority) -> None:
    with listen() as listener:
        target = https(port_of(listener), authority)
        assert trip(target, 0.3).stage is Stage.QUEUED, "and not tls"

    def idle(connection: socket.socket) -> None:
        while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1:
            time.sleep(0.01)

    with Application(idle) as application:
        result = trip(https(application.port, authority), 0.3)
    assert (result.outcome, result.stage) == (Outcome.FAILED, Stage.TLS)
    assert result.detail.startswith("the handshake got no answer, ")
    assert result.detail.endswith(" bytes of ours unread")


def test_a_handshake_that_stops(trip: Trip, authority: Authority) -> None:
    server = authority.context(NAME)

    def half(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = server.wrap_bio(incoming, outgoing, server_side=True)
        while not outgoing.pending:
            incoming.write(connection.recv(4096))
            with contextlib.suppress(ssl.SSLWantReadError):
                inner.do_handshake()
        connection.sendall(outgoing.read()[:100])
        until_closed(connection)

    with Application(half) as application:
        result = trip(https(application.port, authority), 0.3)
    assert (result.stage, result.detail) == (Stage.TLS, "the handshake stopped after 100 bytes")


def test_closed_in_the_handshake(trip: Trip, authority: Authority) -> None:
    with Application(lambda connection: connection.recv(65536)) as application:
        result = trip(https(application.port, authority))
    assert (result.stage, result.detail) == (Stage.TLS, "closed during the handshake")


@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", '"HTTP/1.1 400 Bad Request"'),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", '"SSH-2.0-OpenSSH_9.2p1"'),
        (b"no\n", '"no"'),
        (b"\0\1", r'binary data "\x00\x01"'),
    ],
)
def test_a_server_that_does_not_speak_tls(
    trip: Trip, authority: Authority, said: bytes, shown: str, read: bool
) -> None:
    """What it says is the reason, whether or not it reads our handshake before it closes."""

    def handle(connection: socket.socket) -> None:
        connection.recv(65536 if read else 1)
        connection.sendall(said)

    with Application(handle) as application:
        result = trip(https(application.port, authority))
    assert (result.stage, result.detail) == (Stage.TLS, f"the answer is not TLS: {shown}")


ALERTS = {
    40: "sslv3 alert handshake failure",
    112: "tlsv1 unrecognized name; --server-name gives the name to ask for",
    115: "tlsv1 alert unknown psk identity",
    120: "tlsv1 alert no application protocol: it does not speak http/1.1, "
    "and perhaps HTTP/2 alone: --http-version 2",
}


@pytest.mark.parametrize("number", ALERTS)
def test_an_alert_is_told_in_words_that_openssl_has_and_python_may_not(number: int) -> None:
    target = Target(1, Protocol.HTTPS, verify=False)
    exchange = Tls(Http(target, "127.0.0.1"), target, "127.0.0.1")
    exchange.start()
    exchange.feed(bytes((21, 3, 3, 0, 2, 2, number)))
    assert exchange.result is not None
    # OpenSSL 3.2 says ssl/tls where its forerunners say sslv3 and tlsv1.
    words = ALERTS[number].partition(" ")[2]
    assert exchange.result.detail.partition(" ")[2] == words


def test_an_application_that_speaks_http2_alone(trip: Trip, authority: Authority) -> None:
    """It takes whoever names no protocol of its own for one who knows."""
    frames = bytes.fromhex("0000000400000000000000080700000000000000000000000001")
    server = authority.context(NAME)
    server.set_alpn_protocols(["h2"])

    def handle(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(frames)

    with Application(over_tls(server, handle)) as application:
        result = trip(https(application.port, authority))
    assert (result.stage, result.detail) == (
        Stage.UNEXPECTED_REPLY,
        "not an HTTP/1 answer: the port speaks HTTP/2: --http-version 2, or if that is gRPC: grpcs://",
    )


@pytest.mark.parametrize(
    ("protocol", "scheme"),
    [(Protocol.HTTP, "https"), (Protocol.GRPC, "grpcs"), (Protocol.TCP, "tcps")],
)
def test_a_port_that_speaks_tls_is_named_as_such(
    trip: Trip, authority: Authority, protocol: Protocol, scheme: str
) -> None:
    def handle(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        inner = authority.context(NAME).wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(connection.recv(4096))
        with pytest.raises(ssl.SSLError):
            inner.do_handshake()
        # OpenSSL has an alert for what is no HTTP, and leaves HTTP to whoever asks it.
        connection.sendall(outgoing.read() or bytes.fromhex("15030100020246"))

    with Application(handle) as application:
        target = Target(application.port, protocol, send=b"PING\r\n", expect=b"PONG")
        result = trip(target)
    assert result.stage is Stage.UNEXPECTED_REPLY
    assert "a TLS alert (" in result.detail
    assert f"the port speaks TLS: {scheme}://" in result.detail


def test_what_is_inside_fails_as_it_does_outside(trip: Trip, authority: Authority) -> None:
    def half(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(answer(bytes(1000))[:-488])
        until_closed(connection)

    with Application(over_tls(authority.context(NAME), half)) as application:
        result = trip(https(application.port, authority), 0.5)
    assert (result.stage, result.detail) == (
        Stage.UNANSWERED,
        "answer stopped after 512 of 1000 bytes of the body",
    )
    reply = inside(answer(b"no", "503 No"))
    with Application(over_tls(authority.context(NAME), reply)) as application:
        result = trip(https(application.port, authority))
    assert (result.stage, result.status) == (Stage.STATUS, 503)
    with Application(over_tls(authority.context(NAME), until_closed)) as application:
        result = trip(https(application.port, authority), 0.5)
    assert (result.stage, result.detail) == (Stage.UNANSWERED, "no answer within 0.5 s")


def test_a_body_that_ends_with_the_connection(trip: Trip, authority: Authority) -> None:
    for polite in (True, False):

        def handle(connection: socket.socket, polite: bool = polite) -> None:
            assert isinstance(connection, ssl.SSLSocket)
            request(connection)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nfine")
            if polite:
                connection.unwrap().close()

        with Application(over_tls(authority.context(NAME), handle)) as application:
            assert trip(https(application.port, authority)).outcome is Outcome.OK


def test_tcp_over_tls(trip: Trip, authority: Authority) -> None:
    server = authority.context(NAME)

    def redis(connection: socket.socket) -> None:
        if connection.recv(100) == b"PING\r\n":
            connection.sendall(b"+PONG\r\n")

    with Application(over_tls(server, redis)) as application:
        target = https(application.port, authority)._replace(protocol=Protocol.TCP, tls=True)
        assert trip(target).outcome is Outcome.OK, "the handshake is enough"
        asking = target._replace(send=b"PING\r\n", expect=b"+PONG")
        assert trip(asking).outcome is Outcome.OK


# --- certificates of our own


def test_a_ca_file_that_cannot_be_used(trip: Trip, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for file, why in (
        (tmp_path / "missing.pem", "No such file or directory"),
        (empty, "no certificates in PEM form"),
        (tmp_path, "Is a directory"),
    ):
        result = trip(Target(1, Protocol.HTTPS, ca_file=str(file)))
        assert (result.outcome, result.stage) == (Outcome.UNKNOWN, None)
        assert result.detail == f"CA file {file}: {why}"


def test_a_server_name_that_is_none() -> None:
    target = Target(1, Protocol.HTTPS, server_name=".example", verify=False)
    with pytest.raises(CannotAsk, match=r"server name '\.example': "):
        Tls(Http(target, "127.0.0.1"), target, "127.0.0.1")


def test_a_renewed_ca_file_is_read_again(trip: Trip, tmp_path: Path) -> None:
    old = Authority(tmp_path)
    with Application(over_tls(old.context(NAME), inside(answer()))) as application:
        assert trip(https(application.port, old)).outcome is Outcome.OK
        (tmp_path / "new").mkdir()
        new = Authority(tmp_path / "new")
        new.file.replace(old.file)  # as a mounted secret changes
        assert trip(https(application.port, old)).stage is Stage.TLS
    with Application(over_tls(new.context(NAME), inside(answer()))) as application:
        assert trip(https(application.port, old)).outcome is Outcome.OK


def test_settings_are_shared_and_not_read_each_time(authority: Authority) -> None:
    target = https(1, authority)
    assert context(target) is context(target._replace(port=2))
    assert context(target) is not context(target._replace(verify=False))
    assert context(target).verify_mode is ssl.CERT_REQUIRED
    assert context(target).check_hostname
    assert context(target._replace(verify=False)).verify_mode is ssl.CERT_NONE


# --- fuzz


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_instead_of_a_handshake_give_a_result(data: list[bytes]) -> None:
    target = Target(1, Protocol.HTTPS, verify=False)
    exchange = Tls(Http(target, "127.0.0.1"), target, "127.0.0.1")
    assert exchange.start()
    for one in data:
        exchange.feed(one)
    assert exchange.late().stage is Stage.TLS
    exchange.eof()
    assert isinstance(exchange.result, Result)
    assert exchange.result.stage is Stage.TLS
    assert "\n" not in exchange.result.detail
    exchange.finish()


_SERVER: list[ssl.SSLContext] = []


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=4))
def test_any_damage_within_the_handshake_gives_a_result(damage: list[tuple[int, int]]) -> None:
    if not _SERVER:
        _SERVER.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        trustme.CA().issue_cert(NAME).configure_cert(_SERVER[0])
    target = Target(1, Protocol.HTTPS, verify=False)
    exchange = Tls(Http(target, "127.0.0.1"), target, "127.0.0.1")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = _SERVER[0].wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(exchange.start())
    at, answered = 0, False
    for _ in range(4):
        with contextlib.suppress(ssl.SSLError):
            server.do_handshake()
            server.read(4096)
            if not answered:
                server.write(answer())
                answered = True
        data = bytearray(outgoing.read())
        for where, what in damage:
            if at <= where < at + len(data):
                data[where - at] ^= what
        at += len(data)
        incoming.write(exchange.feed(bytes(data)))
    exchange.eof()
    assert exchange.result is not None
    if not damage:
        assert exchange.result == Result(status=200)
    exchange.finish()


def test_a_server_that_says_nothing_of_http2(trip: Trip, authority: Authority) -> None:
    """By RFC 9113, 3.3, it has to, before it is spoken to in HTTP/2."""
    with Application(over_tls(authority.context(NAME), until_closed)) as application:
        told = trip(https(application.port, authority, http_version="2"))
    assert (told.stage, told.detail) == (
        Stage.TLS,
        "the server has not agreed to speak HTTP/2 (ALPN)",
    )


# --- our own certificate


class Client:
    """A certificate of ours and its key as files; a server of the same authority takes it."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.issued = authority.ca.issue_cert("probe.example")
        self.cert = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.issued.cert_chain_pems[0].write_to_path(self.cert)
        self.issued.private_key_pem.write_to_path(self.key)

    def target(self, target: Target) -> Target:
        return target._replace(cert_file=str(self.cert), key_file=str(self.key))


def demanding(authority: Authority) -> ssl.SSLContext:
    server = authority.context(NAME)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(authority.file)
    return server


def test_a_certificate_of_ours(trip: Trip, authority: Authority, tmp_path: Path) -> None:
    client = Client(tmp_path, authority)
    both = tmp_path / "both.pem"
    client.issued.private_key_and_cert_chain_pem.write_to_path(both)
    with Application(over_tls(demanding(authority), inside(answer()))) as application:
        target = https(application.port, authority)
        assert trip(target).stage is Stage.TLS
        assert trip(client.target(target)).outcome is Outcome.OK
        assert trip(target._replace(cert_file=str(both))).outcome is Outcome.OK


def test_a_renewed_certificate_counts_at_once(
    trip: Trip, authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Client(tmp_path, Authority(tmp_path / "stranger"))
    with Application(over_tls(demanding(authority), inside(answer()))) as application:
        target = stranger.target(https(application.port, authority))
        assert trip(target).stage is Stage.TLS
        Client(tmp_path, authority)
        assert trip(target).outcome is Outcome.OK


def test_a_certificate_that_cannot_be_shown_is_no_fault_of_the_application(
    authority: Authority, tmp_path: Path
) -> None:
    client = Client(tmp_path, authority)
    (tmp_path / "other").mkdir()
    other = Client(tmp_path / "other", authority)
    locked = tmp_path / "locked.key"
    command = f"openssl pkcs8 -topk8 -in {client.key} -out {locked} -passout pass:x"
    subprocess.run(command.split(), check=True, capture_output=True)
    target = https(1, authority)
    for cert, key, why in (
        (client.cert, tmp_path / "absent", f"key {tmp_path}/absent: No such file or directory"),
        (tmp_path / "absent", client.key, "absent: No such file or directory"),
        (client.cert, "", "PEM form in one file; --key-file names another for the key"),
        (client.key, client.key, "no certificate and key in PEM form"),
        (client.cert, other.key, "the key is of another certificate"),
        (client.cert, locked, "the key is encrypted, and nobody is asked for its password"),
        (tmp_path, client.key, "Is a directory"),
    ):
        with pytest.raises(CannotAsk) as raised:
            context(target._replace(cert_file=str(cert), key_file=str(key)))
        assert str(raised.value).endswith(why)
