"""Exceptions of the daemon, made anew in the client.

Runs in the client.  A class is looked up by name, first among the modules that
are loaded, then imported if its module stands below the context's prefix or in
the standard library; else the nearest base that can be had is taken.

What an exception holds is put where the interpreter keeps it, past properties and
`__setattr__` of its class: of its own code nothing runs but the constructor.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from functools import partial
from types import MemberDescriptorType
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from privsep.context import Context

#: modules of the standard library that do more than define, when they are imported
_ACTING = frozenset({"antigravity", "idlelib", "this"})

_BUILTINS = tuple(
    each
    for each in vars(builtins).values()
    if isinstance(each, type) and issubclass(each, BaseException)
)

# The interpreter's own descriptors, each called with the class or the exception.
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_contents_of: Callable[[type], Mapping[str, object]] = vars(type)["__dict__"].__get__
_attributes_of: Callable[[BaseException], dict[str, object]]
_attributes_of = vars(BaseException)["__dict__"].__get__
_cause_of: Callable[[BaseException], BaseException | None]
_cause_of = vars(BaseException)["__cause__"].__get__
_set_cause: Callable[[BaseException, BaseException], None]
_set_cause = vars(BaseException)["__cause__"].__set__
_set_context: Callable[[BaseException, BaseException], None]
_set_context = vars(BaseException)["__context__"].__set__
_set_arguments: Callable[[BaseException, tuple[object, ...]], None]
_set_arguments = vars(BaseException)["args"].__set__


class _RemoteTraceback(Exception):
    """The daemon's traceback, as the cause of the exception."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class _Description(NamedTuple):
    """What the daemon says of one exception."""

    bases: list[tuple[str, str]]  #: module and name, from the class itself on
    arguments: tuple[object, ...]  #: of a group: without its members
    attributes: dict[str, object]
    notes: list[str]
    #: places of its cause, its context and its members among all descriptions
    links: tuple[int | None, int | None, list[int]]


def rebuild(value: object, context: Context) -> BaseException:
    """Return the exception that the daemon described as `value`.

    Those that it was raised for hang on it as they did.  The daemon's traceback,
    which shows them all, is the cause of the deepest cause, where it is printed
    before everything else.
    """
    *first, text, others = cast("list[object]", value)
    parts = [first, *cast("list[list[object]]", others)]
    descriptions = [_Description(*each) for each in parts]  # type: ignore[arg-type]
    made: dict[int, BaseException] = {}
    for place in reversed(range(len(descriptions))):  # members come after their group
        made[place] = _make(descriptions[place], made, context)
    for place, error in made.items():
        cause, before, _ = descriptions[place].links
        if before is not None:
            _set_context(error, made[before])
        if cause is not None:
            _set_cause(error, made[cause])
    if text:
        _set_cause(_deepest(made[0]), _RemoteTraceback(cast("str", text)))
    for place, error in made.items():  # after the links, which change an attribute
        _set_attributes(error, descriptions[place].attributes)
    return made[0]


def remote_traceback(error: BaseException) -> str | None:
    """Return the daemon's traceback of an exception that `rebuild` returned."""
    last = _deepest(error)
    return last.text if isinstance(last, _RemoteTraceback) else None


def _deepest(error: BaseException) -> BaseException:
    """Return the end of the causes of `error`, or of a circle the last."""
    seen = {id(error)}
    while (cause := _cause_of(error)) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    return error


def _set_attributes(error: BaseException, attributes: dict[str, object]) -> None:
    slots = {
        name: slot
        for base in reversed(_mro_of(type(error)))
        for name, slot in _contents_of(base).items()
        if type(slot) is MemberDescriptorType
    }
    for name, item in attributes.items():
        try:
            slots[name].__set__(error, item)
        except Exception:  # noqa: BLE001 - no slot has that name, or takes that value
            _attributes_of(error)[name] = item


def _make(
    description: _Description, made: dict[int, BaseException], context: Context
) -> BaseException:
    """Make the first of the bases that can be had, without attributes and links.

    What a group that cannot be made would have held is shown in the traceback.
    """
    bases, arguments, _, notes, (*_, places) = description
    if places:
        members = [made[place] for place in places]
        arguments = (arguments[0], members, *arguments[1:])
    for module, name in bases:
        kind = _find_class(module, name, context)
        error = _construct(kind, arguments) if kind is not None else None
        if error is not None:
            break
    else:
        module = name = ""
        error = Exception(*arguments)
    if (module, name) != tuple(bases[0]):
        notes.append(f"raised in the daemon as {bases[0][0]}.{bases[0][1]}")
    if notes:
        _attributes_of(error)["__notes__"] = notes
    return error


def _find_class(module: str, name: str, context: Context) -> type[BaseException] | None:
    found: object = sys.modules.get(module)
    if found is None and _may_import(module, context):
        try:
            found = importlib.import_module(module)
        except (Exception, SystemExit):  # noqa: BLE001 - then a base has to do
            return None
    for part in name.split("."):
        # Not getattr: a module may import another when it is asked for a name.
        try:
            found = object.__getattribute__(found, "__dict__").get(part)
        except AttributeError:
            return None
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    return None


def _may_import(module: str, context: Context) -> bool:
    top, *below = module.split(".")
    if top in sys.stdlib_module_names:
        return top not in _ACTING and "__main__" not in below
    return context.may_import(module)


def _construct(
    kind: type[BaseException], arguments: tuple[object, ...]
) -> BaseException | None:
    """Return an exception of `kind` with `arguments`, None if it cannot be made.

    Its constructor may take something else than its args, or change them.
    """
    builtin = next(base for base in _mro_of(kind) if any(base is x for x in _BUILTINS))
    plain = arguments[:2] if issubclass(kind, BaseExceptionGroup) else arguments
    ways = (
        partial(cast("Callable[..., object]", kind), *arguments),
        partial(cast("Callable[..., object]", builtin.__new__), kind, *plain),
    )
    for make in ways:
        try:
            error = make()
        except (Exception, SystemExit, GeneratorExit):  # noqa: BLE001, S112 - next way
            continue
        if isinstance(error, kind):
            _set_arguments(error, arguments)
            return error
    return None
