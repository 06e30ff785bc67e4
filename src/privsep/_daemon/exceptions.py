"""An exception as values that cross.

Runs in a worker, after the function raised.  Only names, arguments, attributes,
notes and the formatted traceback cross (code lines and names; never the values
of locals).

An exception's class may put anything in the place of what every exception has: a
property that raises for ``args``, a ``__class__`` that lies.  So all is read by
the interpreter's own descriptors; what still runs the class's code is `repr` of
what does not cross, and the traceback.
"""

from __future__ import annotations

from privsep._wire.values import Encoder, LimitExceeded, UnsupportedType

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import MemberDescriptorType, TracebackType
    from typing import TypeAlias, TypeVar

    _T = TypeVar("_T")
    _Reader: TypeAlias = Callable[[BaseException], _T]

    #: classes from the most derived on, arguments, attributes, notes
    _Parts: TypeAlias = tuple[
        list[tuple[str, str]], tuple[object, ...], dict[str, object], list[str]
    ]
    #: places of the cause, the context and a group's members
    _Links: TypeAlias = tuple[int | None, int | None, list[int]]
else:  # without types: 0.2 ms
    MemberDescriptorType = type(vars(type(lambda: 0))["__globals__"])

_LONG = 1000
_LONG_TRACEBACK = 8000
_LONGEST_TRACEBACK = 1 << 20
_MANY = 20
_MOST_EXCEPTIONS = 500
#: whose frames nobody needs to see
_CALLERS = (
    "asyncio.base_events",
    "privsep._daemon.coroutines",
    "privsep._daemon.generators",
    "privsep._daemon.serve",
    "privsep._boundary.parameters",
)

# The interpreter's own descriptors, each called with the class or the exception.
_mro_of: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
_contents_of: Callable[[type], Mapping[str, object]] = vars(type)["__dict__"].__get__
_name_of: Callable[[type], str] = vars(type)["__qualname__"].__get__
_attributes_of: _Reader[dict[object, object]] = vars(BaseException)["__dict__"].__get__
_arguments_of: _Reader[tuple[object, ...]] = vars(BaseException)["args"].__get__
_cause_of: _Reader[BaseException | None] = vars(BaseException)["__cause__"].__get__
_context_of: _Reader[BaseException | None] = vars(BaseException)["__context__"].__get__
_traceback_of: _Reader[TracebackType | None]
_traceback_of = vars(BaseException)["__traceback__"].__get__
_message_of: _Reader[str] = vars(BaseExceptionGroup)["message"].__get__
_members_of: _Reader[tuple[BaseException, ...]]
_members_of = vars(BaseExceptionGroup)["exceptions"].__get__

#: the object that lacks the attribute: no name, but a value
_LACKING = vars(AttributeError)["obj"]


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
    bases = _bases(type(error))
    note = f"{bases[0][1]} could not be sent whole: {_short(trouble)}"
    links: _Links = (None, None, [])
    return encoder.encode([bases, (_short(error),), {}, [note], links, "", []])


def _describe(error: BaseException, encoder: Encoder, *, shorten: bool) -> list[object]:
    """Return the parts of `error`, its traceback, the parts of all it is linked to.

    The parts are: classes, arguments, attributes, notes, links.
    """
    most = _MANY if shorten else _MOST_EXCEPTIONS
    found, links = _linked(error, most)
    parts = [_parts(each, encoder, shorten=shorten) for each in found]
    notes = parts[0][3]
    if len(found) == most:
        notes.append(f"of what it was raised for, or holds, {most} at most arrive")
    if shorten:
        notes.append("it was too large and has been shortened")
    text = _traceback(error)[-_LONG_TRACEBACK if shorten else 0 :]
    first, *others = ([*each, link] for each, link in zip(parts, links, strict=True))
    return [*first, text, others]


def _linked(
    error: BaseException, most: int
) -> tuple[list[BaseException], list[_Links]]:
    """Return `error` and all that its causes, contexts and groups lead to, with links.

    A link is a place among what is returned.  Causes may go round in a circle, so
    each is taken once; but the members of a group always come after it.
    """
    found = [error]
    links: list[_Links] = []
    places = {id(error): 0}
    for each in found:
        cause, context = _cause_of(each), _context_of(each)
        for other in (cause, context):
            if other is not None and id(other) not in places and len(found) < most:
                places[id(other)] = len(found)
                found.append(other)
        begin = len(found)
        if issubclass(type(each), BaseExceptionGroup):
            found += _members_of(each)[: most - begin]
        members = list(range(begin, len(found)))
        places |= {id(found[place]): place for place in members}
        links.append((places.get(id(cause)), places.get(id(context)), members))
    return found, links


def _parts(error: BaseException, encoder: Encoder, *, shorten: bool) -> _Parts:
    longest, many = (_LONG, _MANY) if shorten else (None, None)
    kind = type(error)
    arguments = _arguments_of(error)
    if issubclass(kind, BaseExceptionGroup):
        arguments = (_message_of(error), *arguments[2:])  # the second: its members
    state = _state(error)
    notes = _notes(state.pop("__notes__", None), longest, many)
    whole = [_crosses(item, encoder, longest) for item in arguments[:many]]
    kept = [
        item if crosses else _short(item)
        for item, crosses in zip(arguments, whole, strict=False)
    ]
    if not all(whole):
        notes.append("an argument could not be sent; this is its repr")
    attributes = {
        name: item
        for name, item in list(state.items())[:many]
        if _crosses(item, encoder, longest)
    }
    return _bases(kind), tuple(kept), attributes, notes


def _bases(kind: type[BaseException]) -> list[tuple[str, str]]:
    """Return the names of `kind` and its bases."""
    return [name_of(base) for base in _mro_of(kind) if issubclass(base, BaseException)]


def name_of(kind: type) -> tuple[str, str]:
    """Return where a class says to stand, and its name, and run no code of its own."""
    module = _contents_of(kind).get("__module__", "builtins")
    return _text(module), _text(_name_of(kind))


def _state(error: BaseException) -> dict[str, object]:
    """Return the attributes of `error`, those in slots, too."""
    state = {
        name: item
        for name, item in dict.items(_attributes_of(error))
        if type(name) is str
    }
    for base in _mro_of(type(error)):
        if base is BaseExceptionGroup:  # its message and members
            continue
        contents = _contents_of(base)
        for name, slot in contents.items():
            if type(slot) is MemberDescriptorType and slot is not _LACKING:
                try:
                    item = slot.__get__(error)
                except AttributeError:  # never set
                    continue
                # None of a class in C stands for unset; OSError's text tells the two.
                if item is not None or "__module__" in contents:
                    state[name] = item
    return state


def _notes(said: object, longest: int | None, many: int | None) -> list[str]:
    if type(said) is not list and type(said) is not tuple:
        return []
    return [_text(note, longest) for note in said[:many]]


def _crosses(value: object, encoder: Encoder, longest: int | None) -> bool:
    try:
        data = encoder.encode(value)
    except (UnsupportedType, LimitExceeded):
        return False
    return longest is None or len(data) <= longest


def _text(value: object, longest: int | None = None) -> str:
    """Return `value` as a str and no subclass of it; its repr, if it is no text."""
    if issubclass(type(value), str):
        return str.__getitem__(value, slice(longest))  # type: ignore[index]
    return _short(value)


def _short(value: object) -> str:
    try:
        text = _text(repr(value), _LONG + 1)
    except BaseException:  # noqa: BLE001 - a repr may raise anything
        text = f"<{_text(_name_of(type(value)))}>"
    return text if len(text) <= _LONG else text[:_LONG] + "…"


def _traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it; nothing if there is none."""
    frames = _traceback_of(error)
    while frames is not None and frames.tb_frame.f_globals["__name__"] in _CALLERS:
        frames = frames.tb_next
    if frames is None:
        return ""
    from traceback import format_exception, format_tb  # noqa: PLC0415 - when needed

    lines: Iterable[str]
    try:
        lines = format_exception(type(error), error, frames)
    except BaseException:  # noqa: BLE001 - it asks the exception's own code
        name = _text(_name_of(type(error)))
        lines = ["Traceback (most recent call last):\n", *format_tb(frames), name]
    return "".join(lines)[-_LONGEST_TRACEBACK:]
