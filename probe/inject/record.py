"""What inject did to a pod template, told in an annotation of it: enough to take all of it back."""

import json
from typing import Any, NamedTuple

from probe.inject.changes import (
    KeyPath,
    Made,
    Original,
    column_of,
    index_of,
    is_item,
    reached,
)
from probe.inject.data import TooLarge, data_of, same
from probe.inject.splice import Editor
from probe.inject.writing import Style
from probe.manifests import NotYaml, Value, documents

ANNOTATION = "accept-probe/injected"
PLACE: KeyPath = ("metadata", "annotations", ANNOTATION)


class Wishes(NamedTuple):
    """What the user said about one workload, and is not to have to say again."""

    ports: tuple[int, ...] = ()
    urls: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    """Arguments of `serve`."""


class Record(NamedTuple):
    """The annotation, read."""

    version: str
    told: Wishes
    container: KeyPath
    args: tuple[str, ...]
    """Those that inject gave to the sidecar: what else stands there was added by hand."""
    live: bool
    """Whether it was made of an object that was read from a cluster."""
    made: Made
    values: dict[KeyPath, Any]
    """What was kept, where its text says too little by itself."""


def write(record: Record) -> str:
    content = {
        "version": record.version,
        "told": {name: list(of) for name, of in record.told._asdict().items() if of},
        "container": list(record.container),
        "args": list(record.args),
        **({"live": True} if record.live else {}),
        "added": list(map(list, record.made.added)),
        "made": list(map(list, record.made.made)),
        "kept": [
            {name: of for name, of in one._asdict().items() if of is not None}
            | ({"value": record.values[one.path]} if one.path in record.values else {})
            for one in record.made.kept
        ],
    }
    return json.dumps(content, separators=(",", ":"))


def read(template: Value) -> Record | None:
    """None where there is none. Raises ValueError for what inject did not write."""
    text = template.get(*PLACE).text
    if not text:
        return None
    try:
        content = json.loads(text)
        kept = [
            Original(tuple(one["path"]), one["text"], one["column"], one.get("after"))
            for one in content["kept"]
        ]
        told = {name: tuple(of) for name, of in content["told"].items()}
        record = Record(
            str(content["version"]),
            Wishes(**told),
            tuple(content["container"]),
            tuple(content["args"]),
            content.get("live") is True,
            Made(
                tuple(map(tuple, content["added"])),
                tuple(map(tuple, content["made"])),
                tuple(kept),
            ),
            {tuple(one["path"]): one["value"] for one in content["kept"] if "value" in one},
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"the annotation {ANNOTATION} is not as inject writes it") from None
    if not all(map(is_path, [*record.made.added, *record.made.made, record.container])) or not all(
        is_path(one.path) and isinstance(one.text, str) and isinstance(one.column, int)
        for one in kept
    ):
        raise ValueError(f"the annotation {ANNOTATION} is not as inject writes it")
    return record


def is_path(path: KeyPath) -> bool:
    return bool(path) and all(isinstance(name, str) and name for name in path)


def lone(kept: Original) -> Any:
    """What a kept text says by itself; None where it does not: an alias, or a merge."""
    if kept.column < 0:
        text = f"{{{kept.text.strip().strip(',')}}}"
    elif kept.after:
        text = kept.text
    else:
        text = " " * kept.column + kept.text
    try:
        return data_of(next(documents(text)).get(kept.path[-1]))
    except (NotYaml, StopIteration, TooLarge):
        return None


def values_of(template: Value, made: Made) -> dict[KeyPath, Any]:
    """The data of what was kept, where its text does not say it."""
    found = {}
    for kept in made.kept:
        parent, _ = reached(template, kept.path)
        index = index_of(parent, kept.path)
        data = data_of(parent.parts()[index]) if index is not None else None
        if not same(lone(kept), data):
            found[kept.path] = data
    return found


def take_back(editor: Editor, template: Value, record: Record, style: Style) -> list[str]:
    """Undo what inject did, as far as it is still there; what is not is returned, in words."""
    left: list[str] = []
    gone = {path for path in record.made.added if exists(template, path)}
    for path in sorted(record.made.made, key=len, reverse=True):
        if exists(template, path) and all_gone(template, path, gone):
            gone.add(path)
    emptied = set()
    for path in {path[:-1] for path in gone} - gone:
        # In lines, what was empty before has to be written as what it was.
        parent, _ = reached(template, (*path, ""))
        if not parent.is_flow and all_gone(template, path, gone):
            emptied.add(path)
            outer, _ = reached(template, path)
            if (index := index_of(outer, path)) is not None:
                editor.replace(outer, index, path[-1], [] if parent.is_list else {}, style)
    kept_now = [
        kept for kept in record.made.kept if kept.path not in record.made.made or kept.path in gone
    ]
    top = [path for path in gone if not any(path[:length] in gone for length in range(len(path)))]
    aside = {kept.path for kept in kept_now}
    top = [path for path in top if path not in aside and path[:-1] not in emptied]
    for above in dict.fromkeys(path[:-1] for path in top):
        mine = [path for path in top if path[:-1] == above]
        parent, _ = reached(template, mine[0])
        editor.drop(parent, filter_none(index_of(parent, path) for path in mine))
    for kept in kept_now:
        parent, missing = reached(template, kept.path)
        if missing != kept.path:
            left.append(f"{'/'.join(kept.path)}: what it stood in is gone")
            continue
        put_back(editor, parent, kept, record, style)
    return left


def filter_none(indices: Any) -> list[int]:
    return [index for index in indices if index is not None]


def exists(template: Value, path: KeyPath) -> bool:
    parent, missing = reached(template, path)
    return missing == path and index_of(parent, path) is not None


def all_gone(template: Value, path: KeyPath, gone: set[KeyPath]) -> bool:
    parent, _ = reached(template, (*path, ""))
    below = [
        (*path, part.get("name").text if is_item((*path, "")) else part.key)
        for part in parent.parts()
    ]
    return all(one in gone for one in below)


def put_back(editor: Editor, parent: Value, kept: Original, record: Record, style: Style) -> None:
    """Write what was kept where it was, to the letter if its surroundings are what they were."""
    key = kept.path[-1]
    column = column_of(editor, parent)
    index = index_of(parent, kept.path)
    keys = [part.key for part in parent.parts()]
    data = record.values.get(kept.path, lone(kept))
    if index is not None and kept.after is None:
        if column == kept.column:
            editor.put_text(*editor.place(parent, index), kept.text)
        else:
            editor.replace(parent, index, key, data, style)
    elif index is not None:
        if not parent.parts()[index]:
            editor.replace(parent, index, key, data, style)
    elif (
        kept.after is not None and column == kept.column and (not kept.after or kept.after in keys)
    ):
        if kept.after:
            at = editor.edge(parent, len(keys) - 1 - keys[::-1].index(kept.after))
        else:
            at = parent.parts()[0].marks.start
        editor.put_text(at, at, kept.text)
    elif kept.after is None and column == kept.column:
        # A cluster has no place for null; in the same words it is the same record the next time.
        editor.add_text(parent, kept.text)
    else:
        editor.add_entry(parent, key, data, style)
