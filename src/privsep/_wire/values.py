"""Python values to bytes and back, with their exact types.

Runs in both processes.  The format is MessagePack, by the ``msgpack`` library.
It has no tuples, sets or big integers of its own, so these are written as an
array whose first element is a *mark*, an extension with an empty payload that
tells the kind (containers), or as an extension whose payload is the value
(scalars; those of the standard library's modules are in `scalars`).  Marks nest
without copying, which extensions around containers would not.  No class is ever
named on the wire.

What is read is bounded: the caller checks the size before the bytes are taken,
elements are counted while they are built, and msgpack bounds the depth.

Bytes of a mebibyte or more are not copied into a message: it holds their place among
the *segments* that go beside it, as the descriptors of open files do.
"""

from __future__ import annotations

import struct

from privsep._wire import messagepack
from privsep._wire.descriptors import close_all

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

MAX_ELEMENTS = 1_000_000
MAX_DEPTH = 100
LARGE = 1 << 20
"""Of bytes that go beside the message, the least size."""

_FIRST_BUFFER = 4096  #: of a packer; it grows
_KEPT_PACKER_BYTES = 1 << 20
_SMALL = 8 * 1024
_TIMESTAMP_AS_FLOAT = 1  # msgpack makes an object of extension -1 without asking us

_TUPLE, _SET, _FROZENSET, _MAPPING = 1, 2, 3, 4
_INTEGER, _COMPLEX, _BYTEARRAY = 16, 17, 18
_SCALARS = range(48, 64)  #: see scalars
_LARGE_BYTES, _LARGE_BYTEARRAY = 40, 41
_OPEN_FILES = (32, 33, 34)  #: see open_files

_writers: dict[type, tuple[int, Callable[[Any], bytes]]] = {}
"""Of types in `scalars`, from the first value on that was written."""

_NATIVE = frozenset({type(None), bool, int, float, str})
_NATIVE_OR_BYTES = _NATIVE | {bytes}
_PLACE = struct.Struct("!I")
_COMPLEX_PARTS = struct.Struct("!dd")
_MARK_OF: dict[type, messagepack.ExtType] = {
    tuple: messagepack.ExtType(_TUPLE, b""),
    set: messagepack.ExtType(_SET, b""),
    frozenset: messagepack.ExtType(_FROZENSET, b""),
    dict: messagepack.ExtType(_MAPPING, b""),
}


class UnsupportedType(TypeError):
    """A value of this type does not cross."""


class LimitExceeded(ValueError):
    """Too many elements or too deep."""


class Malformed(ValueError):
    """The bytes are not what `encode` writes."""


class _Mark:
    """Stands for a container's kind until the array around it is complete."""

    __slots__ = ("build",)

    def __init__(self, build: Callable[[list[object]], object]) -> None:
        self.build = build


def _mapping(items: list[object]) -> dict[object, object]:
    if len(items) % 2:
        raise Malformed("a mapping with a key that has no value")
    pairs = iter(items)
    return dict(zip(pairs, pairs, strict=True))


_MARKS = {
    _TUPLE: _Mark(tuple),
    _SET: _Mark(set),
    _FROZENSET: _Mark(frozenset),
    _MAPPING: _Mark(_mapping),
}


#: of extensions that are a value by themselves
_READERS: dict[int, Callable[[bytes], object]] = {
    _INTEGER: lambda data: int.from_bytes(data, "big", signed=True),
    _BYTEARRAY: bytearray,
    _COMPLEX: lambda data: complex(*_COMPLEX_PARTS.unpack(data)),
}


class Encoder:
    """Turns values into bytes; for one thread at a time.

    It is kept between messages because its output buffer costs more to make
    than a small message takes to write.

    Args:
        beside: whether values may go beside the message.  Open files are collected in
            `files`, large bytes in `segments`, to be sent along, until whoever sends
            them calls `clear`; without it, open files do not cross.

    """

    __slots__ = (
        "_beside",
        "_elements",
        "_packer",
        "files",
        "segments",
        "something_beside",
    )

    def __init__(self, *, beside: bool = False) -> None:
        self._elements = 0
        self._beside = beside
        self.something_beside = False  #: whether there is any of the following
        self.files: list[object] = []
        self.segments: list[memoryview] = []
        self._packer = _new_packer()

    def clear(self) -> None:
        """Forget what was to go beside the message."""
        self.files.clear()
        self.segments.clear()
        self.something_beside = False

    def size_beside(self) -> int:
        """Return how many bytes go beside the message."""
        return sum(map(len, self.segments))

    def encode(self, value: object) -> bytes:
        """Return `value` as bytes.

        Raises:
            UnsupportedType: a type that does not cross, with its place.
            LimitExceeded: more than `MAX_ELEMENTS` or deeper than `MAX_DEPTH`.

        """
        if type(value) not in _NATIVE:
            self._elements = 0
            try:
                value = self._lower(value, 0)
            except BaseException:
                self.clear()
                raise
        return self._pack(value)

    def _pack(self, value: object) -> bytes:
        try:
            data: bytes = self._packer.pack(value)
        except BaseException:
            self._packer = _new_packer()
            self.clear()
            raise
        if len(data) > _KEPT_PACKER_BYTES:
            self._packer = _new_packer()
        return data

    def encode_call(self, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
        """Return ``[list(args), kwargs]`` as bytes; quicker where all is plain.

        Raises:
            UnsupportedType, LimitExceeded: as `encode`.

        """
        if self.something_beside:  # of a call that a signal's handler ended
            self.clear()
        if not kwargs and (_NATIVE.issuperset(map(type, args)) or _is_plain(args)):
            data: bytes = self._packer.pack([list(args), kwargs])
            if len(data) > _KEPT_PACKER_BYTES:
                self._packer = _new_packer()
            return data
        self._elements = 0
        try:
            self._count(2 + len(args), 1)
            call = [
                [self._lower(item, 2) for item in args],
                self._lower_dict(kwargs, 1),
            ]
        except BaseException:
            self.clear()
            raise
        return self._pack(call)

    def _count(self, more: int, depth: int) -> None:
        self._elements += more
        if self._elements > MAX_ELEMENTS:
            msg = f"more than {MAX_ELEMENTS} elements in one message"
            raise LimitExceeded(msg)
        if depth >= MAX_DEPTH:
            msg = f"containers nested deeper than {MAX_DEPTH}"
            raise LimitExceeded(msg)

    def _lower(self, value: object, depth: int) -> object:
        """Return `value` in terms of what MessagePack has.

        A container of plain scalars is left as it is: that check runs in C.
        """
        kind = type(value)
        if kind in _NATIVE:
            return value
        if type(value) is bytes or type(value) is bytearray:
            return self._lower_bytes(value)
        if type(value) is list:
            self._count(len(value), depth)
            return self._lower_items(value, depth)
        if type(value) is dict:
            return self._lower_dict(value, depth)
        if type(value) is tuple or type(value) is set or type(value) is frozenset:
            self._count(len(value), depth)
            return [_MARK_OF[kind], *self._lower_items(value, depth)]
        return self._lower_scalar(value)

    def _lower_bytes(self, value: bytes | bytearray) -> object:
        """Return `value`, or what stands for it if it is to be sent beside."""
        if self._beside and len(value) >= LARGE:
            code = _LARGE_BYTES if type(value) is bytes else _LARGE_BYTEARRAY
            place = _PLACE.pack(len(self.segments))
            self.segments.append(memoryview(value))
            self.something_beside = True
            return messagepack.ExtType(code, place)
        if type(value) is bytes:
            return value
        return messagepack.ExtType(_BYTEARRAY, bytes(value))

    def _lower_scalar(self, value: object) -> messagepack.ExtType:
        """Return the extension for `value`; an open file is noted, to be sent along."""
        if type(value) is complex:
            parts = _COMPLEX_PARTS.pack(value.real, value.imag)
            return messagepack.ExtType(_COMPLEX, parts)
        if self._beside and type(value) not in _writers:
            from privsep._wire import open_files  # noqa: PLC0415 - hardly ever

            try:
                lowered = open_files.lower(value, len(self.files))
            except open_files.Unsendable as error:
                raise UnsupportedType(str(error)) from None
            if lowered is not None:
                self.files.append(value)
                self.something_beside = True
                if len(self.files) > open_files.MOST:
                    msg = f"more than {open_files.MOST} open files in one message"
                    raise LimitExceeded(msg)
                return messagepack.ExtType(*lowered)
        return _lower_scalar(value)

    def _lower_items(self, items: Iterable[object], depth: int) -> Iterable[object]:
        if _NATIVE.issuperset(map(type, items)):
            return items
        if _NATIVE_OR_BYTES.issuperset(map(type, items)) and _has_no_large(items):
            return items
        return [self._lower(item, depth + 1) for item in items]

    def _lower_dict(self, value: Mapping[Any, object], depth: int) -> object:
        self._count(2 * len(value), depth)
        if _NATIVE.issuperset(map(type, value)) or _is_plain(value):
            items = value.values()
            if _NATIVE.issuperset(map(type, items)) or _is_plain(items):
                return value
            return {key: self._lower(item, depth + 1) for key, item in value.items()}
        pairs: list[object] = [_MARK_OF[dict]]
        for key, item in value.items():
            pairs.append(self._lower(key, depth + 1))
            pairs.append(self._lower(item, depth + 1))
        return pairs


def _is_plain(items: Iterable[object]) -> bool:
    """Tell whether MessagePack has all of `items`, and none is large."""
    return _NATIVE_OR_BYTES.issuperset(map(type, items)) and _has_no_large(items)


def _has_no_large(items: Iterable[object]) -> bool:
    for item in items:  # noqa: SIM110 - a generator costs a small message more
        if type(item) is bytes and len(item) >= LARGE:
            return False
    return True


def _lower_scalar(value: object) -> messagepack.ExtType:
    kind = type(value)
    found = _writers.get(kind)
    if found is None:
        from privsep._wire import scalars  # noqa: PLC0415 - few messages need it

        found = scalars.writer_of(kind)
        if found is None:
            raise UnsupportedType(_type_name(kind))
        _writers[kind] = found
    number, write = found
    try:
        return messagepack.ExtType(number, write(value))
    except TypeError as error:
        msg = f"{_type_name(kind)} with {error}"
        raise UnsupportedType(msg) from None


def _type_name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _big_integer(value: object) -> messagepack.ExtType:
    """Encode what msgpack found no place for: integers beyond 64 bits."""
    if type(value) is not int:  # changed by another thread since it was checked
        raise UnsupportedType(_type_name(type(value)))
    size = value.bit_length() // 8 + 1
    return messagepack.ExtType(_INTEGER, value.to_bytes(size, "big", signed=True))


def _new_packer() -> messagepack.Packer:
    return messagepack.Packer(  # type: ignore[call-arg]
        strict_types=True,
        unicode_errors="surrogatepass",
        default=_big_integer,
        buf_size=_FIRST_BUFFER,  # pyright: ignore[reportCallIssue]
    )


class _Decoding:
    """The state of reading one message: elements so far, marks not yet used."""

    __slots__ = ("descriptors", "elements", "marks", "segments")

    def __init__(self, descriptors: list[int], segments: list[bytes | None]) -> None:
        self.elements = 0
        self.marks = 0
        self.descriptors = descriptors
        self.segments = segments

    def extension(self, code: int, payload: bytes) -> object:
        mark = _MARKS.get(code)
        if mark is not None and not payload:
            self.marks += 1
            return mark
        read = _READERS.get(code)
        if read is not None:
            return read(payload)
        if code == _LARGE_BYTES:
            return self.segment(payload)
        if code == _LARGE_BYTEARRAY:
            return bytearray(self.segment(payload))
        if self.descriptors and code in _OPEN_FILES:
            from privsep._wire import open_files  # noqa: PLC0415 - hardly ever

            return open_files.claim(code, payload, self.descriptors)
        if code in _SCALARS:
            from privsep._wire import scalars  # noqa: PLC0415 - few messages need it

            try:
                return scalars.read(code, payload)
            except KeyError:
                pass
        msg = f"unknown extension {code} with {len(payload)} bytes"
        raise Malformed(msg)

    def segment(self, payload: bytes) -> bytes:
        place: int = _PLACE.unpack(payload)[0]
        segment = self.segments[place] if place < len(self.segments) else None
        if segment is None:
            msg = f"a segment {place} that did not come, or is used twice"
            raise Malformed(msg)
        self.segments[place] = None
        return segment

    def array(self, items: list[object]) -> object:
        if items and isinstance(items[0], _Mark):
            build = items[0].build
            del items[0]
            self.marks -= 1
            self.count(len(items))
            return build(items)
        self.count(len(items))
        return items

    def mapping(self, items: dict[object, object]) -> dict[object, object]:
        self.count(2 * len(items))
        return items

    def count(self, more: int) -> None:
        self.elements += more
        if self.elements > MAX_ELEMENTS:
            msg = f"more than {MAX_ELEMENTS} elements in one message"
            raise LimitExceeded(msg)


def decode(data: bytes | bytearray | memoryview) -> object:
    """Return the value that `Encoder.encode` turned into `data`.

    Raises:
        Malformed: anything that `encode` would not have written (but MessagePack's
            own timestamp, which becomes a float).
        LimitExceeded: more than `MAX_ELEMENTS` elements, or too deep.

    """
    if len(data) <= _SMALL:
        # Most messages hold nothing but what MessagePack has, and no hook needs
        # to be called; so few bytes cannot hold too many elements.
        try:
            return messagepack.unpackb(
                data,
                strict_map_key=False,
                unicode_errors="surrogatepass",
                timestamp=_TIMESTAMP_AS_FLOAT,
                ext_hook=_found_extension,
            )
        except _ExtensionFound:
            pass
        except (ValueError, TypeError, RecursionError) as error:
            raise _as_ours(error) from None
    return _decode_with_hooks(data, [], [])


def decode_with(
    data: bytes | bytearray | memoryview,
    descriptors: list[int],
    segments: list[bytes | None],
) -> object:
    """Return the value in `data` with what came beside it.

    Each descriptor is closed, or owned by the file in the value that it is.

    Raises:
        Malformed, LimitExceeded: as `decode`; or a descriptor or a segment too many,
            or a descriptor that is not what the message says.

    """
    try:
        value = _decode_with_hooks(data, descriptors, segments)
    except (OSError, LookupError, OverflowError) as error:
        msg = f"a descriptor is not what the message says: {error}"
        raise Malformed(msg) from None
    finally:
        unused = any(descriptor >= 0 for descriptor in descriptors)
        close_all(descriptors)
    if unused:
        raise Malformed("a descriptor that stands for no value")
    if any(segment is not None for segment in segments):
        raise Malformed("a segment that stands for no value")
    return value


def _decode_with_hooks(
    data: bytes | bytearray | memoryview,
    descriptors: list[int],
    segments: list[bytes | None],
) -> object:
    state = _Decoding(descriptors, segments)
    bound = min(MAX_ELEMENTS + 1, len(data))
    try:
        value = messagepack.unpackb(
            data,
            strict_map_key=False,
            unicode_errors="surrogatepass",
            timestamp=_TIMESTAMP_AS_FLOAT,
            ext_hook=state.extension,
            list_hook=state.array,
            object_hook=state.mapping,
            max_array_len=bound,
            max_map_len=bound,
        )
    except (ValueError, TypeError, struct.error, RecursionError) as error:
        raise _as_ours(error) from None
    if state.marks:
        raise Malformed("a mark that opens no container")
    return value


class _ExtensionFound(Exception):
    """The message holds an extension."""


def _found_extension(code: int, payload: bytes) -> object:
    del code, payload
    raise _ExtensionFound


def _as_ours(error: Exception) -> Exception:
    if isinstance(error, (LimitExceeded, Malformed)):
        return error
    if isinstance(error, (messagepack.StackError, RecursionError)):
        return LimitExceeded("containers nested too deep")
    return Malformed(f"not a message of privsep: {error or type(error).__name__}")
