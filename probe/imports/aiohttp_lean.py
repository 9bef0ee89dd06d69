"""aiohttp, imported without the memory that a sidecar has no use for.

Importing aiohttp makes a TLS context for its client, which reads the system's CA bundle: 1.4 to
2.5 MiB that stay for good, in every pod. Nothing here speaks TLS on that context: the Kubernetes
API and the application's own certificates are verified with contexts that are made for them. So
everyone here takes aiohttp from this module, and never makes a client request without an `ssl`
context of its own: with aiohttp's, no certificate would verify.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["URL", "aiohttp", "web"]

LOCATIONS = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for the CA bundle, in place of the paths that were compiled into it."""


@contextmanager
def _without_system_certificates() -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in LOCATIONS}
    os.environ.update(dict.fromkeys(LOCATIONS, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


with _without_system_certificates():
    import aiohttp
    from aiohttp import web

URL = aiohttp.client.URL  # type: ignore[attr-defined]  # yarl's, which comes with aiohttp
