"""Values keep their exact type across the boundary; other types do not cross."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import ipaddress
import math
import os
import pathlib
import struct
import sys
import types
import uuid
import zoneinfo
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import pytest
import target
from conftest import METHOD
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import privsep
from privsep._wire import values
from privsep._wire.frames import Frames, FrameTooLarge, Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def daemon() -> Iterator[privsep.Context]:
    """One daemon for all examples; the leak check sees the module's one."""
    target.processes.start(METHOD)
    target.processes_echo(0)
    yield target.processes
    target.processes.stop()


settings.register_profile(
    "privsep",
    deadline=None,
    database=None,
    max_examples=300,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("privsep")

_texts = st.text(st.characters(exclude_categories=()), max_size=20)
_integers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**4000), 2**4000),
    st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64]),
)
_offsets = st.timedeltas(
    datetime.timedelta(hours=-23, minutes=-59), datetime.timedelta(hours=23, minutes=59)
)
_zones = st.one_of(
    st.none(),
    st.just(datetime.UTC),
    _offsets.map(datetime.timezone),
    st.builds(datetime.timezone, _offsets, _texts),
    st.sampled_from(["Europe/Berlin", "America/Argentina/Ushuaia", "UTC"]).map(
        zoneinfo.ZoneInfo
    ),
)
_folds = st.integers(0, 1)
_path_texts = st.text(st.characters(exclude_categories=()), max_size=20)
_addresses = st.one_of(
    st.ip_addresses(),
    st.builds("fe80::{}%eth{}".format, st.integers(1, 9), st.integers(0, 9)).map(
        ipaddress.IPv6Address
    ),
)
_prefixed = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)),
)
_decimals = st.one_of(
    st.decimals().filter(lambda value: not value.is_snan()),
    st.builds("{}{}".format, st.sampled_from(["NaN", "-NaN"]), st.integers(1)).map(
        decimal.Decimal
    ),
    st.builds(decimal.Decimal, st.tuples(_folds, st.just((0,)), st.integers(-50, 50))),
)
_library = st.one_of(
    st.builds(
        lambda value, fold: value.replace(fold=fold),
        st.datetimes(timezones=_zones),
        _folds,
    ),
    st.dates(),
    st.builds(
        lambda value, fold: value.replace(fold=fold), st.times(timezones=_zones), _folds
    ),
    st.timedeltas(),
    st.uuids(),
    _decimals,
    _path_texts.map(pathlib.Path),
    _path_texts.map(pathlib.PurePosixPath),
    _addresses,
    _prefixed.map(lambda pair: ipaddress.ip_network(pair, strict=False)),
    _prefixed.map(ipaddress.ip_interface),
)


@st.composite
def _of_library(draw: st.DrawFn) -> Any:
    """The same with a short name: that of each strategy holds all within it."""
    return draw(_library)


_of_builtins = st.one_of(
    st.none(),
    st.booleans(),
    _integers,
    st.floats(),
    st.complex_numbers(),
    _texts,
    st.binary(max_size=40),
)
_hashable_scalars = st.one_of(_of_builtins, _of_library())
_scalars = st.one_of(
    _hashable_scalars,
    st.binary(max_size=40).map(bytearray),
    st.sampled_from(["sNaN", "-sNaN7"]).map(decimal.Decimal),  # these have no hash
)


def _nested_hashable(depth: int) -> st.SearchStrategy[Any]:
    if not depth:
        return _hashable_scalars
    inner = _nested_hashable(depth - 1)
    return st.one_of(
        _hashable_scalars,
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
    )


def _nested(depth: int) -> st.SearchStrategy[Any]:
    if not depth:
        return _scalars
    inner = _nested(depth - 1)
    keys = _nested_hashable(min(depth - 1, 2))
    return st.one_of(
        _scalars,
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(keys, max_size=4),
        st.frozensets(keys, max_size=4),
    )


def _shape(value: Any) -> Any:  # noqa: PLR0911 - a table
    """Return what two values share if, and only if, they are the same.

    Types, signs of zero and every NaN count; the order of sets does not.
    """
    kind = type(value)
    if kind is float:
        return kind, struct.pack("!d", value)
    if kind is complex:
        return kind, struct.pack("!dd", value.real, value.imag)
    if kind in (list, tuple):
        return kind, [_shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted((_shape(item) for item in value), key=repr)
    if kind is dict:
        return kind, [(_shape(key), _shape(item)) for key, item in value.items()]
    if kind is decimal.Decimal:
        return kind, value.as_tuple()
    if kind in (datetime.datetime, datetime.time):
        parts = value.replace(tzinfo=None), value.fold
        return kind, parts, type(value.tzinfo), repr(value.tzinfo)
    if isinstance(value, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        return kind, value.ip, value.network
    return kind, value


@given(_nested(5))
@example(math.nan)
@example(-0.0)
@example(complex(-0.0, math.nan))
@example("\ud800")
@example({True: 1, 2: False, None: 0.0, "": b"", b"": "", (): [], frozenset(): {}})
@example({math.nan: math.nan, -0.0: 1})
@example({(1, (2, frozenset({3, (4,)}))): {(): set()}})
@example({"a": {"b": {"c": {"d": ({1, 2}, [bytearray(b"x")])}}}})
@example(10**4299)
@example(decimal.Decimal("sNaN123"))
@example(decimal.Decimal("-0E+9"))
@example(datetime.datetime.max)  # noqa: DTZ901
@example(datetime.time(1, 2, 3, 4, fold=1))
@example({pathlib.Path("/a"): {ipaddress.ip_network("10.0.0.0/8"): ()}})
def test_a_value_comes_back_with_its_exact_type(
    daemon: privsep.Context, value: Any
) -> None:
    assert _shape(target.processes_echo(value)) == _shape(value)


@given(_nested(5))
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert _shape(values.decode(values.Encoder().encode(value))) == _shape(value)


@pytest.mark.parametrize("depth", [1, 50, 90])
@pytest.mark.parametrize(
    "kind", [list, tuple, frozenset], ids=lambda kind: kind.__name__
)
def test_a_deep_value_comes_back(
    daemon: privsep.Context, kind: type, depth: int
) -> None:
    value: Any = None
    for _ in range(depth):
        value = kind([value])
    assert _shape(target.processes_echo(value)) == _shape(value)


@pytest.mark.parametrize("depth", [101, 5000])
def test_a_value_that_is_too_deep_is_too_large(
    daemon: privsep.Context, depth: int
) -> None:
    value: Any = None
    for _ in range(depth):
        value = [value]
    with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
        target.processes_echo(value)


def test_a_value_that_contains_itself_is_too_large(daemon: privsep.Context) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(privsep.MessageTooLarge, match="deeper than 100"):
        target.processes_echo(value)


def test_a_million_elements_cross_and_one_more_does_not(
    daemon: privsep.Context,
) -> None:
    room = 1_000_000 - 3  # [arguments, keywords], and the one argument
    assert target.processes_echo([None] * room) == [None] * room
    with pytest.raises(privsep.MessageTooLarge, match="1000000 elements"):
        target.processes_echo([None] * (room + 1))


@pytest.mark.parametrize("size", [8191, 8192, 8193, 65_535, 65_536, 1 << 20, 20 << 20])
def test_bytes_of_any_size_come_back(daemon: privsep.Context, size: int) -> None:
    data = os.urandom(size)
    assert target.processes_echo(data) == data


# -- what does not cross --------------------------------------------------------


class _Number(int):
    pass


class _Text(str):
    pass


class _List(list):  # type: ignore[type-arg]
    pass


class _Color(enum.Enum):
    RED = 1


class _Level(enum.IntEnum):
    HIGH = 1


class _Flag(enum.IntFlag):
    UP = 1


class _Point(NamedTuple):
    x: int


class _Plain:
    pass


class _Decimal(decimal.Decimal):
    pass


class _Day(datetime.date):
    pass


class _Zone(datetime.tzinfo):
    def utcoffset(self, when: datetime.datetime | None, /) -> datetime.timedelta:
        return datetime.timedelta()

    dst = utcoffset

    def tzname(self, when: datetime.datetime | None, /) -> str:
        return "zone"


_REFUSED: dict[str, Any] = {
    "_Number": _Number(1),
    "_Text": _Text("x"),
    "_List": _List(),
    "_Color": _Color.RED,
    "_Level": _Level.HIGH,
    "_Flag": _Flag.UP,
    "_Point": _Point(1),
    "_Plain": _Plain(),
    "collections.OrderedDict": collections.OrderedDict(a=1),
    "collections.defaultdict": collections.defaultdict(int),
    "collections.Counter": collections.Counter("a"),
    "collections.deque": collections.deque([1]),
    "memoryview": memoryview(b"x"),
    "range": range(3),
    "object": object(),
    "function": _shape,
    "builtin_function_or_method": len,
    "type": int,
    "module": math,
    "generator": (x for x in range(0)),
    "dict_keys": {}.keys(),
    "ellipsis": ...,
    "NotImplementedType": NotImplemented,
    "slice": slice(1),
    "array.array": array.array("i"),
    "_Decimal": _Decimal(1),
    "fractions.Fraction": fractions.Fraction(1, 2),
    "_Day": _Day(2000, 1, 1),
    "PureWindowsPath": pathlib.PureWindowsPath("/"),
    "_Zone as its time zone": datetime.datetime(2000, 1, 1, tzinfo=_Zone()),
    "SimpleNamespace": types.SimpleNamespace(),
    "mappingproxy": types.MappingProxyType({}),
    "ValueError": ValueError("x"),
    "ExtType": msgpack.ExtType(1, b""),
    "Timestamp": msgpack.Timestamp(1),
}


def _places(value: Any) -> Iterator[tuple[str, Any]]:
    yield "alone", value
    yield "in a list", [1, [value]]
    yield "in a tuple", (value,)
    yield "as a value", {"key": value}
    yield "as a value beside odd keys", {(1,): value}
    try:
        yield "as a key", {value: 1}
        yield "in a set", {value}
        yield "in a frozenset", frozenset({value})
    except TypeError:  # it is unhashable
        return


@pytest.mark.parametrize(("name", "value"), _REFUSED.items(), ids=_REFUSED)
def test_another_type_is_refused_with_its_name_and_place(
    daemon: privsep.Context, name: str, value: Any
) -> None:
    for place, held in _places(value):
        with pytest.raises(privsep.Unserializable) as caught:
            target.processes_echo(held)
        assert name in str(caught.value), place
        assert "argument 1 " in str(caught.value), place
        with pytest.raises(privsep.Unserializable, match=name):
            target.processes_keywords(fine=1, wrong=held)
        with pytest.raises(privsep.Unserializable, match="argument wrong "):
            target.processes_keywords(fine=1, wrong=held)
    assert target.processes_echo(1) == 1


@pytest.mark.parametrize("kind", target.REFUSED_RESULTS)
def test_a_result_of_another_type_is_refused_with_its_name(
    daemon: privsep.Context, kind: str
) -> None:
    with pytest.raises(privsep.Unserializable) as caught:
        target.processes_strange_result(kind)
    assert kind in str(caught.value)
    assert "target.strange_result()" in str(caught.value)
    assert target.processes_echo(1) == 1


# -- what a stranger writes -----------------------------------------------------

_marks = [msgpack.packb(msgpack.ExtType(code, b"")) for code in (1, 2, 3, 4)]
_ONE_OF_EACH: tuple[Any, ...] = (
    [], (), {}, set(), frozenset(), [1], {"a": (1,)},
    datetime.datetime(2000, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.date(2000, 1, 1), datetime.time(1, tzinfo=datetime.UTC),
    datetime.timedelta(1), uuid.UUID(int=1), decimal.Decimal("1.5"),
    pathlib.Path("/a"), pathlib.PurePosixPath("b"), ipaddress.ip_address("1.2.3.4"),
    ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("10.1.2.3/8"),
    ipaddress.ip_address("::1%a"), ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_interface("fe80::1/10"),
)  # fmt: skip
_pieces = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(_marks),
    st.sampled_from([b"\x90", b"\x91", b"\x92", b"\x93", b"\x80", b"\x81", b"\x82"]),
    st.sampled_from([b"\xdd", b"\xdc", b"\xdf", b"\xde", b"\xdb", b"\xc6", b"\xc9"]),
    st.integers(-128, 127).flatmap(
        lambda code: st.binary(max_size=20).map(
            lambda data: (
                msgpack.packb(msgpack.ExtType(code, data))
                if code >= 0
                else struct.pack("!BBb", 0xC7, len(data), code) + data
            )
        )
    ),
    st.one_of(_of_builtins, st.sampled_from(_ONE_OF_EACH)).map(
        lambda value: values.Encoder().encode(value)
    ),
)
_KNOWN = (
    type(None), bool, int, float, complex, str, bytes, bytearray,
    list, tuple, dict, set, frozenset,
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    uuid.UUID, decimal.Decimal, pathlib.PosixPath, pathlib.PurePosixPath,
    ipaddress.IPv4Address, ipaddress.IPv4Network, ipaddress.IPv4Interface,
    ipaddress.IPv6Address, ipaddress.IPv6Network, ipaddress.IPv6Interface,
)  # fmt: skip


def _check_types(value: Any) -> None:
    assert type(value) in _KNOWN
    if type(value) is dict:
        value = [*value.keys(), *value.values()]
    if type(value) in (list, tuple, set, frozenset):
        for item in value:
            _check_types(item)


def _decode_or_refuse(data: bytes) -> None:
    try:
        value = values.decode(data)
    except (values.Malformed, values.LimitExceeded):
        return
    _check_types(value)


class _Finder:
    """Notes which modules are looked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def find_spec(self, name: str, *_: object) -> None:
        self.names.append(name)


@pytest.mark.parametrize(
    "key",
    ["../../etc/passwd", "/etc/passwd", "./UTC", "os.path/UTC", "UTC\0", "a" * 101],
)
def test_the_key_of_a_time_zone_names_no_other_file_or_module(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    utc = values.Encoder().encode(datetime.time(tzinfo=zoneinfo.ZoneInfo("UTC")))
    payload = utc[utc.index(bytes(8)) : utc.index(b"zUTC")]
    message = msgpack.packb(msgpack.ExtType(50, payload + b"z" + key.encode()))
    finder = _Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    with pytest.raises(values.Malformed, match="that are no time"):
        values.decode(message)
    assert not finder.names


@settings(max_examples=3000)
@given(st.lists(_pieces, max_size=12).map(b"".join), st.booleans())
@example(b"\xd4\xff\x00", False)
@example(b"\xd7\xff" + b"\xff" * 8, False)
@example(b"\x81" + _marks[0] + b"\xc0", True)
def test_bytes_of_any_kind_are_decoded_or_refused(data: bytes, large: bool) -> None:
    """What is large goes another way than what is small."""
    if large:
        data = b"\x92" + msgpack.packb("x" * 10_000) + data
    _decode_or_refuse(data)


@settings(max_examples=1000)
@given(_nested(3), st.data())
def test_a_message_with_changed_bytes_is_decoded_or_refused(
    value: Any, data: st.DataObject
) -> None:
    message = bytearray(values.Encoder().encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place] = data.draw(st.integers(0, 255))
    _decode_or_refuse(bytes(message))
    _decode_or_refuse(bytes(message[: data.draw(st.integers(0, len(message)))]))


class _Chopped:
    """A socket that gives what it was made with, in pieces of these sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data = data
        self._sizes = sizes

    def send(self, data: bytes) -> int:
        raise NotImplementedError

    def recv(self, most: int) -> bytes:
        size = min(most, self._sizes.pop() if self._sizes else most)
        begin, self._data = self._data[:size], self._data[size:]
        return begin

    def recv_into(self, view: memoryview) -> int:
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)


_sizes = st.lists(st.integers(1, 30), max_size=40)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=80)), max_size=6),
    _sizes,
    st.binary(max_size=4),
)
def test_frames_come_whole_however_the_stream_is_cut(
    frames: list[tuple[int, bytes]], sizes: list[int], rest: bytes
) -> None:
    data = b"".join(struct.pack("!IB", len(body), kind) + body for kind, body in frames)
    reader = Frames(_Chopped(data + rest, sizes), 50)  # type: ignore[arg-type]
    for kind, body in frames:
        if len(body) > 50:
            with pytest.raises(FrameTooLarge):
                reader.receive()
            continue
        received = reader.receive()
        assert received is not None
        assert (received[0], bytes(received[1])) == (kind, body)
    if rest:
        with pytest.raises(Interrupted):
            reader.receive()
    else:
        assert reader.receive() is None


@given(st.binary(max_size=300), _sizes)
def test_a_stream_of_any_bytes_is_frames_or_refused(
    data: bytes, sizes: list[int]
) -> None:
    reader = Frames(_Chopped(data, sizes), 100)  # type: ignore[arg-type]
    for _ in range(100):
        try:
            if reader.receive() is None:
                return
        except FrameTooLarge:
            continue
        except Interrupted:
            return
    pytest.fail("more frames than bytes")
