"""What a function raises arrives, whatever it is, and the next call works."""

from __future__ import annotations

import asyncio
import errno
import inspect
import json
import subprocess
import sys
from traceback import format_exception
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import raising
from conftest import METHOD

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


#: the worker itself touches the exception before it is described


def _started(context: privsep.Context) -> Iterator[Callable[..., BaseException]]:
    """Start `context`, stop it in the end; between, yield what calls and returns."""

    def call(name: str, *arguments: object) -> BaseException:
        with pytest.raises(BaseException) as caught:
            raising.stand_ins[context.name, name](*arguments)
        assert raising.stand_ins[context.name, "fine"]() == "fine"
        return caught.value

    context.start(METHOD)
    yield call
    context.stop()


@pytest.fixture(params=["processes", "threads"])
def raised(request: pytest.FixtureRequest) -> Iterator[Callable[..., BaseException]]:
    """Call a function of `raising`; return its exception, and see the next work."""
    yield from _started(getattr(raising, request.param))


@pytest.fixture
def raised_at_length() -> Iterator[Callable[..., BaseException]]:
    """Call as `raised` does, where messages may be long and more is imported."""
    yield from _started(raising.at_length)


_BUILTINS: list[tuple[str, tuple[object, ...]]] = [
    ("ValueError", ()),
    ("ValueError", ("text",)),
    ("KeyError", (("a", 1),)),
    ("IndexError", ("text", 1, None, b"x", {1: {2}})),
    ("ZeroDivisionError", ("division",)),
    ("StopIteration", (5,)),
    ("StopAsyncIteration", (5,)),
    ("GeneratorExit", ("text",)),
    ("KeyboardInterrupt", ()),
    ("SystemExit", (3,)),
    ("SystemExit", ("text",)),
    ("RecursionError", ("text",)),
    ("MemoryError", ()),
    ("AssertionError", ("text",)),
    ("NotImplementedError", ()),
    ("TimeoutError", ("text",)),
    ("ConnectionResetError", (104, "text")),
    ("BlockingIOError", (11, "text")),
    ("BrokenPipeError", ()),
    ("UnicodeDecodeError", ("utf-8", b"\xff", 0, 1, "text")),
    ("UnicodeEncodeError", ("utf-8", "\udcff", 0, 1, "text")),
    ("SyntaxError", ("text", ("file", 1, 2, "line"))),
    ("ImportError", ("text",)),
    ("AttributeError", ("text",)),
    ("NameError", ("text",)),
    ("Exception", ("text",)),
    ("BaseException", ("text",)),
    ("UserWarning", ("text",)),
]


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_a_builtin_arrives_with_its_class_and_arguments(kind: str) -> None:
    context = getattr(raising, kind)
    context.start(METHOD)
    try:
        for name, arguments in _BUILTINS:
            with pytest.raises(BaseException) as caught:
                raising.stand_ins[context.name, "builtin"](name, *arguments)
            assert type(caught.value).__name__ == name
            assert caught.value.args == arguments
            assert str(caught.value) == str(type(caught.value)(*arguments))
            assert "in builtin" in str(caught.value.__cause__)
            assert raising.stand_ins[context.name, "fine"]() == "fine"
    finally:
        context.stop()


Raised: TypeAlias = "Callable[..., Any]"

_arguments = BaseException.__dict__["args"].__get__
_attributes = BaseException.__dict__["__dict__"].__get__


def test_an_os_error_keeps_number_text_and_both_names(raised: Raised) -> None:
    error = raised("os_error", errno.EXDEV, "text", "/from", b"/to")
    assert type(error) is OSError
    assert (error.errno, error.strerror) == (errno.EXDEV, "text")
    assert (error.filename, error.filename2) == ("/from", b"/to")


def test_a_missing_file_is_a_file_not_found_error_that_names_it(
    raised: Raised,
) -> None:
    error = raised("missing_file", "/no/such/file")
    assert type(error) is FileNotFoundError
    assert error.filename == "/no/such/file"
    assert error.errno == errno.ENOENT


def test_a_class_whose_constructor_does_not_take_its_args_arrives(
    raised: Raised,
) -> None:
    error = raised("raise_custom")
    assert type(error) is raising.Custom
    assert error.args == ("7: no reason",)
    assert (error.code, error.reason) == (7, "no reason")


def test_a_class_whose_constructor_changes_its_args_arrives_with_the_same(
    raised: Raised,
) -> None:
    error = raised("raise_formats")
    assert type(error) is raising.Formats
    assert error.args == ("failed with 7",)
    assert error.code == 7


def test_a_class_that_cannot_be_called_with_its_args_arrives(raised: Raised) -> None:
    error = raised("raise_demanding")
    assert type(error) is raising.Demanding
    assert error.args == ("demanding", 7)


def test_a_local_class_arrives_as_its_nearest_base(raised: Raised) -> None:
    error = raised("raise_local")
    assert type(error) is KeyError
    assert error.args == ("name", 1)
    assert "raise_local.<locals>.Local" in error.__notes__[-1]


def test_a_class_that_the_client_does_not_have_arrives_as_its_nearest_base(
    raised: Raised,
) -> None:
    error = raised("raise_unimportable")
    assert type(error) is LookupError
    assert error.args == ("text", 1)
    assert "only_in_the_daemon.Strange" in error.__notes__[-1]
    assert "only_in_the_daemon" not in sys.modules


def test_a_class_of_a_standard_module_that_is_not_loaded_arrives(
    raised: Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    error = raised("raise_of_lazy_module")
    assert type(error).__module__ == "tabnanny"
    assert error.get_lineno() == 3


def test_attributes_arrive_and_what_does_not_cross_stays(raised: Raised) -> None:
    error = raised("raise_with_attributes")
    assert error.number == 7
    assert error.many == [(1, 2), {3}]
    assert not hasattr(error, "unsendable")


def test_notes_arrive(raised: Raised) -> None:
    assert raised("raise_with_notes").__notes__ == ["first", "second"]


def test_an_argument_that_does_not_cross_arrives_as_its_repr(raised: Raised) -> None:
    error = raised("raise_unserialisable")
    assert type(error) is KeyError
    assert error.args == ("text", "<what does not cross>", 3, "<list>")
    assert "repr" in error.__notes__[0]


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def test_a_cause_arrives_as_itself_above_the_remote_traceback(raised: Raised) -> None:
    error, cause, remote = _causes(raised("raise_chained"))
    assert (type(error), type(cause)) == (ValueError, KeyError)
    assert cause.args == ("missing",)
    assert error.__context__ is cause
    assert "KeyError: 'missing'" in str(remote)
    assert "direct cause" in str(remote)


def test_a_context_arrives_with_its_own_cause(raised: Raised) -> None:
    error = raised("raise_after_two")
    assert error.args == ("third",)
    assert not error.__suppress_context__
    assert "ValueError: third" in str(error.__cause__)
    assert type(error.__context__) is LookupError
    assert error.__context__.args == ("second", 6)
    assert type(error.__context__.__cause__) is KeyError
    assert error.__context__.__suppress_context__


def test_a_context_that_is_not_to_be_shown_arrives_so(raised: Raised) -> None:
    error = raised("raise_from_none")
    assert error.__suppress_context__
    assert type(error.__context__) is KeyError
    assert "first" not in str(error.__cause__)


def test_a_cause_has_its_attributes_and_notes(raised: Raised) -> None:
    cause = raised("raise_after_attributes_and_notes").__cause__
    assert type(cause) is raising.WithSlots
    assert cause.code == 7
    assert cause.__notes__ == ["of the cause"]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_causes_that_go_round_in_a_circle_arrive_once_each(
    raised: Raised, length: int
) -> None:
    *errors, remote = _causes(raised("raise_circle", length))
    assert [error.args for error in errors] == [
        (place,) for place in reversed(range(length))
    ]
    assert "raise_circle" in str(remote)
    assert errors[-1].__context__ is errors[0]


def test_of_a_very_long_chain_the_first_arrive(raised_at_length: Raised) -> None:
    *errors, remote = _causes(raised_at_length("raise_from_cause", 3000))
    assert [error.args[0] for error in errors] == list(range(2999, 2499, -1))
    assert "500 at most" in errors[0].__notes__[0]
    assert "raise_from_cause" in str(remote)


def _line(function: Callable[..., Any], code: str) -> str:
    """Return where and how a traceback shows the line of `function` that has `code`."""
    lines, first = inspect.getsourcelines(function)
    (place,) = [place for place, line in enumerate(lines) if code in line]
    name = function.__name__
    shown = lines[place].partition("#")[0].strip()
    return f'  File "{raising.__file__}", line {first + place}, in {name}\n    {shown}'


def _printed(error: BaseException) -> list[str]:
    """Return what Python prints of `error`, in the parts that a cause makes."""
    text = "".join(format_exception(error))
    return text.split(
        "\nThe above exception was the direct cause of the following exception:\n\n"
    )


def test_what_is_printed_of_a_cause_is_told_from_the_function_to_the_caller(
    raised: Raised,
) -> None:
    function = raising.raise_chained
    first, second, cause, error = _printed(raised("raise_chained"))
    head = "Traceback (most recent call last):\n"
    assert first.startswith(
        'privsep._client.exceptions._RemoteTraceback: \n"""\n'
        + head
        + _line(function, "raise KeyError")
    )
    assert first.endswith("\nKeyError: 'missing'\n")
    assert second.startswith(head + _line(function, "raise ValueError"))
    assert second.endswith('\nValueError: text\n"""\n')
    assert cause == "KeyError: 'missing'\n"
    assert error.startswith(f'{head}  File "{__file__}", line ')
    assert error.endswith("\nValueError: text\n")


def test_what_is_printed_of_a_context_is_in_the_remote_traceback_once(
    raised: Raised,
) -> None:
    function = raising.raise_after_two
    text = "".join(format_exception(raised("raise_after_two")))
    lines = ["raise KeyError", "raise LookupError", "raise ValueError"]
    places = [text.index(_line(function, line)) for line in lines]
    assert places == sorted(places)
    assert text.count("LookupError: ('second', 6)") == 1
    assert text.count("During handling of the above exception") == 1


@pytest.mark.parametrize(
    ("name", "arguments"), [("raise_after_two", ()), ("raise_from_cause", (3,))]
)
def test_no_value_of_a_local_is_printed(
    raised: Raised, name: str, arguments: tuple[object, ...]
) -> None:
    text = "".join(format_exception(raised(name, *arguments)))
    assert f"in {name}" in text
    assert "secret" not in text.replace("len(secret)", "")


def test_a_call_made_while_an_exception_is_handled_has_its_remote_traceback(
    raised: Raised,
) -> None:
    handled = KeyError("of the caller")
    try:
        raise handled
    except KeyError:
        error = raised("raise_after_two")
    assert error.__context__ is handled
    assert "LookupError" in str(error.__cause__)


def test_what_a_function_refuses_itself_arrives_with_its_traceback(
    raised: Raised,
) -> None:
    error = raised("refuse")
    assert type(error) is privsep.Refused
    assert _line(raising.refuse, "raise") in str(error.__cause__)


def test_the_frames_of_privsep_are_not_in_the_remote_traceback(raised: Raised) -> None:
    assert "privsep/" not in str(raised("raise_chained").__cause__.__cause__)


def test_a_call_with_wrong_arguments_has_no_remote_traceback(raised: Raised) -> None:
    error = raised("refuse", "too many")
    assert type(error) is TypeError
    assert "refuse() takes 0" in str(error)
    assert error.__cause__ is None


_ATTRIBUTES: list[tuple[str, type[BaseException], dict[str, object]]] = [
    ("slots", raising.WithSlots, {"code": 7, "nothing": None, "args": ("text",)}),
    ("property", raising.WithProperty, {"code": 7, "args": ("text",)}),
    ("nested", raising.Outer.Inner, {"args": ("text",)}),
    (
        "os",
        raising.OwnOsError,
        {"errno": 2, "filename": "/first", "filename2": "/second"},
    ),
    ("import", ImportError, {"name": "module", "path": "/path", "msg": "text"}),
    ("attribute", AttributeError, {"name": "lacking", "obj": None}),
    ("name", NameError, {"name": "unknown"}),
    ("cancelled", asyncio.CancelledError, {"args": ("text",)}),
    (
        "command",
        subprocess.CalledProcessError,
        {"returncode": 3, "cmd": ["a", "b"], "output": b"out", "stderr": "err"},
    ),
    (
        "late command",
        subprocess.TimeoutExpired,
        {"cmd": "a b", "timeout": 1.5, "stdout": b"out"},
    ),
    (
        "syntax",
        SyntaxError,
        {"filename": "file", "lineno": 1, "text": "line", "end_offset": 4},
    ),
    ("exit", SystemExit, {"code": {"any": ["value"]}}),
    ("stop", StopIteration, {"value": ("any", "value")}),
]


@pytest.mark.parametrize(
    ("name", "kind", "attributes"), _ATTRIBUTES, ids=lambda value: str(value)[:20]
)
def test_attributes_that_are_not_in_the_dict_arrive(
    raised: Raised,
    name: str,
    kind: type[BaseException],
    attributes: dict[str, object],
) -> None:
    error = raised("raise_instance", name)
    assert type(error) is kind
    assert {each: getattr(error, each) for each in attributes} == attributes
    assert not hasattr(error, "never_set")


def test_what_has_a_slot_is_not_in_the_dict(raised: Raised) -> None:
    assert vars(raised("raise_instance", "slots")) == {}


def test_what_a_constructor_makes_itself_is_there(raised: Raised) -> None:
    assert hasattr(raised("raise_instance", "own"), "lock")


def test_a_frozen_dataclass_arrives(raised: Raised) -> None:
    error = raised("raise_instance", "frozen")
    assert error == raising.Frozen(7, [1])


def test_a_name_that_is_not_defined_is_told(raised: Raised) -> None:
    error = raised("raise_undefined")
    assert type(error) is NameError
    assert error.name == "undefined"


def test_a_class_with_other_arguments_than_its_args_keeps_what_it_says(
    raised: Raised,
) -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("[1,")
    error = raised("decode_json", "[1,")
    assert type(error) is json.JSONDecodeError
    assert str(error) == str(caught.value)
    assert vars(error) == vars(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "InitExits",
        "StrRaises",
        "ReprRaises",
        "StrExits",
        "ReduceRaises",
        "OsReduceRaises",
        "ArgsRaise",
        "ArgsExit",
        "ArgsIsNumber",
        "NotesIsNumber",
        "StrictProperty",
        "NoModule",
        "OddModule",
        "DictRaises",
        "ClassLies",
        "CauseRaises",
        "ContextIsNumber",
        "ReprRecurses",
        "ReprIsNoPlainText",
        "NotesRaise",
        "OddNames",
        "OfGuardedClass",
        "StrIsHuge",
        "ClassRaises",
        "TracebackRaises",
        "EveryAttributeRaises",
        "NoAttributeMayBeSet",
    ],
)
def test_an_exception_whose_own_code_raises_is_not_lost(
    raised: Raised, name: str
) -> None:
    error = raised("raise_awkward", name)
    # Nothing is asked of the exception itself: its code raises here, too.
    kind = type(error)
    notes = _attributes(error).get("__notes__", ())
    known = [type.__repr__(kind), *notes]
    assert any(name in words for words in known), known
    assert issubclass(kind, ValueError if name != "OsReduceRaises" else OSError)
    assert not issubclass(kind, privsep.PrivsepError)
    assert _arguments(error) == ("text",)
    assert raising.StrictProperty.was_set == []


def test_notes_that_are_no_plain_text_arrive_as_text(raised: Raised) -> None:
    assert raised("raise_awkward", "NotesRaise").__notes__ == [
        "<_Unspeakable>",
        "note",
        "5",
    ]


def test_a_class_that_says_to_be_another_arrives_with_its_attributes(
    raised: Raised,
) -> None:
    error = raised("raise_awkward", "Lies")
    assert type(error) is UnicodeDecodeError
    assert vars(error) == {"start": "x", "end": 1 << 100}


def test_an_exception_that_sleeps_is_a_timeout(raised: Raised) -> None:
    assert type(raised("raise_awkward_soon", "StrSleeps")) is privsep.CallTimeout


def test_an_exception_that_ends_its_worker_is_the_death_of_that_worker() -> None:
    context = raising.processes
    context.start(METHOD)
    try:
        with pytest.raises(privsep.WorkerDied) as caught:
            raising.stand_ins[context.name, "raise_awkward"]("StrEndsTheProcess")
        assert caught.value.status == 3
        assert raising.stand_ins[context.name, "fine"]() == "fine"
    finally:
        context.stop()


def test_an_exception_whose_constructor_raises_in_the_client_is_not_lost(
    raised: Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raising.InitRaises, "armed", True)
    monkeypatch.setattr(raising, "InitRaises", raising.InitRaises)
    error = raised("raise_of_init_raises")
    assert type(error) is raising.InitRaises
    assert error.args == ("text",)


@pytest.mark.parametrize("size", [60_000, 70_000, 10_000_000])
def test_a_huge_argument_is_shortened_and_the_class_stays(
    raised: Raised, size: int
) -> None:
    error = raised("raise_large", size)
    assert type(error) is KeyError
    assert error.args[1] == 7
    assert error.args[0].strip("'").startswith("xxx")


def test_a_huge_attribute_stays_behind_and_the_class_arrives(raised: Raised) -> None:
    error = raised("raise_with_large_attribute", 100_000)
    assert type(error) is KeyError
    assert error.args == ("name",)


def test_a_great_many_notes_do_not_hide_the_class(raised: Raised) -> None:
    error = raised("raise_with_many_notes", 1000)
    assert type(error) is KeyError
    assert error.args == ("name",)


def test_endless_recursion_is_a_recursion_error(raised: Raised) -> None:
    assert type(raised("recurse")) is RecursionError


def test_too_little_memory_is_a_memory_error(raised: Raised) -> None:
    assert type(raised("use_memory")) is MemoryError


def test_an_exception_group_arrives_with_what_it_holds(raised: Raised) -> None:
    error = raised("raise_group")
    assert type(error) is ExceptionGroup
    assert error.message == "several"
    first, inner = error.exceptions
    assert type(first) is ValueError
    assert first.args == ("one", 1)
    assert type(inner) is ExceptionGroup
    assert type(inner.exceptions[0]) is KeyError


def test_a_base_exception_group_arrives_with_what_it_holds(raised: Raised) -> None:
    error = raised("raise_base_group")
    assert type(error) is BaseExceptionGroup
    assert [type(each) for each in error.exceptions] == [KeyboardInterrupt, ValueError]


def test_a_group_of_an_own_class_can_be_split_as_in_the_daemon(raised: Raised) -> None:
    error = raised("raise_own_group")
    assert type(error) is raising.Group
    assert error.code == 7
    assert error.args[2:] == (7,)
    part = error.subgroup(KeyError)
    assert type(part) is raising.Group
    assert part.code == 7
    assert [each.args for each in part.exceptions] == [(2,)]


def test_a_group_that_cannot_be_called_with_its_args_arrives(raised: Raised) -> None:
    error = raised("raise_locked_group")
    assert type(error) is raising.LockedGroup
    assert [each.args for each in error.exceptions] == [(1,)]
    assert "_Locked" in error.args[2]


def test_members_of_a_group_have_their_causes(raised: Raised) -> None:
    error = raised("raise_group_of_shared")
    shared, inner = error.exceptions
    assert shared.args == inner.exceptions[0].args == ("shared",)
    assert shared.__cause__.args == inner.exceptions[0].__cause__.args == ("cause",)
    assert "ValueError: shared" in str(error.__cause__)


def test_of_a_very_wide_group_as_many_as_can_arrive(raised_at_length: Raised) -> None:
    error = raised_at_length("raise_wide_group", 3000)
    assert [each.args[0] for each in error.exceptions] == list(range(499))
    assert "500 at most" in error.__notes__[0]


def test_a_very_deep_group_arrives_as_deep_as_it_can(raised_at_length: Raised) -> None:
    error = raised_at_length("raise_deep_group", 3000)
    depth = 0
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
        depth += 1
    assert depth == 499


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("this", "d"),
        ("idlelib.config", "InvalidConfigType"),
        ("unittest.__main__", "Named"),
    ],
)
def test_a_standard_module_that_acts_when_it_is_imported_is_not_imported(
    raised: Raised, module: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = raised("raise_as", module, name)
    assert type(error) is KeyError
    assert error.args == ("text", 1)
    assert error.__notes__ == [f"raised in the daemon as {module}.{name}"]
    assert module not in sys.modules
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules that nobody has imported: one below `raising`, and one beside it."""
    for name in ("below", "raising_not"):
        (tmp_path / f"{name}.py").write_text("class Own(KeyError): pass")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(raising, "__path__", [str(tmp_path)], raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("raising.below", "raising.exits", "raising_not"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("modules")
def test_a_module_below_the_prefix_is_imported(raised: Raised) -> None:
    error = raised("raise_as", "raising.below", "Own")
    assert type(error) is sys.modules["raising.below"].Own
    assert error.args == ("text", 1)


@pytest.mark.usefixtures("modules")
def test_a_module_that_exits_when_it_is_imported_costs_the_class_only(
    raised: Raised,
) -> None:
    assert type(raised("raise_as", "raising.exits", "Own")) is KeyError


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("module", ["raising_not", "msgpack.fallback"])
def test_another_module_is_not_imported(
    raised: Raised, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "msgpack.fallback", raising=False)
    assert type(raised("raise_as", module, "Own")) is KeyError
    assert module not in sys.modules


def test_a_module_that_the_context_names_is_imported(
    raised_at_length: Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "msgpack.fallback", raising=False)
    assert type(raised_at_length("raise_as", "msgpack.fallback", "Own")) is KeyError
    assert "msgpack.fallback" in sys.modules


def test_a_module_is_not_asked_for_a_name_that_it_would_import(
    raised: Raised, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(raising, "__getattr__", asked.append, raising=False)
    assert type(raised("raise_as", "raising", "Lazy")) is KeyError
    assert asked == []
