"""The arguments and the result of one function, by its annotations.

Runs on both sides, and only where a function has annotations that say something.
In the daemon a `Checker` judges arguments before the function runs, and makes of
plain data what the annotations name: an enum's member, a dataclass.  In the client
a `Crossing` does the opposite.  With a result the sides are exchanged.

This is no use of msgspec or another library: docs/architecture.md has what was
tried, and why not.
"""

from __future__ import annotations

import os

from privsep import errors
from privsep._boundary.annotations import Compiler, Unsupported
from privsep._boundary.callables import chain, innermost, required
from privsep._boundary.forms import (
    Form,
    Held,
    SecretForm,
    Union,
    Wrong,
    all_within,
    why,
)
from privsep._boundary.loaded import arguments_of, hint_of
from privsep._wire.typed import NamedTuple
from privsep._wire.values import Encoder, UnsupportedType

TYPE_CHECKING = False  # not typing's, see loaded
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias

    from privsep._boundary.loaded import FunctionType
    from privsep.context import Entry

    #: makes plain data of an item, and of a result; None: it crosses as it is
    Lowering: TypeAlias = tuple[
        Callable[[object], object] | None, Callable[[object], object] | None
    ]

_VARARGS, _VARKEYWORDS = 0x04, 0x08
_REMEDY = (
    "annotate it with what crosses (docs/values.md), with object to take anything, "
    'or give the context validate="off"'
)


class _Slot(NamedTuple):
    """A parameter that has a form."""

    name: str
    form: Form


class _Parameters:
    """The parameters of a function, by how arguments reach them."""

    def __init__(
        self, inner: FunctionType, given: int, form: Callable[[str], Form | None]
    ) -> None:
        code = inner.__code__
        names = code.co_varnames
        end = code.co_argcount
        own = min(given, end)  # self is there already
        last = end + code.co_kwonlyargcount

        def slot(name: str) -> _Slot | None:
            found = form(name)
            return None if found is None else _Slot(name, found)

        slots = {name: slot(name) for name in names[own:last]}
        self.by_place = [slots[name] for name in names[own:end]]
        first = max(own, code.co_posonlyargcount)
        self.by_name = {name: slots[name] for name in names[first:last]}
        self.star = slot(names[last]) if code.co_flags & _VARARGS else None
        last += bool(code.co_flags & _VARARGS)
        self.stars = slot(names[last]) if code.co_flags & _VARKEYWORDS else None

    def slots(self) -> Iterator[_Slot]:
        """Return all that have a form, some of them twice."""
        for slot in (*self.by_place, *self.by_name.values(), self.star, self.stars):
            if slot is not None:
                yield slot

    def reached(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> Iterator[tuple[Any, _Slot]]:
        """Return place or name of each argument that reaches one, and that one.

        What reaches no parameter is for the function itself to complain about.
        """
        for place in range(len(args)):
            own = place < len(self.by_place)
            slot = self.by_place[place] if own else self.star
            if slot is not None:
                yield place, slot
        for name in kwargs:
            slot = self.by_name.get(name, self.stars)
            if slot is not None:
                yield name, slot


class Checker:
    """Judges the arguments of one entrypoint, in the daemon.

    Args:
        name: of the entrypoint.
        parameters: by whose forms.
        must_come: of a function that is wrapped, the parameters without default.  One
            that has a form, and for which nothing comes, gets its argument from the
            wrapper: then the others need not be those that were judged.

    """

    def __init__(
        self, name: str, parameters: _Parameters, must_come: frozenset[str]
    ) -> None:
        self._name = name
        self._parameters = parameters
        self._must_come = must_come.intersection(x.name for x in parameters.slots())
        self._by_place = tuple(
            (place, slot.form.kinds, slot)
            for place, slot in enumerate(parameters.by_place)
            if slot is not None
        )
        self._has_star = parameters.star is not None
        self._secrets = frozenset(
            slot.name for slot in parameters.slots() if _is_secret(slot.form)
        )

    def __call__(
        self, args: list[object], kwargs: dict[str, object]
    ) -> tuple[list[object], dict[str, object], list[int]]:
        """Return what the function gets, and descriptors for `release` afterwards.

        Raises:
            Refused: it gets nothing; the message says which parameter and why.

        """
        held: list[int] = []
        slot: _Slot | None = None
        if self._must_come:
            self._check_complete(args, kwargs)
        try:
            done: Any = args
            if kwargs or self._has_star:
                done = args.copy()
                named: Any = kwargs.copy()
                for key, slot in self._parameters.reached(args, kwargs):
                    at = done if type(key) is int else named
                    at[key] = slot.form.check(at[key], held)
                return done, named, held
            for place, kinds, slot in self._by_place:
                if place >= len(done):
                    break
                value = done[place]
                if type(value) not in kinds:
                    if done is args:
                        done = args.copy()
                    done[place] = slot.form.check(value, held)
        except BaseException as error:  # noqa: BLE001 - whatever it is, none may go on
            reason = self._reason(slot, error)
        else:
            return done, kwargs, held
        self.release(held)
        # Out here it has no context: that would hold the value.
        raise errors.Refused(reason)

    def _check_complete(self, args: list[object], kwargs: dict[str, object]) -> None:
        came = (slot.name for _, slot in self._parameters.reached(args, kwargs))
        if missing := self._must_come.difference(came):
            msg = (
                f"{self._name}(): parameter {min(missing)}: no argument came for it, "
                "and what its decorator makes of the others is not known"
            )
            raise errors.Refused(msg)

    def _reason(self, slot: _Slot | None, error: BaseException) -> str:
        if slot is None or not isinstance(error, Wrong):
            return f"{self._name}(): arguments not checked: {type(error).__name__}"
        text = f"expected {slot.form.expected}, got a value that is not shown"
        path = ""
        if slot.name not in self._secrets:
            text, path = error.text(), error.path
        return f"{self._name}(): parameter {slot.name}{path}: {text}"

    @staticmethod
    def release(held: list[int]) -> None:
        """Close the descriptors that were held for a call."""
        for descriptor in held:
            try:
                os.close(descriptor)
            except OSError:  # the function has closed it
                pass

    def redacted(
        self, args: list[object], kwargs: dict[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        """Return the arguments as they came, but no secret."""
        if not self._secrets:
            return args, kwargs
        from privsep.boundary import Secret  # noqa: PLC0415 - it is loaded: there is one

        shown: Any = args.copy()
        named: Any = kwargs.copy()
        for key, slot in self._parameters.reached(args, kwargs):
            if slot.name in self._secrets:
                (shown if type(key) is int else named)[key] = Secret(None)
        return shown, named


def checker(entry: Entry, mode: str) -> Checker | None:
    """Return what judges the arguments of `entry`; None if all are taken.

    Args:
        entry: with the function that is about to be served.
        mode: `Context`'s ``validate=``.

    Raises:
        StartError: an annotation cannot be resolved, or nothing can be said about
            it; or it protects, and is to be ignored.

    """
    found = innermost(entry.function)
    if found is None:
        return None
    inner, given = found
    off = mode == "off"
    compiler = Compiler(convert=mode == "convert")

    def form(name: str) -> Form | None:
        try:
            return _form_at(inner, name, compiler)
        except Exception as error:  # noqa: BLE001 - annotations are code
            if off:
                return None
            raise _cannot_be_checked(entry, inner, name, error) from None

    parameters = _Parameters(inner, given, form)
    if off:
        _refuse_unprotected(entry, parameters)
        return None
    if not any(True for _ in parameters.slots()):
        return None
    is_wrapped = len(list(chain(entry.function))) > 1
    must_come = required(inner) if is_wrapped else frozenset[str]()
    return Checker(entry.name, parameters, must_come)


def _cannot_be_checked(
    entry: Entry, function: FunctionType, name: str, error: Exception
) -> errors.StartError:
    raw = function.__annotations__[name]
    shown = raw if isinstance(raw, str) else getattr(raw, "__qualname__", repr(raw))
    reason = "nothing can be said about its values"
    if not isinstance(error, Unsupported):
        reason = f"it cannot be resolved when the daemon starts: {why(error)}"
    msg = (
        f"{entry.name}(): parameter {name} is annotated with {shown!r}; {reason}: "
        f"{_REMEDY}"
    )
    return errors.StartError(msg)


def _refuse_unprotected(entry: Entry, parameters: _Parameters) -> None:
    for slot in parameters.slots():
        for form in all_within(slot.form):
            if isinstance(form, (Held, SecretForm)):
                msg = (
                    f"{entry.name}(): parameter {slot.name} is annotated with "
                    f'{form.expected}, which validate="off" would ignore: leave it out'
                )
                raise errors.StartError(msg)


def lowering(entry: Entry) -> Callable[..., object] | None:
    """Return the function of `entry`, with its result as plain data.

    None if its annotation names nothing that crosses as other data than it is.
    """
    _, lower = lowerings(entry)
    if lower is None:
        return None
    function = entry.function

    def call(*args: object, **kwargs: object) -> object:
        return lower(function(*args, **kwargs))

    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


def lowerings(entry: Entry) -> Lowering:
    """Return what makes plain data of the items and of the result of `entry`."""

    def lowering(form: Form | None, what: str) -> Callable[[object], object] | None:
        if form is None:
            return None

        def lower(value: object) -> object:
            try:
                return form.lower(value)
            except RecursionError:
                msg = f"{what} of {entry.name}() is nested too deep"
                raise errors.MessageTooLarge(msg) from None

        return lower

    item, result = _result_forms(entry)
    return lowering(item, "an item"), lowering(result, "the result")


class Crossing:
    """Makes calls of one entrypoint, in the client: lowers arguments, raises results.

    For those alone whose annotations name what crosses as other data than it is.
    """

    def __init__(
        self,
        name: str,
        parameters: _Parameters | None,
        item: Form | None,
        result: Form | None,
    ) -> None:
        self._name = name
        self._parameters = parameters
        self._item = item
        self._result = result

    def lower(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the arguments as they cross.

        What is not as annotated goes as it is, for the daemon to judge.

        Raises:
            Refused: it is not as annotated, and would not cross as it is.

        """
        if self._parameters is None:
            return args, kwargs
        done: Any = list(args)
        named: Any = kwargs.copy()
        for key, slot in self._parameters.reached(args, kwargs):
            at = done if type(key) is int else named
            try:
                at[key] = slot.form.lower(at[key])
                continue
            except Wrong as wrong:
                error = self._why_uncrossable(at[key], slot, wrong)
            except RecursionError:
                msg = f"{self._name}(): parameter {slot.name} is nested too deep"
                error = errors.MessageTooLarge(msg)
            if error is not None:
                raise error
        return tuple(done), named

    def _why_uncrossable(
        self, value: object, slot: _Slot, wrong: Wrong
    ) -> errors.PrivsepError | None:
        """Return an error for what is not as annotated, unless it crosses as it is."""
        try:
            Encoder().encode(value)
        except UnsupportedType:
            where = f"{self._name}(): parameter {slot.name}"
            if _is_secret(slot.form):
                return errors.Refused(f"{where} is not as annotated")
            return errors.Refused(f"{where}{wrong.path}: {wrong.text()}")
        except ValueError:  # too large: the call itself says so
            pass
        return None

    def rebuild(self, result: object) -> object:
        """Return what the function returned, of what came."""
        return self._made(self._result, result, "the result")

    def item(self, item: object) -> object:
        """Return what the function yielded, of what came."""
        return self._made(self._item, item, "an item")

    def _made(self, form: Form | None, value: object, what: str) -> object:
        if form is None:
            return value
        try:
            return form.check(value, [])
        except Wrong as wrong:
            msg = f"{what} of {self._name}() cannot be made: {wrong.text()}"
            raise errors.Unserializable(msg) from None


def crossing(entry: Entry) -> Crossing | None:
    """Return what makes calls of `entry`, unless all crosses as it is."""
    found = innermost(entry.function)
    if found is None:
        return None
    inner, given = found
    compiler = Compiler()

    def form(name: str) -> Form | None:
        try:
            its = _form_at(inner, name, compiler)
        except Exception:  # noqa: BLE001 - the daemon says so when it starts
            return None
        return its if its is not None and its.lowers else None

    parameters = _Parameters(inner, given, form)
    some = any(True for _ in parameters.slots())
    item, result = _result_forms(entry)
    if not some and item is None and result is None:
        return None
    return Crossing(entry.name, parameters if some else None, item, result)


def _result_forms(entry: Entry) -> tuple[Form | None, Form | None]:
    """Return the forms of items and of the result: as annotated, or else as they are.

    Both sides have the same annotation.  One that does not resolve says nothing.
    """
    inner, _ = innermost(entry.function) or (None, 0)
    if inner is None or "return" not in inner.__annotations__:
        return None, None
    try:
        hint = hint_of(inner, "return")
        if not entry.is_stream:
            return None, _form_or_as_it_is(hint)
        item, _, result, *_ = *arguments_of(hint), None, None, None
        return _form_or_as_it_is(item), _form_or_as_it_is(result)
    except Exception:  # noqa: BLE001 - annotations are code
        return None, None


def _form_or_as_it_is(hint: Any) -> Form | None:  # noqa: ANN401 - an annotation
    form = Compiler(result=True).form(hint)
    return Union((form, Form())) if form.lowers else None


def _is_secret(form: Form) -> bool:
    return any(isinstance(each, SecretForm) for each in all_within(form))


def _form_at(function: FunctionType, name: str, compiler: Compiler) -> Form | None:
    """Return the form of one parameter, or of "return"; None if it says nothing."""
    if name not in function.__annotations__:
        return None
    form = compiler.form(hint_of(function, name))
    return None if type(form) is Form else form
