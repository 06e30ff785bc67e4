"""The pipes of a command: what it is given, and what it has written until now.

Runs in the client, which reads them itself while the command runs: what passes there
never crosses the daemon.  Nothing here waits; who calls says when there is something.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 64 * 1024


class Exchange:
    """Pipes for standard input, output and error.

    Args:
        given: what the command can read; None: nothing, and no pipe.

    Attributes:
        theirs: the command's ends, to be closed here once it has them; None for an
            input that is none.
        readers: our ends, and what to call when one can be read.
        writers: our ends, and what to call when one can be written.

    What is called returns whether there may be more to do; `end` follows otherwise.

    Raises:
        OSError: as pipe(2).

    """

    def __init__(self, given: bytes | None) -> None:
        self.theirs: list[int | None] = []
        self.readers: dict[int, Callable[[], bool]] = {}
        self.writers: dict[int, Callable[[], bool]] = {}
        self._left = memoryview(given or b"")
        self._written: tuple[list[bytes], list[bytes]] = [], []
        try:
            self._open(given)
        except OSError:
            self.close()
            raise

    def _open(self, given: bytes | None) -> None:
        if given is None:
            self.theirs.append(None)
        else:
            reader, writer = os.pipe()
            self.theirs.append(reader)
            self.writers[writer] = partial(self._write, writer)
            os.set_blocking(writer, False)
        for pieces in self._written:
            reader, writer = os.pipe()
            self.theirs.append(writer)
            self.readers[reader] = partial(self._read, reader, pieces)

    def written(self) -> tuple[str, str]:
        """Return what has come from standard output, and from standard error."""
        output, errors = (os.fsdecode(b"".join(pieces)) for pieces in self._written)
        return output, errors

    @staticmethod
    def _read(reader: int, pieces: list[bytes]) -> bool:
        data = os.read(reader, _CHUNK)
        pieces.append(data)
        return bool(data)

    def _write(self, writer: int) -> bool:
        try:
            self._left = self._left[os.write(writer, self._left[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # it does not read on
            return False
        return bool(self._left)

    def end(self, descriptor: int) -> None:
        """Close one of our ends, if it is one."""
        for ends in (self.readers, self.writers):
            if ends.pop(descriptor, None) is not None:
                os.close(descriptor)

    def close_theirs(self) -> None:
        """Leave the command's ends to the command."""
        while self.theirs:
            end = self.theirs.pop()
            if end is not None:
                os.close(end)

    def close(self) -> None:
        """Close all that is open."""
        self.close_theirs()
        for descriptor in (*self.readers, *self.writers):
            self.end(descriptor)
