"""Exceptions of the daemon, made anew in the client.

Runs in the client.  A class is looked up by name, first among the modules that
are loaded, then imported if its module stands below the context's prefix or in
the standard library; else the nearest base that can be had is taken.
"""

from __future__ import annotations

import importlib
import sys
from functools import partial
from typing import TYPE_CHECKING, cast

from privsep import errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from privsep.context import Context

    #: classes from the most derived on, arguments, attributes, notes, traceback,
    #: descriptions of what a group holds
    _Description: TypeAlias = tuple[
        list[tuple[str, str]],
        tuple[object, ...],
        dict[str, object],
        list[str],
        str,
        list[object],
    ]


class _RemoteTraceback(Exception):
    """The daemon's traceback, as the cause of the exception."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def rebuild(value: object, context: Context) -> BaseException:
    """Return the exception that the daemon described as `value`."""
    bases, arguments, attributes, notes, text, members = cast("_Description", value)
    if members:
        arguments = (arguments[0], [rebuild(member, context) for member in members])
    error, skipped = _nearest(bases, arguments, context)
    for attribute, item in attributes.items():
        try:
            setattr(error, attribute, item)
        except Exception:  # noqa: BLE001 - a property may raise anything
            notes.append(f"{attribute} = {item!r}")
    if skipped:
        notes.append(f"raised in the daemon as {bases[0][0]}.{bases[0][1]}")
    if notes:
        error.__notes__ = notes
    if text and not isinstance(error, errors.PrivsepError):
        error.__cause__ = _RemoteTraceback(text)
    return error


def _nearest(
    bases: list[tuple[str, str]], arguments: tuple[object, ...], context: Context
) -> tuple[BaseException, int]:
    """Make the first of `bases` that can be had; return it, and how many came before.

    What a group that cannot be made would have held is shown in the traceback.
    """
    for place, (module, name) in enumerate(bases):
        kind = _find_class(module, name, context)
        error = _make(kind, arguments) if kind is not None else None
        if error is not None:
            return error, place
    return Exception(*arguments), len(bases)


def _find_class(module: str, name: str, context: Context) -> type[BaseException] | None:
    found: object = sys.modules.get(module)
    if found is None and _may_import(module, context):
        try:
            found = importlib.import_module(module)
        except Exception:  # noqa: BLE001 - then a base has to do
            return None
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    return None


def _may_import(module: str, context: Context) -> bool:
    return (
        module == context.prefix
        or module.startswith(f"{context.prefix}.")
        or module.partition(".")[0] in sys.stdlib_module_names
        or module in context.modules
    )


def _make(
    kind: type[BaseException], arguments: tuple[object, ...]
) -> BaseException | None:
    """Return an exception of `kind` with `arguments`, None if it cannot be made.

    Its constructor may take something else than its args, or change them.
    """
    builtin = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    ways: tuple[Callable[..., object], ...] = (
        kind,
        partial(cast("Callable[..., object]", kind.__new__), kind),
        partial(cast("Callable[..., object]", builtin.__new__), kind),
    )
    for make in ways:
        try:
            error = make(*arguments)
        except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001, S112 - next way
            continue
        if isinstance(error, kind):
            if not isinstance(error, (OSError, BaseExceptionGroup)):
                _set_arguments(error, arguments)
            return error
    return None


_set_arguments = BaseException.args.__set__  # type: ignore[attr-defined]
