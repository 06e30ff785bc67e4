"""A service whose functions raise whatever can be raised."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any, NoReturn

import privsep


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

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.__dict__["code"] = 7

    @property
    def code(self) -> int:
        return 7

    @code.setter
    def code(self, value: int) -> NoReturn:
        raise RuntimeError("set")


class NoModule(ValueError):
    pass


NoModule.__module__ = None  # type: ignore[assignment]


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


def _expose(context: privsep.Context) -> privsep.Context:
    for function in FUNCTIONS:
        stand_ins[context.name, function.__name__] = context.entrypoint(function)
    return context


FUNCTIONS = [
    value
    for name, value in list(globals().items())
    if isinstance(value, types.FunctionType) and not name.startswith("_")
]
stand_ins: dict[tuple[str, str], Any] = {}
processes = _expose(
    privsep.Context(
        "raising", capabilities=[], timeout=5.0, max_message=64 * 1024, memory=1 << 30
    )
)
threads = _expose(
    privsep.Context(
        "raising in threads",
        capabilities=[],
        timeout=5.0,
        max_message=64 * 1024,
        isolation="thread",
    )
)
