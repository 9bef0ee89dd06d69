"""Figures as people read them, for the report and its patterns."""

from probe.display import host_port
from probe.display import printable as printable
from probe.model import Listener


def label(listener: Listener) -> str:
    return endpoint(listener.address, listener.port) if listener.port else listener.address


def endpoint(host: str, port: int) -> str:
    """An address with its port; IPv4 as such, even where the socket is of the other family."""
    if host.startswith("::ffff:") and "." in host:
        host = host.removeprefix("::ffff:")
    return host_port(host, port)


def sentence(text: str) -> str:
    """The same, beginning with a capital letter and ending with a full stop, unless it asks."""
    return text[:1].upper() + text[1:].removesuffix(".") + ("" if text.endswith("?") else ".")


def age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def called(tid: int, name: str) -> str:
    """A thread in a sentence; its name is "" where names are left out."""
    return f"thread {tid} `{name}`" if name else f"thread {tid}"


def file_size(size: int) -> str:
    """The size of a file."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
