"""What an entrypoint is made of: the function that is annotated, and what wraps it.

Runs on both sides, for what is no plain function and for what wraps one.
"""

from __future__ import annotations

from privsep._boundary.loaded import FunctionType, MethodType, of
from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's, see loaded
if TYPE_CHECKING:
    from collections.abc import Iterator

#: whose arguments are those of what they stand for, or that have no annotations
_KNOWN = (FunctionType, type(len), staticmethod)


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
        if _is_partial(function):
            given += len(function.args)  # type: ignore[attr-defined]
        function = _called_by(function)


def _is_partial(function: object) -> bool:
    partial = of("functools", "partial")
    return isinstance(partial, type) and isinstance(function, partial)


def _is_known(function: object) -> bool:
    return type(function) in (*_KNOWN, of("functools", "_lru_cache_wrapper"))


def _called_by(function: object) -> object:
    if _is_partial(function):
        return function.func  # type: ignore[attr-defined]
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None or _is_known(function):
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
    return (inner, given) if type(inner) is FunctionType else None


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
        if not _is_known(link.function):
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
