"""An enhanced health-check sidecar: it watches the accept queue, not only the answer."""

__version__ = "0.1.0"
