"""What is to change in a pod template, as data: it is made in the text, in a patch, and taken back.

A path leads from the template down, key by key; in the lists of a pod an item is told by its name.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from probe.inject.splice import Editor
from probe.inject.writing import Style
from probe.manifests import Value

LISTS = ("initContainers", "containers", "volumes")

KeyPath = tuple[str, ...]


class Put(NamedTuple):
    """An entry, or an item of a list, that is added, or takes the place of what is there."""

    path: KeyPath
    data: Any
    before: str = ""
    """The entry that it is to stand before, where it is a new one."""


class Drop(NamedTuple):
    """An entry that is taken out."""

    path: KeyPath


Change = Put | Drop


def is_item(path: KeyPath) -> bool:
    return len(path) > 1 and path[-2] in LISTS


def step(value: Value, path: KeyPath) -> Value | None:
    """What stands at the end of a path, one step below `value`; None: nothing, not even null."""
    name = path[-1]
    if is_item(path):
        return next((part for part in value if part.get("name").text == name), None)
    return next((part for part in reversed(value.parts()) if part.key == name), None)


def index_of(collection: Value, path: KeyPath) -> int | None:
    """Where in a collection the last step of a path leads."""
    parts = collection.parts()
    for index in range(len(parts) - 1, -1, -1):
        name = parts[index].get("name").text if is_item(path) else parts[index].key
        if name == path[-1]:
            return index
    return None


def reached(template: Value, path: KeyPath) -> tuple[Value, KeyPath]:
    """The last value on the way that is there, and the path up to the first that is not, or to the
    end.
    """
    value = template
    for length in range(1, len(path)):
        found = step(value, path[:length])
        if not found:
            return value, path[:length]
        value = found
    return value, path


def nested(path: KeyPath, missing: KeyPath, data: Any) -> Any:
    """The data with what is missing above it."""
    for length in range(len(path), len(missing), -1):
        data = [data] if is_item(path[:length]) else {path[length - 1]: data}
    return data


def join(one: Any, other: Any) -> Any:
    """Two pieces of one thing that is not there yet."""
    if isinstance(one, list):
        return [*one, *other]
    return {**one, **{key: join(one[key], of) if key in one else of for key, of in other.items()}}


class Original(NamedTuple):
    """What was taken out of a text, as it stood there."""

    path: KeyPath
    text: str
    column: int
    """Of the mapping's keys, from 0; -1: it stood in braces."""
    after: str | None
    """The entry behind which it stood, empty for the first; None: something stands in its place."""


class Made(NamedTuple):
    """What the changes came to."""

    added: tuple[KeyPath, ...]
    made: tuple[KeyPath, ...]
    """What was put around something of `added`, since it was not there, or was null."""
    kept: tuple[Original, ...]


def write(editor: Editor, template: Value, changes: Sequence[Change], style: Style) -> Made:
    """Make the changes in a text. Raises Strange where that cannot be done."""
    puts: dict[KeyPath, Put] = {}
    drops: dict[Value, list[KeyPath]] = {}
    added: list[KeyPath] = []
    made: dict[KeyPath, None] = {}
    kept: list[Original] = []
    for change in changes:
        parent, missing = reached(template, change.path)
        index = index_of(parent, missing)
        if isinstance(change, Drop):
            if index is not None:
                drops.setdefault(parent, []).append(change.path)
            continue
        if index is None or missing != change.path:
            added.append(change.path)
            above = range(len(missing), len(change.path))
            made |= dict.fromkeys(change.path[:length] for length in above)
        data = nested(change.path, missing, change.data)
        if missing in puts:
            data = join(puts[missing].data, data)
        puts[missing] = Put(missing, data, change.before)
    for parent, paths in drops.items():
        kept += take_out(editor, parent, paths)
    for put in puts.values():
        parent, _ = reached(template, put.path)
        index = index_of(parent, put.path)
        if index is not None:
            kept.append(keep(editor, parent, index, put.path))
            editor.replace(parent, index, put.path[-1], put.data, style)
        elif is_item(put.path):
            editor.add_item(parent, put.data, style)
        else:
            editor.add_entry(parent, put.path[-1], put.data, style, put.before)
    return Made(tuple(added), tuple(made), tuple(kept))


def keep(editor: Editor, parent: Value, index: int, path: KeyPath) -> Original:
    """An entry whose place something else takes."""
    start, end = editor.place(parent, index)
    return Original(path, editor.text[start:end], column_of(editor, parent), None)


def take_out(editor: Editor, parent: Value, paths: Iterable[KeyPath]) -> Iterator[Original]:
    """Drop entries of a mapping; what is needed to put them back, in their order."""
    found = {index_of(parent, path): path for path in paths}
    indices = sorted(index for index in found if index is not None)
    editor.drop(parent, indices)
    keys = [part.key for part in parent.parts()]
    for index in indices:
        stays = next((at for at in range(index - 1, -1, -1) if at not in indices), None)
        start, end = editor.region(parent, index, index, at_the_start=stays is None)
        after = "" if stays is None else keys[stays]
        yield Original(found[index], editor.text[start:end], column_of(editor, parent), after)


def column_of(editor: Editor, mapping: Value) -> int:
    return -1 if mapping.is_flow else editor.indentation(mapping)


# --- the same, of data


def apply(changes: Iterable[Change], tree: Any) -> Any:
    """A copy of plain data with the changes made in it."""
    for change in changes:
        tree = applied(tree, change.path, (), change)
    return tree


def applied(tree: Any, path: KeyPath, above: KeyPath, change: Change) -> Any:
    name, here = path[0], (*above, path[0])
    if is_item(here):
        items = list(tree) if isinstance(tree, list) else []
        index = next((i for i, of in enumerate(items) if named(of) == name), None)
        old = items[index] if index is not None else None
        new = change_of(old, path, here, change)
        if index is None:
            return [*items, {"name": name, **new}]
        return [*items[:index], new, *items[index + 1 :]]
    entries = dict(tree) if isinstance(tree, dict) else {}
    if len(path) == 1 and isinstance(change, Drop):
        entries.pop(name, None)
    else:
        entries[name] = change_of(entries.get(name), path, here, change)
    return entries


def change_of(old: Any, path: KeyPath, here: KeyPath, change: Change) -> Any:
    if len(path) > 1:
        return applied(old, path[1:], here, change)
    return change.data if isinstance(change, Put) else None


def named(of: Any) -> str:
    return str(of.get("name", "")) if isinstance(of, dict) else ""
