"""Contexts whose functions have annotations, importable by any daemon.

Annotations are text here, as in most modules, and some name what is defined later.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import ipaddress
import logging
import os
import pathlib
import socket
import typing
import uuid
from collections import abc
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import tenacity

import privsep

if typing.TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("annotated")


def _context(name: str, **options: Any) -> privsep.Context:
    return privsep.Context(name, capabilities=[], timeout=10.0, **options)


strict = _context("strict")
lax = _context("lax", validate="convert")
off = _context("off", validate="off")
threads = _context("threads", isolation="thread")


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = 4
    WRITE = 2


class Mode(enum.IntFlag):
    READ = 4
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: float = 0.0
    color: Color | None = None


@dataclasses.dataclass
class Tree:
    name: str
    below: list[Tree] = dataclasses.field(default_factory=list["Tree"])
    size: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.size = 1 + sum(each.size for each in self.below)
        if not self.name:
            raise ValueError("a tree needs a name")


@dataclasses.dataclass
class Other:
    x: int


class Struct(msgspec.Struct):
    when: datetime.date
    color: Color = Color.RED


class Pair(NamedTuple):
    left: int
    right: Color


class Options(TypedDict):
    size: int
    color: typing.NotRequired[Color]


@dataclasses.dataclass
class Nest:
    """Holds one of each that crosses by its annotation, and others of its kind."""

    leaf: (
        Color | Word | Access | Point | Pair | Struct | Options
        | datetime.date | uuid.UUID | decimal.Decimal | pathlib.Path | int | bytes
    )  # fmt: skip
    inner: list[Nest] | dict[str, Nest] | tuple[Nest, ...] | Nest | None = None
    colors: frozenset[Color] = frozenset()


@dataclasses.dataclass
class Login:
    user: str
    password: privsep.Secret[str]


@dataclasses.dataclass
class Exits:
    code: int

    def __post_init__(self) -> None:
        raise SystemExit(self.code)


Name = NewType("Name", str)
Number = TypeVar("Number", int, float)


def is_even(value: int) -> bool:
    return value % 2 == 0


TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "str": str,
    "bytes": bytes,
    "bytearray": bytearray,
    "None": None,
    "object": object,
    "Any": Any,
    "list": list,
    "list[int]": list[int],
    "tuple": tuple,
    "tuple[int, ...]": tuple[int, ...],
    "tuple[int, str]": tuple[int, str],
    "tuple[()]": tuple[()],
    "set[str]": set[str],
    "frozenset[int]": frozenset[int],
    "dict": dict,
    "dict[str, list[int]]": dict[str, list[int]],
    "int | None": int | None,
    "int | str": int | str,
    "str | Path": str | pathlib.Path,
    "list[int] | list[str]": list[int] | list[str],
    "Literal": Literal["a", 1],
    "Literal member": Literal["red", Color.RED],
    "Sequence[int]": abc.Sequence[int],
    "Mapping[str, int]": abc.Mapping[str, int],
    "Iterable[int]": abc.Iterable[int],
    "Set[Color]": abc.Set[Color],
    "Color": Color,
    "Word": Word,
    "Access": Access,
    "Mode": Mode,
    "Color | str": Color | str,
    "list[Color]": list[Color],
    "set[Point]": set[Point],
    "dict[Color, Point]": dict[Color, Point],
    "dict[Point, int]": dict[Point, int],
    "Point": Point,
    "Point | None": Point | None,
    "Point | Other": Point | Other,
    "Tree": Tree,
    "Struct": Struct,
    "Pair": Pair,
    "Options": Options,
    "Nest": Nest,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "UUID": uuid.UUID,
    "Decimal": decimal.Decimal,
    "Path": pathlib.Path,
    "PurePath": pathlib.PurePath,
    "address": ipaddress.IPv4Address | ipaddress.IPv6Address,
    "IPv6Network": ipaddress.IPv6Network,
    "IPv4Interface": ipaddress.IPv4Interface,
    "socket": socket.socket,
    "Fd": privsep.Fd,
    "TextIO": typing.TextIO,
    "IO[bytes]": typing.IO[bytes],
    "Name": Name,
    "Number": Number,
    "Range": Annotated[int, privsep.Range(1, 10)],
    "Range at least": Annotated[float, privsep.Range(ge=0)],
    "Range of dates": Annotated[
        datetime.date, privsep.Range(le=datetime.date(2000, 1, 1))
    ],
    "Len": Annotated[str, privsep.Len(1, 3)],
    "Len of list": Annotated[list[int], privsep.Len(max=2)],
    "Pattern": Annotated[str, privsep.Pattern("[a-z]+")],
    "Predicate": Annotated[int, privsep.Predicate(is_even)],
    "both": Annotated[str, privsep.Len(1, 3), privsep.Pattern("[a-z]+"), "a note"],
    "list of Range": list[Annotated[int, privsep.Range(1)]],
    "Secret": privsep.Secret[str],
    "Secret Range": privsep.Secret[Annotated[int, privsep.Range(1)]],
    "list[Secret]": list[privsep.Secret[str]],
    "Login": Login,
}


def _echo(context: privsep.Context, name: str, annotation: object) -> Any:
    def echo(value: Any) -> Any:
        return value

    echo.__qualname__ = f"echo_{name}"
    echo.__annotations__ = {"value": annotation, "return": annotation}
    return context.entrypoint(echo)


echo = {name: _echo(strict, name, each) for name, each in TYPES.items()}
echo_lax = {name: _echo(lax, name, each) for name, each in TYPES.items()}
echo_off = {name: _echo(off, name, TYPES[name]) for name in ("int", "Color", "list")}


@strict.entrypoint
def later(first: Later, second: list[Later]) -> Later:
    return second[0] if second else first


@dataclasses.dataclass
class Later:
    x: int


@strict.entrypoint
def modes_in_memory() -> int:
    return len(Mode._value2member_map_)


@strict.entrypoint
def every_kind(
    one: int, /, two: int, *rest: int, three: int = 3, four: Any = 4, **more: int
) -> list[Any]:
    return [one, two, rest, three, four, more]


@strict.entrypoint
def points_apart(
    first: Point, /, *rest: Point, last: Point, **more: Point
) -> list[float]:
    return [each.y for each in (first, *rest, last, *more.values())]


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return ["traced", function(*args, **kwargs)]

    return call


@strict.entrypoint
@_traced
def wrapped(count: int) -> object:
    return count


@strict.entrypoint
@tenacity.retry
def retried(count: int, *, text: str = "") -> object:
    return count, text


@strict.entrypoint
@functools.cache
def cached(count: int) -> object:
    return count


def _adding(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function("added", *args, **kwargs)

    return call


@strict.entrypoint
@_adding
def added_to(added: object, count: int) -> object:
    return added, count


class _Methods:
    @_traced
    def traced(self, count: int, text: str = "") -> object:
        return count, text

    def by_name_alone(*values: object, count: int) -> object:
        return values[1:], count

    @strict.entrypoint
    @staticmethod
    def static(count: int) -> object:
        return count


method = strict.entrypoint(_Methods().traced)


@strict.entrypoint
@functools.wraps(method, assigned=())
def wrapped_method(*args: object) -> object:
    return args


by_name_alone = strict.entrypoint(_Methods().by_name_alone)
static = _Methods.static


@strict.entrypoint
def unannotated(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return value


@strict.entrypoint
def returns_what_it_says_not(kind: str) -> Point:
    return {"dict": {"x": 1}, "int": 5, "None": None}[kind]  # type: ignore[return-value]


@strict.entrypoint
def returns_point_without_saying() -> object:
    return Point(1)


@strict.entrypoint
def returns_int_for_float(value: float) -> dict[str, float | Point]:
    return {"value": int(value)}


# -- secrets -------------------------------------------------------------------


@strict.entrypoint
def check_password(user: str, password: privsep.Secret[str]) -> bool:
    return password.reveal() == f"{user}'s own"


@strict.entrypoint
def log_password(password: privsep.Secret[str]) -> None:
    log.warning("the password is %s, %r", password, [password])


@strict.entrypoint
def raise_password(password: privsep.Secret[str]) -> None:
    error = ValueError("wrong", password)
    error.password = password  # type: ignore[attr-defined]
    raise error


@strict.entrypoint
def pin(number: privsep.Secret[Annotated[int, privsep.Range(1, 9)]], name: str) -> str:
    return name


# -- paths that are held -------------------------------------------------


@strict.entrypoint
def read(path: Annotated[pathlib.Path, privsep.Beneath("/proc/sys/kernel")]) -> str:
    return path.read_text()


@threads.entrypoint
def read_all(
    paths: list[Annotated[pathlib.Path, privsep.Beneath("/proc/sys/kernel")]],
    count: int = 0,
) -> list[str]:
    return [path.read_text() for path in paths]


@threads.entrypoint
def fail_with(
    path: Annotated[pathlib.Path, privsep.Beneath("/proc/sys/kernel")],
) -> None:
    raise ValueError(path)


@threads.entrypoint
def exit_after(
    path: Annotated[pathlib.Path, privsep.Beneath("/proc/sys/kernel")], then: Exits
) -> None:
    """Never run."""


@threads.entrypoint
def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
