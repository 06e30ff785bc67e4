"""Commands by way of rootwrap's daemon, from a process without privileges.

Runs in the client.  The daemon is started by the first command, and again when it has
gone; a command of which the daemon may have seen anything is never sent twice.
"""

from __future__ import annotations

import asyncio
import math
import os
import selectors
import shlex
import weakref
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from privsep import errors
from privsep._client import forking
from privsep._client.client import new_client
from privsep._client.pending import NotStarted
from privsep._client.readiness import wait_until
from privsep._start.handshake import wait_until_ready
from privsep._start.process import spawn
from privsep._wire.frames import call_head
from privsep._wire.open_files import Fd
from privsep.context import MAX_WORKERS, Context, Entry, StartOptions
from privsep.rootwrap.exchange import Exchange
from privsep.rootwrap.running import Process
from privsep.rootwrap.service import MAX_MESSAGE, Service

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Protocol, Self

    from privsep._start.process import Launched

    class _HasFileno(Protocol):
        def fileno(self) -> int: ...

    Word = str | bytes | os.PathLike[str] | os.PathLike[bytes]
    Stream = int | _HasFileno

#: epoll(7) costs more to set up than poll(2); eventlet has neither
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
_SHOWN = 300  # characters of a command in a message
_START_WITHIN = 60.0  # seconds: sudo may ask a server
_GRACE = 10.0  # seconds by which the engine's deadline is later: see architecture.md
_NAME = f"{Service.__module__}.{Service.run.__qualname__}"
_RUN = Entry(
    "privsep.rootwrap.Client.execute",
    _NAME.encode(),
    Service.run,
    math.inf,
    False,  # noqa: FBT003 - detach: it leaves nothing behind in the worker's group
    call_head(_NAME.encode()),
)


class Completed(NamedTuple):
    """How a command ended, and what it wrote (bytes that are no text: surrogates)."""

    returncode: int
    stdout: str
    stderr: str


class _Daemon(Context):
    """The context that a command serves."""

    start_options = StartOptions("sudo")  # or whatever the command begins with

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(
            "rootwrap",
            capabilities=[],
            timeout=None,
            workers=MAX_WORKERS,
            max_message=MAX_MESSAGE,
        )
        self._command = tuple(command)

    def launch(self, options: StartOptions) -> tuple[Launched, str]:
        """Start it; see `Context.launch`."""
        what = f"{shlex.join(self._command)} became no daemon"
        try:
            launched = spawn(self._command, os.environ)
        except OSError as error:
            msg = f"{what}: {error}"
            raise errors.StartError(msg) from error
        _, launched = wait_until_ready(launched, what, "", _START_WITHIN)
        return launched, options.method


class Client:
    """Runs commands by way of a daemon, which it starts.  Any thread may use it.

    Args:
        command: what starts the daemon, as
            ``["sudo", "privsep-rootwrap-daemon", "/etc/nova/rootwrap.conf"]``.

    Raises:
        ValueError: it is no sequence of words, or empty.

    """

    def __init__(self, command: Sequence[str]) -> None:
        if isinstance(command, str) or not command:
            msg = f"command is {command!r}; it must be a sequence of words"
            raise ValueError(msg)
        self._client = new_client(_Daemon(command))
        self._finalizer = weakref.finalize(self, self._client.stop, 0)
        self._finalizer.atexit = False  # the daemon sees the end of this process

    def execute(
        self,
        command: Sequence[Word],
        stdin: str | bytes | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run a command, and wait until it has ended and its output is closed.

        Args:
            command: its words.
            stdin: what it can read.
            timeout: seconds after which its process group is killed, the start of the
                daemon not counted; None: never.

        Returns:
            What it ended with, as `Process.returncode` has it, and what it wrote.

        Raises:
            CallTimeout: it did not end in time, and was killed.
            StartError: the daemon could not be started; the message has its words.
            DaemonGone, WorkerDied: the daemon ended meanwhile; the command may go on.
            MessageTooLarge: the words are more than 8 MiB.
            Refused: too many commands of this user wait.

        """
        words, given = _words(command), _given(stdin)
        self._client.ensure_started()
        deadline = _deadline(timeout)
        while True:
            process, exchange = self._begin_exchange(words, given, deadline)
            try:
                if _move(process, exchange, deadline):
                    return Completed(process.finish(), *exchange.written())
                process.kill_group_and_wait()
            except NotStarted:
                continue
            except BaseException:
                process.kill_group()
                raise
            finally:
                exchange.close()
            raise _late(words, timeout)

    async def aexecute(
        self,
        command: Sequence[Word],
        stdin: str | bytes | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as of execute
    ) -> Completed:
        """Run a command as `execute` does, and let the event loop run meanwhile.

        If the task is cancelled, the command's process group is killed.
        """
        words, given = _words(command), _given(stdin)
        if not self._client.is_started():
            await asyncio.to_thread(self._client.ensure_started)
        deadline = _deadline(timeout)
        while True:
            process, exchange = await self._begin_in_thread(words, given, deadline)
            try:
                async with asyncio.timeout(timeout and deadline - monotonic()):
                    await _move_in_loop(process, exchange)
                return Completed(process.finish(), *exchange.written())
            except NotStarted:
                continue
            except TimeoutError:
                process.kill_group()
                raise _late(words, timeout) from None
            except BaseException:
                process.kill_group()
                raise
            finally:
                exchange.close()

    def popen(
        self,
        command: Sequence[Word],
        *,
        stdin: Stream | None = None,
        stdout: Stream | None = None,
        stderr: Stream | None = None,
    ) -> Process:
        """Start a command, and return when it has started, or will not.

        Args:
            command: its words.
            stdin: its standard input: a descriptor, or what has one; None: this
                process's own.
            stdout: its standard output, likewise.
            stderr: its standard error, likewise.

        Raises:
            OSError, ValueError: one of them is closed.
            StartError, DaemonGone, WorkerDied, Refused: as `execute`.

        """
        words = _words(command)
        streams = [
            number if stream is None else _fileno(stream)
            for number, stream in enumerate((stdin, stdout, stderr))
        ]
        while True:
            line, workers_line = forking.socket_pair()
            with line, workers_line:
                started = workers_line.fileno()
                process = self._begin(words, [*streams, started], math.inf)
                forking.close(workers_line)
                if _has_started(line):
                    return process
            try:
                process.finish()
            except NotStarted:
                continue
            return process

    def close(self) -> None:
        """Let go of the daemon, and wait until it has ended, ten seconds at most.

        Commands that run go on, and the daemon ends with the last of them.  The next
        command starts another.
        """
        self._client.stop()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of the daemon."""
        self.close()

    def _begin(
        self, words: tuple[bytes, ...], streams: Sequence[int | None], deadline: float
    ) -> Process:
        """Hand a command to a worker.

        Args:
            words: the command.
            streams: its standard input, output and error, and where the worker is to
                say that it has started.
            deadline: on the monotonic clock.

        """
        lent = [None if each is None else Fd(each) for each in streams]
        try:
            with Fd(os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as here:
                arguments = ([*words], here, *lent)
                call = self._client.begin(_RUN, arguments, deadline + _GRACE)
        finally:
            for each in lent:
                if each is not None:
                    each.detach()
        return Process(words, call)

    def _begin_exchange(
        self, words: tuple[bytes, ...], given: bytes | None, deadline: float
    ) -> tuple[Process, Exchange]:
        """Hand a command to a worker, with pipes."""
        exchange = Exchange(given)
        try:
            process = self._begin(words, [*exchange.theirs, None], deadline)
        except BaseException:
            exchange.close()
            raise
        exchange.close_theirs()
        return process, exchange

    async def _begin_in_thread(
        self, words: tuple[bytes, ...], given: bytes | None, deadline: float
    ) -> tuple[Process, Exchange]:
        """Do so in a thread: the daemon may have to be started, or be waited for."""
        # Not the task of asyncio.to_thread(), whose result a loop that ends loses.
        begun: Future[tuple[Process, Exchange]] = Future()
        begun.set_running_or_notify_cancel()

        def begin() -> None:
            try:
                begun.set_result(self._begin_exchange(words, given, deadline))
            except BaseException as error:  # noqa: BLE001 - it is the awaiter's
                begun.set_exception(error)

        asyncio.get_running_loop().run_in_executor(None, begin)
        try:
            return await asyncio.wrap_future(begun)
        except asyncio.CancelledError:
            begun.add_done_callback(_let_go)
            raise


def _let_go(begun: Future[tuple[Process, Exchange]]) -> None:
    """End what nobody waits for."""
    if begun.exception() is None:
        process, exchange = begun.result()
        process.kill_group()
        exchange.close()


def _has_started(line: socket.socket) -> bool:
    """Wait until a command is executed; return False if it will not.

    The worker says that there is a child.  The end comes when execve has closed the
    child's copy.
    """
    try:
        return bool(line.recv(1)) and not line.recv(1)
    except ConnectionError:
        return False


def _move(process: Process, exchange: Exchange, deadline: float) -> bool:
    """Move what comes and goes until the end; return False if that is not in time."""
    with _Selector() as selector:
        for descriptor, action in exchange.readers.items():
            selector.register(descriptor, selectors.EVENT_READ, action)
        for descriptor, action in exchange.writers.items():
            selector.register(descriptor, selectors.EVENT_WRITE, action)
        selector.register(process, selectors.EVENT_READ, process.take_end)
        while selector.get_map():
            ready = wait_until(selector, deadline)
            if not ready:
                return False
            for key, _ in ready:
                if not key.data():
                    selector.unregister(key.fd)
                    exchange.end(key.fd)
    return True


async def _move_in_loop(process: Process, exchange: Exchange) -> None:
    """Move what comes and goes until the end."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    todo: dict[int, Callable[[int], object]] = {}

    def step(descriptor: int, action: Callable[[], bool]) -> None:
        try:
            if action():
                return
        except BaseException as error:  # noqa: BLE001 - it is the awaiter's
            if not ended.done():
                ended.set_exception(error)
            return
        todo.pop(descriptor)(descriptor)
        exchange.end(descriptor)
        if not todo and not ended.done():
            ended.set_result(None)

    readers = {**exchange.readers, process.fileno(): process.take_end}
    for descriptor, action in readers.items():
        todo[descriptor] = loop.remove_reader
        loop.add_reader(descriptor, step, descriptor, action)
    for descriptor, action in exchange.writers.items():
        todo[descriptor] = loop.remove_writer
        loop.add_writer(descriptor, step, descriptor, action)
    try:
        await ended
    finally:
        for descriptor, remove in todo.items():
            remove(descriptor)


def _words(command: Sequence[Word]) -> tuple[bytes, ...]:
    if isinstance(command, str | bytes):
        msg = f"command is {command!r}; it must be a sequence of words"
        raise ValueError(msg)  # noqa: TRY004 - as with Context
    return tuple(map(os.fsencode, command))


def _given(stdin: str | bytes | None) -> bytes | None:
    return None if stdin is None else os.fsencode(stdin)


def _fileno(stream: Stream) -> int:
    """Return the descriptor of a stream, which is open.

    Raises:
        OSError: it is closed.

    """
    number = stream if isinstance(stream, int) else stream.fileno()
    os.fstat(number)
    return number


def _deadline(timeout: float | None) -> float:
    return math.inf if timeout is None else monotonic() + timeout


def _late(words: tuple[bytes, ...], timeout: float | None) -> errors.CallTimeout:
    command = " ".join(map(os.fsdecode, words))
    return errors.CallTimeout(
        f"{command[:_SHOWN]!r} did not end in {timeout:g} s; it was killed"
    )
