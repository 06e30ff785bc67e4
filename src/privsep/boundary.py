"""What a user writes in annotations beside types: constraints, and secrets.

Runs on both sides; a module whose functions use none of these does not load it.
`privsep._boundary` does what the annotations say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sized
    from typing import Self, TypeAlias

    #: of any type that has an order
    Ordered: TypeAlias = Any

T_co = TypeVar("T_co", covariant=True)


class Secret(Generic[T_co]):
    """A value that no repr, log, audit record or traceback shows.

    ``def log_in(password: privsep.Secret[str])`` is called with
    ``log_in(Secret("..."))``, and gets such an object, too.  It is an object and no
    mere mark in the annotation, so that the function's own log lines and exceptions
    do not show the value, either, unless they ask for it.

    Args:
        value: what to keep.

    """

    __slots__ = ("_value",)

    def __init__(self, value: T_co) -> None:
        self._value = value

    def reveal(self) -> T_co:
        """Return the value."""
        return self._value

    def __repr__(self) -> str:
        """Return a text that does not depend on the value."""
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        """Tell whether `other` keeps the same; text, bytes are compared in full."""
        if not isinstance(other, Secret):
            return NotImplemented
        mine: object = self._value
        theirs: object = other._value
        if isinstance(mine, str) and isinstance(theirs, str):
            mine = mine.encode("utf-8", "surrogatepass")
            theirs = theirs.encode("utf-8", "surrogatepass")
        if isinstance(mine, (bytes, bytearray)) and isinstance(
            theirs, (bytes, bytearray)
        ):
            from hmac import compare_digest  # noqa: PLC0415 - few secrets are compared

            return compare_digest(mine, theirs)
        return mine == theirs

    def __hash__(self) -> int:
        """Return what does not depend on the value, as the repr does not."""
        return hash(Secret)

    def __deepcopy__(self, memo: object) -> Self:
        """Return itself: `dataclasses.asdict` copies, and the value stays in here."""
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Refuse to be pickled: the value would be in the pickle."""
        msg = "a Secret is not written out; reveal() the value where it has to be"
        raise TypeError(msg)


class Len:
    """``Annotated[str, Len(1, 64)]``: so many characters, bytes or items.

    Args:
        min: the least number.
        max: the greatest number; None: no bound.

    """

    def __init__(self, min: int = 0, max: int | None = None) -> None:  # noqa: A002
        self._min = min
        self._max = max
        self.expected = f"of length {_between(min or None, max)}"

    def holds(self, value: Sized) -> bool:
        """Tell whether `value` is as long as it has to be."""
        return self._min <= len(value) and (
            self._max is None or len(value) <= self._max
        )


class Pattern:
    """``Annotated[str, Pattern("[a-z]+")]``: all of the text matches.

    Args:
        pattern: a regular expression (`re`), of text or of bytes.  Its time is the
            call's: one that backtracks a lot ends at the deadline.

    Raises:
        re.error: it is no regular expression.

    """

    def __init__(self, pattern: str | bytes) -> None:
        import re  # noqa: PLC0415 - only where a pattern is

        self._match: Callable[..., object] = re.compile(pattern).fullmatch
        self.expected = f"matching {pattern!r}"

    def holds(self, value: str | bytes) -> bool:
        """Tell whether all of `value` matches."""
        return self._match(value) is not None


class Range:
    """``Annotated[int, Range(1, 65535)]``: a number, date, ... within bounds.

    Args:
        ge: it is greater or equal; None: no bound.
        le: it is less or equal; None: no bound.

    """

    def __init__(self, ge: Ordered = None, le: Ordered = None) -> None:
        self._ge = ge
        self._le = le
        self.expected = _between(ge, le)

    def holds(self, value: Ordered) -> bool:
        """Tell whether `value` is within the bounds; NaN is not."""
        return bool(
            (self._ge is None or value >= self._ge)
            and (self._le is None or value <= self._le)
        )


class Predicate:
    """``Annotated[str, Predicate(is_hostname)]``: a function of yours says yes.

    Args:
        function: returns whether the value will do.  What it raises means no.  Its
            name stands in the message.

    """

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function
        self.expected = (
            f"that {getattr(function, '__name__', repr(function))}() accepts"
        )

    def holds(self, value: object) -> bool:
        """Tell what the function says."""
        return bool(self._function(value))


def _between(least: object, most: object) -> str:
    if most is None:
        return f"at least {least or 0}"
    return f"at most {most}" if least is None else f"{least} to {most}"
