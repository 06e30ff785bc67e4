"""Arguments are what their annotations say, before the function runs."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import importlib
import ipaddress
import json
import os
import pathlib
import socket
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import annotated
import pytest
from annotated import (
    Access,
    Color,
    Login,
    Mode,
    Nest,
    Other,
    Pair,
    Point,
    Struct,
    Tree,
    Word,
)
from conftest import METHOD
from hypothesis import given, settings
from hypothesis import strategies as st

import privsep
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXTS = (annotated.strict, annotated.lax, annotated.off, annotated.threads)


@pytest.fixture(scope="module", autouse=True)
def daemons() -> Iterator[None]:
    """One daemon of each for all tests; the leak check sees the module's."""
    for context in CONTEXTS:
        context.start(METHOD)
        context.status()
    yield
    for context in CONTEXTS:
        context.stop()


# -- what is as annotated ------------------------------------------------------

_RIGHT: dict[str, list[Any]] = {
    "bool": [True],
    "int": [1, 2**200],
    "float": [1.5],
    "complex": [1j],
    "str": ["x"],
    "bytes": [b"x"],
    "bytearray": [bytearray(b"x")],
    "None": [None],
    "object": [1, [None]],
    "Any": [{}, {1: (2,)}],
    "list": [[], [1, "x"]],
    "list[int]": [[], [1, 2]],
    "tuple": [(1, "x")],
    "tuple[int, ...]": [(), (1, 2)],
    "tuple[int, str]": [(1, "x")],
    "tuple[()]": [()],
    "set[str]": [{"x"}],
    "frozenset[int]": [frozenset({1})],
    "dict": [{1: "x"}],
    "dict[str, list[int]]": [{}, {"x": [1]}],
    "int | None": [1, None],
    "int | str": [1, "x"],
    "str | Path": ["x", pathlib.Path("x")],
    "list[int] | list[str]": [[1], ["x"], []],
    "Literal": ["a", 1],
    "Literal member": ["red", Color.RED],
    "Sequence[int]": [[1], (1,)],
    "Mapping[str, int]": [{"x": 1}],
    "Iterable[int]": [[1], (1,), {1}, frozenset({1})],
    "Set[Color]": [{Color.RED}, frozenset({Color.BLUE})],
    "Color": list(Color),
    "Word": [Word.YES],
    "Access": [Access.READ, Access.READ | Access.WRITE, Access(0)],
    "Mode": [Mode.READ | Mode.WRITE],
    "Color | str": [Color.RED, "red"],
    "list[Color]": [[Color.RED, Color.BLUE]],
    "set[Point]": [{Point(1), Point(2)}],
    "dict[Color, Point]": [{Color.RED: Point(1)}],
    "dict[Point, int]": [{Point(1): 2}],
    "Point": [Point(1), Point(1, 2.5, Color.RED)],
    "Point | None": [Point(1), None],
    "Point | Other": [Point(1), Other(1)],
    "Tree": [Tree("a", [Tree("b", [Tree("c")]), Tree("d")])],
    "Struct": [Struct(datetime.date(2000, 1, 1), Color.BLUE)],
    "Pair": [Pair(1, Color.RED)],
    "Options": [{"size": 1}, {"size": 1, "color": Color.BLUE}],
    "datetime": [datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)],
    "date": [datetime.date(2000, 1, 1)],
    "time": [datetime.time(1)],
    "timedelta": [datetime.timedelta(1)],
    "UUID": [uuid.UUID(int=1)],
    "Decimal": [decimal.Decimal("1.5")],
    "Path": [pathlib.Path("/a")],
    "PurePath": [pathlib.PurePath("/a"), pathlib.Path("b")],
    "address": [ipaddress.ip_address("::1"), ipaddress.ip_address("1.2.3.4")],
    "IPv6Network": [ipaddress.ip_network("fe80::/10")],
    "IPv4Interface": [ipaddress.ip_interface("10.1.2.3/8")],
    "Name": ["x"],
    "Number": [1, 1.5],
    "Range": [1, 10],
    "Range at least": [0.0, 1e300],
    "Range of dates": [datetime.date(1999, 1, 1)],
    "Len": ["a", "abc"],
    "Len of list": [[], [1, 2]],
    "Pattern": ["abc"],
    "Predicate": [0, 2],
    "both": ["abc"],
    "list of Range": [[1, 2]],
}
_CALLED = [(name, value) for name, values in _RIGHT.items() for value in values]


@pytest.mark.parametrize(("name", "value"), _CALLED, ids=repr)
def test_what_is_as_annotated_comes_and_returns_as_it_is(name: str, value: Any) -> None:
    for echo in (annotated.echo, annotated.echo_lax):
        came = echo[name](value)
        assert came == value
        assert type(came) is type(value)
        assert repr(came) == repr(value)


_colors = st.sampled_from(Color)
_leaves = st.one_of(
    _colors,
    st.just(Word.YES),
    st.sampled_from([Access.READ, Access.READ | Access.WRITE, Access(0)]),
    st.builds(Point, st.integers(), st.floats(allow_nan=False), _colors),
    st.builds(Pair, st.integers(), _colors),
    st.builds(Struct, st.dates(), _colors),
    st.fixed_dictionaries({"size": st.integers()}, optional={"color": _colors}),
    st.dates(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.text("ab/.", max_size=5).map(pathlib.Path),
    st.integers(),
    st.binary(max_size=5),
)


def _nests(depth: int) -> st.SearchStrategy[Nest]:
    inner: st.SearchStrategy[Any] = st.none()
    if depth:
        nest = _nests(depth - 1)
        inner = st.one_of(
            st.none(),
            nest,
            st.lists(nest, max_size=3),
            st.lists(nest, max_size=3).map(tuple),
            st.dictionaries(st.text(max_size=3), nest, max_size=3),
        )
    return st.builds(Nest, _leaves, inner, st.frozensets(_colors, max_size=1))


@settings(deadline=None, database=None, max_examples=200)
@given(_nests(5))
def test_what_is_nested_as_annotated_comes_back_with_its_types(nest: Nest) -> None:
    came = annotated.echo["Nest"](nest)
    assert came == nest
    assert repr(came) == repr(nest)  # which names each class


def test_open_files_come_as_annotated() -> None:
    with (
        socket.socket() as sock,
        open(os.devnull, encoding="utf-8") as text,
        open(os.devnull, "rb") as binary,
        privsep.Fd(os.open(os.devnull, os.O_RDONLY)) as bare,
    ):
        right = {"socket": sock, "TextIO": text, "IO[bytes]": binary, "Fd": bare}
        for name, value in right.items():
            with annotated.echo[name](value) as came:
                assert type(came) is type(value)
        with pytest.raises(
            privsep.Refused, match="expected TextIO, got BufferedReader"
        ):
            annotated.echo["TextIO"](binary)


def test_an_annotation_may_name_what_is_defined_later() -> None:
    later = annotated.Later(1)
    assert annotated.later(later, [annotated.Later(2)]) == annotated.Later(2)
    assert annotated.later(second=[], first=later) == later


def test_every_kind_of_parameter_is_checked() -> None:
    call: Any = annotated.every_kind
    assert call(1, 2) == [1, 2, (), 3, 4, {}]
    assert call(1, 2, 3, three=4, four="x", five=5, one=6) == [
        1, 2, (3,), 4, "x", {"five": 5, "one": 6},
    ]  # fmt: skip
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (("x", 2), {}, "one"),
        ((1, "x"), {}, "two"),
        ((1,), {"two": "x"}, "two"),
        ((1, 2, 3, "x"), {}, "rest"),
        ((1, 2), {"three": "x"}, "three"),
        ((1, 2), {"five": "x"}, "more"),
        ((1, 2), {"one": "x"}, "more"),
    ]
    for args, kwargs, name in wrong:
        with pytest.raises(privsep.Refused) as caught:
            call(*args, **kwargs)
        assert f"every_kind(): parameter {name}: expected int, got str 'x'" in str(
            caught.value
        )


def test_every_kind_of_parameter_is_made_of_its_class() -> None:
    one, two = Point(1, 1.0), Point(1, 2.0)
    assert annotated.points_apart(one, two, last=one, more=two) == [1.0, 2.0, 1.0, 2.0]


def test_too_many_or_unknown_arguments_are_the_functions_own_error() -> None:
    call: Any = annotated.check_password
    with pytest.raises(TypeError, match="positional argument"):
        call("user", privsep.Secret("x"), 3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        call("user", privsep.Secret("x"), other=3)
    with pytest.raises(TypeError, match="missing 1 required"):
        call("user")


def test_a_wrapped_function_is_checked_by_its_own_annotations() -> None:
    assert annotated.wrapped(1) == ["traced", 1]
    with pytest.raises(privsep.Refused, match="parameter count: expected int, got str"):
        annotated.wrapped("x")


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (annotated.retried, (1, "")),
        (annotated.cached, 1),
        (annotated.static, 1),
        (annotated.method, ["traced", (1, "")]),
        (annotated.wrapped_method, (1,)),
    ],
)
def test_common_decorators_and_methods_pass_on_what_is_judged(
    function: Any, right: object
) -> None:
    assert function(1) == right
    for wrong in ("1", None):
        with pytest.raises(privsep.Refused, match="parameter count: expected int"):
            function(wrong)


def test_a_method_whose_self_is_one_of_many_is_judged() -> None:
    assert annotated.by_name_alone("x", count=1) == (("x",), 1)
    with pytest.raises(privsep.Refused, match="parameter count: expected int"):
        annotated.by_name_alone(1, count="x")  # type: ignore[arg-type]


def test_a_decorator_that_adds_an_argument_is_noticed_by_the_first_call() -> None:
    """What came would be judged by the annotations of other parameters."""
    for arguments in ((), (1,), ("x",)):
        with pytest.raises(privsep.Refused, match="parameter count: no argument came"):
            annotated.added_to(*arguments)


def test_a_flag_that_is_refused_stays_in_no_memory() -> None:
    """An enum.Flag keeps each value of which it was asked for a member."""
    before = annotated.modes_in_memory()
    for wrong in (8, 1 << 40, -1, -9, True, 4.0):
        with pytest.raises(privsep.Refused, match="expected Mode"):
            annotated.echo["Mode"](wrong)
    assert annotated.modes_in_memory() == before


def test_an_unannotated_parameter_takes_anything() -> None:
    for value in (1, "x", [(None,)], {1: {2}}):
        assert annotated.unannotated(value) == value


# -- without typing --------------------------------------------------------------

_OF_THE_LANGUAGE = (
    *("None", "bool", "int", "str", "bytes", "bytearray", "float", "complex", "object"),
    *("list", "tuple", "set", "frozenset", "dict", "list[str]", "list[list[int]]"),
    *("tuple[int, ...]", "tuple[int, str]", "set[int]", "dict[str, list[int]]"),
    *(
        "int | str",
        "int | None",
        "list[int | None]",
        "None | list[str] | dict[int, str]",
    ),
    *("collections.abc.Sequence[str]", "collections.abc.Mapping[str, int]"),
    *("collections.abc.Set[int]", "collections.abc.Iterable", "Color", "list[Color]"),
    *("Mode", "Color | int", "pathlib.Path", "ipaddress.IPv4Address"),
)
_OF_TYPING = (
    *(
        "list['int']",
        "list['Missing']",
        "Missing",
        "Missing | int",
        "1 +",
        "'int'",
        " int",
        "1",
    ),
    *(
        "collections.abc.Callable[[int], str]",
        "Plain",
        "list[Plain]",
        "type",
        "type[int]",
    ),
    *("collections.abc.Iterator[int]", "..."),
)


def _judged(how: str, *annotations: str) -> tuple[str, bool]:
    """Return what tests/judging.py prints, and whether typing was loaded."""
    # Not by runpy, which loads typing.
    boot = "import sys; sys.path[:] = sys.argv.pop(1).split(':'); import judging"
    tests = os.path.dirname(__file__)
    path = ":".join([tests, *filter(None, sys.path)])
    command = [sys.executable, "-I", "-S", "-c", boot, path, how, *annotations]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr.endswith("True\n")


def test_annotations_of_the_language_alone_load_no_typing_and_mean_the_same() -> None:
    without, is_loaded = _judged("without", *_OF_THE_LANGUAGE)
    assert not is_loaded
    assert without == _judged("typing", *_OF_THE_LANGUAGE)[0]


@pytest.mark.parametrize("annotation", _OF_TYPING)
def test_what_else_an_annotation_says_means_the_same_whoever_loads_typing(
    annotation: str,
) -> None:
    assert _judged("without", annotation)[0] == _judged("typing", annotation)[0]


# -- what is not ---------------------------------------------------------------

_WRONG: list[tuple[str, Any, str]] = [
    ("int", True, "expected int, got bool True"),
    ("int", 1.0, "expected int, got float 1.0"),
    ("int", "1", "expected int, got str '1'"),
    ("int", None, "expected int, got None"),
    ("bool", 1, "expected bool, got int 1"),
    ("float", True, "expected float, got bool True"),
    ("float", 10**400, "expected float, got int of 1329 bits"),
    ("str", b"x", "expected str, got bytes b'x'"),
    ("str", pathlib.Path("x"), "expected str, got PosixPath('x')"),
    ("None", 0, "expected None, got int 0"),
    ("list", (1,), "expected list, got tuple of 1"),
    ("list[int]", (1, 2), "expected list[int], got tuple of 2"),
    ("list[int]", [1, "x"], "value[1]: expected int, got str 'x'"),
    ("tuple[int, ...]", [1], "expected tuple[int, ...], got list of 1"),
    ("tuple[int, str]", (1, "x", 2), "expected tuple[int, str], got tuple of 3"),
    ("tuple[int, str]", (1, 2), "value[1]: expected str, got int 2"),
    ("tuple[()]", (1,), "expected tuple, got tuple of 1"),
    ("set[str]", frozenset({"x"}), "expected set[str], got frozenset of 1"),
    ("dict[str, list[int]]", {1: []}, "value[int 1]: expected str, got int 1"),
    ("dict[str, list[int]]", {"x": [""]}, "value[str 'x'][0]: expected int, got str"),
    ("int | None", "x", "expected int or None, got str 'x'"),
    ("int | str", b"", "expected int or str, got bytes b''"),
    ("Literal", "b", "expected 'a' or 1, got str 'b'"),
    ("Literal", True, "expected 'a' or 1, got bool True"),
    ("Sequence[int]", "12", "expected Sequence[int], got str '12'"),
    ("Mapping[str, int]", [], "expected Mapping[str, int], got list of 0"),
    ("Color", "green", "expected Color ('red', 2), got str 'green'"),
    ("Color", 2.0, "expected Color ('red', 2), got float 2.0"),
    ("Access", 8, "expected Access (4, 2), got int 8"),
    ("Mode", 8, "expected Mode (4, 2), got int 8"),
    ("Point", {"x": "1"}, "value.x: expected int, got str '1'"),
    ("Point", {"y": 1.0}, "expected Point, got dict of 1 (TypeError: "),
    ("Point", {"x": 1, "z": 2}, "(it has no field str 'z')"),
    ("Point", [1], "expected Point, got list of 1"),
    ("Point | None", 1, "expected Point or None, got int 1"),
    ("Point | Other", {"x": 1}, "expected Point or Other, got dict of 1"),
    ("Tree", {"name": ""}, "(ValueError: a tree needs a name)"),
    (
        "Tree",
        {"name": "a", "below": [{"name": 1}]},
        "value.below[0].name: expected str",
    ),
    ("Struct", {"when": "2000-01-01"}, "value.when: expected date, got str"),
    ("Options", {}, "expected Options, got dict of 0 (it lacks 'size')"),
    ("Options", {"size": 1, "other": 2}, "(it has no field str 'other')"),
    ("date", datetime.datetime.now(), "expected date, got datetime"),  # noqa: DTZ005
    ("datetime", "2000-01-01", "expected datetime, got str '2000-01-01'"),
    ("Path", "/a", "expected Path, got str '/a'"),
    ("Path", pathlib.PurePath("/a"), "expected Path, got PurePosixPath"),
    ("address", "::1", "expected IPv4Address or IPv6Address, got str '::1'"),
    ("Name", 1, "expected str, got int 1"),
    ("Number", "x", "expected int or float, got str 'x'"),
    ("Range", 11, "expected int 1 to 10, got int 11"),
    ("Range at least", float("nan"), "expected float at least 0, got float nan"),
    ("Range of dates", datetime.date(2001, 1, 1), "expected date at most 2000-01-01"),
    ("Len", "", "expected str of length 1 to 3, got str ''"),
    ("Len of list", [1, 2, 3], "expected list[int] of length at most 2, got list of 3"),
    ("Pattern", "a\n", "expected str matching '[a-z]+', got str 'a\\n'"),
    ("Pattern", "aB", "expected str matching '[a-z]+', got str 'aB'"),
    ("Predicate", 1, "expected int that is_even() accepts, got int 1"),
    ("both", "ABC", "matching '[a-z]+', got str 'ABC'"),
    ("list of Range", [1, 0], "value[1]: expected int at least 1, got int 0"),
    ("int", "x" * 1000, f"got str '{'x' * 60}'..."),
]


@pytest.mark.parametrize(("name", "value", "said"), _WRONG, ids=lambda x: repr(x)[:40])
def test_what_is_not_as_annotated_is_refused_with_name_expected_and_came(
    name: str, value: Any, said: str
) -> None:
    with pytest.raises(privsep.Refused) as caught:
        annotated.echo[name](value)
    message = str(caught.value)
    assert message.startswith(f"annotated.echo_{name}(): parameter value")
    assert said in message
    assert len(message) < 400
    assert isinstance(caught.value, PermissionError)


@pytest.mark.parametrize("place", [-1, 2, 2**70, True, "0", None, 0])
def test_a_forged_place_in_a_union_chooses_nothing_that_does_not_fit(
    place: Any,
) -> None:
    """What is not as annotated crosses as it is, as from a hostile client."""
    for forged in ((place, "green"), (place, 2.0), (place,), (place, "red", "red")):
        with pytest.raises(privsep.Refused, match="parameter value: expected Color"):
            annotated.echo["Color | str"](forged)


def test_a_very_deep_argument_is_refused_and_the_worker_goes_on() -> None:
    value: dict[str, Any] = {"name": "x"}
    for _ in range(45):
        value = {"name": "x", "below": [value]}
    tree: Any = annotated.echo["Tree"](value)
    assert tree.size == 46
    hostile = value
    for _ in range(400):
        hostile = {"name": "x", "below": [hostile]}
    with pytest.raises(privsep.MessageTooLarge):
        annotated.echo["Tree"](hostile)


def test_an_enum_or_a_class_without_an_annotation_does_not_cross() -> None:
    for value in (
        Color.RED,
        Word.YES,
        Point(1),
        Struct(datetime.date.min),
        Pair(1, Color.RED),
    ):
        for call in (annotated.unannotated, annotated.echo["object"]):
            with pytest.raises(privsep.Unserializable, match="annotate the parameter"):
                call(value)
    with pytest.raises(privsep.Unserializable, match="annotate the result"):
        annotated.returns_point_without_saying()


def test_an_object_of_another_class_than_the_annotated_is_refused() -> None:
    wrong: list[tuple[str, Any, str]] = [
        ("Point", Other(1), "parameter value: expected Point, got Other$"),
        ("Point", Point("a"), "parameter value.x: expected int, got str 'a'$"),  # type: ignore[arg-type]
        ("list[Color]", [Color.RED, Word.YES], r"value\[1\]: expected Color"),
        ("Options", {"size": Color.RED}, "value.size: expected int, got Color$"),
        ("Color", Word.YES, "expected Color"),
        ("Mode", Mode(8), r"expected Mode \(4, 2\)"),
    ]
    for name, value, said in wrong:
        with pytest.raises(privsep.Refused, match=said):
            annotated.echo[name](value)


# -- modes ---------------------------------------------------------------------

_CONVERTED: list[tuple[str, Any, Any]] = [
    ("int", "12", 12),
    ("int", 12.0, 12),
    ("float", "1.5", 1.5),
    ("bool", "true", True),
    ("Decimal", 1, decimal.Decimal(1)),
    ("Decimal", "1.50", decimal.Decimal("1.50")),
    ("Path", "/a", pathlib.Path("/a")),
    ("UUID", str(uuid.UUID(int=1)), uuid.UUID(int=1)),
    ("date", "2000-01-01", datetime.date(2000, 1, 1)),
    ("IPv6Network", "fe80::/10", ipaddress.ip_network("fe80::/10")),
    ("tuple[int, ...]", ["1", 2], (1, 2)),
    ("set[str]", ["a", "a"], {"a"}),
    ("int | None", "5", 5),
    ("int | str", "5", "5"),
    ("list[int] | list[str]", ["5"], ["5"]),
    ("Color", "red", Color.RED),
    ("Point", {"x": "5"}, Point(5)),
    ("Range", "5", 5),
]


@pytest.mark.parametrize(("name", "value", "made"), _CONVERTED, ids=repr)
def test_convert_makes_what_is_annotated_and_strict_does_not(
    name: str, value: Any, made: Any
) -> None:
    came = annotated.echo_lax[name](value)
    assert came == made
    assert type(came) is type(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("int", "x"), ("int", 1.5), ("bool", "1"), ("str", 1), ("bytes", "x"),
        ("Path", b"x"), ("date", "x"), ("Decimal", "x"), ("None", "None"),
        ("Range", "11"), ("list[int]", "12"), ("dict", [(1, 2)]), ("timedelta", "1"),
    ],
)  # fmt: skip
def test_convert_refuses_what_cannot_be_made(name: str, value: Any) -> None:
    with pytest.raises(privsep.Refused, match="parameter value: expected"):
        annotated.echo_lax[name](value)


def test_an_integer_for_a_float_becomes_one() -> None:
    came = annotated.echo["float"](3)
    assert came == 3.0
    assert type(came) is float


def test_off_looks_at_no_annotation() -> None:
    assert annotated.echo_off["int"]("x") == "x"
    assert annotated.echo_off["Color"]("green") == "green"
    with pytest.raises(privsep.Unserializable):
        annotated.echo_off["Color"](Color.RED)


@pytest.mark.parametrize("wrong", ["Strict", "", None, True])
def test_another_mode_is_an_error_that_names_all(wrong: Any) -> None:
    with pytest.raises(ValueError, match="'strict', 'convert' or 'off'"):
        privsep.Context("x", capabilities=[], validate=wrong)


# -- results -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "value"), [("dict", {"x": 1}), ("int", 5), ("None", None)]
)
def test_a_result_that_is_not_as_annotated_comes_as_it_is(
    kind: str, value: Any
) -> None:
    came: object = annotated.returns_what_it_says_not(kind)
    assert came == value
    assert type(came) is type(value)


def test_an_integer_in_a_result_of_floats_stays_one() -> None:
    assert repr(annotated.returns_int_for_float(3.0)) == "{'value': 3}"


# -- when the daemon starts ----------------------------------------------------

_BAD = {
    "parameter path is annotated with 'NoSuchName'; it cannot be resolved": """
def bad(path: NoSuchName) -> None: ...
""",
    "NameError": """
def bad(path: list[NoSuchName]) -> None: ...
""",
    "nothing can be said about its values": """
class Thing: ...
def bad(path: Thing) -> None: ...
""",
    "parameter call is annotated": """
def bad(call: typing.Callable[[], None]) -> None: ...
""",
    "parameter field is annotated": """
class Thing: ...
@dataclasses.dataclass
class Holder:
    thing: Thing
def bad(field: Holder) -> None: ...
""",
}


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that makes a module with one entrypoint, `bad`."""
    monkeypatch.syspath_prepend(tmp_path)
    names: list[str] = []

    def make(text: str, **options: object) -> Any:
        name = f"made_{len(names)}_{os.getpid()}"
        names.append(name)
        said = ", ".join(f"{key}={value!r}" for key, value in options.items())
        (tmp_path / f"{name}.py").write_text(
            "from __future__ import annotations\n"
            "import dataclasses, typing, privsep, annotated\n"
            f"context = privsep.Context('made', capabilities=[], {said})\n"
            f"{text}\nentry = context.entrypoint(bad)\n"
        )
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield make
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("said", _BAD)
def test_an_annotation_that_cannot_be_checked_is_an_error_at_start_with_the_remedy(
    module: Callable[..., Any], said: str
) -> None:
    made = module(_BAD[said])
    with pytest.raises(privsep.StartError) as caught:
        made.context.start(METHOD)
    assert said in str(caught.value)
    assert f"{made.__name__}.bad()" in str(caught.value)
    assert 'validate="off"' in str(caught.value)


@pytest.mark.parametrize("text", _BAD.values())
def test_off_starts_with_annotations_that_cannot_be_checked(
    module: Callable[..., Any], text: str
) -> None:
    made = module(text, validate="off")
    made.context.start(METHOD)
    try:
        assert made.entry(1) is None
    finally:
        made.context.stop()


@pytest.mark.parametrize(
    "annotation",
    [
        "privsep.Secret[str]",
        "list[privsep.Secret[str]] | None",
        "annotated.Login",
        "typing.Annotated[str, privsep.Beneath('/')]",
    ],
)
def test_off_does_not_start_where_it_would_ignore_a_protection(
    module: Callable[..., Any], annotation: str
) -> None:
    made = module(f"def bad(value: {annotation}) -> None: ...", validate="off")
    with pytest.raises(privsep.StartError, match=r"parameter value .*would ignore"):
        made.context.start(METHOD)


def test_what_is_registered_between_two_starts_is_checked_in_the_second(
    module: Callable[..., Any],
) -> None:
    text = "def {}(value: int) -> int: return value\n"
    made = module(text.format("bad") + text.format("later"))
    made.context.start(METHOD)
    made.context.stop()
    later = made.context.entrypoint(made.later)
    made.context.start(METHOD)
    try:
        for entry in (made.entry, later):
            assert entry(1) == 1
            with pytest.raises(privsep.Refused, match="expected int, got str"):
                entry("1")
    finally:
        made.context.stop()


def test_an_unknown_result_annotation_says_nothing(module: Callable[..., Any]) -> None:
    made = module("def bad(value: int) -> NoSuchName: return value")
    made.context.start(METHOD)
    try:
        assert made.entry(1) == 1
    finally:
        made.context.stop()


# -- secrets -------------------------------------------------------------------

_HIDDEN = "hunter2hunter2"


def test_a_secret_crosses_and_is_shown_nowhere() -> None:
    secret = privsep.Secret("ann's own")
    assert annotated.check_password("ann", secret)
    assert annotated.check_password(user="ann", password=secret)
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        repr([secret]),
    ):
        assert "own" not in shown
    came = annotated.echo["Secret"](secret)
    assert isinstance(came, privsep.Secret)
    assert came.reveal() == "ann's own"


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        ("\udcff\xe9", "\udcff\xe9", "\udcff"),
        (b"x", bytearray(b"x"), b"y"),
        ([1], [1], [2]),
        ("x", "x", b"x"),
    ],
)
def test_secrets_of_the_same_value_are_equal(value: Any, same: Any, other: Any) -> None:
    secret, equal = privsep.Secret(value), privsep.Secret(same)
    assert secret == equal
    assert hash(secret) == hash(equal) == hash(privsep.Secret(other))
    assert secret != privsep.Secret(other)
    assert secret != value


def test_a_secret_within_something_crosses() -> None:
    came = annotated.echo["Login"](Login("ann", privsep.Secret(_HIDDEN)))
    assert came.password.reveal() == _HIDDEN
    assert _HIDDEN not in repr(came)
    assert _HIDDEN not in repr(dataclasses.asdict(came))
    (came,) = annotated.echo["list[Secret]"]([privsep.Secret(_HIDDEN)])
    assert came.reveal() == _HIDDEN


def test_a_secret_is_not_in_a_refusal() -> None:
    calls: list[tuple[str, Any]] = [
        ("Secret", privsep.Secret([_HIDDEN])),
        ("Secret", [_HIDDEN]),
        ("Secret", {_HIDDEN: object()}),
        ("Secret Range", privsep.Secret(_HIDDEN)),
        ("list[Secret]", [privsep.Secret(_HIDDEN.encode())]),
        ("list[Secret]", {_HIDDEN: 1}),
        ("list[Secret]", [_HIDDEN, object()]),
        ("Login", {"user": "ann", "password": [_HIDDEN]}),
        ("Login", {"user": "ann", _HIDDEN: ""}),
        ("Login", Login(_HIDDEN, privsep.Secret(Color.RED))),  # type: ignore[arg-type]
    ]
    for name, value in calls:
        with pytest.raises((privsep.Refused, privsep.Unserializable)) as caught:
            annotated.echo[name](value)
        assert _HIDDEN not in str(caught.value)
        assert _HIDDEN not in repr(caught.value.__cause__)


def test_a_secret_is_not_in_log_records(caplog: pytest.LogCaptureFixture) -> None:
    annotated.log_password(privsep.Secret(_HIDDEN))
    assert caplog.messages == ["the password is Secret(...), [Secret(...)]"]


def test_a_secret_is_not_in_an_exception_that_crosses() -> None:
    with pytest.raises(ValueError, match="wrong") as caught:
        annotated.raise_password(privsep.Secret(_HIDDEN))
    assert _HIDDEN not in repr(vars(caught.value))
    assert _HIDDEN not in repr(caught.value.args)
    assert _HIDDEN not in str(caught.value.__cause__)


def test_a_secret_is_not_pickled() -> None:
    import pickle

    with pytest.raises(TypeError, match="reveal"):
        pickle.dumps(privsep.Secret(_HIDDEN))


def test_a_secret_is_not_in_the_audit_and_a_refusal_is(
    module: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "audit.jsonl"
    made = module(
        f"audit = privsep.Audit(file={str(path)!r})\n"
        "context = privsep.Context('made', capabilities=[], audit=audit)\n"
        "def bad(name: str, word: privsep.Secret[str], words: list[privsep.Secret[str]]"
        ", login: annotated.Login) -> None: ..."
    )
    made.context.start(METHOD)
    try:
        secret = privsep.Secret(_HIDDEN)
        login = Login("ann", secret)
        made.entry("ann", secret, [secret], login=login)
        made.entry(name="ann", word=secret, words=[secret], login=login)
        with pytest.raises(privsep.Refused):
            made.entry(1, secret, [secret], login)
        with pytest.raises(privsep.Refused):
            made.entry("ann", privsep.Secret([_HIDDEN]), [secret], login)
    finally:
        made.context.stop()
    assert audit_command(["verify", str(path)]) == 0
    assert _HIDDEN not in path.read_text()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    calls = [each["arguments"] for each in records if each["event"] == "call"]
    assert calls == [
        "'ann', <Secret>, <Secret>, login=<Secret>",
        "name='ann', word=<Secret>, words=<Secret>, login=<Secret>",
    ]
    refused = [each["reason"] for each in records if each["event"] == "refused"]
    assert "parameter name: expected str, got int 1" in refused[0]
    assert "parameter word: expected Secret of str, got a value that" in refused[1]


# -- descriptors that are held -------------------------------------------------


def test_a_marker_that_holds_gives_what_is_open_until_the_call_ends() -> None:
    before = annotated.open_descriptors()
    text = pathlib.Path("/proc/sys/kernel/ostype").read_text()
    path = pathlib.Path("ostype")
    assert annotated.read(path) == text
    assert annotated.read_all([path] * 3) == [text] * 3
    assert annotated.read_all(paths=[path]) == [text]
    for _ in range(3):
        with pytest.raises(privsep.Refused, match=r"paths\[1\]: .*No such file"):
            annotated.read_all([path, pathlib.Path("no such")])
        with pytest.raises(privsep.Refused, match="parameter count"):
            annotated.read_all([path, path], "x")  # type: ignore[arg-type]
        with pytest.raises(privsep.Refused, match="not checked: SystemExit"):
            annotated.exit_after(path, {"code": 1})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="/proc/self/fd"):
            annotated.fail_with(path)
    assert annotated.open_descriptors() == before


def test_a_traceback_begins_with_the_function() -> None:
    with pytest.raises(KeyError) as caught:
        annotated.returns_what_it_says_not("no such")
    lines = str(caught.value.__cause__).splitlines()
    assert "in returns_what_it_says_not" in lines[3]
