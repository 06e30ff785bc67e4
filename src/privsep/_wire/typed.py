"""What runs of typing, without typing: that would be a sixth of what a daemon loads.

Runs in both processes.  To a type checker the names are typing's own.  `NamedTuple` has
as much here as is used: fields by name, defaults, `_fields`, `_replace`.
"""

from __future__ import annotations

__all__ = ["NamedTuple", "overload"]

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from typing import NamedTuple, Self, overload
else:
    from _collections import _tuplegetter

    def overload(function: object) -> object:
        """Return `function`."""
        return function

    class NamedTuple(tuple):
        """A tuple whose items have the names that its class annotates."""

        __slots__ = ()
        _fields: tuple[str, ...] = ()
        _defaults: dict[str, object] = {}  # noqa: RUF012 - as typing's is read

        def __init_subclass__(cls) -> None:
            """Take the fields, if they are not those of the class above."""
            if cls._fields:
                return
            cls._fields = (*cls.__annotations__,)
            body = vars(cls)
            cls._defaults = {name: body[name] for name in cls._fields if name in body}
            for place, name in enumerate(cls._fields):
                setattr(cls, name, _tuplegetter(place, ""))

        def __new__(cls, *items: object, **named: object) -> Self:
            """Return one with these items, the rest by name or by default."""
            if named or len(items) != len(cls._fields):
                rest = cls._fields[len(items) :]
                known = {**cls._defaults, **named}
                if len(items) > len(cls._fields) or not named.keys() <= {*rest}:
                    raise TypeError(f"{cls.__name__}{cls._fields}: {items}, {named}")
                try:
                    items += tuple([known[name] for name in rest])
                except KeyError as error:
                    raise TypeError(f"{cls.__name__} lacks {error}") from None
            return tuple.__new__(cls, items)

        def __getnewargs__(self) -> tuple[object, ...]:
            """Have a copy made of the items."""
            return (*self,)

        def __repr__(self) -> str:
            """Return the fields with their names."""
            fields = map("{}={!r}".format, self._fields, self)
            return f"{type(self).__name__}({', '.join(fields)})"

        def _replace(self, **named: object) -> Self:
            """Return a copy in which some fields are others."""
            return type(self)(**{**dict(zip(self._fields, self, strict=True)), **named})
