"""What is shown to people: foreign text made printable, settings without their secrets. Pure.

Whatever comes from outside (a process's name, an answer, a file) passes `printable` before it
reaches a terminal or a log; a URL or a path passes `without_secrets` before it leaves this process.
"""

from time import gmtime, strftime


def printable(text: str) -> str:
    """The same with an escape for what could move a terminal's cursor, forge a line or turn it
    round.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def utc(at: float) -> str:
    """Seconds since the epoch as people and Kubernetes write them: `2026-11-26T02:15:00Z`."""
    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(at))


def host_port(host: str, port: int) -> str:
    """`HOST:PORT`, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plural(count: int, singular: str, several: str = "") -> str:
    """`1 thread`, `2 threads`, `2 processes`: the number with its noun, by default with an s."""
    return f"{count} {singular if count == 1 else several or singular + 's'}"


def without_secrets(url: str) -> str:
    """A URL or a path without its query, and a URL without a user and a password before its host.

    Where it cannot be told what is a password, as where that has a ? itself, nothing but the scheme
    is left.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url.partition("?")[0]
    shown = rest.partition("?")[0].partition("#")[0]
    if "@" in rest and not shown.startswith(":"):
        shown = "..."
    return f"{scheme}{separator}{shown}"


CUT = ("…", '"')
"""What follows where a quotation ends."""

LEAST = 4
"""Letters of a word that betray it."""


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """The same without these words: an application may repeat what it was asked. Where a quotation
    ends with the beginning of one, that is left out as well.
    """
    for word in sorted(secrets, key=len, reverse=True):
        text = text.replace(word, "...")
        for length in range(min(len(word) - 1, len(text)), LEAST - 1, -1):
            for end in CUT:
                text = text.replace(word[:length] + end, "..." + end)
    return text
