r"""Targets: from --port with its options, from a URL, from a mapping in the file.

    http://[HOST]:PORT[/PATH]           a bare / counts as no path
    https://[HOST]:PORT[/PATH]
    tcp://[HOST]:PORT[?send=BYTES&expect=BYTES...]
    tcps://[HOST]:PORT[?send=BYTES&expect=BYTES...]
    grpc://[HOST]:PORT[/SERVICE]
    grpcs://[HOST]:PORT[/SERVICE]
    fastcgi://[HOST]:PORT[/PATH]
    queue://[HOST]:PORT
    unix://SOCKET[?send=BYTES&expect=BYTES...]
    http+unix://SOCKET[?path=PATH]          and fastcgi+unix://
    grpc+unix://SOCKET[?service=SERVICE]
    queue+unix://SOCKET

SOCKET is a path from its / on, or @NAME for an abstract one. All are
with the parameters that PARAMETERS has for each. Of tcp, the order of `send` and `expect` is that
of the talk, and each may come again: a server that greets is asked by expect=220&send=QUIT\r\n.
Options and mappings have one of each: send, then expect. In a parameter %XX stands for a byte, +
for itself. The path of http, https and fastcgi is sent as it is written, with whatever query the
application wants beside the names that are ours; one of the same name goes to it with a letter
written as %XX.
USER:PASSWORD@ before the host of http and https is what Authorization holds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from probe.config.fields import SOCKET, TARGET, TARGETED, TARGETS, Field
from probe.config.problems import Problems, did_you_mean, nearest, quote
from probe.config.sources import Given, Layer, add_value, first
from probe.config.values import HEXADECIMAL, encode, references
from probe.display import without_secrets
from probe.imports.typing_lite import Any
from probe.model import Protocol, Target

SCHEMES = {
    "http": {"protocol": "http"},
    "https": {"protocol": "https"},
    "tcp": {"protocol": "tcp"},
    "tcps": {"protocol": "tcp", "tls": "true"},
    "grpc": {"protocol": "grpc"},
    "grpcs": {"protocol": "grpc", "tls": "true"},
    "fastcgi": {"protocol": "fastcgi"},
    "queue": {"protocol": "queue"},
    "unix": {"protocol": "tcp"},
    "http+unix": {"protocol": "http"},
    "fastcgi+unix": {"protocol": "fastcgi"},
    "grpc+unix": {"protocol": "grpc"},
    "queue+unix": {"protocol": "queue"},
}
UNIX = frozenset(scheme for scheme in SCHEMES if scheme.endswith("unix"))
TALK = ("send", "expect")
REQUEST = ("header", "method", "status", *TALK, "match", "http_version", "server_name")
CALL = ("header", "server_name")
TLS = ("ca_file", "cert_file", "key_file", "insecure")
PROXY = ("proxy_protocol",)
PARAMETERS: dict[str, tuple[str, ...]] = {
    "http": REQUEST + PROXY,
    "https": REQUEST + TLS + PROXY,
    "tcp": TALK + PROXY,
    "tcps": (*TALK, "server_name", *TLS, *PROXY),
    "grpc": CALL + PROXY,
    "grpcs": CALL + TLS + PROXY,
    "fastcgi": (),
    "queue": (),
    "unix": TALK,
    "http+unix": ("path", *REQUEST),
    "fastcgi+unix": ("path",),
    "grpc+unix": ("service", *CALL),
    "queue+unix": (),
}
MOST = 64
"""Targets of one process; each costs it a loop of its own."""

PORT = Field("port", TARGETS[0].kind, "target.port", TARGETED, "of one target, one port")
OPTIONS = {field.key: field for field in (PORT, SOCKET, *TARGET)}
BY_PARAMETER = OPTIONS | {"header": OPTIONS["headers"]}
HTTP = (Protocol.HTTP, Protocol.HTTPS)
NAMELESS = (Protocol.TCP, Protocol.QUEUE)
WITH_BODY = ("POST", "OPTIONS")
ONLY_FOR = {
    "path": (*HTTP, Protocol.FASTCGI),
    "headers": (*HTTP, Protocol.GRPC),
    **dict.fromkeys(("method", "status", "match", "http_version"), HTTP),
    **dict.fromkeys(TALK, (Protocol.TCP, *HTTP)),
    "service": (Protocol.GRPC,),
    "tls": (Protocol.TCP, Protocol.GRPC),
    "proxy_protocol": tuple(one for one in Protocol if one is not Protocol.QUEUE),
}
HTTP1_ONLY = frozenset({"connection", "keep-alive", "proxy-connection", "te", "upgrade"})
"""Headers about the connection, which HTTP/2 has none of (RFC 9113, 8.2.2)."""

Options = Mapping[str, Given]
"""Read values by their key, as in a mapping of the file."""


def gather(
    layers: list[Layer], given: Layer, environment: Container[str], problems: Problems
) -> tuple[Target, ...]:
    """The targets of the first layer that has any, each port once.

    `given` has what all layers say of the options that apply to every --port; `environment` the
    variables that there are.
    """
    source = first(layers, "port", "target")
    options = {
        field.key: together(field, given[field.name]) for field in TARGET if given.get(field.name)
    }
    if "port" in source:
        check_together(options, problems)
        if headers := options.get("headers"):
            lacking(headers.value, headers.place, environment, problems)
    for field in TARGET if "port" not in source else ():
        if field.name in layers[0]:
            problems.error(field.flag, "is for --port, and there is none")
    found = [(build({**options, "port": port}), port.place) for port in source.get("port", ())]
    for one in source.get("target", ()):
        read = from_mapping if isinstance(one.value, dict) else from_url
        if target := read(one.value, one.place, problems):
            found.append((target, one.place))
            lacking(target.headers, one.place, environment, problems)
    if len(found) > MOST:
        problems.error(found[MOST][1], f"{len(found)} targets are too many: at most {MOST}")
    places: dict[str, str] = {}
    for target, place in found[:MOST]:
        if first_place := places.get(target.name):
            what = target.name if target.socket else f"port {target.name}"
            problems.error(place, f"{what} is a target already, by {first_place}")
        places.setdefault(target.name, place)
    return tuple(target for target, _ in found)


def together(field: Field, given: list[Given]) -> Given:
    """What was given of an option: the last, or of one that is repeatable all."""
    if field.collect is None:
        return given[-1]
    return Given(field.collect([one.value for one in given]), given[0].place)


def lacking(
    headers: Iterable[tuple[str, str]], place: str, environment: Container[str], problems: Problems
) -> None:
    """Tell of headers whose secret is in a variable that there is not."""
    for name, value in headers:
        for source, variable in references(value):
            if source == "env" and variable not in environment:
                problems.error(place, f"header {name}: there is no variable {quote(variable)}")


def build(options: Options) -> Target:
    """A target from options that were read."""
    values: dict[str, Any] = {key: given.value for key, given in options.items()}
    values["protocol"] = Protocol(values.get("protocol", Protocol.HTTP))
    return Target(values.pop("port", 0), verify=not values.pop("insecure", False), **values)


def check_together(options: Options, problems: Problems) -> None:
    """Tell of options that do not go with the protocol or with each other."""
    given = {key: one.place for key, one in options.items() if one.value}
    protocol = Protocol(options["protocol"].value if "protocol" in options else Protocol.HTTP)
    encrypted = protocol is Protocol.HTTPS or "tls" in given
    for key in ("port", "host", "proxy_protocol") if "socket" in given else ():
        if key in given:
            problems.error(given[key], "does not go with a socket: it is for a port")
    for key, place in given.items():
        wanted = ONLY_FOR.get(key, tuple(Protocol))
        if protocol not in wanted:
            names = " and ".join(filter(None, (", ".join(wanted[:-1]), wanted[-1])))
            problems.error(place, f"is for {names}, and the protocol is {protocol}")
        elif key in TLS and not encrypted:
            problems.error(place, "is for https, and for tcp and grpc over TLS")
        elif key == "server_name" and protocol in NAMELESS and not encrypted:
            problems.error(place, "is for http, https and grpc, and for tcp over TLS")
    values = {key: options[key].value for key in given}
    for key, message in contradictions(values, protocol):
        problems.error(given[key], message)


def contradictions(given: Mapping[str, Any], protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Options whose values do not go with each other, and why."""
    if "insecure" in given and "ca_file" in given:
        yield "insecure", "takes any certificate; leave it out or ca_file"
    if "key_file" in given and "cert_file" not in given:
        yield "key_file", "is the key of a certificate: give that as well, as cert_file"
    if protocol in HTTP:
        method = given.get("method", "GET")
        if method == "HEAD":
            for key in (key for key in ("expect", "match") if key in given):
                yield key, "is for the body of an answer, and that to HEAD has none"
        if "send" in given and method not in WITH_BODY:
            yield (
                "send",
                f"is the body of a request, and {method} has none; POST has, and so has tcp",
            )
    names = [name for name, _ in given.get("headers", ())]
    if [name.lower() for name in names].count("host") > 1:
        yield "headers", "Host is given twice"
    if given.get("http_version") == "2" or protocol is Protocol.GRPC:
        for name in (name for name in names if name.lower() in HTTP1_ONLY):
            yield "headers", f"{name} is about the connection, and HTTP/2 has no such header"


def from_mapping(options: Options, place: str, problems: Problems) -> Target | None:
    """A target that the file spells out; None, and problems told, when it is none."""
    if "port" not in options and "socket" not in options:
        problems.error(place, f"needs {PORT.kind.accepts}, or a socket")
        return None
    check_together(options, problems)
    return build(options)


def from_url(text: str, place: str, problems: Problems) -> Target | None:
    """None, and problems told, when it is no target."""
    where = f"{place} {quote(without_secrets(text), 40)}"
    try:
        written = spell_out(text)
    except ValueError as error:
        problems.error(where, str(error))
        return None
    layer: Layer = {}
    talk: list[tuple[str, Any]] = []
    speaks = text.startswith(("tcp:", "tcps:", "unix:"))
    for key, value in written:
        field = BY_PARAMETER[key]
        if field.name in layer and not field.collect and not (speaks and key in TALK):
            problems.error(f"{where}: {key}", "is given twice")
        add_value(layer, field, value, f"{where}: {key}", problems)
        if speaks and key in TALK and layer[field.name]:
            talk.append((key, layer[field.name][0].value))
    if not all(layer.values()):
        return None
    fields = [BY_PARAMETER[key] for key, _ in written]
    options = {field.key: together(field, layer[field.name]) for field in fields}
    check_together(options, problems)
    target = build(options)
    return in_steps(target, talk) if talk else target


def in_steps(target: Target, talk: list[tuple[str, bytes]]) -> Target:
    """The target with what is said and expected in the order in which it was written."""
    steps = [(b"", b"")]
    for key, value in talk:
        send, expect = steps[-1]
        if key == "expect" and not expect:
            steps[-1] = (send, value)
        elif key == "send" and not expect:
            steps[-1] = (send + value, b"")
        else:
            steps.append((value, b"") if key == "send" else (b"", value))
    (send, expect), *then = steps
    return target._replace(send=send, expect=expect, then=tuple(then))


def spell_out(url: str) -> list[tuple[str, str]]:
    """A URL as keys and values, in its order; ValueError says what is wrong with its form."""
    scheme, user, authority, rest = take_apart(url)
    path, _, query = rest.partition("?")
    if scheme in UNIX:
        if path[:1] not in {"/", "@"}:
            raise ValueError(f"the socket's path is missing, as in {scheme}:///run/app.sock")
        written = [*SCHEMES[scheme].items(), ("socket", unquote(path))]
        return written + parameters_of(scheme, query.split("&") if query else [])
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"the port is missing, as in {scheme}://:8080")
    written = [*SCHEMES[scheme].items(), ("port", port)]
    if user:
        written.append(("header", f"Authorization: Basic {basic(user)}"))
    if host:
        written.append(("host", host))
    parameters = query.split("&") if query else []
    if scheme in {"http", "https", "fastcgi"}:
        theirs = [one for one in parameters if one.partition("=")[0] not in PARAMETERS[scheme]]
        parameters = [one for one in parameters if one not in theirs]
        if path not in {"", "/"} or theirs:
            written.append(("path", (path or "/") + ("?" + "&".join(theirs) if theirs else "")))
    elif path not in {"", "/"}:
        if scheme not in {"grpc", "grpcs"}:
            raise ValueError(f"{scheme} has no path, and {quote(path)} is one")
        written.append(("service", unquote(path[1:])))
    return written + parameters_of(scheme, parameters)


def parameters_of(scheme: str, parameters: list[str]) -> list[tuple[str, str]]:
    """The parameters of a URL as keys and values; ValueError for one that the scheme has not."""
    written = []
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key not in PARAMETERS[scheme]:
            accepted = ", ".join(PARAMETERS[scheme]) or "none"
            hint = did_you_mean(nearest(key, PARAMETERS[scheme]))
            # Its name may be what follows an & in a password.
            raise ValueError(
                f"a parameter that there is not (accepted: {accepted}; %26 stands for &){hint}"
            )
        written.append((key, unquote(value)))
    return written


def take_apart(url: str) -> tuple[str, str, str, str]:
    """Scheme, user, host with port, and the rest of a URL; ValueError when it is none of ours."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        ports, sockets = (
            ", ".join(f"{name}://" for name in SCHEMES if (name in UNIX) is unix)
            for unix in (False, True)
        )
        raise ValueError(
            f"is no URL of a target: one of {ports}, then [HOST]:PORT, or one of {sockets}, then "
            "the path of a socket"
        )
    if "?" not in rest or scheme not in {"tcp", "tcps", "unix"}:
        rest = rest.rstrip()  # such as a file's last line break, which elsewhere may be meant
    if scheme in UNIX:
        return scheme, "", "", rest
    authority = rest[: len(rest.partition("/")[0].partition("?")[0])]
    user, _, host = authority.rpartition("@")
    if len(host) < len(authority) and not (user and scheme in {"http", "https"}):
        raise ValueError("names a user before an @, which http and https alone have")
    return scheme, user, host, rest[len(authority) :]


def basic(user: str) -> str:
    """`user:password` of a URL as HTTP has it (RFC 7617)."""
    from binascii import b2a_base64  # only who has one pays for it

    name, _, password = unquote(user).partition(":")
    return b2a_base64(encode(f"{name}:{password}"), newline=False).decode()


def unquote(text: str) -> str:
    """%XX decoded; bytes that are no UTF-8 stay what they are, as surrogates."""
    plain, *escaped = encode(text).split(b"%")
    for piece in escaped:
        if set(piece[:2]) - HEXADECIMAL or len(piece) < 2:
            raise ValueError("two hexadecimal digits must follow %; the sign itself is %25")
        plain += bytes([int(piece[:2], 16)]) + piece[2:]
    return plain.decode("utf-8", "surrogateescape")
