"""Every error that privsep raises, what it means and what to do about it.

Runs on both sides: the daemon sends its own errors by class name, the client
raises them.  Each class is also the builtin that its cause would have been in
a local call, so that code which never heard of privsep still catches it.
"""

from __future__ import annotations


class PrivsepError(Exception):
    """Base of all errors that privsep itself raises."""


class StartError(PrivsepError):
    """The daemon could not be started; the message holds its own words.

    Nothing ran with privileges.  Mend what the message names and call again:
    the next call tries to start the daemon once more.
    """


class CallTimeout(PrivsepError, TimeoutError):
    """The call did not end before its deadline.

    With process workers the worker and its process group were killed, unless
    the message says otherwise; what the function had done until then stays
    done.  With thread workers the function goes on running; a coroutine is
    cancelled.
    """


class WorkerDied(PrivsepError):
    """The worker ended in the middle of the call: a crash, a kill, ``os._exit``.

    The function may have run in part.  The daemon and other calls go on.

    Attributes:
        signal: number of the signal that ended the worker, or None.
        status: exit status of the worker, or None if a signal ended it or if
            its status could not be had.

    """

    signal: int | None = None
    status: int | None = None


class DaemonGone(PrivsepError, ConnectionError):
    """The daemon ended while the call was running, or it cannot be started again.

    The function may have run in part; privsep never sends a call twice.  A
    daemon that was not started with ``fork`` is started again by the next call.
    """


class Refused(PrivsepError, PermissionError):
    """The daemon did not run the call.

    No such entrypoint, or an argument that is not as annotated: the message says
    which, what was expected and, but for a `Secret`, what came.  Or too many calls
    wait, the system has no process or thread for a worker, or the audit cannot
    record the call: these may be made again.
    """


class Unserializable(PrivsepError, TypeError):
    """A value of a type that does not cross between client and daemon."""


class MessageTooLarge(PrivsepError, ValueError):
    """The arguments or the result exceed a limit: bytes, elements or depth."""
