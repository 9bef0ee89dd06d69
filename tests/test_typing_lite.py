"""The records that `probe check` can afford are as those of `typing`, whose cost it can not."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import probe
from probe.imports import typing_lite

ROOT = Path(probe.__file__).parent


class Lean(typing_lite.NamedTuple):
    """Where, and how."""

    x: int
    y: int = 2
    name: str = "here"

    @property
    def both(self) -> int:
        return self.x + self.y


class Full(typing.NamedTuple):
    """Where, and how."""

    x: int
    y: int = 2
    name: str = "here"

    @property
    def both(self) -> int:
        return self.x + self.y


def told(act: Callable[[Any], object], record: Any) -> object:
    """What comes of it, as text without the record's name; the kind of an error for an error."""
    try:
        return str(act(record)).replace(record.__name__, "Record")
    except (TypeError, AttributeError) as error:
        return type(error)


ACTS: dict[str, Callable[[Any], object]] = {
    "all given": lambda record: record(1, 3, "there"),
    "by name": lambda record: record(name="there", x=1),
    "defaults": lambda record: record(1),
    "too few": lambda record: record(),
    "too many": lambda record: record(1, 2, "a", "b"),
    "twice": lambda record: record(1, x=1),
    "unknown": lambda record: record(1, z=1),
    "equal to a tuple": lambda record: record(1) == (1, 2, "here"),
    "hash": lambda record: hash(record(1)) == hash((1, 2, "here")),
    "order": lambda record: record(1) < record(2),
    "unpacked": lambda record: (lambda x, *rest: (x, rest))(*record(1)),
    "property": lambda record: record(1).both,
    "fields": lambda record: (record._fields, record._field_defaults, record.__match_args__),
    "hints": typing.get_type_hints,
    "doc": lambda record: record.__doc__,
    "signature": lambda record: [
        (parameter.name, parameter.kind, parameter.default)
        for parameter in inspect.signature(record).parameters.values()
    ],
    "as dict": lambda record: record(1)._asdict(),
    "make": lambda record: record._make(iter((1, 2, "a"))),
    "make of too few": lambda record: record._make([1]),
    "make of too many": lambda record: record._make(range(4)),
    "replace": lambda record: record(1)._replace(y=7, name="there"),
    "replaced by copy": lambda record: copy.replace(record(1), y=7),  # type: ignore[attr-defined]
    "pickled": lambda record: pickle.loads(pickle.dumps(record(1))),
    "copied": lambda record: copy.deepcopy(record(1)),
    "frozen": lambda record: setattr(record(1), "x", 2),
    "slotted": lambda record: setattr(record(1), "z", 2),
    "default of a class": lambda record: record(5).x,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_record_is_what_typing_makes(act: str) -> None:
    if act == "replaced by copy" and not hasattr(copy, "replace"):
        pytest.skip("copy.replace is of Python 3.13")
    assert told(ACTS[act], Lean) == told(ACTS[act], Full)


@pytest.mark.parametrize(
    ("act", "named"),
    [
        (lambda record: record(), "'x'"),
        (lambda record: record(1, z=1), "z"),
        (lambda record: record(1, 2, "a", "b"), "4 values"),
        (lambda record: record._make([1]), "3 values, not 1"),
        (lambda record: record(1)._replace(z=1), "z"),
    ],
)
def test_a_mistake_is_named(act: Callable[[Any], object], named: str) -> None:
    """`typing` says ValueError or TypeError for an unknown field, as the version has it."""
    with pytest.raises(TypeError, match=f"^Lean .*{named}"):
        act(Lean)


def test_who_takes_it_defers_its_annotations() -> None:
    """Nothing of them is evaluated then; `X | None` of what is no class would fail."""
    takers = 0
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        if any(node.module == typing_lite.__name__ for node in imports):
            takers += 1
            deferred = [node.names[0].name for node in imports if node.module == "__future__"]
            assert deferred == ["annotations"], f"{path}: from __future__ import annotations"
    assert takers
