"""Data as YAML or JSON, in the form of the text that it goes into. Pure."""

import json
import re
from typing import Any, NamedTuple

import yaml

from probe.inject.data import Plain

WIDTH = 60
"""Characters up to which a value is written in one line, in braces or brackets."""

SIMPLE = re.compile(r"(?:--)?[A-Za-z/_][A-Za-z0-9/_.:=?&@%+-]{2,}(?<![:])")


WORDS = ("true", "false", "null", "yes", "off")
"""What looks like a text and is none; shorter ones are left to PyYAML."""


class Style(NamedTuple):
    """How the surroundings are written."""

    step: int = 2
    """Columns by which a mapping stands further in than its key."""
    dash: int = 2
    """The same of the dashes of a list."""
    json: bool = False


def scalar(value: object) -> str:
    """In a form that is right in brackets as well, and for YAML 1.1 and 1.2."""
    if isinstance(value, Plain):
        return str(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    if SIMPLE.fullmatch(value) and value.lower() not in WORDS:
        return value
    # In quotes of which no line break comes out as a line break.
    quotes = None if value.isprintable() else '"'
    written: str = yaml.safe_dump(
        [value],
        default_flow_style=True,
        default_style=quotes,
        width=1 << 30,
        allow_unicode=True,
    )
    return written.strip()[1:-1]


def flow(value: Any, style: Style) -> str:
    """In one line."""
    if style.json:
        return json.dumps(plain_json(value), ensure_ascii=False)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{scalar(key)}: {flow(of, style)}' for key, of in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(flow(item, style) for item in value)}]"
    return scalar(value)


def plain_json(value: Any) -> Any:
    """The same with what stands for itself made into what JSON has for it."""
    if isinstance(value, dict):
        return {key: plain_json(of) for key, of in value.items()}
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    return yaml.safe_load(value) if isinstance(value, Plain) else value


def is_long(value: Any, style: Style) -> bool:
    """Whether it is better written over several lines."""
    if not isinstance(value, dict | list) or not value:
        return False
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return True
    if isinstance(value, dict) and any(
        isinstance(of, list) and is_long(of, style) for of in value.values()
    ):
        return True
    return len(flow(value, style)) > WIDTH


def entry(key: str, value: Any, style: Style) -> list[str]:
    """The lines of an entry of a mapping, as they stand at the left edge."""
    if not is_long(value, style):
        return [f"{scalar(key)}: {flow(value, style)}"]
    further = style.dash if isinstance(value, list) else style.step
    return [f"{scalar(key)}:", *(" " * further + line for line in lines(value, style))]


def item(value: Any, style: Style) -> list[str]:
    """The lines of an item of a list, with its dash."""
    if not is_long(value, style):
        return [f"- {flow(value, style)}"]
    first, *rest = lines(value, style)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def lines(value: Any, style: Style) -> list[str]:
    """A mapping or a list over several lines."""
    if isinstance(value, list):
        return [line for of in value for line in item(of, style)]
    return [line for key, of in value.items() for line in entry(key, of, style)]


def pretty(value: Any, unit: str) -> list[str]:
    """As JSON over several lines."""
    return json.dumps(plain_json(value), indent=unit, ensure_ascii=False).split("\n")
