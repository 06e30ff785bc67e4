"""Forked children for scripts: what they return, and when they end."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def fork(function: Callable[[], object]) -> int:
    """Return the pid of a fork that runs `function` and ends: well, or with 1."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:  # noqa: BLE001 - none may reach the test's own code
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


class Child:
    """A fork of this process that runs `function` and ends."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._reader, writer = os.pipe()

        def run() -> None:
            os.close(self._reader)
            os.write(writer, str(function()).encode())

        self.pid = fork(run)
        os.close(writer)

    def result(self) -> str:
        """Wait for its end and return, as text, what the function returned."""
        with open(self._reader) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status:
            raise RuntimeError(f"the child ended with {status}")
        return text


def in_child(function: Callable[[], object]) -> str:
    """Return what `function` returns in a fork of this process, as text."""
    return Child(function).result()
