"""An exception as values that cross.

Runs in a worker, after the function raised.  Only names, arguments, attributes,
notes and the formatted traceback cross (code lines and names; never the values
of locals).
"""

from __future__ import annotations

import operator

from privsep._wire.values import Encoder, LimitExceeded, UnsupportedType

_LONG = 1000
_LONG_TRACEBACK = 8000
_MANY = 20

_arguments_of = BaseException.args.__get__  # type: ignore[attr-defined]


def describe(error: BaseException, encoder: Encoder, most: int | None = None) -> bytes:
    """Return `error` encoded for an ERR frame, whatever its class does.

    What would exceed `most` bytes is shortened, so that the class arrives.
    """
    trouble: object = "it is too large"
    for shorten in (False, True):
        try:
            data = encoder.encode(_describe(error, encoder, shorten=shorten))
        except BaseException as raised:  # noqa: BLE001 - its own code may even exit
            trouble = raised
        else:
            if most is None or len(data) <= most:
                return data
    kind = type(error)
    note = f"{kind.__qualname__} could not be sent whole: {_short(trouble)}"
    return encoder.encode([_bases(kind), (_short(error),), {}, [note], "", []])


def _describe(
    error: BaseException, encoder: Encoder, *, shorten: bool, member: bool = False
) -> list[object]:
    """Return classes, arguments, attributes, notes, traceback, a group's members."""
    arguments, state = _parts(error)
    said = state.pop("__notes__", ())
    notes = [str(note) for note in said] if isinstance(said, (list, tuple)) else []
    most = _LONG if shorten else None
    members: list[object] = []
    if isinstance(error, BaseExceptionGroup):
        arguments = (error.message,)
        members = [
            _describe(each, encoder, shorten=shorten, member=True)
            for each in error.exceptions[: _MANY if shorten else None]
        ]
    kept = tuple(
        item if _crosses(item, encoder, most) else _short(item) for item in arguments
    )
    attributes = {
        name: item for name, item in state.items() if _crosses(item, encoder, most)
    }
    text = "" if member else _traceback(error)
    if shorten:
        notes = [note[:_LONG] for note in notes[:_MANY]]
        text = text[-_LONG_TRACEBACK:]
        notes.append("it was too large and has been shortened")
    if any(map(operator.is_not, kept, arguments)):
        notes.append("an argument could not be sent; this is its repr")
    return [_bases(type(error)), kept, attributes, notes, text, members]


def _bases(kind: type[BaseException]) -> list[tuple[str, str]]:
    return [
        (str(base.__module__), base.__qualname__)
        for base in kind.__mro__
        if issubclass(base, BaseException)
    ]


def _parts(error: BaseException) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return what the constructor takes, and the attributes.

    `__reduce__` of OSError knows its filename, which `args` does not.  A class
    may have put something else in the place of `args`.
    """
    state = dict(getattr(error, "__dict__", {}))
    if type(error).__reduce__ is OSError.__reduce__:
        return error.__reduce__()[1], state  # type: ignore[return-value]
    return _arguments_of(error), state


def _crosses(value: object, encoder: Encoder, most: int | None) -> bool:
    try:
        data = encoder.encode(value)
    except (UnsupportedType, LimitExceeded):
        return False
    return most is None or len(data) <= most


def _short(value: object) -> str:
    try:
        text = repr(value)
    except BaseException:  # noqa: BLE001 - a repr may raise anything
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONG else text[:_LONG] + "…"


def _traceback(error: BaseException) -> str:
    from traceback import format_exception  # noqa: PLC0415 - when it is needed

    return "".join(format_exception(error))
