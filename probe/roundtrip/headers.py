"""The headers of a request that were asked for, with the secrets in them: read for each request, so
that a renewed one counts at once, and nothing keeps it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from stat import S_ISREG

from probe.model import Target
from probe.roundtrip.exchange import CannotAsk

LONGEST = 8192
"""Bytes of a secret in a file."""

SHORTEST = 4
"""Letters of a word that is worth hiding."""

BLANKED = str.maketrans(dict.fromkeys('=;,"', " "))
"""What stands between the parts of a value, as in a cookie."""

SHOWN = frozenset({"host", "user-agent", "accept", "content-type", "connection", "upgrade"})
"""Headers whose values may be shown. Those of all others may be a password."""


def read(target: Target) -> list[tuple[str, str]]:
    """Names and values, in their order. Raises CannotAsk where a secret is not to be had."""
    return read_headers(target.headers)


def read_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same of headers."""
    return [(name, filled_in(f"header {name}", value)) for name, value in headers]


def merge(ours: list[tuple[str, str]], asked: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Ours, and in their place or behind them those that were asked for.

    As kubelet has it: Host is whom the request is for, a name may come again, and an empty value of
    what we would send leaves it out.
    """
    own = {name.lower() for name, _ in ours}
    replaced = {name.lower() for name, value in asked if value or name.lower() != "host"}
    return [
        *((name, value) for name, value in ours if name.lower() not in replaced),
        *((name, value) for name, value in asked if value or name.lower() not in own),
    ]


def secrets(headers: list[tuple[str, str]]) -> tuple[str, ...]:
    """The words in them that are to be shown to nobody, as they are and as a message has them."""
    hidden = [value for name, value in headers if name.lower() not in SHOWN]
    hidden += [_user(value) for value in hidden if value.lower().startswith("basic ")]
    parts = [value.translate(BLANKED) for value in hidden]
    words = [word for value in (*hidden, *parts) for word in value.split() if len(word) >= SHORTEST]
    return tuple(
        dict.fromkeys(form for word in words for form in (word, word.replace("\\", r"\\")))
    )


def _user(value: str) -> str:
    """Name and password of a `Basic` Authorization, as two words; empty: it holds none."""
    from binascii import a2b_base64

    with suppress(ValueError):
        return a2b_base64(value[len("basic ") :]).decode(errors="replace").replace(":", " ")
    return ""


def filled_in(what: str, value: str) -> str:
    """A value with what its ${env:NAME} and ${file:PATH} stand for. Raises CannotAsk, which says
    what of.
    """
    filled, rest = "", value
    while rest:
        plain, begins, rest = rest.partition("${")
        filled += plain
        if begins:
            place, _, rest = rest.partition("}")
            source, _, where = place.partition(":")
            secret = _variable(what, where) if source == "env" else _content(what, where)
            if not secret.isprintable():
                raise CannotAsk(f"{what}: {where} holds more than one line of text")
            filled += secret
    return filled


def _variable(what: str, variable: str) -> str:
    if (text := os.environ.get(variable)) is None:
        raise CannotAsk(f"{what}: there is no variable {variable}")
    return text.strip()


def _content(what: str, path: str) -> str:
    """What a file holds but for the white space around it. A FIFO or a device is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            if not S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            content = os.read(descriptor, LONGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotAsk(f"{what}: {path}: {error.strerror}") from None
    if len(content) > LONGEST:
        raise CannotAsk(f"{what}: {path}: more than {LONGEST} bytes")
    return content.decode(errors="surrogateescape").strip()
