"""The table of protocols. Each lives in a module of its own, imported when a target speaks it."""

from collections.abc import Callable

from probe.model import Protocol, Target
from probe.roundtrip.exchange import Exchange


def _http(target: Target, host: str) -> Exchange:
    if target.http_version == "2":
        from probe.roundtrip.http2 import Http2

        return Http2(target, host)
    from probe.roundtrip.http import Http

    return Http(target, host)


def _tcp(target: Target, host: str) -> Exchange:
    from probe.roundtrip.tcp import Tcp

    return Tcp(target, host)


def _grpc(target: Target, host: str) -> Exchange:
    from probe.roundtrip.grpc import Grpc

    return Grpc(target, host)


def _fastcgi(target: Target, host: str) -> Exchange:
    from probe.roundtrip.fastcgi import FastCgi

    return FastCgi(target, host)


PROTOCOLS: dict[Protocol, Callable[[Target, str], Exchange]] = {
    Protocol.HTTP: _http,
    Protocol.HTTPS: _http,
    Protocol.TCP: _tcp,
    Protocol.GRPC: _grpc,
    Protocol.FASTCGI: _fastcgi,
}
"""All but `queue`, which makes no round trips."""


LEFT_UNREAD = {Protocol.FASTCGI: 8}
"""Bytes of a request that may lie unread while it is worked on: the record that ends its body,
which php-fpm reads for those scripts alone that ask for one."""


def exchange(target: Target, host: str) -> Exchange:
    """A new exchange with a target that is dialled at `host`. Raises CannotAsk."""
    inner = PROTOCOLS[target.protocol](target, host)
    if not target.encrypted:
        return inner
    from probe.roundtrip.tls import Tls

    return Tls(inner, target, host)
