"""Sockets, files and bare descriptors as values: what crosses is the descriptor.

Runs in both processes.  The message holds the place of each descriptor among those
that are sent along (SCM_RIGHTS), and little more: what it is, the receiver finds out
by asking the kernel.  Both ends then have one open file description, so the offset
and the status flags are shared; whoever received a descriptor owns it.
"""

from __future__ import annotations

import fcntl
import io
import math
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TypeAlias

    _Buffered: TypeAlias = io.BufferedReader | io.BufferedWriter | io.BufferedRandom

MOST = 253  #: descriptors in one message, SCM_MAX_FD of unix(7)

#: extensions of MessagePack, as values.py has them
SOCKET, FILE, BARE = 32, 33, 34

_SOCKET = struct.Struct("!Hd")  #: place, timeout (NaN: none)
_FILE = struct.Struct("!HBBB")  #: place, layer, encoding, handling of its errors
_BARE = struct.Struct("!H")

_RAW, _BUFFERED, _TEXT = range(3)
_LAYERS: dict[type, int] = {
    io.FileIO: _RAW,
    io.BufferedReader: _BUFFERED,
    io.BufferedWriter: _BUFFERED,
    io.BufferedRandom: _BUFFERED,
    io.TextIOWrapper: _TEXT,
}
# From lists of our own: a codec that the wire named would be imported by its name.
_ENCODINGS = ("utf-8", "ascii", "iso8859-1", "utf-16", "utf-32")
_ERRORS = ("strict", "surrogateescape", "replace", "backslashreplace", "ignore")
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
# What was opened to append says so no longer, and the kernel still appends.
_MODES = {os.O_RDONLY: "r", os.O_WRONLY: "w", os.O_RDWR: "r+"}
_BUFFERS: dict[str, Callable[[io.FileIO], _Buffered]] = {
    "r": io.BufferedReader,
    "w": io.BufferedWriter,
    "r+": io.BufferedRandom,
}


class Fd:
    """A bare descriptor as an argument or a result: a pidfd, a namespace, O_PATH.

    It owns the descriptor, as ``socket.socket(fileno=)`` does: when it is closed or
    no longer used, so is the descriptor.  Use `detach` to keep that.

    Args:
        descriptor: an open descriptor of this process.

    Raises:
        TypeError: it is no int.
        ValueError: it is negative.

    """

    __slots__ = ("__weakref__", "_descriptor")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = -1
        if type(descriptor) is not int:
            msg = f"Fd takes a descriptor, an int, and not {descriptor!r}"
            raise TypeError(msg)
        if descriptor < 0:
            msg = f"{descriptor} is no descriptor"
            raise ValueError(msg)
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor.

        Raises:
            ValueError: it is closed or detached.

        """
        if self._descriptor < 0:
            raise ValueError("the descriptor is closed or detached")
        return self._descriptor

    def detach(self) -> int:
        """Return the descriptor, which the caller closes from now on.

        Raises:
            ValueError: it is closed or detached.

        """
        descriptor = self.fileno()
        self._descriptor = -1
        return descriptor

    def close(self) -> None:
        """Close the descriptor, unless it is closed or detached."""
        if self._descriptor >= 0:
            os.close(self.detach())

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the descriptor."""
        self.close()

    def __del__(self) -> None:
        """Close the descriptor."""
        self.close()

    def __repr__(self) -> str:
        """Return the number."""
        return f"privsep.Fd({self._descriptor})"


class Unsendable(ValueError):
    """A file that cannot cross; the message says what it is."""


def lower(value: object, place: int) -> tuple[int, bytes] | None:
    """Return code and payload of the extension for `value`, the descriptor at `place`.

    None if it is no open file.  What a file has buffered is written first, and its
    offset is set to where its reader is.

    Raises:
        Unsendable: it is closed, or has an encoding that does not cross.
        OSError: its buffer could not be written, or where it reads not be found.

    """
    kind = type(value)
    if kind is Fd:
        _fileno(value)
        return BARE, _BARE.pack(place)
    if kind is socket.socket:
        _fileno(value)
        timeout = value.gettimeout()  # type: ignore[attr-defined]
        return SOCKET, _SOCKET.pack(place, math.nan if timeout is None else timeout)
    layer = _LAYERS.get(kind)
    if layer is None:
        return None
    _fileno(value)
    encoding = errors = 0
    if isinstance(value, io.TextIOWrapper):
        encoding = _known(value.encoding, _ENCODINGS, "encoding")
        errors = _known(value.errors or "strict", _ERRORS, "errors")
    _settle(value)  # type: ignore[arg-type]
    return FILE, _FILE.pack(place, layer, encoding, errors)


def _fileno(value: object) -> int:
    try:
        descriptor: int = value.fileno()  # type: ignore[attr-defined]
    except ValueError:
        descriptor = -1
    if descriptor < 0:
        raise Unsendable(f"closed {type(value).__name__}")
    return descriptor


def _known(name: str, names: tuple[str, ...], what: str) -> int:
    import codecs  # noqa: PLC0415 - for text files only

    found = codecs.lookup(name).name if what == "encoding" else name
    if found not in names:
        msg = f"text file with {what} {name!r} (it may be {', '.join(names)})"
        raise Unsendable(msg)
    return names.index(found)


def _settle(file: io.IOBase) -> None:
    """Write what is buffered; put the offset where the reader is, not read ahead."""
    if file.writable():
        file.flush()
    if file.readable() and file.seekable() and not isinstance(file, io.FileIO):
        at = file.tell()
        file.seek(0, os.SEEK_END)  # no other seek throws away what was read ahead
        file.seek(at)


def claim(code: int, payload: bytes, descriptors: list[int]) -> object:
    """Return the open file that an extension stands for; it owns its descriptor.

    Args:
        code: of the extension.
        payload: of the extension.
        descriptors: what came with the message; what is claimed becomes -1.

    Raises:
        ValueError, struct.error: no such thing, or no such descriptor.
        OSError: the descriptor is not what it should be.

    """
    if code == BARE:
        (place,) = _BARE.unpack(payload)
        return Fd(_take(descriptors, place))
    if code == SOCKET:
        place, timeout = _SOCKET.unpack(payload)
        return _socket(_take(descriptors, place), timeout)
    place, layer, encoding, errors = _FILE.unpack(payload)
    return _file(_take(descriptors, place), layer, encoding, errors)


def _take(descriptors: list[int], place: int) -> int:
    if place >= len(descriptors) or descriptors[place] < 0:
        msg = f"a descriptor {place} that did not come, or is used twice"
        raise ValueError(msg)
    descriptor, descriptors[place] = descriptors[place], -1
    return descriptor


def _socket(descriptor: int, timeout: float) -> socket.socket:
    with Fd(descriptor) as owner:
        sock = socket.socket(fileno=descriptor)
        owner.detach()
    sock.settimeout(None if math.isnan(timeout) else timeout)
    return sock


def _file(descriptor: int, layer: int, encoding: int, errors: int) -> object:
    """Open it anew as the file that it was, in the mode that the kernel says.

    Not by io.open(): where that fails it has closed the descriptor, or has not.
    """
    with Fd(descriptor) as owner:
        mode = _MODES[fcntl.fcntl(descriptor, fcntl.F_GETFL) & _ACCESS]
        raw = io.FileIO(descriptor, mode)
        owner.detach()
    try:
        if layer == _RAW:
            return raw
        buffered = _BUFFERS[mode](raw)
        if layer == _TEXT:
            return _text(buffered, mode, _ENCODINGS[encoding], _ERRORS[errors])
    except BaseException:
        raw.close()
        raise
    return buffered


def _text(
    buffered: _Buffered, mode: str, encoding: str, errors: str
) -> io.TextIOWrapper:
    """Return the text file that open() would have made of `buffered`."""
    text = io.TextIOWrapper(
        buffered, encoding, errors, line_buffering=buffered.isatty()
    )
    text.mode = mode  # type: ignore[misc]
    return text
