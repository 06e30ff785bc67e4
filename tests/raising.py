"""A service whose functions raise whatever can be raised."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
import types
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Custom(Exception):
    """Its constructor does not take its args."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Demanding(Exception):
    """Neither __new__ nor __init__ takes its args."""

    def __new__(cls, *, code: int) -> Any:
        return super().__new__(cls)

    def __init__(self, *, code: int) -> None:
        super().__init__("demanding", code)


class Formats(Exception):
    """Its constructor makes other args from what it takes."""

    def __init__(self, code: object) -> None:
        super().__init__(f"failed with {code}")
        self.code = code


class InitRaises(ValueError):
    armed = False

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if InitRaises.armed:
            raise RuntimeError("init")


class InitExits(ValueError):
    """Its constructor, called with args, ends the process that calls it."""

    def __init__(self, text: str, *, made_here: bool = False) -> None:
        super().__init__(text)
        if not made_here:
            raise SystemExit(3)


class StrRaises(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("str")


class ReprRaises(ValueError):
    def __repr__(self) -> str:
        raise RuntimeError("repr")


class StrExits(ValueError):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class ReduceRaises(ValueError):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("reduce")


class OsReduceRaises(OSError):
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("reduce")


class ArgsRaise(ValueError):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("args")


class ArgsExit(ValueError):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise SystemExit(3)


class ArgsIsNumber(ValueError):
    args = 5  # type: ignore[assignment]


class NotesIsNumber(ValueError):
    __notes__ = 5  # type: ignore[assignment]


class StrictProperty(ValueError):
    """An attribute that the client may not set in this way."""

    was_set: ClassVar[list[int]] = []

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.__dict__["code"] = 7

    @property
    def code(self) -> int:
        return 7

    @code.setter
    def code(self, value: int) -> NoReturn:
        self.was_set.append(value)
        raise RuntimeError("set")


class NoModule(ValueError):
    pass


NoModule.__module__ = None  # type: ignore[assignment]


class OddModule(ValueError):
    pass


def _raise(error: BaseException) -> NoReturn:
    raise RuntimeError("not to be asked")


_raises: Any = property(_raise)


class DictRaises(ValueError):
    __dict__ = _raises


class ClassRaises(ValueError):
    __class__ = _raises  # pyright: ignore[reportIncompatibleMethodOverride]


class ClassLies(ValueError):
    __class__ = BaseExceptionGroup  # type: ignore[assignment]


class CauseRaises(ValueError):
    __cause__ = _raises


class ContextIsNumber(ValueError):
    __context__ = 5  # type: ignore[assignment]


class TracebackRaises(ValueError):
    __traceback__ = _raises


class EveryAttributeRaises(ValueError):
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class NoAttributeMayBeSet(ValueError):
    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise RuntimeError(name)


class ReprRecurses(ValueError):
    def __repr__(self) -> str:
        return repr(self)

    __str__ = __repr__


class ReprIsNoPlainText(ValueError):
    def __repr__(self) -> str:
        return _OddText("repr")

    __str__ = __repr__


class NotesRaise(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.__notes__ = [_Unspeakable(), _OddText("note"), 5]  # type: ignore[list-item]


class OddNames(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        vars(self).update({5: 1, _OddText("odd"): 2, "start": "x"})  # type: ignore[dict-item]


class _Guarded(type):
    def __getattribute__(cls, name: str) -> NoReturn:
        raise RuntimeError(name)


class OfGuardedClass(ValueError, metaclass=_Guarded):
    pass


class Lies(UnicodeError):
    """Says that it is another, whose attributes take other values."""

    __slots__ = ("end", "start")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.start = "x"
        self.end = 1 << 100


Lies.__module__ = "builtins"
Lies.__qualname__ = "UnicodeDecodeError"


class _OddText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __getitem__(self, key: object) -> NoReturn:
        raise RuntimeError("getitem")

    def __format__(self, _: str) -> NoReturn:
        raise RuntimeError("format")

    def __len__(self) -> NoReturn:
        raise RuntimeError("len")


OddModule.__module__ = _OddText("raising")


class StrSleeps(ValueError):
    def __str__(self) -> str:
        time.sleep(3600)
        return "late"


class StrEndsTheProcess(ValueError):
    def __str__(self) -> str:
        return str(os._exit(3))


class StrIsHuge(ValueError):
    def __str__(self) -> str:
        return "x" * (16 << 20)

    __repr__ = __str__


class WithSlots(ValueError):
    __slots__ = ("code", "never_set", "nothing")

    def __init__(self, *, code: int) -> None:
        super().__init__("text")
        self.code = code
        self.nothing = None


class WithProperty(ValueError):
    def __init__(self, *, code: int) -> None:
        super().__init__("text")
        self._code = code

    @property
    def code(self) -> int:
        return self._code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
    many: list[int]


class OwnOsError(OSError):
    """Its constructor does not take what OSError's does."""

    def __init__(self, path: str) -> None:
        super().__init__(2, "not here", path, None, "/second")


class Group(ExceptionGroup[Exception]):
    """A group of which a part remembers the code."""

    code: int

    def __new__(  # pyright: ignore[reportInconsistentConstructor] - as documented
        cls, message: str, errors: Sequence[Exception], code: int
    ) -> Self:
        group = super().__new__(cls, message, errors)
        group.code = code
        return group

    def derive(self, errors: Sequence[Exception], /) -> Group:  # type: ignore[override]
        group: Group = make_group(self.message, errors, self.code)
        return group


make_group: Any = Group


class _Locked(contextlib.nullcontext[None]):
    """What does not cross."""


class LockedGroup(ExceptionGroup[Exception]):
    """A group that cannot be made of what crosses."""

    def __new__(  # pyright: ignore[reportInconsistentConstructor] - as documented
        cls, message: str, errors: Sequence[Exception], lock: _Locked
    ) -> Self:
        with lock:
            return super().__new__(cls, message, errors)


make_locked_group: Any = LockedGroup


class MakesItsOwn(ValueError):
    """Its constructor sets what does not cross."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = _Locked()


class Outer:
    class Inner(ValueError):
        pass


class _Unsendable:
    def __repr__(self) -> str:
        return "<what does not cross>"


class _Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("repr")


def builtin(kind: str, *arguments: object) -> NoReturn:
    raise getattr(__import__("builtins"), kind)(*arguments)


def os_error(number: int, text: str, name: object, second: object) -> NoReturn:
    raise OSError(number, text, name, None, second)


def missing_file(path: str) -> NoReturn:
    open(path)  # noqa: SIM115 - it is not there
    raise AssertionError


def raise_custom() -> NoReturn:
    raise Custom(7, reason="no reason")


def raise_formats() -> NoReturn:
    raise Formats(7)


def raise_demanding() -> NoReturn:
    raise Demanding(code=7)


def raise_local() -> NoReturn:
    class Local(KeyError):
        pass

    raise Local("name", 1)


def raise_unimportable() -> NoReturn:
    """Raise a class of a module that exists in the daemon only."""
    module = types.ModuleType("only_in_the_daemon")
    exec(  # noqa: S102 - of our own text
        "class Strange(LookupError): pass", module.__dict__
    )
    sys.modules["only_in_the_daemon"] = module
    raise module.Strange("text", 1)


def raise_with_attributes() -> NoReturn:
    error = ValueError("text")
    error.number = 7  # type: ignore[attr-defined]
    error.many = [(1, 2), {3}]  # type: ignore[attr-defined]
    error.unsendable = _Unsendable()  # type: ignore[attr-defined]
    error.__dict__["odd name"] = 1
    raise error


def raise_with_notes() -> NoReturn:
    error = ValueError("text")
    error.add_note("first")
    error.add_note("second")
    raise error


def raise_unserialisable() -> NoReturn:
    raise KeyError("text", _Unsendable(), 3, [_Unspeakable()])


def raise_chained() -> NoReturn:
    try:
        raise KeyError("missing")  # noqa: TRY301 - it is what is chained
    except KeyError as error:
        raise ValueError("text") from error


def raise_after_two() -> NoReturn:
    """Raise one while another is handled, which has a cause."""
    secret = "".join(reversed("terces"))
    try:
        try:
            raise KeyError("first")  # noqa: TRY301 - it is what is chained
        except KeyError as error:
            raise LookupError("second", len(secret)) from error
    except LookupError:
        raise ValueError("third")  # noqa: B904 - it is about this


def raise_from_cause(length: int) -> NoReturn:
    """Raise the last of a chain of `length` causes."""
    secret = "".join(reversed("terces"))
    error: Exception | None = None
    for place in range(length):
        cause, error = error, KeyError(place, len(secret))
        error.__cause__ = cause
    assert error is not None
    raise error


def raise_from_none() -> NoReturn:
    try:
        raise KeyError("first")  # noqa: TRY301 - it is what is chained
    except KeyError:
        raise ValueError("second") from None


def raise_circle(length: int) -> NoReturn:
    errors = [KeyError(place) for place in range(length)]
    for place, error in enumerate(errors):
        error.__cause__ = error.__context__ = errors[place - 1]
    raise errors[-1]


def raise_after_attributes_and_notes() -> NoReturn:
    cause = WithSlots(code=7)
    cause.add_note("of the cause")
    raise ValueError("text") from cause


def raise_instance(name: str) -> NoReturn:
    """Raise what has attributes of its own."""
    makers: dict[str, Callable[[], BaseException]] = {
        "slots": lambda: WithSlots(code=7),
        "own": lambda: MakesItsOwn("text"),
        "property": lambda: WithProperty(code=7),
        "frozen": lambda: Frozen(7, [1]),
        "os": lambda: OwnOsError("/first"),
        "nested": lambda: Outer.Inner("text"),
        "import": lambda: ImportError("text", name="module", path="/path"),
        "attribute": lambda: AttributeError("text", name="lacking", obj={"a": 1}),
        "name": lambda: NameError("text", name="unknown"),
        "cancelled": lambda: asyncio.CancelledError("text"),
        "command": lambda: subprocess.CalledProcessError(
            3, ["a", "b"], output=b"out", stderr="err"
        ),
        "late command": lambda: subprocess.TimeoutExpired("a b", 1.5, output=b"out"),
        "syntax": lambda: SyntaxError("text", ("file", 1, 2, "line", 3, 4)),
        "exit": lambda: SystemExit({"any": ["value"]}),
        "stop": lambda: StopIteration(("any", "value")),
    }
    error = makers[name]()
    raise error


def raise_undefined() -> object:
    return undefined  # type: ignore[name-defined]  # noqa: F821


def decode_json(text: str) -> object:
    return json.loads(text)


def raise_own_group() -> NoReturn:
    raise make_group("several", [ValueError(1), KeyError(2)], 7)


def raise_locked_group() -> NoReturn:
    raise make_locked_group("several", [ValueError(1)], _Locked())


def raise_wide_group(count: int) -> NoReturn:
    raise ExceptionGroup("wide", [ValueError(place) for place in range(count)])


def raise_deep_group(depth: int) -> NoReturn:
    errors: list[Exception] = [KeyError("innermost")]
    for _ in range(depth):
        errors = [ExceptionGroup("deep", errors)]
    raise errors[0]


def raise_group_of_shared() -> NoReturn:
    """Raise a group that holds one exception twice, which has a cause."""
    shared = ValueError("shared")
    shared.__cause__ = KeyError("cause")
    raise ExceptionGroup("twice", [shared, ExceptionGroup("inner", [shared])])


def raise_as(module: str, name: str) -> NoReturn:
    """Raise a KeyError of a class that says to be `name` of `module`."""
    kind = types.new_class("Named", (KeyError,))
    kind.__module__, kind.__qualname__ = module, name
    raise kind("text", 1)


def refuse() -> NoReturn:
    raise privsep.Refused("by the function itself")


def raise_awkward(name: str) -> NoReturn:
    kind = globals()[name]
    raise (InitExits("text", made_here=True) if kind is InitExits else kind("text"))


def raise_of_init_raises() -> NoReturn:
    InitRaises.armed = False
    raise InitRaises("text")


def raise_large(size: int) -> NoReturn:
    raise KeyError("x" * size, 7)


def raise_with_large_attribute(size: int) -> NoReturn:
    error = KeyError("name")
    error.data = "x" * size  # type: ignore[attr-defined]
    error.code = 7  # type: ignore[attr-defined]
    raise error


def raise_with_many_notes(count: int) -> NoReturn:
    error = KeyError("name")
    for _ in range(count):
        error.add_note("x" * 1000)
    raise error


def recurse() -> object:
    return recurse()


def use_memory() -> int:
    return len(bytearray(64 << 30))


def raise_group() -> NoReturn:
    raise ExceptionGroup(
        "several", [ValueError("one", 1), ExceptionGroup("inner", [KeyError("two")])]
    )


def raise_base_group() -> NoReturn:
    raise BaseExceptionGroup("several", [KeyboardInterrupt("stop"), ValueError(1)])


def raise_of_lazy_module() -> NoReturn:
    """Raise a class of a standard module that the client need not have loaded."""
    assert importlib.util.find_spec("tabnanny")
    import tabnanny

    raise tabnanny.NannyNag(3, "text", "line")


def fine() -> str:
    return "fine"


def _raise_awkward_soon(name: str) -> NoReturn:
    raise globals()[name]("text")


def _expose(context: privsep.Context) -> privsep.Context:
    for function in FUNCTIONS:
        stand_ins[context.name, function.__name__] = context.entrypoint(function)
    stand_ins[context.name, "raise_awkward_soon"] = context.entrypoint(timeout=0.3)(
        _raise_awkward_soon
    )
    return context


FUNCTIONS = [
    value
    for name, value in list(globals().items())
    if type(value) is types.FunctionType and not name.startswith("_")
]
stand_ins: dict[tuple[str, str], Any] = {}
processes = _expose(
    privsep.Context(
        "raising", capabilities=[], timeout=120.0, max_message=64 * 1024, memory=1 << 30
    )
)
threads = _expose(
    privsep.Context(
        "raising in threads",
        capabilities=[],
        timeout=120.0,
        max_message=64 * 1024,
        isolation="thread",
    )
)
at_length = _expose(
    privsep.Context(
        "raising at length", capabilities=[], modules=["raising", "msgpack.fallback"]
    )
)
