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
from probe.config.targets import MOST, OPTIONS

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
        self.fields["targets"] = self.fields.pop("target")

    def settings(self, root: yaml.MappingNode) -> Layer:
        layer: Layer = {}
        for field, node, place, path in self.entries(root, self.fields, layer):
            several = field.collect is not None and isinstance(node, yaml.SequenceNode)
            items = node.value if several else [node]
            if items:
                layer[field.name] = []
            if len(items) > MOST:
                self.problems.error(place, f"{len(items)} items are too many: at most {MOST}")
                continue
            for index, item in enumerate(items):
                name = f"{path}[{index}]" if several else path
                if field.name == "target" and isinstance(item, yaml.MappingNode):
                    self.target(item, name, layer)
                else:
                    self.scalar(item, field, self.place(item, name), layer)
        return layer

    def target(self, node: yaml.MappingNode, name: str, layer: Layer) -> None:
        """A target spelled out; kept when all of it could be read."""
        found: Layer = {}
        options: dict[str, Given] = {}
        sound = True
        for field, value, place, _ in self.entries(node, OPTIONS, found, f"{name}."):
            self.scalar(value, field, place, found)
            if found.get(field.name):
                options[field.key] = found[field.name][0]
            else:
                sound = False
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
