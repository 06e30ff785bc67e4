"""What supervisor and workers tell the audit's writer, and what it answers.

Runs in all of them.  Each message is one datagram.
"""

from __future__ import annotations

import os
import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

LARGEST = 1024
NAME_SIZE = 200
TEXT_SIZE = 200

# From a worker: kind, nanoseconds, outcome or size of the name; then name and text, or
# the exception's class, before which END_OF_STREAM has a COUNT of items.
FROM_WORKER = struct.Struct("=BQB")
BEGIN, END, REFUSED, END_OF_STREAM = 1, 2, 3, 4
RETURNED, RAISED, NOT_RUN, CLOSED = 0, 1, 2, 3

# To a worker that waits: the BEGIN's nanoseconds; then why it is not recorded.
ANSWER = struct.Struct("=Q")

# From the supervisor: kind, slot; then what the kind says.
FROM_SUPERVISOR = struct.Struct("=BH")
STARTED: Final = 1  #: WORKER, with the writer's end of the worker's socket
ENDED: Final = 2  #: FATE
OVERRAN: Final = 3
REOPEN: Final = 4
CLOSE: Final = 5  #: COUNT of records that could not be sent
WORKER = struct.Struct("=IIII")  # its pid; its client's pid, uid and gid
FATE = struct.Struct("=BiQ")  # how it ended, its wait status, a COUNT
BY_ITSELF, AT_DEADLINE, AS_ASKED = 0, 1, 2
COUNT = struct.Struct("=Q")

# From the supervisor, on the line of refusals: whom it refused, and then why.
PEER = struct.Struct("=III")  # a client's pid, uid and gid

# To the supervisor, once: READY, or why the audit cannot start.
READY = b"\0"


def complain(message: str) -> None:
    """Write a line to stderr, unless nobody reads it there."""
    try:
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"privsep: {message}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass
