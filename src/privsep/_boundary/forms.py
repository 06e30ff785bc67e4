"""Forms: what an annotation says of a value, and what its plain data is.

Runs on both sides.  `check` judges what came, and makes of plain data what the
annotation names; `lower` makes plain data of it again.  Both read nothing but their
form, so no class is ever chosen by what was sent.
"""

from __future__ import annotations

from privsep._boundary import loaded
from privsep._boundary.loaded import NoneType
from privsep._wire.scalars import writer_of

TYPE_CHECKING = False  # not typing's, see loaded
if TYPE_CHECKING:
    import enum
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeAlias

    from privsep.boundary import Secret

    #: what `Annotated` adds: an object with `holds`, or with `hold`
    Marker: TypeAlias = Any

_LONGEST = 60  # characters of a value that a message shows
_LONGEST_WHY = 300
_MANY_BITS = 128
_MANY = 8
ITEMS = (list, tuple, set, frozenset)


class Wrong(Exception):
    """A value is not what its form says."""

    def __init__(self, expected: str, value: object, why: str = "") -> None:
        self.expected = expected
        self.value = value
        self.why = why
        self.path = ""

    def within(self, place: str) -> Wrong:
        """Return itself, now about what stands at `place` of something larger."""
        self.path = place + self.path
        return self

    def text(self) -> str:
        """Say what was expected and what came."""
        why = f" ({self.why[:_LONGEST_WHY]})" if self.why else ""
        return f"expected {self.expected}, got {_came(self.value)}{why}"


def _came(value: object) -> str:
    """Return the type of `value` and, shortened, what it is."""
    kind = type(value)
    name = kind.__qualname__
    if value is None:
        return "None"
    if kind in (str, bytes, bytearray) and isinstance(value, (str, bytes, bytearray)):
        more = "..." if len(value) > _LONGEST else ""
        return f"{name} {value[:_LONGEST]!r}{more}"
    if kind in (*ITEMS, dict) and isinstance(value, (*ITEMS, dict)):
        return f"{name} of {len(value)}"
    if kind is int and isinstance(value, int) and value.bit_length() > _MANY_BITS:
        return f"{name} of {value.bit_length()} bits"
    if kind in (bool, int, float, complex):
        return f"{name} {value!r}"
    # Of another class than those that cross by themselves a repr may do anything.
    shown = name if writer_of(kind) is None else repr(value)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


class Form:
    """What one annotation says.  This one says nothing: anything will do."""

    expected = "anything"
    kinds: frozenset[type] = frozenset()  #: types of which each value will do
    lowers = False  #: `lower` returns something else than it is given

    def check(self, value: object, held: list[int]) -> object:
        """Return what the function gets for `value`; add to `held` what is to close.

        Raises:
            Wrong: the function gets nothing.

        """
        del held
        return value

    def lower(self, value: object) -> object:
        """Return `value` as plain data, of which `check` makes it anew.

        Raises:
            Wrong: it is not such a value.

        """
        return value

    def parts(self) -> Iterable[Form]:
        """Return the forms within this one."""
        return ()


class Of(Form):
    """Values of exactly these types."""

    def __init__(self, expected: str, *kinds: type) -> None:
        self.expected = expected
        self.kinds = frozenset(kinds)

    def check(self, value: object, held: list[int]) -> object:
        del held
        if type(value) in self.kinds:
            return value
        raise Wrong(self.expected, value)

    def lower(self, value: object) -> object:
        return self.check(value, [])


class Number(Of):
    """float, complex: an integer will do, as type checkers have it; it is converted."""

    def __init__(self, kind: type[float | complex], *also: type) -> None:
        super().__init__(kind.__name__, kind)
        self._make: Callable[[Any], object] = kind
        self._also = also

    def check(self, value: object, held: list[int]) -> object:
        del held
        if type(value) in self.kinds:
            return value
        if type(value) in self._also:
            try:
                return self._make(value)
            except OverflowError:
                pass
        raise Wrong(self.expected, value)


class Converted(Form):
    """validate="convert": of what is not of the type, it is made, if that can be."""

    def __init__(self, form: Form, convert: Callable[[object], object]) -> None:
        self.expected = form.expected
        self.kinds = form.kinds
        self._form = form
        self._convert = convert

    def check(self, value: object, held: list[int]) -> object:
        try:
            return self._form.check(value, held)
        except Wrong as wrong:
            try:
                return self._form.check(self._convert(value), held)
            except Exception:  # noqa: BLE001 - decimal raises ArithmeticError
                raise wrong from None


class Literal(Form):
    """One of some plain values."""

    def __init__(self, values: Iterable[object]) -> None:
        self._values = tuple(values)
        self.expected = " or ".join(map(repr, self._values))

    def check(self, value: object, held: list[int]) -> object:
        del held
        for each in self._values:
            if type(each) is type(value) and each == value:
                return each
        raise Wrong(self.expected, value)

    def lower(self, value: object) -> object:
        return self.check(value, [])


class Member(Form):
    """A member of an enum, or one of these alone; on the wire, its value."""

    lowers = True

    def __init__(self, kind: type[enum.Enum], only: Iterable[enum.Enum] = ()) -> None:
        self._kind = kind
        self._find: Callable[[object], enum.Enum] = kind
        self._only = tuple(only)
        self._bits: int | None = None  #: of a Flag: all that are known
        if issubclass(kind, loaded.of("enum", "Flag")):
            self._bits = 0
            for member in kind:
                self._bits |= member.value
        members = [repr(each.value) for each in self._only or tuple(kind)]
        shown = ", ".join(members[:_MANY]) + (", ..." if members[_MANY:] else "")
        self.expected = f"{kind.__qualname__} ({shown})"

    def check(self, value: object, held: list[int]) -> object:
        del held
        if self._bits is not None and not self._is_known(value):
            raise Wrong(self.expected, value)
        try:
            member = self._find(value)
            own: object = member.value
        except Exception:  # noqa: BLE001 - _missing_() may raise anything
            raise Wrong(self.expected, value) from None
        if type(own) is type(value) and own == value and self._allows(member):
            return member
        raise Wrong(self.expected, value)

    def lower(self, value: object) -> object:
        member: Any = value
        if type(value) is self._kind and self._allows(member):
            plain: object = member.value
            return plain
        raise Wrong(self.expected, value)

    def _is_known(self, value: object) -> bool:
        """Tell whether it is of known bits: a Flag keeps what it is asked for."""
        return type(value) is int and not value & ~(self._bits or 0)

    def _allows(self, member: enum.Enum) -> bool:
        if self._bits is not None and not self._is_known(member.value):
            return False
        return not self._only or member in self._only


class Items(Form):
    """A list, tuple, set or frozenset of any length.

    A set whose items are other ones on the wire is a list there: a dataclass may be
    hashed, the dict that stands for it may not.
    """

    def __init__(
        self, expected: str, kinds: tuple[type, ...], item: Form, *, convert: bool
    ) -> None:
        self.expected = expected
        self.lowers = item.lowers
        self._item = item
        self._kinds = kinds
        self._sent_as_list = item.lowers and kinds[0] in (set, frozenset)
        self._taken = frozenset(ITEMS if convert else kinds)
        if self._sent_as_list:
            self._taken |= {list}

    def check(self, value: object, held: list[int]) -> object:
        if type(value) not in self._taken or not isinstance(value, ITEMS):
            raise Wrong(self.expected, value)
        kind = type(value) if type(value) in self._kinds else self._kinds[0]
        if self._item.kinds.issuperset(map(type, value)):
            return value if kind is type(value) else kind(value)
        return kind(self._each(value, self._item.check, held))

    def lower(self, value: object) -> object:
        if type(value) not in self._kinds or not isinstance(value, ITEMS):
            raise Wrong(self.expected, value)
        items = self._each(value, self._item.lower)
        return items if self._sent_as_list else type(value)(items)

    @staticmethod
    def _each(
        items: Iterable[object], change: Callable[..., object], *more: object
    ) -> list[object]:
        done: list[object] = []
        try:
            for item in items:
                done.append(change(item, *more))  # noqa: PERF401 - `done` counts them
        except Wrong as wrong:
            raise wrong.within(f"[{len(done)}]") from None
        return done

    def parts(self) -> Iterable[Form]:
        return (self._item,)


class Tuple(Form):
    """A tuple of so many items, each with a form of its own."""

    def __init__(
        self, expected: str, items: tuple[Form, ...], *, convert: bool
    ) -> None:
        self.expected = expected
        self.lowers = any(item.lowers for item in items)
        self._items = items
        self._taken = (tuple, list) if convert else (tuple,)

    def check(self, value: object, held: list[int]) -> object:
        return self._each(value, self._taken, "check", held)

    def lower(self, value: object) -> object:
        return self._each(value, (tuple,), "lower")

    def _each(
        self, value: object, taken: tuple[type, ...], change: str, *more: object
    ) -> tuple[object, ...]:
        right = type(value) in taken and isinstance(value, (tuple, list))
        if not right or len(value) != len(self._items):  # type: ignore[arg-type]
            raise Wrong(self.expected, value)
        done: list[object] = []
        try:
            for form, item in zip(self._items, value, strict=True):  # type: ignore[call-overload]
                done.append(getattr(form, change)(item, *more))
        except Wrong as wrong:
            raise wrong.within(f"[{len(done)}]") from None
        return tuple(done)

    def parts(self) -> Iterable[Form]:
        return self._items


class Dict(Form):
    """A dict; if its keys are other ones on the wire, a list of pairs there."""

    def __init__(self, expected: str, key: Form, item: Form) -> None:
        self.expected = expected
        self.lowers = key.lowers or item.lowers
        self._key = key
        self._item = item

    def check(self, value: object, held: list[int]) -> object:
        pairs: Iterable[Any]
        if self._key.lowers and type(value) is list:
            pairs = value
        elif type(value) is dict and not self._key.lowers:
            plain = self._key.kinds.issuperset(map(type, value))
            if plain and self._item.kinds.issuperset(map(type, value.values())):
                return value
            pairs = value.items()
        else:
            raise Wrong(self.expected, value)
        done: dict[object, object] = {}
        for pair in pairs:
            if type(pair) is not tuple or len(pair) != 2:  # noqa: PLR2004
                raise Wrong(self.expected, value)
            key, item = pair
            try:
                key = self._key.check(key, held)
                done[key] = self._item.check(item, held)
            except Wrong as wrong:
                raise wrong.within(f"[{_came(key)}]") from None
        return done

    def lower(self, value: object) -> object:
        if type(value) is not dict:
            raise Wrong(self.expected, value)
        pairs: list[tuple[object, object]] = []
        for key, item in value.items():
            try:
                pairs.append((self._key.lower(key), self._item.lower(item)))
            except Wrong as wrong:
                raise wrong.within(f"[{_came(key)}]") from None
        return pairs if self._key.lowers else dict(pairs)

    def parts(self) -> Iterable[Form]:
        return self._key, self._item


class Record(Form):
    """An instance of a class with fields; on the wire, a dict of them.

    The class makes it of them, so what its own code refuses is refused.
    """

    lowers = True

    def __init__(self, kind: Callable[..., object]) -> None:
        self.expected = kind.__qualname__
        self.fields: dict[str, Form] = {}  #: set when all are known: one may be this
        self.required: frozenset[str] = frozenset()  #: of what has no constructor
        self._kind = kind

    def check(self, value: object, held: list[int]) -> object:
        if type(value) is not dict:
            raise Wrong(self.expected, value)
        if more := value.keys() - self.fields.keys():
            raise Wrong(self.expected, value, f"it has no field {_came(more.pop())}")
        if less := self.required - value.keys():
            raise Wrong(self.expected, value, f"it lacks {min(less)!r}")
        done: dict[str, object] = {}
        for name, item in value.items():
            try:
                done[name] = self.fields[name].check(item, held)
            except Wrong as wrong:
                raise wrong.within(f".{name}") from None
        try:
            return self._kind(**done)
        except Exception as error:  # noqa: BLE001 - the class may raise anything
            raise Wrong(self.expected, value, why(error)) from None

    def lower(self, value: object) -> object:
        if type(value) is not self._kind:
            raise Wrong(self.expected, value)
        return self._lower_fields({name: getattr(value, name) for name in self.fields})

    def _lower_fields(self, value: Mapping[str, object]) -> dict[str, object]:
        done: dict[str, object] = {}
        for name, item in value.items():
            try:
                done[name] = self.fields[name].lower(item)
            except Wrong as wrong:
                raise wrong.within(f".{name}") from None
        return done

    def parts(self) -> Iterable[Form]:
        return self.fields.values()


class TypedDict(Record):
    """A dict with these keys."""

    def lower(self, value: object) -> object:
        if type(value) is not dict or value.keys() - self.fields.keys():
            raise Wrong(self.expected, value)
        return self._lower_fields(value)


class Union(Form):
    """One of several forms.

    If some of them are other values on the wire, which one it is goes along as its
    place here: the values alone may not tell.
    """

    def __init__(self, forms: tuple[Form, ...], *, convert: bool = False) -> None:
        self.expected = " or ".join(dict.fromkeys(form.expected for form in forms))
        self.kinds = frozenset().union(*(form.kinds for form in forms))
        self.lowers = any(form.lowers for form in forms)
        self._forms = forms
        self._convert = convert

    def check(self, value: object, held: list[int]) -> object:
        if type(value) in self.kinds and not self.lowers:
            return value
        if self.lowers and type(value) is tuple and len(value) == 2:  # noqa: PLR2004
            place, item = value
            if type(place) is int and 0 <= place < len(self._forms):
                return self._forms[place].check(item, held)
        if self.lowers and not self._convert:
            raise Wrong(self.expected, value)
        wrongs: list[Wrong] = []
        for form in self._forms:
            try:
                return form.check(value, held)
            except Wrong as wrong:
                wrongs.append(wrong)
        # What is wrong deep within one form says more than that none will do.
        deep = [wrong for wrong in wrongs if wrong.path]
        raise deep[0] if len(deep) == 1 else Wrong(self.expected, value)

    def lower(self, value: object) -> object:
        for place, form in enumerate(self._forms):
            try:
                lowered = form.lower(value)
            except Wrong:
                continue
            return (place, lowered) if self.lowers else lowered
        raise Wrong(self.expected, value)

    def parts(self) -> Iterable[Form]:
        return self._forms


class Optional(Form):
    """None, or of one form."""

    def __init__(self, form: Form) -> None:
        self.expected = f"{form.expected} or None"
        self.kinds = form.kinds | {NoneType} if form.kinds else frozenset()
        self.lowers = form.lowers
        self._form = form

    def check(self, value: object, held: list[int]) -> object:
        if value is None:
            return None
        try:
            return self._form.check(value, held)
        except Wrong as wrong:
            if not wrong.path:
                wrong.expected = self.expected
            raise

    def lower(self, value: object) -> object:
        return None if value is None else self._form.lower(value)

    def parts(self) -> Iterable[Form]:
        return (self._form,)


class Within(Form):
    """A form, and what `Annotated` adds to it."""

    def __init__(self, form: Form, marker: Marker) -> None:
        said = getattr(marker, "expected", type(marker).__name__)
        self.expected = f"{form.expected} {said}"
        self.lowers = form.lowers
        self._form = form
        self._marker = marker

    def lower(self, value: object) -> object:
        return self._form.lower(value)

    def parts(self) -> Iterable[Form]:
        return (self._form,)


class Constrained(Within):
    def check(self, value: object, held: list[int]) -> object:
        checked = self._form.check(value, held)
        try:
            if self._marker.holds(checked):
                return checked
        except Exception as error:  # noqa: BLE001 - a predicate may raise anything
            raise Wrong(self.expected, value, why(error)) from None
        raise Wrong(self.expected, value)


class Held(Within):
    """What the function gets refers to a descriptor, open until it has returned."""

    def check(self, value: object, held: list[int]) -> object:
        checked = self._form.check(value, held)
        try:
            given, descriptor = self._marker.hold(checked)
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is given
            raise Wrong(self.expected, value, why(error)) from None
        held.append(descriptor)
        return given


class SecretForm(Form):
    """Wrapped in a `Secret` on both sides; the value itself is on the wire."""

    lowers = True

    def __init__(self, form: Form, kind: type[Secret[object]]) -> None:
        self.expected = f"Secret of {form.expected}"
        self._form = form
        self._kind = kind

    def check(self, value: object, held: list[int]) -> object:
        return self._kind(self._form.check(value, held))

    def lower(self, value: object) -> object:
        kept: Any = value
        if type(value) is not self._kind:
            raise Wrong(self.expected, value)
        secret: object = kept.reveal()
        try:
            return self._form.lower(secret)
        except Wrong:
            return secret  # for the daemon to judge

    def parts(self) -> Iterable[Form]:
        return (self._form,)


def why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def all_within(form: Form) -> Iterator[Form]:
    """Return `form` and all that it is made of, each once."""
    seen: set[int] = set()
    waiting = [form]
    while waiting:
        form = waiting.pop()
        if id(form) not in seen:
            seen.add(id(form))
            yield form
            waiting += form.parts()
