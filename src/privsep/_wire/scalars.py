"""Dates, numbers, names and addresses of the standard library to bytes and back.

Runs in both processes, when the first such value is met: whoever sends one has its
module loaded, and who receives one loads that module then.  Which module that is,
is said by the table here, never by the wire; so a daemon whose functions take none
of these loads neither this nor any of them.

What is read may be hostile: it goes through the type's own constructor, and what
that refuses is `Malformed`.
"""

from __future__ import annotations

import struct
import sys

from privsep._wire.typed import NamedTuple

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    import datetime  # noqa: ICN001 - the module's name
    import uuid
    from collections.abc import Callable
    from typing import Any, TypeGuard

_DATE = struct.Struct("!HBB")
_TIME = struct.Struct("!BBBIB")  # hour, minute, second, microsecond, fold
_DELTA = struct.Struct("!iii")  # days, seconds, microseconds
_LONGEST_KEY = 100
_ZONES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_/")


class NotToBeWritten(TypeError):
    """A value of a known type that has no bytes; the message says what it holds."""


class _Row(NamedTuple):
    """How values of one type cross."""

    module: str
    name: str
    write: Callable[[Any], bytes]
    read: Callable[[Any, bytes], object]  #: of the class and the bytes


# -- text: what the type itself makes of its own text -----------------------------


def _write_text(value: object) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def _read_text(kind: Callable[[str], object], data: bytes) -> object:
    return kind(data.decode("utf-8", "surrogatepass"))


# -- dates and times --------------------------------------------------------------


def _write_date(value: datetime.date) -> bytes:
    return _DATE.pack(value.year, value.month, value.day)


def _read_date(kind: Callable[..., object], data: bytes) -> object:
    return kind(*_DATE.unpack(data))


def _write_time(value: datetime.time | datetime.datetime) -> bytes:
    parts = value.hour, value.minute, value.second, value.microsecond, value.fold
    return _TIME.pack(*parts) + _write_zone(value.tzinfo)


def _read_time(kind: Callable[..., object], data: bytes) -> object:
    *parts, fold = _TIME.unpack_from(data)
    return kind(*parts, _read_zone(data[_TIME.size :]), fold=fold)


def _write_datetime(value: datetime.datetime) -> bytes:
    return _write_date(value) + _write_time(value)


def _read_datetime(kind: Callable[..., object], data: bytes) -> object:
    *parts, fold = _TIME.unpack_from(data, _DATE.size)
    zone = _read_zone(data[_DATE.size + _TIME.size :])
    return kind(*_DATE.unpack_from(data), *parts, zone, fold=fold)


def _write_timedelta(value: datetime.timedelta) -> bytes:
    return _DELTA.pack(value.days, value.seconds, value.microseconds)


def _read_timedelta(kind: Callable[..., object], data: bytes) -> object:
    return kind(*_DELTA.unpack(data))


def _write_zone(zone: datetime.tzinfo | None) -> bytes:
    """Return nothing for none, a fixed offset, or the key of a zone's file."""
    if zone is None:
        return b""
    if type(zone) is sys.modules["datetime"].timezone:
        # What pickle would keep: the offset, and the name if it has one.
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        data = _write_timedelta(offset)
        return b"o" + data if not name else b"n" + data + _write_text(name[0])
    zoneinfo = sys.modules.get("zoneinfo")
    if zoneinfo is not None and type(zone) is zoneinfo.ZoneInfo:
        key: object = getattr(zone, "key", None)
        if not _is_key(key):
            msg = f"{zone!r}, which no file's name stands for"
            raise NotToBeWritten(msg)
        return b"z" + key.encode("ascii")
    msg = f"{type(zone).__module__}.{type(zone).__qualname__} as its time zone"
    raise NotToBeWritten(msg)


def _read_zone(data: bytes) -> datetime.tzinfo | None:
    if not data:
        return None
    how, data = data[:1], data[1:]
    if how == b"z":
        key = data.decode("ascii")
        if not _is_key(key):
            raise ValueError
        from zoneinfo import ZoneInfo  # noqa: PLC0415 - few daemons need it

        return ZoneInfo(key)
    import datetime  # noqa: ICN001, PLC0415 - it is loaded: one of it is being read

    if how == b"o":
        return datetime.timezone(datetime.timedelta(*_DELTA.unpack(data)))
    if how == b"n":
        offset = datetime.timedelta(*_DELTA.unpack_from(data))
        return datetime.timezone(
            offset, data[_DELTA.size :].decode("utf-8", "surrogatepass")
        )
    raise ValueError


def _is_key(key: object) -> TypeGuard[str]:
    """Tell whether `key` may name a zone: without a dot, it leaves no directory."""
    return (
        isinstance(key, str)
        and 0 < len(key) <= _LONGEST_KEY
        and _ZONES.issuperset(key)
        and not key.startswith("/")
    )


# -- others -----------------------------------------------------------------------


def _write_uuid(value: uuid.UUID) -> bytes:
    return value.bytes


def _read_uuid(kind: Callable[..., object], data: bytes) -> object:
    return kind(bytes=data)


# Numbers of MessagePack extensions, for good: both sides may be of two versions.
_ROWS = {
    48: _Row("datetime", "datetime", _write_datetime, _read_datetime),
    49: _Row("datetime", "date", _write_date, _read_date),
    50: _Row("datetime", "time", _write_time, _read_time),
    51: _Row("datetime", "timedelta", _write_timedelta, _read_timedelta),
    52: _Row("uuid", "UUID", _write_uuid, _read_uuid),
    53: _Row("decimal", "Decimal", _write_text, _read_text),
    54: _Row("pathlib", "PosixPath", _write_text, _read_text),
    55: _Row("pathlib", "PurePosixPath", _write_text, _read_text),
    56: _Row("ipaddress", "IPv4Address", _write_text, _read_text),
    57: _Row("ipaddress", "IPv6Address", _write_text, _read_text),
    58: _Row("ipaddress", "IPv4Network", _write_text, _read_text),
    59: _Row("ipaddress", "IPv6Network", _write_text, _read_text),
    60: _Row("ipaddress", "IPv4Interface", _write_text, _read_text),
    61: _Row("ipaddress", "IPv6Interface", _write_text, _read_text),
}


def writer_of(kind: type) -> tuple[int, Callable[[Any], bytes]] | None:
    """Return the number and the function that writes values of `kind`, if it is ours.

    The class is compared with the one that its module has, so no other of the same
    name is taken for it.
    """
    for number, row in _ROWS.items():
        module = sys.modules.get(row.module)
        if module is not None and getattr(module, row.name, None) is kind:
            return number, row.write
    return None


def read(number: int, data: bytes) -> object:
    """Return the value that was written as `data` under `number`.

    Raises:
        KeyError: no type has this number.
        ValueError: its type does not take the bytes, or cannot be loaded here.

    """
    row = _ROWS[number]
    try:
        kind = getattr(__import__(row.module), row.name)
        return row.read(kind, data)
    except Exception as error:  # noqa: BLE001 - ArithmeticError, OSError
        msg = f"{len(data)} bytes that are no {row.name}: {type(error).__name__}"
        raise ValueError(msg) from None
