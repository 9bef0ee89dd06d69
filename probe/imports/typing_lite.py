"""What `typing` offers, for the modules that `probe check` imports: at no price.

The import of `typing` costs as much CPU time as half the start of Python, and kubelet may start
`probe check` every few seconds. Type checkers see the real thing here; the interpreter is given
what little is needed at run time. Modules that take NamedTuple from here defer their annotations
(`from __future__ import annotations`): nothing of them is ever evaluated.
"""

TYPE_CHECKING = False  # What type checkers take for True, as they do `typing.TYPE_CHECKING`.
if TYPE_CHECKING:
    from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar
else:
    from _collections import _tuplegetter

    Any = NoReturn = object

    class Protocol:
        """A base that demands nothing."""

    def TypeVar(name, *_, **__):  # noqa: N802 - it stands for a class
        """Return something to annotate with."""
        return name

    class _Record(tuple):
        """What all records have in common; `collections.namedtuple` compiles each anew."""

        __slots__ = ()

        def __new__(cls, *values, **named):
            given = len(values)
            if given < len(cls._fields):
                rest = cls._fields[given:]
                try:
                    values += tuple(
                        [
                            named.pop(one) if one in named else cls._field_defaults[one]
                            for one in rest
                        ]
                    )
                except KeyError as missing:
                    raise TypeError(f"{cls.__name__} lacks {missing}") from None
            if named or len(values) > len(cls._fields):
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **named):
            return self.__class__(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
            return f"{self.__class__.__name__}({fields})"

        def __getnewargs__(self):
            return tuple(self)

    class _Records(type):
        """Makes a class body with annotations into a record."""

        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body["_fields"] = body["__match_args__"] = tuple(body["__annotations__"])
            body["_field_defaults"] = {one: body.pop(one) for one in fields if one in body}
            body["__slots__"] = ()
            for place, field in enumerate(fields):
                body[field] = _tuplegetter(place, "")
            return type(name, (_Record,), body)

    class NamedTuple(metaclass=_Records):
        """A frozen, slotted record; see `typing.NamedTuple`."""


__all__ = ["Any", "NamedTuple", "NoReturn", "Protocol", "TypeVar"]
