"""What a service may declare, and what it is told when it may not."""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
import types
from typing import TYPE_CHECKING, Any

import declared
import pytest
from conftest import METHOD

import privsep
import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _context(**arguments: Any) -> privsep.Context:
    options: dict[str, Any] = {"capabilities": [], **arguments}
    return privsep.Context("declaring", **options)


@pytest.fixture
def function() -> Callable[[], None]:
    """A new plain function of this module."""

    def plain() -> None:
        """Nothing."""

    return plain


def _function_of(module: str) -> Callable[[], None]:
    def stranger() -> None:
        """Nothing."""

    stranger.__module__ = module
    return stranger


def test_all_public_names_are_listed() -> None:
    names = scripts.run("import privsep; print(*dir(privsep), sep='\\n')")
    assert set(privsep.__all__) < set(names)


# -- capabilities ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("CAP_NET_ADMINN", "CAP_NET_ADMIN"),
        ("CAP_SYSADMIN", "CAP_SYS_ADMIN"),
        ("dac_overide", "CAP_DAC_OVERRIDE"),
        ("CAP_CHWON", "CAP_CHOWN"),
    ],
)
def test_an_unknown_capability_names_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong!r}; did you mean {nearest}"):
        _context(capabilities=[wrong])


@pytest.mark.parametrize("number", [-1, 41, 63, 64, 2**70])
def test_a_number_that_is_no_capability_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match=f"number {number} .0 to 40."):
        _context(capabilities=[number])


def test_a_capability_has_its_name_its_short_name_and_its_number() -> None:
    masks = {
        _context(capabilities=[one]).capability_mask
        for one in ("CAP_NET_ADMIN", "net_admin", "Cap_Net_Admin", 12)
    }
    assert masks == {1 << 12}


def test_capabilities_must_be_given() -> None:
    with pytest.raises(TypeError, match="capabilities"):
        privsep.Context("declaring")  # type: ignore[call-arg]


@pytest.mark.parametrize("field", ["capabilities", "modules", "environment"])
@pytest.mark.parametrize("wrong", ["CAP_CHOWN", b"CAP_CHOWN", 5])
def test_what_is_no_sequence_of_names_is_an_error(field: str, wrong: Any) -> None:
    said = f"{field} is {wrong!r}; it must be a sequence: [{wrong!r}]"
    with pytest.raises(ValueError, match=re.escape(said)):
        _context(**{"capabilities": [], field: wrong})


@pytest.mark.parametrize("field", ["modules", "environment"])
def test_a_name_that_is_no_string_is_an_error(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} is \[5\]; .* of strings"):
        _context(**{"capabilities": [], field: [5]})


@pytest.mark.parametrize("wrong", [None, 1.5, b"CAP_CHOWN", True, False])
def test_a_capability_of_another_type_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="by name or number, not as"):
        _context(capabilities=[wrong])


# -- the prefix -----------------------------------------------------------------


def test_a_prefix_that_is_no_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="prefix is 5; it must be the name of a mod"):
        _context(prefix=5)


@pytest.mark.parametrize("module", ["app", "app.part", "app.part.deep"])
def test_a_module_at_or_below_the_prefix_is_admitted(module: str) -> None:
    assert callable(_context(prefix="app").entrypoint(_function_of(module)))


@pytest.mark.parametrize(
    "module",
    ["app_evil", "application", "ap", "", ".app", "my.app", "App", "app2.part"],
)
def test_the_prefix_ends_at_a_dot(module: str) -> None:
    with pytest.raises(ValueError, match="outside of 'app', the prefix of context"):
        _context(prefix="app").entrypoint(_function_of(module))


@pytest.mark.parametrize("module", ["app.part", "app.partial", "app"])
def test_a_prefix_with_a_dot_ends_at_a_dot(module: str) -> None:
    context = _context(prefix="app.part")
    if module == "app.part":
        assert callable(context.entrypoint(_function_of(module)))
    else:
        with pytest.raises(ValueError, match="outside of"):
            context.entrypoint(_function_of(module))


def test_the_default_prefix_is_the_module_that_makes_the_context() -> None:
    assert _context().prefix == __name__
    assert _context().modules == (__name__,)
    with pytest.raises(ValueError, match=f"outside of {__name__!r}"):
        _context().entrypoint(declared.plain)


# -- names and kinds of functions -----------------------------------------------


def test_a_name_that_is_taken_is_an_error(function: Callable[[], None]) -> None:
    context = _context()
    context.entrypoint(function)
    with pytest.raises(ValueError, match=r"has an entrypoint .*plain already"):
        context.entrypoint(function)


def test_two_contexts_may_have_the_same_function(
    function: Callable[[], None],
) -> None:
    assert callable(_context().entrypoint(function))
    assert callable(_context().entrypoint(function))


def _generator() -> Iterator[None]:
    yield


async def _coroutine() -> None: ...


async def _async_generator() -> Any:
    yield


def test_what_stands_for_a_coroutine_function_is_one() -> None:
    assert inspect.iscoroutinefunction(_context().entrypoint(_coroutine))


def _plain() -> None: ...


@pytest.mark.parametrize("given", [{"item_timeout": 1.0}, {"window": 0}])
@pytest.mark.parametrize("function", [_coroutine, _plain])
def test_the_deadline_of_an_item_and_the_window_are_for_generators(
    function: Any, given: Any
) -> None:
    with pytest.raises(TypeError, match=f"no generator function, and {min(given)}="):
        _context().entrypoint(**given)(function)
    assert callable(_context().entrypoint(**given)(_generator))
    assert callable(_context().entrypoint(**given)(_async_generator))


@pytest.mark.parametrize(
    "wrong", [{"window": -1}, {"window": 1025}, {"item_timeout": 0}]
)
def test_what_a_stream_may_not_have_is_an_error(wrong: Any) -> None:
    with pytest.raises(ValueError):
        _context().entrypoint(**wrong)(_generator)


def test_a_function_that_runs_a_coroutine_function_is_admitted() -> None:
    @functools.wraps(_coroutine)
    def run() -> None:
        with pytest.raises(StopIteration):
            _coroutine().send(None)

    assert callable(_context().entrypoint(run))


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        "text",
        functools.partial(print),
        classmethod(print),
        types.SimpleNamespace(),
        print,
        str.upper,
    ],
    ids=repr,
)
def test_what_is_no_plain_function_is_an_error_that_says_so(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        _context().entrypoint(wrong)
    assert "function" in str(caught.value) or "outside of" in str(caught.value)


def _judged(connection: object, path: str, force: object = False) -> None: ...


class _Callable:
    __module__ = __name__

    def __init__(self) -> None:
        self.__qualname__ = "callable"

    def __call__(self, path: str) -> None: ...


class _Decorator:
    def __init__(self, function: Callable[..., object]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, *args: object) -> None: ...


def _named(function: Any) -> Any:
    function.__module__, function.__qualname__ = __name__, "named"
    return function


def _wraps(wrapper: Any) -> Any:
    return functools.wraps(_judged)(wrapper)


_UNJUDGED: dict[str, Callable[[], Any]] = {
    "one parameter less": lambda: _wraps(lambda path, force=False: None),
    "one more": lambda: _wraps(lambda now, connection, path, force=False: None),
    "in another order": lambda: _wraps(lambda path, connection, force=False: None),
    "one of its own": lambda: _wraps(lambda path, *args: None),
    "one by name": lambda: _wraps(lambda *args, force, **kwargs: None),
    "deep within": lambda: functools.wraps(_wraps(lambda path: None))(
        lambda *args: None
    ),
    "whose annotations are not taken over": lambda: functools.wraps(
        _judged, assigned=("__module__", "__qualname__")
    )(lambda path: None),
    "partial": lambda: _named(functools.partial(_judged, 1)),
    "updated partial": lambda: _wraps(functools.partial(_judged, 1)),
    "partial within": lambda: _named(
        functools.wraps(functools.partial(_judged, 1))(lambda *args: None)
    ),
    "object": _Callable,
    "decorating object": lambda: _Decorator(_judged),
    "class": lambda: _Decorator,
}


@pytest.mark.parametrize("kind", _UNJUDGED)
def test_annotations_that_would_be_judged_of_other_arguments_are_an_error(
    kind: str,
) -> None:
    with pytest.raises(privsep.StartError, match="would be judged: declare a function"):
        _context().entrypoint(_UNJUDGED[kind]())
    assert callable(_context(validate="off").entrypoint(_UNJUDGED[kind]()))


def _secret(connection: object, password: privsep.Secret[str]) -> None: ...


def test_what_validate_off_would_ignore_is_found_wherever_it_is_annotated() -> None:
    context = _context(validate="off")
    context.entrypoint(_named(functools.partial(_secret, 1)))
    with pytest.raises(privsep.StartError, match="would ignore"):
        context.served_table()


def _unannotated(connection, path):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    ...


def test_what_has_no_annotations_may_be_wrapped_as_it_likes() -> None:
    for wrapper in (lambda path: None, functools.partial(_unannotated, 1)):
        wrapped = functools.wraps(_unannotated)(wrapper)
        assert callable(_context().entrypoint(wrapped))


# -- ranges ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("timeout", "5", "timeout is '5'; it must be a number of seconds, or None"),
        ("workers", "4", "workers is '4'; it must be a whole number"),
        ("workers", 4.5, "workers is 4.5; it must be a whole number"),
        ("max_message", None, "max_message is None; it must be a whole number"),
        ("memory", "1", "memory is '1'; it must be a whole number"),
    ],
)
def test_what_is_no_number_is_an_error_that_says_so(
    name: str, wrong: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        _context(**{name: wrong})


def test_a_window_that_is_no_number_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="window is '1'; it must be a whole number"):
        _context().entrypoint(window="1")(_generator)  # type: ignore[call-overload]


@pytest.mark.parametrize("wrong", [0, -1, 1025, 10**9])
def test_workers_out_of_range_are_an_error(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {wrong}; it may be 1 to 1024"):
        _context(workers=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2**31 + 1, 2**40])
def test_max_message_out_of_range_is_an_error(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"max_message is {wrong}; it may be 1 to"):
        _context(max_message=wrong)


@pytest.mark.parametrize("wrong", [0, -1])
def test_memory_out_of_range_is_an_error(wrong: int) -> None:
    with pytest.raises(ValueError, match=f"memory is {wrong}; it must be more than 0"):
        _context(memory=wrong)


@pytest.mark.parametrize("wrong", [0, 0.0, -1, -0.0, -math.inf, math.nan])
def test_a_timeout_out_of_range_is_an_error(
    wrong: float, function: Callable[[], None]
) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*; it must be more than 0"):
        _context(timeout=wrong)
    with pytest.raises(ValueError, match=r"timeout is .*; it must be more than 0"):
        _context().entrypoint(timeout=wrong)(function)


@pytest.mark.parametrize("right", [1e-6, 1, 0.5, 86400 * 365, 1e300, math.inf, None])
def test_a_timeout_in_range_is_taken(
    right: float | None, function: Callable[[], None]
) -> None:
    assert _context(timeout=right).timeout == right
    assert callable(_context().entrypoint(timeout=right)(function))


@pytest.mark.parametrize("wrong", ["", "processes", "Thread", None])
def test_another_isolation_is_an_error_that_names_both(wrong: Any) -> None:
    with pytest.raises(ValueError, match="'process' or 'thread'"):
        _context(isolation=wrong)


def test_a_failed_registration_leaves_nothing(function: Callable[[], None]) -> None:
    context = _context()
    with pytest.raises(ValueError, match="timeout"):
        context.entrypoint(timeout=-1)(function)
    assert callable(context.entrypoint(function))


# -- the stand-in ---------------------------------------------------------------


def test_the_stand_in_has_name_doc_annotations_and_signature() -> None:
    plain = declared.sample
    stand_in = declared.sample_entry
    assert stand_in.__name__ == "sample"
    assert stand_in.__qualname__ == "sample"
    assert stand_in.__module__ == "declared"
    assert stand_in.__doc__ == "Return what it is given."
    assert stand_in.__annotations__ == plain.__annotations__
    assert inspect.signature(stand_in) == inspect.signature(plain)
    assert inspect.unwrap(stand_in) is plain


@pytest.mark.parametrize("form", ["bare", "called", "with a timeout"])
def test_the_decorator_may_be_bare_or_called(
    form: str, function: Callable[[], None]
) -> None:
    context = _context()
    decorators: dict[str, Any] = {
        "bare": context.entrypoint,
        "called": context.entrypoint(),
        "with a timeout": context.entrypoint(timeout=1),
    }
    stand_in = decorators[form](function)
    assert stand_in.__wrapped__ is function


# -- running daemons --------------------------------------------------------------


@pytest.fixture(params=["processes", "threads"])
def running(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start one of the contexts of `declared`; return its name."""
    context = getattr(declared, request.param)
    context.start(METHOD)
    yield request.param
    context.stop()


def test_a_function_registered_after_the_start_is_refused_with_the_remedy(
    running: str,
) -> None:
    def late() -> None:
        """Nothing."""

    late.__module__ = "declared"
    late.__qualname__ = f"late_{running}"
    stand_in = getattr(declared, running).entrypoint(late)
    with pytest.raises(privsep.Refused) as caught:
        stand_in()
    assert f"'declared.late_{running}' is not an entrypoint" in str(caught.value)
    assert "before it started" in str(caught.value)
    assert "modules=" in str(caught.value)
    assert isinstance(caught.value, PermissionError)


def test_a_function_that_the_daemon_registers_late_is_refused(running: str) -> None:
    assert declared.calls[running, "register_late"]() is None
    with pytest.raises(privsep.Refused, match="is not an entrypoint"):
        declared.call_by_name(running, "declared.registered_late")


def test_a_call_in_the_daemon_runs_in_place(running: str) -> None:
    assert declared.calls[running, "call_own"]("x") == ["x", True]


def test_a_call_in_the_daemon_to_another_context_is_refused_with_the_remedy(
    running: str,
) -> None:
    with pytest.raises(privsep.Refused) as caught:
        declared.calls[running, "call_other"]()
    assert "belongs to context 'declared other'" in str(caught.value)
    assert "call it from the service" in str(caught.value)


def test_an_entrypoint_that_asks_for_the_status_starts_no_daemon(running: str) -> None:
    with pytest.raises(privsep.StartError, match="a daemon starts no daemon"):
        declared.calls[running, "ask_status"]()


def test_defaults_keywords_and_stars_work_as_in_a_local_call(running: str) -> None:
    call = declared.calls[running, "stars"]
    assert call(1, 2, 3, four=4) == [1, 2, (3,), 5, {"four": 4}]
    assert call(1, five=6) == [1, 2, (), 6, {}]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        call()


def test_a_second_start_is_an_error_with_the_remedy(running: str) -> None:
    with pytest.raises(
        privsep.StartError, match=r"started already .*stop\(\) it first"
    ):
        getattr(declared, running).start(METHOD)


def test_an_unknown_start_method_names_all() -> None:
    with pytest.raises(
        ValueError, match="there are: auto, fork, exec, sudo, socket, userns"
    ):
        _context().start("spawn")  # type: ignore[arg-type]


def test_an_unknown_namespace_names_all() -> None:
    with pytest.raises(ValueError, match="there are: net, mount, pid, uts, ipc"):
        _context().start("userns", namespaces=["network"])


def test_a_single_namespace_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"it must be a sequence: \['net'\]"):
        _context().start("userns", namespaces="net")


def test_a_context_in_no_variable_is_an_error_with_the_remedy() -> None:
    with pytest.raises(privsep.StartError, match="assign it to one"):
        _context().start("userns")


def test_a_context_in_main_is_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "__name__", "__main__")
    context = _context()
    monkeypatch.undo()
    with pytest.raises(privsep.StartError, match="move it to a module, or start it"):
        context.start("userns")


def test_a_stop_without_a_start_does_nothing() -> None:
    _context().stop()
    assert "declared" in sys.modules
