"""A text, changed in some places and nowhere else. Pure.

A change is told by the tree that was read from the text. In a block (YAML in lines) whole lines
come and go, each with the line break before it, so that neither the comments around them nor a
missing break at the end of the file matter; in brackets and braces the separator goes with what it
parts.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from probe.inject.writing import Style, entry, flow, item, pretty, scalar
from probe.manifests import Value

BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
BLANKS = re.compile(r"[ \t]*")
ALIAS = re.compile(r"(?:[\s:?-]|#[^\r\n]*[\r\n])*\*[^\s,\[\]{}]+")


class Strange(Exception):
    """str() says, in a few words, what cannot be edited."""


class Editor:
    """Changes to one text. They must not overlap; `edited` makes them all at once."""

    def __init__(self, text: str) -> None:
        self.text = text
        found = BREAK.search(text)
        self.newline = found[0] if found else "\n"
        self._changes: list[tuple[int, int, int, str]] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        """All of the changes that are told within, or none if it ends with an error."""
        before = len(self._changes)
        try:
            yield
        except BaseException:
            del self._changes[before:]
            raise

    def edited(self) -> str:
        kept: list[str] = []
        at = 0
        for start, end, _, new in sorted(self._changes, key=lambda change: change[:3]):
            if start < at:
                raise Strange("two changes meet in one place")
            kept += (self.text[at:start], new)
            at = end
        return "".join((*kept, self.text[at:]))

    # --- where things stand

    def end(self, value: Value, floor: int = 0) -> int:
        """Where the text of a value ends: comments and blank lines behind it are not its own.

        `floor`: where it begins at the earliest; what begins before is an alias.
        """
        marks = value.marks
        floor = max(floor, marks.after_key)
        if marks.own < floor:
            alias = ALIAS.match(self.text, floor)
            if alias is None:
                raise Strange(f"what stands in line {value.line}")
            return alias.end()
        if value.is_block_text:
            return self._end_of_lines(marks.own, marks.end)
        if value.is_flow or not (value.is_mapping or value.is_list):
            return marks.end
        return self.ends(value)[-1]

    def ends(self, collection: Value) -> list[int]:
        """Where each part of it ends."""
        found: list[int] = []
        at = collection.marks.own
        for part in collection.parts():
            at = self.end(part, at)
            found.append(at)
        return found

    def _end_of_lines(self, start: int, end: int) -> int:
        """Of a text behind `|` or `>`: with `+` the blank lines below are part of it."""
        text = self.text[start:end]
        header = text.partition("\n")[0].partition("#")[0]
        if "+" not in header:
            return start + len(text.rstrip())
        last = list(BREAK.finditer(text))[-1:]
        return start + last[0].start() if last and last[0].end() == len(text) else end

    def line_end(self, offset: int) -> int:
        found = BREAK.search(self.text, offset)
        return found.start() if found else len(self.text)

    def _edges(self, collection: Value) -> list[int]:
        """Behind each part, with the comment on its last line where it has lines of its own."""
        ends = self.ends(collection)
        return ends if collection.is_flow else [self.line_end(end) for end in ends]

    def _starts(self, collection: Value) -> list[int]:
        """Where each part begins: an item of a block with its dash."""
        starts = [part.marks.start for part in collection.parts()]
        if collection.is_flow or not collection.is_list:
            return starts
        return [self._dash(start) for start in starts]

    def _dash(self, start: int) -> int:
        dash = self.text.rfind("-", 0, start)
        if dash < 0 or self.text[dash + 1 : start].strip():
            raise Strange("a list with something between a dash and its item")
        return dash

    def indentation(self, collection: Value) -> int:
        """The column, from 0, at which the parts of a block begin."""
        first = collection.parts()[0]
        start = self._starts(collection)[0]
        if BREAK.search(self.text, start, first.marks.start):
            raise Strange("a list with a line break between a dash and its item")
        return first.column - 1 - (first.marks.start - start)

    def style(self, template: Value) -> Style:
        """How the lists and mappings of a pod are indented."""
        json = self.text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[")
        spec = template.get("spec")
        containers = spec.get("containers")
        step = dash = 2
        if not spec.is_flow:
            step = containers.column - spec.column
            if not containers.is_flow:
                dash = self.indentation(containers) + 1 - containers.column
        return Style(step if 1 <= step <= 8 else 2, dash if 0 <= dash <= 8 else 2, json)

    # --- what changes

    def add_entry(
        self, mapping: Value, key: str, data: Any, style: Style, before: str = ""
    ) -> None:
        """At the end of a mapping, or before the entry of a name."""
        keys = [part.key for part in mapping.parts()]
        at = keys.index(before) if before in keys else len(keys)
        if mapping.is_flow:
            self._into_flow(mapping, at, key, data, style)
        else:
            self._into_block(mapping, at, entry(key, data, style))

    def add_item(self, items: Value, data: Any, style: Style) -> None:
        """At the end of a list."""
        at = len(items.parts())
        if items.is_flow:
            self._into_flow(items, at, None, data, style)
        else:
            self._into_block(items, at, item(data, style))

    def add_text(self, mapping: Value, text: str) -> None:
        """An entry as it is written, from its key on, at the end of a mapping that has others."""
        last = len(mapping.parts())
        if mapping.is_flow:
            self._insert(self.ends(mapping)[-1], f",{self._between(mapping, last)}{text}")
        else:
            self._into_block(mapping, last, [text])

    def _into_block(self, collection: Value, at: int, lines: Sequence[str]) -> None:
        pad = self.newline + " " * self.indentation(collection)
        written = pad.join(lines)
        if at:
            # With dashes that stand no further in than the key, items still do.
            depth = 2 * len(pad) + collection.is_list
            self._insert(self._edges(collection)[at - 1], pad + written, depth)
        else:
            self._insert(self._starts(collection)[0], written + pad)

    def _into_flow(
        self, collection: Value, at: int, key: str | None, data: Any, style: Style
    ) -> None:
        parts = collection.parts()
        if not parts:
            opening = re.compile(r"[\[{]").search(self.text, collection.marks.own)
            if opening is None:
                raise Strange(f"what stands in line {collection.line}")
            self._insert(opening.end(), self._in_flow(key, flow(data, style), style))
            return
        beside = parts[max(at - 1, 0)]
        prefix = self._prefix(beside)
        written = flow(data, style)
        if prefix is not None and style.json:
            unit = prefix.removeprefix(self._indented(collection)) or "  "
            written = (self.newline + prefix).join(pretty(data, unit))
        between = self._between(collection, at)
        written = self._in_flow(key, written, style)
        if at:
            self._insert(self.ends(collection)[at - 1], f",{between}{written}")
        else:
            self._insert(beside.marks.start, f"{written},{between}")

    def _between(self, collection: Value, at: int) -> str:
        """The blanks between two parts in brackets: a line break where the others have one."""
        prefix = self._prefix(collection.parts()[max(at - 1, 0)])
        return " " if prefix is None else self.newline + prefix

    def _in_flow(self, key: str | None, written: str, style: Style) -> str:
        if key is None:
            return written
        return f"{flow(key, style) if style.json else scalar(key)}: {written}"

    def _indented(self, value: Value) -> str:
        """The blanks at the beginning of the line in which it begins."""
        blanks = BLANKS.match(self.text, value.marks.start - (value.column - 1))
        return blanks[0] if blanks else ""

    def _prefix(self, value: Value) -> str | None:
        """The blanks before what begins its line; None for what does not."""
        indented = self._indented(value)
        return indented if len(indented) == value.column - 1 else None

    def region(
        self, collection: Value, first: int, last: int, *, at_the_start: bool
    ) -> tuple[int, int]:
        """What goes when these parts of a collection do. `at_the_start`: nothing that stays stands
        before them.
        """
        if not at_the_start:
            edges = self._edges(collection)
            return edges[first - 1], edges[last]
        starts = self._starts(collection)
        if last + 1 < len(starts):
            return starts[first], starts[last + 1]
        if not collection.is_flow:
            raise Strange("a collection of which nothing would be left")
        return starts[first], self.ends(collection)[-1]

    def drop(self, collection: Value, indices: Iterable[int]) -> None:
        """Take parts out, those that stand together at once."""
        runs: list[list[int]] = []
        for index in sorted(set(indices)):
            if runs and runs[-1][1] + 1 == index:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        for first, last in runs:
            self._change(*self.region(collection, first, last, at_the_start=first == 0), "")

    def place(self, mapping: Value, index: int) -> tuple[int, int]:
        """From the key of an entry to its end, the comment on its last line included in a block."""
        return mapping.parts()[index].marks.start, self._edges(mapping)[index]

    def replace(self, mapping: Value, index: int, key: str, data: Any, style: Style) -> None:
        if mapping.is_flow:
            written = self._in_flow(key, flow(data, style), style)
        else:
            pad = self.newline + " " * self.indentation(mapping)
            written = pad.join(entry(key, data, style))
        self._change(*self.place(mapping, index), written)

    def put_text(self, start: int, end: int, text: str) -> None:
        """As it is."""
        self._change(start, end, text)

    def edge(self, mapping: Value, index: int) -> int:
        return self._edges(mapping)[index]

    def _insert(self, at: int, text: str, depth: int = 0) -> None:
        self._change(at, at, text, depth)

    def _change(self, start: int, end: int, text: str, depth: int = 0) -> None:
        """Of what comes in at one place, what stands further in comes first."""
        self._changes.append((start, end, -depth, text))
