"""TLS around another exchange: a handshake on memory buffers, then the other's bytes inside."""

import ssl
from functools import lru_cache
from pathlib import Path

from probe.model import Protocol, Stage, Target
from probe.roundtrip.exchange import LIMIT, CannotAsk, Exchange, Result, server_name
from probe.roundtrip.wording import describe, speaks_tls

CHUNK = 16384
"""The most that one TLS record holds, in bytes."""

EMPTY = 2 * LIMIT
"""Bytes without one of the protocol inside, after which it is enough: of a handshake (OpenSSL takes
certificates of 100 KiB), of session tickets, of whatever else keeps us busy."""

KEPT = 512
"""Bytes kept from the start of the answer, to be quoted."""

MISMATCHES = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)."""


Version = tuple[int, ...]
"""What tells one state of a file from the next; () of none."""


@lru_cache(maxsize=32)
def _context(
    alpn: str, verify: bool, ca_file: str, cert_file: str, key_file: str, _: tuple[Version, ...]
) -> ssl.SSLContext:
    """Costs milliseconds when it reads certificates. The last tells when a file has changed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([alpn] if alpn else [])
    context.options |= ssl.OP_NO_RENEGOTIATION
    if cert_file:
        _present(context, cert_file, key_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise CannotAsk(f"CA file {ca_file}: no certificates in PEM form") from None
        except OSError as error:
            raise CannotAsk(f"CA file {ca_file}: {error.strerror}") from None
        # What the user put into the file is trusted, be it an intermediate: so does curl.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
    return context


def _present(context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
    """Load the client's certificate with its key. Raises CannotAsk."""
    where = f"client certificate {cert_file}" + (f" with key {key_file}" if key_file else "")

    def locked() -> str:
        raise CannotAsk(f"{where}: the key is encrypted, and nobody is asked for its password")

    try:
        context.load_cert_chain(cert_file, key_file or None, locked)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the key is of another certificate"
        else:
            alone = "" if key_file else " in one file; --key-file names another for the key"
            why = f"no certificate and key in PEM form{alone}"
        raise CannotAsk(f"{where}: {why}") from None
    except OSError as error:
        raise CannotAsk(f"{where}: {error.strerror}") from None


def _version(what: str, file: str) -> Version:
    """Raises CannotAsk where there is none. A link is followed, as Kubernetes swaps them."""
    if not file:
        return ()
    try:
        stat = Path(file).stat()
    except OSError as error:
        raise CannotAsk(f"{what} {file}: {error.strerror}") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


HTTP1, HTTP2 = "http/1.1", "h2"


def alpn(target: Target) -> str:
    """The protocol inside of TLS by the name that both sides agree on (RFC 7301); "" of none."""
    if target.protocol is Protocol.TCP:
        return ""
    version2 = target.protocol is Protocol.GRPC or target.http_version == "2"
    return HTTP2 if version2 else HTTP1


def context(target: Target) -> ssl.SSLContext:
    """The settings for a target; renewed files are read anew. Raises CannotAsk."""
    ca_file = target.ca_file if target.verify else ""
    versions = (
        _version("CA file", ca_file),
        _version("client certificate", target.cert_file),
        _version("key", target.key_file),
    )
    return _context(
        alpn(target), target.verify, ca_file, target.cert_file, target.key_file, versions
    )


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's complaint in one line of plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message.rstrip('.')}"
    if error.reason:
        return error.reason.lower().replace("_", " ")
    # What is newer than Python's table has no symbol, but words: "[SSL] words (_ssl.c:1006)".
    words = str(error.strerror or error).rpartition("] ")[2].partition(" (_ssl.c")[0]
    return words or "TLS failed"


class Tls(Exchange):
    """The certificate must be for the target's server name, else its host, else the dialled one.

    Whatever goes wrong within TLS is stage `tls`; what comes after the handshake is the inner
    exchange's. A handshake proves that the application accepted: an inner exchange that asks for
    no more than that is done.
    """

    def __init__(self, inner: Exchange, target: Target, host: str) -> None:
        self._inner = inner
        self.secrets = inner.secrets
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._target = target
        self._opening = b""
        self._received = 0
        """Bytes of the handshake; after it, those since the last that had something inside."""
        name = server_name(target, host)
        try:
            self._tls = context(target).wrap_bio(
                self._incoming, self._outgoing, server_hostname=name
            )
        except ValueError as error:
            raise CannotAsk(f"server name {name!r}: {error}") from None

    def start(self) -> bytes:
        self._shake()
        return self._outgoing.read()

    def feed(self, data: bytes) -> bytes:
        if self.result is None:
            self._opening += data[: KEPT - len(self._opening)]
            self._received += len(data)
            self._incoming.write(data)
            self._advance()
        if self.result is None and self._received > EMPTY:
            part = "answer" if self.secured else "handshake"
            self.result = Result(Stage.TLS, f"{self._received} bytes of TLS, and no {part} in them")
        return self._outgoing.read()

    def eof(self) -> None:
        if self.result is not None:
            return
        self._incoming.write_eof()
        self._advance()
        if self.result is None:
            self.result = Result(Stage.TLS, self._ended("closed during the handshake"))

    def late(self) -> Result:
        if self.secured:
            return self._inner.late()
        how = f"stopped after {self._received} bytes" if self._received else "got no answer"
        return Result(Stage.TLS, self._ended(f"the handshake {how}"))

    def urge(self) -> bytes:
        if self.secured and self.result is None:
            self._send(self._inner.urge())
        return self._outgoing.read()

    def so_far(self) -> str:
        if self.secured:
            return self._inner.so_far()
        return f"{self._received} bytes of the TLS handshake" if self._received else ""

    def finish(self) -> bytes:
        if self.secured:
            try:
                self._send(self._inner.finish())
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # It wants the other side's farewell, which nobody waits for.
        return self._outgoing.read()

    def _advance(self) -> None:
        if not self.secured:
            self._shake()
        if self.secured:
            self._read()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            # Not every Python has a name for an end of file here: Debian 12's has none.
            at_end = isinstance(error, ssl.SSLEOFError) or self._incoming.eof
            self.result = Result(Stage.TLS, self._why_not(error, at_end))
            return
        self.secured = True
        self._received = 0
        if self._target.http_version == "2" and self._tls.selected_alpn_protocol() != HTTP2:
            self.result = Result(Stage.TLS, "the server has not agreed to speak HTTP/2 (ALPN)")
            return
        self._send(self._inner.start())
        if self._inner.silent:
            self.result = Result()

    def _read(self) -> None:
        """Give what has come to the inner exchange: as one, however many records it was in."""
        came, ended = b"", False
        try:
            while data := self._tls.read(CHUNK):
                came += data
            ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            ended = True
        except ssl.SSLError as error:
            why = reason(error)
            self.result = Result(Stage.TLS, why + self._wanted(why))
        if came:
            self._received = 0
            self._send(self._inner.feed(came))
        if ended:
            self._inner.eof()
        self.answered = self._inner.answered
        self.result = self._inner.result or self.result

    def _why_not(self, error: ssl.SSLError, at_end: bool) -> str:
        """Why there is no handshake, and what to set where that is sure to help."""
        if at_end or not speaks_tls(self._opening):
            return self._ended("closed during the handshake")
        why, offered = reason(error), alpn(self._target)
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in MISMATCHES and not self._target.server_name:
                why += "; --server-name gives one that it is for"
        elif why.endswith("unrecognized name"):
            why += "; --server-name gives the name to ask for"
        elif why.endswith("no application protocol"):
            why += f": it does not speak {offered}"
            why += ", and perhaps HTTP/2 alone: --http-version 2" if offered == HTTP1 else ""
        return why + self._wanted(why)

    def _wanted(self, why: str) -> str:
        """How to give the certificate that the server asks for, where it says so."""
        wanted = why.endswith("certificate required") and not self._target.cert_file
        return "; --cert-file and --key-file give ours" if wanted else ""

    def _ended(self, how: str) -> str:
        """How the handshake ended: what was said instead is the reason, if anything was."""
        if not self._opening or speaks_tls(self._opening):
            return how
        return f"the answer is not TLS: {describe(self._opening, self._target)}"

    def _send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
