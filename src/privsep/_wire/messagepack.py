"""The msgpack library, in an interpreter that should not load what that would.

Runs in both processes.  msgpack has timestamps, of which none crosses here, and so it
imports datetime.  That is, before Python 3.12, a module of Python code whose classes
the ones in C replace at its end.  A daemon gets these at once, and who imports datetime
later gets the whole module, with the same classes in it.
"""

from __future__ import annotations

import sys


def _import_without_datetime() -> None:
    if "datetime" in sys.modules:
        return
    sys.modules["datetime"] = __import__("_datetime")
    try:
        __import__("msgpack")
    finally:
        del sys.modules["datetime"]


_import_without_datetime()

from msgpack import ExtType, Packer, StackError, unpackb  # noqa: E402 - as said above

__all__ = ["ExtType", "Packer", "StackError", "unpackb"]
