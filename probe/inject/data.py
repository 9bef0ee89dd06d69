"""Data of manifests: mappings, lists and texts as Python has them, all other scalars as written."""

from typing import Any

from probe.manifests import Value

MOST = 1_000_000
"""Values of one object. Aliases of aliases can stand for more than fit anywhere."""


class Plain(str):
    """A scalar that is written as it stands: a number, a boolean, null."""

    __slots__ = ()


class TooLarge(Exception):
    """More values than any manifest has."""


def data_of(value: Value) -> Any:
    """Aliases and merges are resolved. Raises TooLarge, also for what has itself inside."""
    return _data(value, [MOST], 0)


def _data(value: Value, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 200:
        raise TooLarge
    if value.is_mapping:
        return {key: _data(of, left, depth + 1) for key, of in value.entries()}
    if value.is_list:
        return [_data(item, left, depth + 1) for item in value]
    if value.kind == "str":
        return value.text
    return Plain(value.text or "null")


def same(one: Any, other: Any) -> bool:
    """Whether two data say the same, whatever the order of keys and the way of writing a scalar."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(of, other[key]) for key, of in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return _scalar(one) == _scalar(other)


def _scalar(value: Any) -> object:
    if isinstance(value, str) and not isinstance(value, Plain):
        return (str(value),)
    if value is None:
        return "null"
    return str(value).lower()
