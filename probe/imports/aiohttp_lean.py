"""aiohttp, imported without the memory that a sidecar has no use for.

Importing aiohttp makes a TLS context for its client, which reads the system's CA bundle: 1.4 to
2.5 MiB that stay for good, in every pod. Nothing here speaks TLS on that context: the Kubernetes
API and the application's own certificates are verified with contexts that are made for them. So
everyone here takes aiohttp from this module, and never makes a client request without an `ssl`
context of its own: with aiohttp's, no certificate would verify.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

__all__ = ["URL", "aiohttp", "web"]


@contextmanager
def _without_certificates() -> Iterator[None]:
    """Have this thread's TLS contexts made without the CA bundle; those of others have it."""
    importing = get_ident()
    inherited = ssl.SSLContext.set_default_verify_paths

    def set_default_verify_paths(context: ssl.SSLContext) -> None:
        if get_ident() != importing:
            inherited(context)

    ssl.SSLContext.set_default_verify_paths = set_default_verify_paths  # type: ignore[assignment]  # for a while
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths


with _without_certificates():
    import aiohttp
    from aiohttp import web

URL = aiohttp.client.URL  # type: ignore[attr-defined]  # yarl's, which comes with aiohttp
