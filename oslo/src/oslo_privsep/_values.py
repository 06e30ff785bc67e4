"""Values by oslo's rules: MessagePack as it is, with tuples for its arrays.

Runs on both sides.  A list arrives as a tuple, a subclass as its base, bytearray as
bytes; what MessagePack has no form for is a TypeError where it is packed.
"""

from __future__ import annotations

import msgpack

_FIRST_BUFFER = 4096  # of a packer; it grows
_SMALL = 8 * 1024  # so few bytes hold no harmful number of elements
_MOST_ELEMENTS = 1_000_000  # as the engine has it


def pack(value: object) -> bytes:
    """Return `value` as bytes.

    Raises:
        TypeError: "can not serialize 'X' object".
        OverflowError: an integer that 64 bits do not hold.
        UnicodeEncodeError: a surrogate that stands for no byte.
        ValueError: nested too deep.

    """
    data: bytes = msgpack.Packer(  # type: ignore[call-arg]
        unicode_errors="surrogateescape",
        buf_size=_FIRST_BUFFER,  # pyright: ignore[reportCallIssue]
    ).pack(value)
    return data


def unpack(data: bytes | bytearray | memoryview) -> object:
    """Return the value that `pack` turned into `data`.

    Raises:
        ValueError: it did not; or more than a million elements.

    """
    if len(data) <= _SMALL:
        return msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
        )
    count = _Count()
    return msgpack.unpackb(
        data,
        use_list=False,
        strict_map_key=False,
        unicode_errors="surrogateescape",
        list_hook=count.array,
        object_hook=count.mapping,
        max_array_len=_MOST_ELEMENTS,
        max_map_len=_MOST_ELEMENTS,
    )


class _Count:
    """Counts elements while they are built."""

    def __init__(self) -> None:
        self._elements = 0

    def array(self, items: object) -> object:
        return self._add(items, len(items))  # type: ignore[arg-type]

    def mapping(self, items: dict[object, object]) -> object:
        return self._add(items, 2 * len(items))

    def _add(self, items: object, more: int) -> object:
        self._elements += more
        if self._elements > _MOST_ELEMENTS:
            msg = f"more than {_MOST_ELEMENTS} elements in one message"
            raise ValueError(msg)
        return items


def make_plain(error: BaseException) -> None:
    """Put into `error`, and what it was raised for, what of them crosses by the rules.

    What does not is left: it arrives as its repr, with a note.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += (each.__cause__, each.__context__)
        try:
            each.args = tuple(map(_plain, each.args))
            for name, value in list(vars(each).items()):
                vars(each)[name] = _plain(value)
        except Exception:  # noqa: BLE001, S112 - its class has put code in the way
            continue


def _plain(value: object) -> object:
    try:
        return unpack(pack(value))
    except (TypeError, ValueError, OverflowError):
        return value
