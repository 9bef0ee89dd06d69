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

    class _Signature:
        """What a record's class takes, worked out for who asks (help, an editor)."""

        def __get__(self, record, cls):
            from inspect import Parameter, Signature

            return Signature(
                Parameter(
                    field,
                    Parameter.POSITIONAL_OR_KEYWORD,
                    default=cls._field_defaults.get(field, Parameter.empty),
                    annotation=cls.__annotations__[field],
                )
                for field in cls._fields
            )

    class _Record(tuple):
        """What all records have in common; `collections.namedtuple` compiles each anew."""

        __slots__ = ()
        __signature__ = _Signature()

        def __new__(cls, *values, **named):
            given = len(values)
            if given < len(cls._fields):
                rest = cls._fields[given:]
                try:
                    values += tuple(
                        [
                            named.pop(field) if field in named else cls._field_defaults[field]
                            for field in rest
                        ]
                    )
                except KeyError as missing:
                    raise TypeError(f"{cls.__name__} lacks {missing}") from None
            if named or len(values) > len(cls._fields):
                wrong = f", not {', '.join(named)}" if named else f", not {given} values"
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}{wrong}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            record = tuple.__new__(cls, values)
            if len(record) != len(cls._fields):
                raise TypeError(
                    f"{cls.__name__} takes {len(cls._fields)} values, not {len(record)}"
                )
            return record

        def _replace(self, **named):
            record = self._make(map(named.pop, self._fields, self))
            if named:
                raise TypeError(f"{type(self).__name__} has no {', '.join(named)}")
            return record

        __replace__ = _replace

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
            body["_field_defaults"] = {field: body.pop(field) for field in fields if field in body}
            body["__slots__"] = ()
            for place, field in enumerate(fields):
                body[field] = _tuplegetter(place, "")
            return type(name, (_Record,), body)

    class NamedTuple(metaclass=_Records):
        """A frozen, slotted record; see `typing.NamedTuple`."""


__all__ = ["Any", "NamedTuple", "NoReturn", "Protocol", "TypeVar"]
