"""What a function raises arrives, whatever it is, and the next call works."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import raising
from conftest import METHOD

import privsep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["processes", "threads"])
def raised(
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., BaseException]]:
    """Call a function of `raising`; return its exception, and see the next work."""
    context = getattr(raising, request.param)

    def call(name: str, *arguments: object) -> BaseException:
        with pytest.raises(BaseException) as caught:
            raising.stand_ins[context.name, name](*arguments)
        assert raising.stand_ins[context.name, "fine"]() == "fine"
        return caught.value

    context.start(METHOD)
    yield call
    context.stop()


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
            assert "in builtin" in str(caught.value.__cause__)
            assert raising.stand_ins[context.name, "fine"]() == "fine"
    finally:
        context.stop()


Raised: TypeAlias = "Callable[..., Any]"


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


def test_the_cause_in_the_daemon_is_in_the_remote_traceback(raised: Raised) -> None:
    text = str(raised("raise_chained").__cause__)
    assert "KeyError: 'missing'" in text
    assert "direct cause" in text


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
    ],
)
def test_an_exception_whose_own_code_raises_is_not_lost(
    raised: Raised, name: str
) -> None:
    error = raised("raise_awkward", name)
    known = [type(error).__name__, *vars(error).get("__notes__", ())]
    assert any(name in words for words in known), known
    assert isinstance(error, Exception)
    assert not isinstance(error, (RuntimeError, TypeError, privsep.PrivsepError))


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
