"""Messages over a stream socket, as oslo.privsep has them.

Runs on both sides of a channel that a program makes itself; `PrivContext` has the
engine's.  A message is a pair of an identity and a value by oslo's rules.
"""

from __future__ import annotations

import enum
import itertools
import threading
from typing import TYPE_CHECKING, Any

import msgpack

from oslo_privsep import _values

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_CHUNK = 64 * 1024


class Message(enum.IntEnum):
    """What a message is."""

    PING = 1
    PONG = 2
    CALL = 3
    RET = 4
    ERR = 5
    LOG = 6


class PrivsepTimeout(Exception):
    """A call did not end in time; in the daemon it goes on, in its thread."""


class Serializer:
    """Writes values to a socket.

    Args:
        writesock: the socket.

    """

    def __init__(self, writesock: socket.socket) -> None:
        self.writesock = writesock

    def send(self, msg: Any) -> None:  # noqa: ANN401 - of any type that crosses
        """Write one value.

        Raises:
            TypeError, OverflowError, UnicodeEncodeError: it does not cross.
            OSError: as socket.sendall.

        """
        self.writesock.sendall(_values.pack(msg))

    def close(self) -> None:
        """Say that there will be no more."""
        import socket  # noqa: PLC0415 - for one constant

        try:
            self.writesock.shutdown(socket.SHUT_WR)
        except OSError:  # the other side was first
            pass


class Deserializer:
    """Reads values from a socket until it closes; an iterator.

    Args:
        readsock: the socket.

    """

    def __init__(self, readsock: socket.socket) -> None:
        self.readsock = readsock
        self._unpacker = msgpack.Unpacker(
            use_list=False, strict_map_key=False, unicode_errors="surrogateescape"
        )

    def __iter__(self) -> Deserializer:
        """Return itself."""
        return self

    def __next__(self) -> Any:  # noqa: ANN401 - of any type that crosses
        """Return the next value."""
        while True:
            try:
                return next(self._unpacker)
            except StopIteration:
                data = self.readsock.recv(_CHUNK)
                if not data:
                    raise
                self._unpacker.feed(data)


class Future:
    """A result that another thread will set.

    Args:
        lock: held by whoever asks for the result and by whoever sets it.
        timeout: seconds that `result` waits; None: for ever.

    """

    def __init__(
        self,
        lock: threading.Lock,  # pyright: ignore[reportGeneralTypeIssues]
        timeout: float | None = None,
    ) -> None:
        self._come = threading.Condition(lock)
        self._timeout = timeout
        self._done = False
        self._value: object = None
        self._error: BaseException | None = None

    def set_result(self, data: object) -> None:
        """Set the result; the lock is held."""
        self._value, self._done = data, True
        self._come.notify()

    def set_exception(self, exc: BaseException) -> None:
        """Set what `result` is to raise; the lock is held."""
        self._error, self._done = exc, True
        self._come.notify()

    def result(self) -> Any:  # noqa: ANN401 - as it was set
        """Return the result, or raise what was set; the lock is held.

        If none came in time, that is the message of a `PrivsepTimeout`.
        """
        if not self._come.wait_for(lambda: self._done, self._timeout):
            return (Message.ERR.value, f"{__name__}.{PrivsepTimeout.__name__}", "")
        if self._error is not None:
            raise self._error
        return self._value


class ClientChannel:
    """Sends messages, and waits for the reply to each; any thread may.

    Args:
        sock: connected to a `ServerChannel`.

    """

    def __init__(self, sock: socket.socket) -> None:
        self.writer = Serializer(sock)
        self.lock = threading.Lock()
        self.outstanding_msgs: dict[str, Future] = {}
        self._identities = map(str, itertools.count())
        self._reader = Deserializer(sock)
        self._ended = False
        self.reader_thread = threading.Thread(
            target=self._read, name="privsep_reader", daemon=True
        )
        self.reader_thread.start()

    def _read(self) -> None:
        try:
            for identity, message in self._reader:
                if identity is None:
                    self.out_of_band(message)
                    continue
                with self.lock:
                    future = self.outstanding_msgs.pop(identity, None)
                    if future is not None:
                        future.set_result(message)
        except OSError:  # the other side is gone
            pass
        finally:  # what is no message ends it, too
            with self.lock:
                self._ended = True
                for future in self.outstanding_msgs.values():
                    future.set_exception(_end())
                self.outstanding_msgs.clear()

    def out_of_band(self, msg: Any) -> None:  # noqa: ANN401 - of any type that crosses
        """Take a message that is no reply; for subclasses."""

    def send_recv(self, msg: Any, timeout: float | None = None) -> Any:  # noqa: ANN401
        """Send a message and return the reply.

        Args:
            msg: of any type that crosses.
            timeout: seconds, as of `Future`; None: no limit.

        Raises:
            OSError: the other side is gone.
            TypeError, OverflowError: the message does not cross.

        """
        with self.lock:
            if self._ended:
                raise _end()
            identity = next(self._identities)
            future = self.outstanding_msgs[identity] = Future(self.lock, timeout)
            try:
                self.writer.send((identity, msg))
                return future.result()
            finally:
                self.outstanding_msgs.pop(identity, None)

    def close(self) -> None:
        """Say that there will be no more, and wait for the other side's end."""
        self.writer.close()
        self.reader_thread.join()


def _end() -> OSError:
    return OSError("Premature eof waiting for privileged process")


class ServerChannel:
    """Yields ``(identity, message)``, and takes replies; any thread may send.

    Args:
        sock: connected to a `ClientChannel`.

    """

    def __init__(self, sock: socket.socket) -> None:
        self._lock = threading.Lock()
        self._reader = Deserializer(sock)
        self._writer = Serializer(sock)

    def __iter__(self) -> Iterator[Any]:
        """Yield what the client sends, until it closes."""
        return self._reader

    def send(self, msg: Any) -> None:  # noqa: ANN401 - of any type that crosses
        """Send a pair: the identity of what it answers, or None, and the message.

        Raises:
            TypeError, OverflowError: it does not cross.
            OSError: the client is gone.

        """
        with self._lock:
            self._writer.send(msg)
