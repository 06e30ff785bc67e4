"""What modules have that need not be loaded.  Runs on both sides.

An annotation can name what `typing` has only if something has loaded it.  So whether it
does is asked here, which loads nothing: typing, and what that loads, would be 8 ms of
the start of a daemon whose functions take an int.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # not typing's, as said
if TYPE_CHECKING:
    from types import FunctionType, GenericAlias, MethodType, NoneType, UnionType
    from typing import Any
else:

    class _Bound:
        def method(self) -> None: ...

    NoneType = type(None)
    FunctionType = type(_Bound.method)
    MethodType = type(_Bound().method)
    GenericAlias = type(list[int])
    UnionType = type(int | str)

__all__ = [
    "FunctionType",
    "GenericAlias",
    "MethodType",
    "NoneType",
    "UnionType",
    "arguments_of",
    "hint_of",
    "of",
    "origin_of",
]


class _Nothing:
    """What nothing is, nor is of."""


def of(module: str, name: str) -> Any:  # noqa: ANN401 - whatever it is
    """Return `name` of `module` if that is loaded; else what nothing is."""
    return getattr(sys.modules.get(module), name, _Nothing)


def origin_of(annotation: Any) -> Any:  # noqa: ANN401 - as typing's
    """Return what `typing.get_origin` does."""
    typing = sys.modules.get("typing")
    if typing is not None:
        return typing.get_origin(annotation)
    if type(annotation) is UnionType:
        return UnionType
    return annotation.__origin__ if type(annotation) is GenericAlias else None


def arguments_of(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - as above
    """Return what `typing.get_args` does."""
    typing = sys.modules.get("typing")
    if typing is not None:
        arguments: tuple[Any, ...] = typing.get_args(annotation)
        return arguments
    if type(annotation) is UnionType or type(annotation) is GenericAlias:
        return annotation.__args__
    return ()


def hint_of(function: FunctionType, name: str) -> Any:  # noqa: ANN401 - an annotation
    """Return what an annotation of `function` says, its names resolved.

    It is what `typing.get_type_hints` says.  Without typing, that is found for classes,
    and what the language itself makes of classes; for the rest typing is loaded.
    """
    if "typing" not in sys.modules:
        hint = _without_typing(function, name)
        if hint is not _Nothing:
            return hint
    import typing  # noqa: PLC0415 - as said

    hints = typing.get_type_hints(_Holder(function, name), include_extras=True)
    return hints[name]


class _Holder:
    """One annotation of a function, as `typing.get_type_hints` takes it."""

    def __init__(self, function: FunctionType, name: str) -> None:
        self.__annotations__ = {name: function.__annotations__[name]}
        self.__globals__ = function.__globals__
        self.__type_params__ = getattr(function, "__type_params__", ())


def _without_typing(function: FunctionType, name: str) -> object:
    annotation: object = function.__annotations__[name]
    if isinstance(annotation, str):
        if getattr(function, "__type_params__", ()):
            return _Nothing
        try:
            # The service's own code, as typing.get_type_hints evaluates it.
            code = compile(annotation, "<string>", "eval", dont_inherit=True)
            annotation = eval(code, function.__globals__)  # noqa: S307
        except Exception:  # noqa: BLE001 - typing shall say what is wrong
            return _Nothing
    if not _is_plain(annotation):
        return _Nothing
    return NoneType if annotation is None else annotation


def _is_plain(annotation: Any) -> bool:  # noqa: ANN401 - as above
    """Tell whether it is made of classes by the language alone."""
    if type(annotation) is UnionType or type(annotation) is GenericAlias:
        return all(map(_is_plain, annotation.__args__))
    return annotation is None or annotation is ... or isinstance(annotation, type)
