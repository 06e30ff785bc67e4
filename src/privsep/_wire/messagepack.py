"""The msgpack library, in an interpreter that should not load what that would.

Runs in both processes.  msgpack imports datetime for timestamps, of which none crosses
here, and collections for one class.  Both are large modules of Python code: more than
half of what loading msgpack costs, and a tenth of a start by sudo.  So msgpack finds
stand-ins while it is loaded, in a daemon that has neither yet; who imports them later
gets the modules themselves.  The classes of datetime are the very same: that module
takes those in C at its end.
"""

from __future__ import annotations

import sys

from privsep._wire.typed import NamedTuple

_STAND_INS = ("collections", "datetime")


def _namedtuple(name: str, fields: str) -> type:
    """Do as `collections.namedtuple`, as far as msgpack asks."""
    names = fields.split()
    body = {
        "__annotations__": dict.fromkeys(names),
        "__match_args__": (*names,),
        "__slots__": (),
        "_asdict": lambda self: dict(zip(names, self, strict=True)),
        "_field_defaults": {},
        "_make": classmethod(tuple.__new__),
    }
    return type(name, (NamedTuple,), body)


def _import_with_stand_ins() -> None:
    collections = type(sys)("collections")
    vars(collections)["namedtuple"] = _namedtuple
    try:
        datetime = __import__("_datetime")
        sys.modules.update(collections=collections, datetime=datetime)
        __import__("msgpack")
    except (AttributeError, ImportError):  # other versions, which ask for more
        pass
    finally:
        for name in _STAND_INS:
            sys.modules.pop(name, None)


# Where there may be threads, another could get what stands in.
if sys.modules.keys().isdisjoint((*_STAND_INS, "msgpack", "threading")):
    _import_with_stand_ins()

from msgpack import ExtType, Packer, StackError, unpackb  # noqa: E402 - see above

__all__ = ["ExtType", "Packer", "StackError", "unpackb"]
