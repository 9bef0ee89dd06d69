"""What an annotation leaves as it is: `accept-probe/lint-ignore: "rule: reason"`.

Several stand on lines of their own, or apart by semicolons. Without a reason nothing is ignored.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from probe.manifests import Value

ANNOTATION = "accept-probe/lint-ignore"


class Ignored(NamedTuple):
    """The rules that annotations name, with the reasons; and the places of what names none."""

    reasons: Mapping[str, str]
    mistakes: tuple[tuple[Value, str], ...]


def read(annotations: Iterable[Value], known: Iterable[str]) -> Ignored:
    """`annotations`: those of an object and of its pod template."""
    rules = set(known)
    reasons: dict[str, str] = {}
    mistakes: list[tuple[Value, str]] = []
    for mapping in annotations:
        value = mapping.get(ANNOTATION)
        for entry in entries(value):
            rule, _, reason = (part.strip() for part in entry.partition(":"))
            if rule not in rules:
                mistakes.append((value, f"{rule!r} is no rule"))
            elif not reason:
                mistakes.append((value, f"{rule} is to be ignored without a reason"))
            else:
                reasons.setdefault(rule, reason)
    return Ignored(reasons, tuple(mistakes))


def entries(value: Value) -> Iterator[str]:
    for entry in re.split(r"[;\n]", value.text):
        if entry.strip():
            yield entry.strip()
