"""Text in the cells of a terminal: how many it takes, cut and wrapped to fit. Pure.

All that is cut or wrapped here is made printable first: some of it comes from strangers.
"""

import re
from collections.abc import Iterator
from unicodedata import category, east_asian_width

from probe.display import printable as printable

PAINT = re.compile(r"(\x1b\[[\d;]*m)")
"""What colours a text, and is no part of it."""


def width(text: str) -> int:
    """The cells that a terminal gives it."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(letter: str) -> int:
    if category(letter) in {"Mn", "Me"}:
        return 0  # on top of the letter before it
    return 2 if east_asian_width(letter) in {"W", "F"} else 1


def fit(text: str, cells: int, ellipsis: str) -> str:
    """The same, printable; where it takes more cells, its beginning and an ellipsis."""
    text = printable(text)
    if width(text) <= cells:
        return text
    return _beginning(text, max(cells - width(ellipsis), 0)) + ellipsis[: max(cells, 0)]


def clip(painted: str, cells: int) -> str:
    """A line with its colours, without what takes more cells."""
    parts = PAINT.split(painted)
    if width("".join(parts[::2])) <= cells:
        return painted
    for place in range(0, len(parts), 2):
        parts[place] = _beginning(parts[place], cells)
        cells -= width(parts[place])
    return "".join(parts)


def _beginning(text: str, cells: int) -> str:
    taken = 0
    for place, letter in enumerate(text):
        taken += _cells(letter)
        if taken > cells:
            return text[:place]
    return text


def left(text: str, cells: int, ellipsis: str) -> str:
    """In so many cells, at their left."""
    shown = fit(text, cells, ellipsis)
    return shown + " " * (cells - width(shown))


def right(text: str, cells: int, ellipsis: str) -> str:
    """In so many cells, at their right."""
    shown = fit(text, cells, ellipsis)
    return " " * (cells - width(shown)) + shown


def wrap(text: str, cells: int, most: int, ellipsis: str) -> list[str]:
    """In lines of so many cells, `most` of them; the last one says with an ellipsis that there is
    more.
    """
    if cells < 1 or most < 1:
        return []
    lines = list(_lines(printable(text).split(), cells))
    if len(lines) > most:
        lines[most - 1 :] = [fit(f"{lines[most - 1]} {lines[most]}", cells, ellipsis)]
    return lines


def _lines(words: list[str], cells: int) -> Iterator[str]:
    line = ""
    for word in words:
        rest = word
        if line and width(line) + 1 + width(rest) <= cells:
            line = f"{line} {rest}"
            continue
        if line:
            yield line
        while width(rest) > cells:  # longer than a line: cut wherever it is
            part = _beginning(rest, cells) or rest[:1]
            yield part
            rest = rest[len(part) :]
        line = rest
    if line:
        yield line
