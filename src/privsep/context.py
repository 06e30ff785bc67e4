"""`Context` and its entrypoints: what a user declares.

Runs on both sides: the service and the daemon import the same module, and the
same declaration is a stub in one and the function itself in the other.
"""

from __future__ import annotations

import sys

from privsep import errors
from privsep._lockdown import capability_names
from privsep._wire.frames import FOREVER, call_head
from privsep._wire.typed import NamedTuple, overload

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from struct import Struct
    from types import TracebackType
    from typing import Any, Final, Literal, ParamSpec, Self, TypeVar

    from privsep._boundary import parameters
    from privsep._client.client import Client
    from privsep._daemon.serve import Run
    from privsep._start.process import Launched, Reached
    from privsep.audit import Audit
    from privsep.sandbox import Sandbox
    from privsep.status import DaemonStatus

    P = ParamSpec("P")
    R = TypeVar("R")
    T = TypeVar("T")

MAX_MESSAGE = 256 * 1024 * 1024
MEMORY = 4 * 1024 * 1024 * 1024
MAX_WORKERS = 1024

NAMESPACES = ("net", "mount", "pid", "uts", "ipc")

#: what a function is, by the flag of its code: PLAIN is none of the others
PLAIN, GENERATOR, COROUTINE, ASYNC_GENERATOR = 0, 0x20, 0x80, 0x200
_SHAPES = GENERATOR | COROUTINE | ASYNC_GENERATOR
WINDOW = 16
MAX_WINDOW = 1024


class StartOptions(NamedTuple):
    """How to start a daemon; see `Context.start`."""

    method: str = "auto"
    helper: tuple[str, ...] = ("sudo", "-n")
    namespaces: tuple[str, ...] = NAMESPACES
    path: str | None = None
    deadline: float = 10.0


class _Unset:
    """The type of `_UNSET`: not given, where None has a meaning."""


_UNSET: Final = _Unset()


class Entry(NamedTuple):
    """One row of a context's table."""

    name: str  #: module and qualified name of the function
    wire_name: bytes
    function: Callable[..., object]
    limit: float  #: its deadline, seconds; inf: none
    detach: bool
    head: Struct  #: the layout of a CALL before its arguments
    #: judges arguments, in the daemon; None: there is nothing to judge
    check: parameters.Checker | None = None
    shape: int = PLAIN
    item_limit: float = FOREVER  #: the deadline of each item, seconds
    window: int = 0  #: how many items the worker may be ahead
    #: in the daemon: how it runs, if it is no plain function
    run: Run | None = None
    #: in the daemon, if it is no plain function: item and result as plain data
    lower: parameters.Lowering = (None, None)
    #: its one argument, and its result, are bytes that cross as they are
    packed: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the function yields items."""
        return self.shape in (GENERATOR, ASYNC_GENERATOR)

    @property
    def is_asynchronous(self) -> bool:
        """Whether the function runs in an event loop."""
        return self.shape in (COROUTINE, ASYNC_GENERATOR)


def status_entry(function: Callable[[], object]) -> Entry:
    """Return the row by which `Context.status` asks the daemon."""
    name = b"privsep.status"
    return Entry(name.decode(), name, function, 10.0, False, call_head(name))  # noqa: FBT003


class _Process:
    """Which context this process serves, if it is a daemon."""

    serving: Context | None = None
    #: it imports what its context needs; whatever started a daemon then would have
    #: that daemon import the same and start another, without end
    loading = False


class Context:
    """A named set of privileges and the functions that may use them.

    Args:
        name: names the context in messages, logs and configuration.
        capabilities: the capabilities that the daemon keeps, by name or number
            (capabilities(7)); ``[]`` keeps none.
        user: whom the daemon runs as, name or uid; default: as it is started.
        group: its group, name or gid; default: the user's.
        prefix: entrypoints must stand in this module or below; default: the
            module that makes the context.
        modules: what the daemon imports before it drops privileges; default:
            the module that makes the context.
        timeout: deadline of a call in seconds; None: no deadline.
        isolation: "process": a worker is a process, which is killed when a call
            overruns; "thread": a thread of the daemon, so calls share state, and
            one that overruns goes on running (a coroutine is cancelled).
        workers: how many calls run at once; further callers wait in turn.
        max_message: the most bytes of one call's arguments or result.
        memory: bytes of address space that a process worker may take, beyond what
            the daemon has when it forks it (setrlimit(2), RLIMIT_AS, also of
            programs that it runs); with threads, the whole daemon; None: no limit.
        environment: names of variables that the daemon keeps from the process
            that starts it, beside LANG, LANGUAGE, LC_* and TZ.
        sandbox: what the daemon may touch; None: no more limits than its
            capabilities and its user have.
        audit: where every call and every refusal is recorded; None: nowhere.
        validate: what the daemon does with arguments before a function runs.
            "strict": those that are not of the annotated type are refused;
            "convert": they are converted if that can be (text to numbers, dates,
            paths, ...; a list to a tuple); "off": annotations are not looked at.

    Raises:
        ValueError: an argument is out of its range, or no such capability.

    """

    def __init__(
        self,
        name: str,
        *,
        capabilities: Iterable[str | int],
        user: str | int | None = None,
        group: str | int | None = None,
        prefix: str | None = None,
        modules: Iterable[str] | None = None,
        timeout: float | None = 60.0,
        isolation: Literal["process", "thread"] = "process",
        workers: int = 4,
        max_message: int = MAX_MESSAGE,
        memory: int | None = MEMORY,
        environment: Iterable[str] = (),
        sandbox: Sandbox | None = None,
        audit: Audit | None = None,
        validate: Literal["strict", "convert", "off"] = "strict",
    ) -> None:
        self.name = name
        numbers = map(capability_names.number, sequence("capabilities", capabilities))
        self.capability_mask = capability_names.mask(numbers)
        self.user = user
        self.group = group
        #: the module that made the context, where its variable is looked for
        self.module: str = sys._getframe(1).f_globals["__name__"]  # noqa: SLF001
        self.prefix = self.module if prefix is None else prefix
        if not isinstance(self.prefix, str):
            msg = f"prefix is {prefix!r}; it must be the name of a module"
            raise ValueError(msg)  # noqa: TRY004 - as every mistake here
        self.modules = (
            (self.module,) if modules is None else _strings("modules", modules)
        )
        self.timeout = timeout
        self.isolation = isolation
        self.workers = workers
        self.max_message = max_message
        self.memory = memory
        self.environment = _strings("environment", environment)
        self.sandbox = sandbox
        self.audit = audit
        self.validate = validate
        self._table: dict[str, Entry] = {}
        self._served: dict[str, Entry] = {}  #: rows as the daemon has them
        self.client: Client | None = None
        self._check()

    def __repr__(self) -> str:
        """Return its name and place."""
        return f"<privsep.Context {self.name!r} of {self.module}>"

    # -- what a subclass may decide otherwise (oslo/ has one) -----------------------

    #: the logger that handles what the daemon logs; None: each record's own
    logger: str | None = None
    #: how a call starts the daemon
    start_options = StartOptions()
    #: whether programs that the daemon runs are bound by its capabilities, too
    bounds_programs = True

    def launch(self, options: StartOptions) -> tuple[Launched | Reached, str]:
        """Start or reach the daemon; return it when it is ready, and the method's name.

        Raises:
            StartError: it did not start.
            ValueError: no such method or namespace.

        """
        from privsep._start.methods import reach  # noqa: PLC0415 - in the client only

        return reach(self, options)

    def may_import(self, module: str) -> bool:
        """Return whether a client may import `module` for an exception's class."""
        return (
            module == self.prefix
            or module.startswith(f"{self.prefix}.")
            or module in self.modules
        )

    def log_line(self, stream: str, pid: int | None, text: str) -> None:
        """Log a line that the daemon, or a worker with `pid`, printed to `stream`."""
        import logging  # noqa: PLC0415 - in the client only

        logger = logging.getLogger(f"privsep.{self.name}")
        if pid is None:
            logger.warning("%s of the daemon: %s", stream, text)
        else:
            logger.info("%s of %s: %s", stream, pid, text)

    def _check(self) -> None:
        _check_timeout(self.timeout)
        _check_whole("workers", self.workers)
        _check_whole("max_message", self.max_message)
        if self.memory is not None:
            _check_whole("memory", self.memory)
        if self.memory is not None and self.memory < 1:
            msg = f"memory is {self.memory}; it must be more than 0 bytes, or None"
            raise ValueError(msg)
        if self.sandbox is not None:
            _check_sandbox(self.sandbox)
        if self.isolation not in ("process", "thread"):
            msg = f"isolation is {self.isolation!r}; it may be 'process' or 'thread'"
            raise ValueError(msg)
        if self.validate not in ("strict", "convert", "off"):
            msg = (
                f"validate is {self.validate!r}; it may be 'strict', 'convert' or 'off'"
            )
            raise ValueError(msg)
        if not 1 <= self.workers <= MAX_WORKERS:
            msg = f"workers is {self.workers}; it may be 1 to {MAX_WORKERS}"
            raise ValueError(msg)
        if not 1 <= self.max_message <= MAX_MESSAGE * 8:
            msg = f"max_message is {self.max_message}; it may be 1 to {MAX_MESSAGE * 8}"
            raise ValueError(msg)

    # -- declaring entrypoints -------------------------------------------------

    @overload
    def entrypoint(self, function: Callable[P, R], /) -> Callable[P, R]: ...

    @overload
    def entrypoint(
        self,
        /,
        *,
        timeout: float | None = ...,
        item_timeout: float | None = ...,
        window: int | None = ...,
        detach: bool = ...,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def entrypoint(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        timeout: float | _Unset | None = _UNSET,
        item_timeout: float | None = None,
        window: int | None = None,
        detach: bool = False,
    ) -> Callable[..., Any]:
        """Make a function run in the daemon when it is called.

        Use it bare (``@context.entrypoint``) or called
        (``@context.entrypoint(timeout=0.5)``).

        Args:
            function: a function in the context's prefix or below; plain, a
                generator, ``async def``, or an asynchronous generator.
            timeout: its own deadline in seconds; None: no deadline; default: the
                context's.
            item_timeout: of a generator: seconds from one item to the next; None:
                no deadline but that of the whole.  Both count the consumer's time.
            window: how many items a generator may be ahead of its consumer, from
                the second item on; 0: none, and `send` works; None: 16.
            detach: children that it leaves behind outlive the worker.

        Returns:
            The function's stand-in, with its signature.  In the daemon of the
            same context it runs the function in place.

        Raises:
            ValueError: the function stands outside of the prefix, or its name is
                taken; or a number is out of its range.
            TypeError: it is no function, or no generator and has an item_timeout or
                a window.
            StartError: it is annotated, and it cannot be told which of a call's
                arguments reaches which parameter.

        """

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            return self._register(
                function,
                timeout=timeout,
                item_timeout=item_timeout,
                window=window,
                detach=detach,
            )

        return register if function is None else register(function)

    def _register(
        self,
        function: Callable[..., Any],
        *,
        timeout: float | _Unset | None,
        item_timeout: float | None,
        window: int | None,
        detach: bool,
    ) -> Callable[..., Any]:
        named = hasattr(function, "__module__") and hasattr(function, "__qualname__")
        if not named or not callable(function):
            msg = f"{function!r} is no function, so no name says which to call"
            raise TypeError(msg)
        name = f"{function.__module__}.{function.__qualname__}"
        self._check_function(function, name)
        if self.validate != "off":
            _check_reached(function, name)
        limit = self.timeout if isinstance(timeout, _Unset) else timeout
        _check_timeout(limit)
        shape = _shape(function)
        _check_items(name, shape, item_timeout, window)
        wire_name = name.encode()
        entry = Entry(
            name,
            wire_name,
            function,
            FOREVER if limit is None else limit,
            detach,
            call_head(wire_name),
            None,
            shape,
            FOREVER if item_timeout is None else item_timeout,
            WINDOW if window is None else window,
        )
        self._table[name] = entry
        if shape == PLAIN:
            stand_in = self._function(entry)
        else:
            from privsep import _stand_ins  # noqa: PLC0415 - few contexts need it

            stand_in = _stand_ins.MAKERS[shape](self, entry)
        stand_in.__dict__[_OF] = (stand_in, self, entry)
        return stand_in

    def _function(self, entry: Entry) -> Callable[..., object]:
        """Return what is called instead of a plain function."""
        function = entry.function
        context = self
        process = _Process
        #: made by the first call: annotations may name what is defined later
        crossing: parameters.Crossing | _Unset | None = None
        if self.validate != "off" and _says_something(function, result=True):
            crossing = _UNSET

        def call(*args: object, **kwargs: object) -> object:
            nonlocal crossing
            if process.serving is None:
                if process.loading:
                    raise errors.StartError(_starts_itself(context, f"{entry.name}()"))
                client = context.client or context.new_client()
                if crossing is not None:
                    if isinstance(crossing, _Unset):
                        crossing = _crossing(entry)
                    if crossing is not None:
                        return client.call_crossing(crossing, entry, args, kwargs)
                return client.call(entry, args, kwargs)
            if process.serving is not context:
                raise errors.Refused(other_context(entry, context, process.serving))
            return function(*args, **kwargs)

        resemble(call, function)
        return call

    def runs_here(self, entry: Entry) -> bool:
        """Return whether this process is the daemon, where a call runs in place.

        Raises:
            StartError, Refused: it is a daemon where nothing is called.

        """
        if _Process.serving is None:
            if _Process.loading:
                raise errors.StartError(_starts_itself(self, f"{entry.name}()"))
            return False
        if _Process.serving is not self:
            raise errors.Refused(other_context(entry, self, _Process.serving))
        return True

    def crossing_of(self, entry: Entry) -> parameters.Crossing | None:
        """Return what makes of arguments and results what crosses, if it is needed."""
        if self.validate == "off" or not _says_something(entry.function, result=True):
            return None
        return _crossing(entry)

    def _check_function(self, function: Callable[..., object], name: str) -> None:
        module = function.__module__
        if module != self.prefix and not module.startswith(f"{self.prefix}."):
            msg = (
                f"{name} stands outside of {self.prefix!r}, the prefix of context "
                f"{self.name!r}: move it there, or give the context another prefix="
            )
            raise ValueError(msg)
        if name in self._table:
            msg = f"context {self.name!r} has an entrypoint {name} already"
            raise ValueError(msg)

    # -- in the daemon ---------------------------------------------------------

    def begin_serving(self) -> dict[bytes, Entry]:
        """Make this process the context's daemon; return the table as it is now.

        What is registered later is not served.

        Raises:
            StartError: an annotation of a parameter cannot be checked.

        """
        _Process.serving = self
        return self.served_table()

    def served_table(self) -> dict[bytes, Entry]:
        """Return the table by the names that calls have on the wire.

        Raises:
            StartError: an annotation of a parameter cannot be checked.

        """
        for name, entry in self._table.items():
            if name not in self._served:  # a fork has what its starter made
                self._served[name] = self._as_served(entry)
        return {entry.wire_name: entry for entry in self._served.values()}

    def _as_served(self, entry: Entry) -> Entry:
        """Return `entry` with all that the daemon needs for its calls."""
        entry = self._with_annotations(entry)
        if entry.shape == PLAIN:
            return entry
        return entry._replace(run=_run_of(entry.shape))

    def _with_annotations(self, entry: Entry) -> Entry:
        """Return `entry` with what its annotations say."""
        if not _says_something(entry.function, result=self.validate != "off"):
            return entry
        from privsep._boundary import parameters  # noqa: PLC0415 - few daemons need it

        check = parameters.checker(entry, self.validate)
        if self.validate == "off":
            return entry._replace(check=check)
        if entry.shape != PLAIN:
            return entry._replace(check=check, lower=parameters.lowerings(entry))
        lowering = parameters.lowering(entry)
        return entry._replace(function=lowering or entry.function, check=check)

    def entries(self) -> list[Entry]:
        """Return the rows of its table as they are now."""
        return list(self._table.values())

    @staticmethod
    def serve_status(table: dict[bytes, Entry], report: Callable[[], object]) -> None:
        """Have the daemon with `table` answer `status` with what `report` returns."""
        row = status_entry(report)
        table[row.wire_name] = row

    # -- in the client ---------------------------------------------------------

    def start(
        self,
        method: Literal["auto", "fork", "exec", "sudo", "socket", "userns"] = "auto",
        *,
        helper: Sequence[str] = ("sudo", "-n"),
        namespaces: Iterable[str] = NAMESPACES,
        path: str | None = None,
        deadline: float = 10.0,
    ) -> None:
        """Start the daemon, or connect to it; without this, the first call does.

        That one does it with "auto".

        Args:
            method: "fork": a child of this process, which has the privileges and
                is about to drop them; "exec": a fresh interpreter, for a process
                that has the privileges; "sudo": through `helper`; "socket": the
                one that listens at `path`; "userns": in a user namespace of its
                own, without any privilege (for development; no boundary against
                this process); "auto": "socket" if there is one at the default
                `path`, "exec" if this process has the capabilities, else "sudo" if
                the very command is allowed.
            helper: the words before the daemon's command: sudo, doas, run0, ...
            namespaces: beside the user namespace, for "userns".
            path: of the listening socket, for "socket", absolute; default:
                /run/privsep/MODULE:CONTEXT.sock.
            deadline: seconds within which the daemon must be ready.

        Raises:
            StartError: it did not start, or it runs already; the message has the
                daemon's words and the remedy.
            ValueError: no such method or namespace.

        """
        client = self._client_for("start()")
        if isinstance(helper, str):
            msg = f"helper is {helper!r}; it must be a sequence: {helper.split()!r}"
            raise ValueError(msg)  # noqa: TRY004 - as every mistake here
        names: tuple[str, ...] = NAMESPACES
        if namespaces is not NAMESPACES:
            names = _strings("namespaces", namespaces)
        client.start(StartOptions(method, tuple(helper), names, path, deadline))

    def stop(self) -> None:
        """Let go of the daemon and wait, ten seconds at most, until it ended.

        Calls that run are finished first.  Other processes that share the daemon
        (forked children) keep it.  Afterwards the context is as if it had never
        been started.  Does nothing if it is not started.
        """
        if self.client is not None:
            self.client.stop()

    def status(self) -> DaemonStatus:
        """Return what the daemon is and does; starts it if it is not started.

        A worker answers, so this waits for one, ten seconds at most.

        Raises:
            StartError: as a call, or this process is a daemon.
            CallTimeout, DaemonGone: as a call.

        """
        return self._client_for("status()").status()

    def __enter__(self) -> Self:
        """Start the daemon unless it is started.

        Raises:
            StartError: as `start`.

        """
        self._client_for("with").ensure_started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the daemon."""
        self.stop()

    def _client_for(self, use: str) -> Client:
        """Return its client, for a `use` that may start a daemon.

        Raises:
            StartError: this process is a daemon.

        """
        if _Process.loading or _Process.serving is not None:
            raise errors.StartError(_starts_itself(self, use))
        return self.client or self.new_client()

    @property
    def variable(self) -> str:
        """``module:name`` of this context, by which a fresh interpreter finds it.

        Raises:
            StartError: it is in no variable of its module, or in ``__main__``.

        """
        if self.module == "__main__":
            msg = (
                f"context {self.name!r} is made in __main__, which a new interpreter "
                "cannot import: move it to a module, or start it with 'fork'"
            )
            raise errors.StartError(msg)
        for name, value in vars(sys.modules[self.module]).items():
            if value is self:
                return f"{self.module}:{name}"
        msg = (
            f"context {self.name!r} is in no variable of {self.module}, so a new "
            "interpreter cannot find it: assign it to one"
        )
        raise errors.StartError(msg)

    def new_client(self) -> Client:
        """Return this process's client, made if need be; the daemon need not run."""
        from privsep._client import client  # noqa: PLC0415 - see _daemon

        return client.new_client(self)


#: the attribute by which a stand-in is known, and a mere copy of it is not
_OF = "__privsep_entrypoint__"


def entry_of(function: object) -> tuple[Context, Entry] | None:
    """Return context and entry of an entrypoint, None if it is none."""
    stand_in, *found = getattr(function, _OF, (None,))
    return (found[0], found[1]) if stand_in is function and found else None


#: of which annotations are made that say nothing of a parameter, or of a result:
#: what is of these crosses as it is.  "class" is in the repr of each class.
_ANYTHING = frozenset({"class", "object", "typing", "Any"})
_PLAIN = _ANYTHING.union(
    ("AsyncGenerator", "AsyncIterator", "Generator", "Iterator", "abc", "collections"),
    ("None", "bool", "bytes", "complex", "dict", "float"),
    ("frozenset", "int", "list", "set", "str", "tuple"),
)


def _says_something(function: object, *, result: bool) -> bool:
    """Tell whether an annotation of `function` is to be looked at.

    So those that nearly all functions have cost a daemon no import.
    """
    return any(_is_said(each, result=result) for each in _parts(function))


def _parts(function: object) -> Iterable[object]:
    """Return what may have the annotations: a function, and what it wraps."""
    if _is_bare(function):
        return (function,)
    from privsep._boundary import callables  # noqa: PLC0415 - few functions need it

    return (link.function for link in callables.chain(function))


def _is_bare(function: object) -> bool:
    return type(function) is type(_is_bare) and not hasattr(function, "__wrapped__")


def _is_said(function: object, *, result: bool) -> bool:
    annotations: dict[str, object] = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        text = annotation if isinstance(annotation, str) else repr(annotation)
        words = text.translate(_NO_WORDS).split()
        if name != "return":
            if not _ANYTHING.issuperset(words):
                return True
        elif result and not _PLAIN.issuperset(words):
            return True
    return False


def _check_reached(function: object, name: str) -> None:
    """See that what is judged by a parameter's annotation is what reaches it."""
    if _is_bare(function) or not _says_something(function, result=False):
        return
    from privsep._boundary import callables  # noqa: PLC0415 - few functions need it

    reason = callables.why_unjudged(function)
    if reason:
        msg = (
            f"{name}(): {reason}, so an argument need not reach the parameter by whose "
            "annotation it would be judged: declare a function that has the parameters "
            'of its callers, and calls this one; or give the context validate="off"'
        )
        raise errors.StartError(msg)


_NO_WORDS = str.maketrans(dict.fromkeys("[]|,.<>'", " "))


def _crossing(entry: Entry) -> parameters.Crossing | None:
    from privsep._boundary import parameters  # noqa: PLC0415 - only with annotations

    return parameters.crossing(entry)


_OF_A_FUNCTION = (
    *("__module__", "__name__", "__qualname__", "__doc__"),
    *("__annotations__", "__type_params__"),
)


def resemble(call: object, function: object) -> None:
    """Give `call` what functools.wraps() would; with that a start took 2 % longer."""
    for name in _OF_A_FUNCTION:
        if hasattr(function, name):
            setattr(call, name, getattr(function, name))
    vars(call).update(getattr(function, "__dict__", {}), __wrapped__=function)


def sequence(field: str, values: Iterable[T]) -> tuple[T, ...]:
    """Return them as a tuple; a single string would be taken for its letters."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        msg = f"{field} is {values!r}; it must be a sequence: [{values!r}]"
        raise ValueError(msg)
    return tuple(values)


def _strings(field: str, values: Iterable[str]) -> tuple[str, ...]:
    strings = sequence(field, values)
    if not all(isinstance(value, str) for value in strings):
        msg = f"{field} is {values!r}; it must be a sequence of strings"
        raise ValueError(msg)
    return strings


def _check_whole(name: str, number: object) -> None:
    if not isinstance(number, int):
        msg = f"{name} is {number!r}; it must be a whole number"
        raise ValueError(msg)  # noqa: TRY004 - every mistake here is one


def _check_sandbox(sandbox: object) -> None:
    from privsep.sandbox import Sandbox  # noqa: PLC0415 - few contexts have one

    if not isinstance(sandbox, Sandbox):
        msg = f"sandbox is {sandbox!r}; it must be a privsep.Sandbox or None"
        raise ValueError(msg)  # noqa: TRY004 - every mistake here is one


def _check_timeout(timeout: object) -> None:
    if not isinstance(timeout, int | float | None):
        msg = f"timeout is {timeout!r}; it must be a number of seconds, or None"
        raise ValueError(msg)  # noqa: TRY004 - every mistake here is one
    if timeout is not None and not timeout > 0:
        msg = f"timeout is {timeout!r}; it must be more than 0 seconds, or None"
        raise ValueError(msg)


def _run_of(shape: int) -> Run:
    """Return what runs a function of this shape; it is loaded before lockdown."""
    if shape == GENERATOR:
        from privsep._daemon import generators  # noqa: PLC0415 - few daemons need it

        return generators.run
    from privsep._daemon import coroutines  # noqa: PLC0415 - it imports asyncio

    return coroutines.run if shape == COROUTINE else coroutines.run_stream


def _shape(function: object) -> int:
    flags: int = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return flags & _SHAPES


def _check_items(
    name: str, shape: int, item_timeout: float | None, window: int | None
) -> None:
    for field, value in (("item_timeout", item_timeout), ("window", window)):
        if value is not None and shape not in (GENERATOR, ASYNC_GENERATOR):
            msg = f"{name} is no generator function, and {field}= is for these"
            raise TypeError(msg)
    _check_timeout(item_timeout)
    if window is None:
        return
    _check_whole("window", window)
    if not 0 <= window <= MAX_WINDOW:
        msg = f"window is {window}; it may be 0 to {MAX_WINDOW} items"
        raise ValueError(msg)


def begin_loading() -> None:
    """Say that this process is a daemon that imports what its context needs."""
    _Process.loading = True


def _starts_itself(context: Context, use: str) -> str:
    if _Process.serving is not None:
        return (
            f"context {context.name!r}: {use} was used in the daemon of "
            f"{_Process.serving.name!r}: a daemon starts no daemon; it is for the "
            "service"
        )
    return (
        f"context {context.name!r}: {use} was used in a daemon, by a module that it "
        "imports: a daemon starts no daemon; put it below a main function"
    )


def other_context(entry: Entry, wanted: Context, serving: Context) -> str:
    """Return why a daemon does not make calls of another context."""
    return (
        f"{entry.name}() belongs to context {wanted.name!r}, and this is the daemon "
        f"of {serving.name!r}: call it from the service"
    )
