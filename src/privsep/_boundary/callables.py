"""What an entrypoint is made of: the function that is annotated, and what wraps it.

Runs on both sides, for what is no plain function and for what wraps one.
"""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, FunctionType, MethodType

from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator

_VARARGS, _VARKEYWORDS = 0x04, 0x08
_CACHED = type(functools.cache(len))
#: whose arguments are those of what they stand for, or that have no annotations
_KNOWN = (FunctionType, BuiltinFunctionType, staticmethod, _CACHED)


class Link(NamedTuple):
    """A callable, and how many of its first parameters have their argument already."""

    function: object
    given: int


def chain(function: object) -> Iterator[Link]:
    """Return `function`, and what each calls in turn, as far as that can be told."""
    given = 0
    while function is not None:
        if type(function) is MethodType:
            function, given = function.__func__, 1
        yield Link(function, given)
        if isinstance(function, functools.partial):
            given += len(function.args)
        function = _called_by(function)


def _called_by(function: object) -> object:
    if isinstance(function, functools.partial):
        return function.func
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None or type(function) in _KNOWN:
        return wrapped
    if isinstance(function, type):
        its = MethodType(function.__init__, function)  # type: ignore[misc]
        return its if type(its.__func__) is FunctionType else None
    call = getattr(function, "__call__", None)  # noqa: B004 - it is to be called
    return call if type(call) is MethodType else None


def innermost(function: object) -> tuple[FunctionType, int] | None:
    """Return the function that is called in the end, and how many are given of it.

    None if it is none.
    """
    *_, (inner, given) = chain(function)
    return (inner, given) if isinstance(inner, FunctionType) else None


def required(function: FunctionType) -> frozenset[str]:
    """Return the names of its parameters that have no default."""
    code = function.__code__
    end = code.co_argcount - len(function.__defaults__ or ())
    by_name = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    names = {*code.co_varnames[:end], *by_name}
    return frozenset(names.difference(function.__kwdefaults__ or ()))


def why_unjudged(function: object) -> str:
    """Return why arguments of `function` may not be judged by its annotations.

    That is, why they may not be those of the innermost function; "" if they are.  A
    wrapper of ``(*args, **kwargs)`` is taken to pass on what it gets.
    """
    links = list(chain(function))
    for link in links:
        if type(link.function) not in _KNOWN:
            return f"{link.function!r} is no function"
    inner = _parameters(links[-1])
    for link in links[:-1]:
        own = _parameters(link)
        if own not in (None, _NO_NAMES, inner):
            name = getattr(link.function, "__qualname__", link.function)
            return f"the parameters of its wrapper {name}() are others"
    return ""


_NO_NAMES: tuple[tuple[str, ...], ...] = ((), (), ())


def _parameters(link: Link) -> tuple[tuple[str, ...], ...] | None:
    """Return the names of its parameters by kind; None if it has none of its own."""
    if type(link.function) is not FunctionType:
        return None
    code = link.function.__code__
    names = code.co_varnames
    positional, end = code.co_posonlyargcount, code.co_argcount
    return (
        names[min(link.given, positional) : positional],
        names[max(min(link.given, end), positional) : end],
        names[end : end + code.co_kwonlyargcount],
    )
