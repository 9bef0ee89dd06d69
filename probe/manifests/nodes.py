"""YAML and JSON as a tree that knows its lines.

A document is composed and never constructed: an alias costs no more than the line it stands on,
and a value is its text, so `on`, `012` and `8080` are what somebody wrote. A place where nothing
stands is a `Value` too, which is false: rules ask on without asking whether there is anything.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: ten times as fast, with the same marks."""

MERGE = "tag:yaml.org,2002:merge"
NULL = "tag:yaml.org,2002:null"
TRUE = ("true", "yes", "on")


class Marks(NamedTuple):
    """Offsets into the text that a value was read from, in characters. An alias (`*name`) has those
    of what it stands for, which are before those of its key.
    """

    start: int
    """Of its key, or its own where it has none."""
    after_key: int
    own: int
    end: int
    """Behind it; of a collection without brackets, somewhere behind the comments that follow."""


class NotYaml(Exception):
    """str() says what is wrong in one line; `line` counts from 1, and is 0 where none is known."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(why)
        self.line = line


class Value:
    """What stands at one place of a document. `line` and `column`, from 1, are those of its key,
    or its own where it has none; of what is missing, those of what it is missing from.
    """

    __slots__ = ("_entries", "_key", "_node", "column", "line")

    def __init__(
        self, node: yaml.Node | None, line: int, column: int, key: yaml.Node | None = None
    ) -> None:
        self._node = node
        self._key = key
        self.line = line
        self.column = column
        self._entries: dict[str, Value] | None = None

    @classmethod
    def at(cls, node: yaml.Node, key: yaml.Node | None = None) -> "Value":
        mark = (key or node).start_mark
        return cls(node, mark.line + 1, mark.column + 1, key)

    def __bool__(self) -> bool:
        """Whether anything but null stands there."""
        return self._node is not None and self._node.tag != NULL

    def __eq__(self, other: object) -> bool:
        """Whether it is the same place of the same document, not whether it says the same."""
        if not isinstance(other, Value) or self._node is None:
            return self is other
        return self._node is other._node

    def __hash__(self) -> int:
        return id(self._node)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self._node, yaml.SequenceNode)

    @property
    def text(self) -> str:
        """A scalar as it is written; empty for null and for anything else."""
        if isinstance(self._node, yaml.ScalarNode) and self:
            return str(self._node.value)
        return ""

    @property
    def number(self) -> int | None:
        """A decimal number, in quotes or not: Kubernetes takes ports both ways."""
        text = self.text
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None

    @property
    def is_true(self) -> bool:
        return self.text.lower() in TRUE

    @property
    def is_false(self) -> bool:
        return bool(self.text) and not self.is_true

    def get(self, *keys: str) -> "Value":
        """What stands under these keys, one in the other."""
        found = self
        for key in keys:
            found = found._mapping().get(key) or Value(None, found.line, found.column)
        return found

    def entries(self) -> Iterator[tuple[str, "Value"]]:
        """The keys of a mapping with what they are given; nothing for anything else."""
        yield from self._mapping().items()

    def __iter__(self) -> Iterator["Value"]:
        """The items of a list; nothing for anything else."""
        if isinstance(self._node, yaml.SequenceNode):
            yield from map(Value.at, self._node.value)

    def words(self) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.text for item in self)

    def texts(self) -> dict[str, str]:
        """A mapping of texts, as labels are."""
        return {key: value.text for key, value in self.entries()}

    @property
    def marks(self) -> Marks:
        """Where it stands in its text. Raises ValueError for what is missing."""
        if self._node is None:
            raise ValueError("nothing stands there")
        own, key = self._node, self._key
        start = (key or own).start_mark.index
        after_key = key.end_mark.index if key else start
        return Marks(start, after_key, own.start_mark.index, own.end_mark.index)

    @property
    def is_flow(self) -> bool:
        """Whether it is a collection in brackets or braces, as all of JSON is."""
        return bool(getattr(self._node, "flow_style", False))

    @property
    def is_block_text(self) -> bool:
        """Whether it is a text behind `|` or `>`, to which the lines below belong."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.style in ("|", ">")

    @property
    def kind(self) -> str:
        """What a scalar is taken for (`str`, `int`, `bool`, `null` ...), or `map` or `seq`."""
        return self._node.tag.rpartition(":")[2] if self._node is not None else "null"

    @property
    def key(self) -> str:
        """What it is given to; empty for an item and for a document."""
        return str(self._key.value) if isinstance(self._key, yaml.ScalarNode) else ""

    def parts(self) -> list["Value"]:
        """What is written in a collection, one after the other: the items of a list; the entries
        of a mapping with their keys, the same key twice if it is, and `<<` as what it is.
        """
        if isinstance(self._node, yaml.MappingNode):
            return [Value.at(value, key) for key, value in self._node.value]
        return list(self)

    def _mapping(self) -> dict[str, "Value"]:
        if self._entries is None:
            self._entries = {}
            if isinstance(self._node, yaml.MappingNode):
                fill(self._entries, self._node, set())
        return self._entries


def fill(into: dict[str, Value], node: yaml.MappingNode, merged: set[int]) -> None:
    """A key's last value counts, as kubectl has it; what is merged in (`<<`) comes after."""
    entries: dict[str, Value] = {}
    merges: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == MERGE:
            merges += value.value if isinstance(value, yaml.SequenceNode) else [value]
        elif isinstance(key, yaml.ScalarNode):
            entries[str(key.value)] = Value.at(value, key)
    for name, entry in entries.items():
        into.setdefault(name, entry)
    for source in merges:
        # Once each: to merge a node again adds nothing, and might never end.
        if isinstance(source, yaml.MappingNode) and id(source) not in merged:
            merged.add(id(source))
            fill(into, source, merged)


def repeated(root: Value) -> set[Value]:
    """What stands in several places at once: what aliases and merges refer to, with all of it."""
    seen: set[int] = set()
    found: dict[int, yaml.Node] = {}
    nodes = [root._node]
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if id(node) in seen:
            found[id(node)] = node
            continue
        seen.add(id(node))
        nodes += within(node)
    nodes = [below for node in found.values() for below in within(node)]
    while nodes:
        node = nodes.pop()
        if node is not None and id(node) not in found:
            found[id(node)] = node
            nodes += within(node)
    return set(map(Value.at, found.values()))


def within(node: yaml.Node) -> list[yaml.Node | None]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def documents(text: str) -> Iterator[Value]:
    """The documents of a stream, one after the other, but empty ones. Raises NotYaml where one
    cannot be read, after those before it.
    """
    if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        # JSON may be indented with tabs, which YAML forbids; inside its strings there are none.
        text = text.replace("\t", " ")
    try:
        for node in yaml.compose_all(text, Loader):
            if node is not None and (value := Value.at(node)):
                yield value
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = ", ".join(filter(None, (error.context, error.problem)))
        raise NotYaml(why, mark.line + 1 if mark else 0) from None
    except RecursionError:
        raise NotYaml("is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise NotYaml(next(iter(str(error).splitlines()), "cannot be read")) from None
