"""The audit's JSON-lines file, and the head file beside it.

Runs in the audit's writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time

from privsep._daemon.audit.messages import complain
from privsep.audit import HEAD_SUFFIX, NO_HEAD, format_head, parse_head

_LAST_LINES = 64 * 1024
_LOCK_WITHIN = 3.0  # seconds, in which a daemon that is just ending lets go of it
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class File:
    """The file, which one daemon at a time has, by flock(2).

    Raises:
        OSError: a path cannot be opened, or is not for the writer alone to write.

    """

    def __init__(self, path: str) -> None:
        self.trouble = ""  #: why it took less than it was given
        self.is_new = ""  #: why what is written next begins a part of the file
        self._path = path
        self._descriptor = _open(path, os.O_APPEND)
        self._lock(time.monotonic() + _LOCK_WITHIN)
        self._head = _open(path + HEAD_SUFFIX)
        self._has_head = True
        self._size = os.fstat(self._descriptor).st_size
        self._reopen = False
        self._said = ""

    def restore(self) -> tuple[int, str, int]:
        """Return number and hash of the last record, and how many are missing.

        That is the file's last record, or what the head file knows beyond it: the
        file may have been rotated, or cut.
        """
        head = parse_head(os.pread(self._head, 1024, 0)) or (0, NO_HEAD)
        last = self._last_record()
        if last is None:
            return head[0], head[1], 0
        if last[0] < head[0]:
            return head[0], head[1], head[0] - last[0]
        return last[0], last[1], 0

    def _last_record(self) -> tuple[int, str] | None:
        begin = max(0, self._size - _LAST_LINES)
        data = os.pread(self._descriptor, _LAST_LINES, begin)
        if data and not data.endswith(b"\n"):  # as a crash leaves it; it stays
            os.write(self._descriptor, b"\n")
            self._size += 1
        for line in reversed(data.split(b"\n")):
            try:
                record = json.loads(line)
                return int(record["seq"]), str(record["hash"])
            except (ValueError, TypeError, KeyError):
                continue
        return None

    def reopen(self) -> None:
        """Open the path anew before the next line."""
        self._reopen = True

    def prepare(self) -> None:
        """Look whether the file is still the one that was written last."""
        try:
            self._prepare()
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{error}"
            if self.trouble != self._said:
                complain(f"the audit's file cannot be opened anew: {error}")
        self._said = self.trouble

    def _prepare(self) -> None:
        if self._descriptor >= 0:
            status = os.fstat(self._descriptor)
            if not status.st_nlink:
                self._replace("deleted")
            elif self._reopen:
                self._replace("reopened")
            elif status.st_size != self._size:
                self._size = status.st_size
                self.is_new = "changed by another"
        else:
            self._replace("reopened")
        self._reopen = False

    def _replace(self, why: str) -> None:
        """Open the path; if that fails, what was open stays until it is deleted."""
        if why == "deleted":
            self._close()
        descriptor = _open(self._path, os.O_APPEND)
        if self._descriptor >= 0 and os.path.sameopenfile(descriptor, self._descriptor):
            os.close(descriptor)
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = _open(self._path + HEAD_SUFFIX)
        except OSError:
            os.close(descriptor)
            raise
        self._close()
        self._descriptor, self._head = descriptor, head
        self._size = os.fstat(descriptor).st_size
        self.is_new = why

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            os.close(self._head)
            self._descriptor = -1

    def take(self, lines: list[bytes]) -> int:
        """Write the lines at once, as many as there is room for; return how many.

        Of one that there is no room for, no part stays.
        """
        if self._descriptor < 0:
            return 0
        data = b"".join(lines)
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            self.trouble = f"{error}"
            return 0
        whole = data.rfind(b"\n", 0, written) + 1
        self._size += whole
        self.trouble = ""
        if written < len(data):
            self.trouble = "there is no room for all of it"
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError:  # it stays, as after a crash, and `verify` shows it
                pass
        return data.count(b"\n", 0, whole)

    def keep_head(self, number: int, head: str) -> None:
        """Write the head file, after the records."""
        if self._descriptor < 0:
            return
        try:
            os.pwrite(self._head, format_head(number, head), 0)
            self._has_head = True
        except OSError as error:
            if self._has_head:
                complain(f"the audit's {self._path}{HEAD_SUFFIX}: {error}")
            self._has_head = False

    def _lock(self, until: float) -> None:
        """Lock the file; a daemon that is just ending may have it still."""
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.01)
                    continue
                msg = f"{self._path} is written by another daemon: give each its own"
                raise OSError(msg) from None
            return


def _open(path: str, append: int = 0) -> int:
    """Open or make a file that only we, or root, may write."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags | append, 0o600)
    status = os.fstat(descriptor)
    refusal = ""
    if not stat.S_ISREG(status.st_mode):
        refusal = "no regular file"
    elif status.st_uid not in (0, os.geteuid()):
        refusal = f"uid {status.st_uid}'s: it must be root's or uid {os.geteuid()}'s"
    elif status.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        refusal = f"for others to write (mode {mode:04o}): chmod go-w"
    if refusal:
        os.close(descriptor)
        msg = f"{path} is {refusal}"
        raise OSError(msg)
    return descriptor
