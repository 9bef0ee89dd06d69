"""prometheus_client, imported without the servers and the clients that it could be.

It brings an HTTP server, a WSGI server and what pushes to a gateway, which import email, hashlib,
lzma and seventy modules more: 2 MiB that stay for good, and a tenth of the sidecar's start. Nobody
here is served by them: `/metrics` is a page of our own. So everyone here takes prometheus_client
from this module, which has empty modules stand in their place while it is imported.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = [
    "Collector",
    "CollectorRegistry",
    "Counter",
    "CounterMetricFamily",
    "GaugeMetricFamily",
    "Histogram",
    "InfoMetricFamily",
    "Metric",
    "Summary",
    "disable_created_metrics",
    "generate_latest",
]

UNUSED = (
    *("gzip", "http.server", "socketserver", "urllib.error", "urllib.request"),
    "wsgiref.simple_server",
)


class _StandIn(ModuleType):
    """Has every name that is asked for: a class that does nothing, which others may inherit."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _without(*names: str) -> Iterator[None]:
    standing_in = {name: _StandIn(name) for name in names if name not in sys.modules}
    sys.modules.update(standing_in)
    try:
        yield
    finally:
        for name in standing_in:
            del sys.modules[name]


with _without(*UNUSED):
    from prometheus_client import (
        CollectorRegistry,
        Counter,
        Histogram,
        Summary,
        disable_created_metrics,
        generate_latest,
    )
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
