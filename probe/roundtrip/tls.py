"""TLS around another exchange: a handshake on memory buffers, then the other's bytes inside."""

import ssl
from functools import lru_cache
from pathlib import Path

from probe.model import Protocol, Stage, Target
from probe.roundtrip.exchange import CannotAsk, Exchange, Result

CHUNK = 16384
"""The most that one TLS record holds, in bytes."""


MISMATCHES = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h)."""


@lru_cache(maxsize=32)
def _context(alpn: str, verify: bool, ca_file: str, version: tuple[int, ...]) -> ssl.SSLContext:
    """Costs milliseconds when it reads certificates. `version` tells when the CA file changed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols([alpn] if alpn else [])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
        # What the user put into the file is trusted, be it an intermediate: so does curl.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs()
    return context


CLOSED = Result(Stage.TLS, "closed during the handshake")

ALPN = {Protocol.HTTP: "http/1.1", Protocol.HTTPS: "http/1.1", Protocol.GRPC: "h2"}


def context(target: Target) -> ssl.SSLContext:
    """The settings for a target; a renewed CA file is read anew. Raises CannotAsk."""
    alpn = ALPN.get(target.protocol, "")
    try:
        version: tuple[int, ...] = ()
        if target.verify and target.ca_file:
            stat = Path(target.ca_file).stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        return _context(alpn, target.verify, target.ca_file, version)
    except ssl.SSLError:
        raise CannotAsk(f"CA file {target.ca_file}: no certificates in PEM form") from None
    except OSError as error:
        raise CannotAsk(f"CA file {target.ca_file}: {error.strerror}") from None


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's complaint in one line of plain words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message.rstrip('.')}"
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"):
        return "the answer is not TLS"
    return (error.reason or "TLS failed").lower().replace("_", " ")


class Tls(Exchange):
    """The certificate must be for the target's server name, else its host, else the dialled one.

    Whatever goes wrong within TLS is stage `tls`; what comes after the handshake is the inner
    exchange's. A handshake proves that the application accepted: an inner exchange that asks for
    no more than that is done.
    """

    def __init__(self, inner: Exchange, target: Target, host: str) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._received = 0
        self._named = bool(target.server_name)
        name = target.server_name or target.host or host
        try:
            self._tls = context(target).wrap_bio(
                self._incoming, self._outgoing, server_hostname=name.partition("%")[0]
            )
        except ValueError as error:
            raise CannotAsk(f"server name {name!r}: {error}") from None

    def start(self) -> bytes:
        self._shake()
        return self._outgoing.read()

    def feed(self, data: bytes) -> bytes:
        if self.result is None:
            self._received += len(data)
            self._incoming.write(data)
            self._advance()
        return self._outgoing.read()

    def eof(self) -> None:
        if self.result is not None:
            return
        self._incoming.write_eof()
        self._advance()
        if self.result is None:
            self.result = CLOSED

    def late(self) -> Result:
        if self.secured:
            return self._inner.late()
        what = f"stopped after {self._received} bytes" if self._received else "got no answer"
        return Result(Stage.TLS, f"the handshake {what}")

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
            self.result = CLOSED if at_end else Result(Stage.TLS, self._why(error))
            return
        self.secured = True
        self._send(self._inner.start())
        if self._inner.silent:
            self.result = Result()

    def _read(self) -> None:
        while self.result is None:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                return
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                data = b""
            except ssl.SSLError as error:
                self.result = Result(Stage.TLS, reason(error))
                return
            if data:
                self._send(self._inner.feed(data))
            else:
                self._inner.eof()
            self.answered = self._inner.answered
            self.result = self._inner.result

    def _why(self, error: ssl.SSLError) -> str:
        why = reason(error)
        if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in MISMATCHES:
            why += "" if self._named else "; set the server name to one that it is for"
        return why

    def _send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
