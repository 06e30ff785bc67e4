"""A service of the tests: contexts and entrypoints, importable by any daemon."""

from __future__ import annotations

import builtins
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from procfs import open_files

import privsep
from privsep._lockdown import libc

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

log = logging.getLogger("service")
counter = 0


def echo(value: object) -> object:
    return value


def numbers(stop: int, error: str = "") -> Generator[int, None, None]:
    """Yield numbers, and raise an exception then, if it is named."""
    yield from range(stop)
    if error:
        fail(error)


def process_id() -> int:
    return os.getpid()


def status() -> dict[str, str]:
    """What the kernel says about the worker."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (x.partition(":") for x in lines)}


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def short_sleep(seconds: float) -> str:
    """Sleep; its own deadline is 0.3 seconds."""
    return sleep(seconds)


def read_briefly(pipe: Any) -> bytes:
    """Run until nobody can write to `pipe`; its own deadline is 0.3 seconds."""
    return os.read(pipe.fileno(), 1)


def wait_for_writer(fifo: str) -> str:
    """Run until somebody writes to `fifo`; return what was written."""
    return Path(fifo).read_text()


def open_and_wait(begun: str, fifo: str) -> str:
    """Write to the fifo `begun`, then run until somebody writes to `fifo`."""
    Path(begun).write_text(str(os.getpid()))
    return Path(fifo).read_text()


def tell_and_wait(begun: str, held: str) -> str:
    """Write a byte to the fifo `begun`, then run until nobody can write to `held`."""
    with open(begun, "wb") as file:
        file.write(b"x")
    descriptor = os.open(held, os.O_RDONLY | os.O_NONBLOCK)  # it may be so already
    os.set_blocking(descriptor, True)
    with open(descriptor) as file:
        file.read()
    return "waited"


def open_wait_and_tell(begun: str, fifo: str, finished: str) -> None:
    """As `open_and_wait`, and write to `finished` what was read."""
    Path(finished).write_text(open_and_wait(begun, fifo))


def open_and_wait_briefly(begun: str, fifo: str) -> str:
    """As `open_and_wait`; its own deadline is 0.5 seconds."""
    return open_and_wait(begun, fifo)


def fail(kind: str, *arguments: object) -> None:
    raise getattr(builtins, kind)(*arguments)


class _Guarded(type):
    def __getattribute__(cls, name: str) -> NoReturn:
        raise RuntimeError(name)


class _OfGuardedClass(ValueError, metaclass=_Guarded):
    pass


def fail_with_guarded_class() -> None:
    """Raise an exception of which the class cannot be asked anything."""
    raise _OfGuardedClass


def exit_with(status: int) -> None:
    os._exit(status)


def kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def log_message(level: int, text: str) -> None:
    log.log(level, text)


def log_from_thread(text: str) -> None:
    thread = threading.Thread(target=log.warning, args=(text,))
    thread.start()
    thread.join()


def write_output(text: str) -> None:
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    subprocess.run(["/bin/echo", text], check=True)


def loaded_modules() -> list[str]:
    return sorted(sys.modules)


def count() -> int:
    global counter  # noqa: PLW0603 - what the workers share, or do not
    counter += 1
    return counter


def run_program(*words: str) -> str:
    """Run a program and return what it wrote; it must end well."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def own_file(path: str) -> tuple[int, int]:
    """Make a file, give it to root, and return whose it is."""
    Path(path).touch()
    os.chown(path, 0, 0)
    found = os.stat(path)
    return found.st_uid, found.st_gid


def sockets() -> list[str]:
    """The sockets that the worker has open."""
    return [name for name in open_files().values() if name.startswith("socket:")]


def try_to(what: str, whom: Any) -> str:
    """Try to reach a file or a process; return the class of what came of it."""
    attempts: dict[str, Callable[[], object]] = {
        "open_to_read": lambda: os.open(whom, os.O_RDONLY),
        "open_to_write": lambda: os.open(whom, os.O_WRONLY),
        "unlink": lambda: os.unlink(whom),
        "kill": lambda: os.kill(whom, signal.SIGKILL),
        "ptrace": lambda: libc.ptrace_seize(whom),
    }
    try:
        attempts[what]()
    except OSError as error:
        return type(error).__name__
    return "nothing"


class Service:
    """A context, and its entrypoints as attributes."""

    def __init__(self, context: privsep.Context) -> None:
        self.context = context
        expose = context.entrypoint
        self.echo = expose(echo)
        self.numbers = expose(numbers)
        self.process_id = expose(process_id)
        self.status = expose(status)
        self.sleep = expose(sleep)
        self.short_sleep = context.entrypoint(timeout=0.3)(short_sleep)
        self.wait_for_writer = expose(wait_for_writer)
        self.open_and_wait = expose(open_and_wait)
        self.tell_and_wait = expose(tell_and_wait)
        self.read_briefly = context.entrypoint(timeout=0.3)(read_briefly)
        self.fail = expose(fail)
        self.fail_with_guarded_class = expose(fail_with_guarded_class)
        self.exit_with = expose(exit_with)
        self.kill_self = expose(kill_self)
        self.log_message = expose(log_message)
        self.log_from_thread = expose(log_from_thread)
        self.write_output = expose(write_output)
        self.loaded_modules = expose(loaded_modules)
        self.count = expose(count)
        self.run_program = expose(run_program)
        self.own_file = expose(own_file)
        self.open_wait_and_tell = expose(open_wait_and_tell)
        self.open_and_wait_briefly = context.entrypoint(timeout=0.5)(
            open_and_wait_briefly
        )
        self.sockets = expose(sockets)
        self.try_to = expose(try_to)


plain = privsep.Context("plain", capabilities=[], timeout=120.0)
threaded = privsep.Context(
    "threaded", capabilities=[], timeout=120.0, isolation="thread"
)
single = privsep.Context("single", capabilities=[], timeout=120.0, workers=1)
patient = privsep.Context("patient", capabilities=[], timeout=None)
narrow = privsep.Context(
    "narrow", capabilities=[], timeout=120.0, max_message=64 * 1024
)
network = privsep.Context("network", capabilities=["CAP_NET_ADMIN"], timeout=120.0)

# Of the namespaces, and of the daemons that run as another user.
spacious = privsep.Context(
    "spacious",
    capabilities=["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_CHOWN"],
    timeout=120.0,
)
network_nobody = privsep.Context(
    "network_nobody", capabilities=["CAP_NET_ADMIN"], user="nobody", timeout=120.0
)

# Two capabilities: of root, of another user, and of the programs that it runs.
_TWO = ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
two = privsep.Context("two", capabilities=_TWO, timeout=120.0)
two_nobody = privsep.Context(
    "two_nobody", capabilities=_TWO, user="nobody", timeout=120.0
)
two_inherited = privsep.Context(
    "two_inherited",
    capabilities=_TWO,
    user="nobody",
    timeout=120.0,
    sandbox=privsep.Sandbox(inherit_capabilities=True, write=None),
)

services = {
    context.name: Service(context)
    for context in (
        plain,
        threaded,
        single,
        patient,
        narrow,
        network,
        spacious,
        network_nobody,
        two,
        two_nobody,
        two_inherited,
    )
}
