"""The YAML file. Imported only when there is one to read.

The file is composed to nodes and read with the same kinds as flags are: a value is its text, so
`path: off` or `listen: 12:30` mean what they say, and every error knows its line. Nothing is
constructed, so an alias costs no more than the line it stands on.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from probe.config.fields import FIELDS, Field, taken_by
from probe.config.problems import Problems, did_you_mean, nearest, quote
from probe.config.sources import Given, Layer, add_value
from probe.config.targets import MOST, OPTIONS, together
from probe.config.values import Header

LIMIT = 65536
"""Bytes. A long configuration has a few thousand; PyYAML reads about 100 KB a second."""


UNREADABLE: Layer = {"target": []}
"""Targets may have been given; that there are none is not what is wrong."""


def read_file(path: str, place: str, command: str, problems: Problems) -> Layer:
    """The settings in the file, read whether the command takes them or not: wrong is wrong."""
    shown = path if path.isprintable() else quote(path, 4096)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LIMIT + 1)
        root = compose(content)
    except OSError as error:
        problems.error(place, f"{shown}: {error.strerror}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark else shown
        problems.error(where, ", ".join(filter(None, (error.context, error.problem))))
    except RecursionError:
        problems.error(shown, "is nested too deeply")
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        problems.error(shown, f"is no YAML: {next(iter(str(error).splitlines()), '')}")
    else:
        if root is None:
            return {}
        if isinstance(root, yaml.MappingNode):
            return YamlReader(shown, command, problems).settings(root)
        problems.error(shown, "is no mapping of settings to values")
    return UNREADABLE


def compose(content: bytes) -> yaml.Node | None:
    if len(content) > LIMIT:
        raise ValueError(f"larger than {LIMIT} bytes")
    return yaml.compose(content, yaml.SafeLoader)


class YamlReader:
    """Walks the nodes no deeper than a configuration goes: an alias to itself is just wrong."""

    def __init__(self, file: str, command: str, problems: Problems) -> None:
        self.file = file
        self.problems = problems
        # A name may have a row for each of several commands; the command's own comes last.
        self.fields = {field.key: field for field in (*FIELDS, *taken_by(command))}
        del self.fields["config"]

    def settings(self, root: yaml.MappingNode) -> Layer:
        layer: Layer = {}
        for field, node, place, path in self.entries(root, self.fields, layer):
            self.values(field, node, place, path, layer)
        return layer

    def values(self, field: Field, node: yaml.Node, place: str, path: str, layer: Layer) -> None:
        """Read the value of a field, or each of its values."""
        several = field.collect is not None and isinstance(node, yaml.SequenceNode)
        items = node.value if several else [node]
        if items:
            layer[field.name] = []
        if len(items) > MOST:
            self.problems.error(place, f"{len(items)} items are too many: at most {MOST}")
            return
        for index, item in enumerate(items):
            name = f"{path}[{index}]" if several else path
            if field.name == "target" and isinstance(item, yaml.MappingNode):
                self.target(item, name, layer)
            elif isinstance(field.kind, Header) and isinstance(item, yaml.MappingNode):
                self.headers(item, field, name, layer, one=several)
            else:
                self.scalar(item, field, self.place(item, name), layer)

    def headers(
        self, node: yaml.MappingNode, field: Field, path: str, layer: Layer, *, one: bool
    ) -> None:
        """Headers as a mapping, each with its name; `one`, in a list, may be written as kubelet's
        are, with the keys `name` and `value`.
        """
        pairs = [(name.value, value.value) for name, value in node.value]
        if not pairs or not all(isinstance(text, str) for pair in pairs for text in pair):
            self.problems.error(self.place(node, path), f"a mapping is not {field.kind.accepts}")
            return
        if one and sorted(name for name, _ in pairs) == ["name", "value"]:
            spelled = dict(pairs)
            pairs = [(spelled["name"], spelled["value"])]
        for name, value in pairs:
            add_value(layer, field, f"{name}: {value}", self.place(node, path), self.problems)

    def target(self, node: yaml.MappingNode, name: str, layer: Layer) -> None:
        """A target spelled out; kept when all of it could be read."""
        found: Layer = {}
        options: dict[str, Given] = {}
        sound = True
        for field, value, place, path in self.entries(node, OPTIONS, found, f"{name}."):
            self.values(field, value, place, path, found)
            if found.get(field.name):
                options[field.key] = together(field, found[field.name])
            else:
                sound = sound and field.name not in found
        if sound:
            layer["target"].append(Given(options, self.place(node, name)))

    def entries(
        self, node: yaml.MappingNode, fields: Mapping[str, Field], layer: Layer, prefix: str = ""
    ) -> Iterator[tuple[Field, yaml.Node, str, str]]:
        """Of each known key, once: its field, its value, its place, and its path in the file.

        What an unknown key was probably meant to be counts as given, in error.
        """
        lines: dict[str, int] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.error(self.place(key_node), "a key must be a word")
                continue
            key = key_node.value
            place = self.place(key_node, prefix + (key if key.isidentifier() else quote(key)))
            if key not in fields:
                near = nearest(key, fields)
                self.problems.error(place, f"no such setting{did_you_mean(near)}")
                if near:
                    layer.setdefault(fields[near].name, [])
            elif key in lines:
                self.problems.error(place, f"is on line {lines[key]} already")
            else:
                lines[key] = key_node.start_mark.line + 1
                yield fields[key], value, place, prefix + key

    def scalar(self, node: yaml.Node, field: Field, place: str, layer: Layer) -> None:
        if not isinstance(node, yaml.ScalarNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
            self.problems.error(place, f"{kind} is not {field.kind.accepts}")
        elif node.tag == "tag:yaml.org,2002:null":
            self.problems.error(place, f"needs a value: {field.kind.accepts}")
        else:
            add_value(layer, field, node.value, place, self.problems)

    def place(self, node: yaml.Node, name: str = "") -> str:
        line = f"{self.file}:{node.start_mark.line + 1}"
        return f"{line}: {name}" if name else line
