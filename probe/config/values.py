"""How values are written: the same way in a flag, in the environment and in the file.

Each kind reads text with `parse`, which raises ValueError for anything else than `accepts` says.
"""

from __future__ import annotations

from probe.config.problems import quote
from probe.config.records import ListenAddress
from probe.display import without_secrets
from probe.imports import socket_lite as sockets
from probe.imports.typing_lite import Any

LOOPBACK = "127.0.0.1"
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = frozenset("0123456789")
WORD = LETTERS | DIGITS
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
BINARY = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
TRUE = ("true", "yes", "on", "1")
FALSE = ("false", "no", "off", "0")
HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")
ESCAPES = {b"r": 13, b"n": 10, b"t": 9, b"0": 0, b"\\": 92}
TOKEN = WORD | frozenset("!#$%&'*+-.^_`|~")
"""What the name of a header is made of (RFC 9110, 5.6.2)."""
FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that say where a request ends, which is no matter of opinion."""


class Wrong(ValueError):
    """The text says what is wrong, where more can be said than what is accepted."""


class Kind:
    """A kind of value. This one is any text on one line."""

    metavar = "TEXT"
    accepts = "text on one line, 1 to 4096 characters"
    secret = False
    """It may hold a password, and is repeated in no message."""
    bare: object = None
    """The value of a flag that is given without one; None: it needs one."""

    def parse(self, text: str) -> object:
        if not 1 <= len(text) <= 4096 or not text.isprintable():
            raise ValueError
        return text

    def show(self, value: Any) -> str:
        """`value` as a user would write it."""
        return str(value)

    def quoted(self, text: str) -> str:
        """What was written, as an error may repeat it."""
        return "its value" if self.secret or "@" in text else quote(text)


class Url(Kind):
    """The URL of a target; `targets` takes it apart, since each part has its own errors.

    It may hold a real carriage return and line feed: so a YAML file in double quotes has them.
    """

    metavar = "URL"
    accepts = "the URL of a target"
    secret = True

    def parse(self, text: str) -> str:
        if not 1 <= len(text) <= 4096:
            raise ValueError
        return text


class Switch(Kind):
    """Yes or no; as a flag it needs no value."""

    metavar = ""
    accepts = "true or false"

    def parse(self, text: str) -> bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError
        return text.lower() in TRUE


class Choice(Kind):
    """One of some words. With `bare` it may be switched on, for that word, and off."""

    def __init__(self, *words: str, bare: str | None = None) -> None:
        self.words = words
        self.bare: str | None = bare
        self.metavar = "|".join(words)
        self.accepts = f"one of {', '.join(words)}"

    def parse(self, text: str) -> str | None:
        if self.bare and text.lower() in TRUE:
            return self.bare
        if self.bare and text.lower() in FALSE:
            return None
        if text not in self.words:
            raise ValueError
        return text


class Count(Kind):
    metavar = "N"

    def __init__(self, least: int, most: int, noun: str = "a number") -> None:
        self.least, self.most = least, most
        self.accepts = f"{noun} from {least} to {most}"

    def parse(self, text: str) -> int:
        number = decimal(text)
        if not self.least <= number <= self.most:
            raise ValueError
        return number


class Duration(Kind):
    """Seconds, written `500ms`, `2s`, `1m30s`."""

    metavar = "DURATION"

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most
        reach = f"{self.show(least)} to {self.show(most)}"
        self.accepts = f"a duration from {reach}, written like 500ms, 2s or 1m"

    def parse(self, text: str) -> float:
        if not self.least <= (duration := seconds(text)) <= self.most:
            raise ValueError
        return duration

    def show(self, value: Any) -> str:
        for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
            if value % size == 0 and value >= size:
                return f"{value // size:.0f}{unit}"
        return f"{value * 1000:.15g}ms" if value else "0s"


class Size(Kind):
    """Bytes, written `64MiB`."""

    metavar = "SIZE"

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most
        self.accepts = f"a size from {self.show(least)} to {self.show(most)}, written like 64MiB"

    def parse(self, text: str) -> int:
        number = text.rstrip("KMGiB")
        unit = text[len(number) :].removesuffix("B")
        if (
            unit not in BINARY
            or not self.least <= (size := decimal(number) * BINARY[unit]) <= self.most
        ):
            raise ValueError
        return size

    def show(self, value: Any) -> str:
        for unit in ("Gi", "Mi", "Ki"):
            if value % BINARY[unit] == 0:
                return f"{value // BINARY[unit]}{unit}B"
        return str(value)


class Fraction(Kind):
    metavar = "FRACTION"
    accepts = "above 0 and at most 1, written like 0.9 or 90%"

    def parse(self, text: str) -> float:
        number = text.removesuffix("%")
        if not number or set(number) - DIGITS - {"."}:
            raise ValueError
        fraction = float(number) / 100 if text.endswith("%") else float(number)
        if not 0 < fraction <= 1:
            raise ValueError
        return fraction

    def show(self, value: Any) -> str:
        return f"{value:.0%}"


class Host(Kind):
    """A name or an IP address, IPv6 with or without brackets; kept without."""

    metavar = "HOST"
    accepts = "a host name or an IP address"

    def parse(self, text: str) -> str:
        return host(text)


class HostPort(Kind):
    """An address with its port. The empty host stands for `host`; the empty text for `default`."""

    metavar = "HOST:PORT"
    accepts = "HOST:PORT, :PORT or [IPv6]:PORT"

    def __init__(
        self, least_port: int = 1, empty_host: str = "", bare: ListenAddress | None = None
    ) -> None:
        self.least_port, self.empty_host = least_port, empty_host
        self.bare: ListenAddress | None = bare

    def parse(self, text: str) -> ListenAddress | None:
        if self.bare and text.lower() in TRUE:
            return self.bare
        if self.bare and text.lower() in FALSE:
            return None
        name, colon, port = text.rpartition(":")
        if not colon or (":" in name and not name.startswith("[")):
            raise ValueError
        if not self.least_port <= decimal(port) <= 65535:
            raise ValueError
        return ListenAddress(host(name) if name else self.empty_host, decimal(port))


class FilePath(Kind):
    metavar = "FILE"
    accepts = "the path of a file"

    def parse(self, text: str) -> str:
        if not 1 <= len(text) <= 4096 or "\0" in text:
            raise ValueError
        return text


class SocketPath(Kind):
    metavar = "PATH"
    accepts = "the path of a unix socket from / on, or @NAME, of at most 107 bytes"

    def parse(self, text: str) -> str:
        # sockaddr_un has 108, and a path ends with a zero (unix(7)).
        if text[:1] not in {"/", "@"} or not text.isprintable() or not 1 < len(encode(text)) <= 107:
            raise ValueError
        return text

    def quoted(self, text: str) -> str:
        return quote(text)


class Namespace(FilePath):
    metavar = "WHERE"
    accepts = "the name or path of a network namespace, or the id of a process in it"


class HttpPath(Kind):
    metavar = "PATH"
    accepts = "a path that begins with / and has no spaces, #, or characters beyond ASCII"

    def quoted(self, text: str) -> str:
        return super().quoted(without_secrets(text))

    def parse(self, text: str) -> str:
        if not text.startswith("/") or len(text) > 2048:
            raise ValueError
        if not text.isascii() or not text.isprintable() or " " in text or "#" in text:
            raise ValueError
        return text


class Escaped(Kind):
    r"""Bytes, written as text in which \r \n \t \0 \\ \xHH stand for what they do elsewhere."""

    metavar = "BYTES"
    secret = True
    accepts = r"text with the escapes \r \n \t \0 \\ \xHH, at most 4096 bytes"

    def parse(self, text: str) -> bytes:
        if len(text) > 4 * 4096:
            raise ValueError
        decoded, rest = bytearray(), encode(text)
        while rest:
            plain, backslash, rest = rest.partition(b"\\")
            decoded += plain
            if backslash:
                length = 3 if rest.startswith(b"x") else 1
                decoded.append(unescape(rest[:length]))
                rest = rest[length:]
        if len(decoded) > 4096:
            raise ValueError
        return bytes(decoded)


class Header(Kind):
    """A header, as (name, value). A secret is not in it: ${env:NAME} and ${file:PATH} are.

    Several stand on lines of their own, and in the file in a mapping as well.
    """

    metavar = "'NAME: VALUE'"
    secret = True
    accepts = "'NAME: VALUE' on one line; ${env:NAME} and ${file:PATH} in VALUE stand for a secret"

    def parse(self, text: str) -> tuple[str, str]:
        name, colon, value = text.partition(":")
        value = value.strip(" \t")
        if not colon or not name or set(name) - TOKEN or len(text) > 4096:
            raise ValueError
        if not value.isprintable():
            raise ValueError
        if name.lower() in FRAMING:
            raise Wrong(f"{name} is counted, and not asked for")
        check_references(value)
        return name, value


class Statuses(Kind):
    """HTTP statuses, as a tuple of (from, to)."""

    metavar = "STATUSES"
    accepts = "statuses from 100 to 599 with commas between them, written like 200-299,401"

    def parse(self, text: str) -> tuple[tuple[int, int], ...]:
        found = []
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            first = decimal(low)
            last = decimal(high) if dash else first
            if not 100 <= first <= last <= 599:
                raise ValueError
            found.append((first, last))
        return tuple(found)


class Regex(Kind):
    """A regular expression, kept as it is written; read here for its mistakes alone."""

    metavar = "PATTERN"
    secret = True
    accepts = "a regular expression"

    def parse(self, text: str) -> str:
        from probe.pattern import BadPattern, compiled  # only who asks for one pays for it

        try:
            compiled(text)
        except BadPattern as error:
            raise Wrong(f"its value is no pattern: {error}") from None
        return text


class SendTo(Kind):
    """Where to send something, as `METHOD URL`. A URL that is signed, or a webhook's, is a key."""

    metavar = "URL"
    accepts = (
        "an http:// or https:// URL, with POST and a space before it if it is not to be PUT there; "
        "${env:NAME} and ${file:PATH} behind its host, or in its place, stand for a secret"
    )
    secret = True

    def parse(self, text: str) -> str:
        method, _, where = text.strip().rpartition(" ")
        if method not in ("", "PUT", "POST") or len(where) > 8192:
            raise ValueError
        plain, secret, _ = where.partition("${")
        if plain:
            check_web_address(plain)
        if plain and secret and not set("/?").intersection(plain.partition("://")[2]):
            raise ValueError  # whom it is told to is no secret
        if not where:
            raise ValueError
        check_references(where)
        return f"{method or 'PUT'} {where}"


class Words(Kind):
    """A command with its arguments, split as a shell would, without being run by one."""

    metavar = "COMMAND"
    secret = True
    accepts = "a command with its arguments, quoted as for a shell"

    def parse(self, text: str) -> tuple[str, ...]:
        from shlex import split  # imports re, which `probe check` has no use for

        words = tuple(split(text))
        if not words or not words[0] or "\0" in text:
            raise ValueError
        return words


class Label(Kind):
    """What to do to a Kubernetes label: (name, value to set), or (name, None) to remove it."""

    metavar = "KEY=VALUE|KEY-"
    accepts = (
        "KEY=VALUE (set) or KEY- (remove) of a Kubernetes label: letters, digits and - _ . within, "
        "at most 63, and a domain/ before KEY where it has one"
    )

    def parse(self, text: str) -> tuple[str, str | None]:
        key, equals, value = text.partition("=")
        if not equals:
            if not key.endswith("-"):
                raise ValueError
            key = key[:-1]
        prefix, slash, name = key.rpartition("/")
        if slash and not is_domain(prefix):
            raise ValueError
        if not is_label_word(name) or (value and not is_label_word(value)):
            raise ValueError
        return key, value if equals else None

    def show(self, value: Any) -> str:
        key, text = value
        return f"{key}-" if text is None else f"{key}={text}"


def references(value: str) -> list[tuple[str, str]]:
    """What is written as ${SOURCE:PLACE} in the value of a header: source and place of each."""
    found, rest = [], value
    while "${" in rest:
        inside, closed, rest = rest.partition("${")[2].partition("}")
        source, _, place = inside.partition(":")
        found.append((source if closed else "", place))
    return found


def check_references(value: str) -> None:
    """Raise ValueError for what is written like a secret and is not ${env:NAME} or ${file:PATH}."""
    for source, where in references(value):
        if source not in ("env", "file") or not where:
            raise ValueError


def decimal(text: str) -> int:
    """The number that 1 to 18 ASCII digits write; int() would take signs, _ and other scripts."""
    if not 1 <= len(text) <= 18 or set(text) - DIGITS:
        raise ValueError
    return int(text)


def encode(text: str) -> bytes:
    """UTF-8, and bytes that were none as they came."""
    return text.encode("utf-8", "surrogateescape")


def unescape(code: bytes) -> int:
    """The byte that `n` or `x0a` stands for after a backslash."""
    if len(code) == 3 and not set(code[1:]) - HEXADECIMAL:
        return int(code[1:], 16)
    if code not in ESCAPES:
        raise ValueError
    return ESCAPES[code]


def seconds(text: str) -> float:
    """`1m30s` is 90.0; `0` needs no unit."""
    if text == "0":
        return 0.0
    total, rest = 0.0, text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("hms"))]
        rest = rest[len(unit) :]
        if unit not in UNITS:
            raise ValueError
        total += float(number) * UNITS[unit]
    if not text:
        raise ValueError
    return round(total, 6)


def host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        if ":" not in text:
            raise ValueError
    if ":" in text:
        address, percent, zone = text.partition("%")
        if percent and (not zone or set(zone) - WORD - frozenset("-_.")):
            raise ValueError
        check_address(sockets.AF_INET6, address)
        return text
    if not set(text) - DIGITS - {"."}:
        check_address(sockets.AF_INET, text)
    elif not is_domain(text.lower().replace("_", "-").removesuffix(".")):
        raise ValueError
    return text


def check_web_address(text: str) -> None:
    """Raise ValueError for what is no http:// or https:// URL."""
    scheme, separator, rest = text.partition("://")
    if scheme not in ("http", "https") or not separator or " " in text or "#" in text:
        raise ValueError
    if not (text.isascii() and text.isprintable()):
        raise ValueError
    where = rest.partition("/")[0].partition("?")[0].rpartition("@")[2]
    name, colon, port = where.rpartition(":") if not where.endswith("]") else (where, "", "")
    host(name if colon else where)
    if colon and not 1 <= decimal(port) <= 65535:
        raise ValueError


def check_address(family: int, text: str) -> None:
    try:
        sockets.inet_pton(family, text)
    except OSError:
        raise ValueError from None


def is_domain(text: str) -> bool:
    """Lower-case DNS labels with dots between them, as Kubernetes wants them before a `/`."""
    return len(text) <= 253 and all(
        1 <= len(label) <= 63
        and not set(label) - WORD - {"-"}
        and label == label.lower()
        and label.strip("-") == label
        for label in text.split(".")
    )


def is_label_word(text: str) -> bool:
    return (
        1 <= len(text) <= 63
        and not set(text) - WORD - frozenset("-_.")
        and {text[0], text[-1]} <= WORD
    )
