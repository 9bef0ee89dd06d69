"""Flags and the environment, read over the table of fields."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from probe.config.commands import Command
from probe.config.fields import FIELDS, Field, taken_by
from probe.config.problems import Problems, did_you_mean, nearest, quote
from probe.config.values import Header, Switch, Wrong
from probe.imports.typing_lite import Any

PREFIX = "PROBE_"
SCHEME_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+"

ADDRESS = ("port", "host", "protocol")
"""In the place of these a URL may be given by mistake: it says the same."""


class Given:
    """A value and where it was given. A target's is text, or a dict when the file spells it out."""

    def __init__(self, value: Any, place: str) -> None:
        self.value = value
        self.place = place


Layer = dict[str, list[Given]]
"""What one source gives, by the name of the field. Without a value: given, but in error."""


def first(layers: Iterable[Layer], *names: str) -> Layer:
    """The first layer that gives one of the fields; an empty one when none does."""
    return next((layer for layer in layers if not layer.keys().isdisjoint(names)), {})


def add_value(layer: Layer, field: Field, text: str, place: str, problems: Problems) -> None:
    """Read one value of a field into a layer; of a field that is not repeatable the last counts."""
    given = layer.setdefault(field.name, [])
    try:
        value = field.kind.parse(text)
    except Wrong as error:
        problems.error(place, str(error))
        return
    except ValueError:
        url = "://" in text and field.name in ADDRESS and place == field.flag
        hint = "; a URL is given by --target" if url else ""
        problems.error(place, f"{field.kind.quoted(text)} is not {field.kind.accepts}{hint}")
        return
    if field.collect is None:
        given.clear()
    given.append(Given(value, place))


def read_flags(
    command: Command, words: Sequence[str], problems: Problems
) -> tuple[Layer, tuple[str, ...], tuple[str, ...]]:
    """The words after the command's name: what they give, the operands, what follows `--`.

    A value that begins with -- needs the = form.
    """
    fields = {field.flag: field for field in taken_by(command.name)}
    layer: Layer = {}
    operands: list[str] = []
    after: Field | None = None
    left = deque(words)
    while left and (word := left.popleft()) != "--":
        if not word.startswith("-") or word == "-":
            if after is not None and after.kind.secret:
                # Its value stood without quotes: this may be the other half of a password.
                hint = f", and {command.then.split()[0]} after --" if command.then else ""
                problems.error(after.flag, f"one word too many follows; quote its value{hint}")
            else:
                operands.append(word)
            continue
        flag, equals, text = word.partition("=")
        field = after = fields.get(flag) or _unknown(flag, command, problems)
        value = text if equals else _value(field, left)
        if field is None:
            continue
        layer.setdefault(field.name, [])
        if flag in fields and value is None:
            problems.error(flag, f"needs a value: {field.kind.accepts}")
        elif flag in fields and value is not None:
            add_value(layer, field, value, flag, problems)
    then = tuple(left)
    if command.several and not command.then:
        operands, then = [*operands, *then], ()
    if then and not command.then:
        problems.error("--", f"{command.name} runs no command, and {quote(then[0])} follows")
    return layer, _operands(command, operands, problems), then


def _value(field: Field | None, left: deque[str]) -> str | None:
    """The word after a flag where it takes one, "true" where it needs none; None: missing."""
    if field is None:
        return None
    if isinstance(field.kind, Switch):
        return "true"
    optional = field.kind.bare is not None
    if left and not left[0].startswith("-" if optional else "--"):
        return left.popleft()
    return "true" if optional else None


def _unknown(flag: str, command: Command, problems: Problems) -> Field | None:
    """Say so. The field it was meant to be counts as given, in error, with its value if any."""
    mine = {field.flag: field for field in taken_by(command.name)}
    elsewhere = {field.flag: field for field in FIELDS}
    if flag in elsewhere:
        owners = ", ".join(elsewhere[flag].commands)
        hint = (
            "; it has --timeout" if flag == "--round-trip-timeout" and "--timeout" in mine else ""
        )
        problems.error(flag, f"is a flag of {owners}, not of {command.name}{hint}")
        return elsewhere[flag]
    near = nearest("--" + flag.lstrip("-"), mine)
    hint = did_you_mean(near) or f": see probe {command.name} --help"
    problems.error(quote(flag)[1:-1], f"no such flag{hint}")
    return mine.get(near)


def _operands(command: Command, operands: list[str], problems: Problems) -> tuple[str, ...]:
    if command.operand and not operands:
        problems.error(command.operand, f"is missing, as in probe {command.name} {command.operand}")
    if command.several:
        return tuple(operands)
    for word in operands[1:] if command.operand else operands:
        hint = ""
        if command.name == "wait":
            hint = "; a command to run comes after --"
        elif word.isdecimal():
            hint = f"; did you mean --port {word}?"
        elif "://" in word:
            hint = "; a URL is given by --target"
        problems.error(command.name, f"{quote(word)} is one word too many{hint}")
    return tuple(operands[:1])


def read_environment(command: Command, environment: Mapping[str, str], problems: Problems) -> Layer:
    """What the command takes from PROBE_* variables; an empty one counts as not set.

    Kubernetes sets variables of its own for a Service named probe. They are ignored, and so are
    names that nobody knows: a pod's environment is full of other people's.
    """
    layer: Layer = {}
    ours = {name: text for name, text in environment.items() if text and name.startswith(PREFIX)}
    if not ours:
        return layer
    for field in taken_by(command.name):
        text = ours.get(field.environment)
        if text is None:
            continue
        if set_by_kubernetes(field.environment, text):
            problems.notice(
                field.environment,
                f"{quote(text)} is what Kubernetes sets for a Service of that name; ignored",
            )
            continue
        for word in _split(field, text):
            add_value(layer, field, word, field.environment, problems)
    known = {field.environment for field in FIELDS}
    for name in sorted(ours.keys() - known):
        if not set_by_kubernetes(name, ours[name]) and (near := nearest(name, known, 0.85)):
            problems.notice(quote(name)[1:-1], f"no such setting{did_you_mean(near)}")
    return layer


def _split(field: Field, text: str) -> list[str]:
    """The values of a repeatable field stand apart by spaces; by commas too, but for URLs; headers,
    which may hold both, stand on lines of their own.
    """
    if field.collect is None:
        return [text]
    if isinstance(field.kind, Header):
        return list(filter(None, map(str.strip, text.split("\n"))))
    return split_urls(text) if field.name == "target" else text.replace(",", " ").split()


def split_urls(text: str) -> list[str]:
    """The URLs in a text: each but the first begins with its SCHEME:// after a space, a tab or a
    line break, and that one character is no part of the one before. Of others nothing is lost: they
    may be a part of what is sent.
    """
    text = text.lstrip()
    begins, at = [0], text.find("://")
    while at >= 0:
        begin = len(text[:at].rstrip(SCHEME_LETTERS))
        if 0 < begin < at and text[begin - 1].isspace():
            begins.append(begin)
        at = text.find("://", at + 1)
    ends = [begin - 1 for begin in begins[1:]] + [len(text)]
    *urls, last = (text[begin:end] for begin, end in zip(begins, ends, strict=True))
    return [*(url.rstrip(" \t") for url in urls), *filter(None, [last])]


def set_by_kubernetes(name: str, text: str) -> bool:
    """Whether a variable looks like PROBE_PORT=tcp://10.0.0.1:80, PROBE_PORT_80_TCP_ADDR or
    PROBE_SERVICE_HOST, or like those of a Service named probe-SOMETHING.
    """
    if name.endswith("_PORT") and text.startswith(("tcp://", "udp://", "sctp://")):
        return True
    return any(part in name for part in ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"))
