"""``privsep doctor``: what has to be right for a call to work, and what to do if not.

Runs as the service's user, and asks what the service itself would: it opens, connects,
lists.  It changes nothing, and starts nothing.
"""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from privsep._lockdown import capabilities, landlock, seccomp, status
from privsep._lockdown.capability_names import describe
from privsep._lockdown.ids import Ids
from privsep._start import exec as exec_
from privsep._start import namespaces, rules, sudo, trust
from privsep._start import socket as socket_
from privsep.audit import HEAD_SUFFIX
from privsep.errors import PrivsepError, StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privsep.context import Context

_DEADLINE = 10.0  # seconds
_MOST_SHOWN = 5
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Finding(NamedTuple):
    """What was found about one thing.

    Attributes:
        topic: what was looked at.
        text: what was found.
        remedy: what to do, if it is not right.
        holds: whether it is right; None: it is only told.

    """

    topic: str
    text: str
    remedy: str = ""
    holds: bool | None = None

    def __str__(self) -> str:
        """Return it as lines of text."""
        mark = {True: "ok", False: "no", None: "-"}[self.holds]
        text = self.text if self.holds is not False else f"{self.text}\n{self.remedy}"
        head = f"{self.topic:11}{mark:3}"
        return head + text.strip().replace("\n", "\n" + " " * len(head))


def _good(topic: str, text: str) -> Finding:
    return Finding(topic, text, holds=True)


def _bad(topic: str, text: str, remedy: str) -> Finding:
    return Finding(topic, text, remedy, holds=False)


class Diagnosis:
    """All findings on a context, and by which method a call would start its daemon."""

    def __init__(self, context: Context) -> None:
        methods = {
            "socket": list(_socket(context)),
            "exec": list(_exec(context)),
            "sudo": list(_sudo(context)),
        }
        #: what the daemon needs itself: one that listens has it already
        needs = [*_annotations(context), *_audit(context), *_kernel(context)]
        ready = all(each.holds is not False for each in needs)
        needs += _identity(context)
        #: as `auto` chooses
        self.method: str | None = None
        for name, findings in methods.items():
            if name == "socket" and not socket_.is_there(context):
                continue
            if all(each.holds is not False for each in findings):
                self.method = name
            if self.method or name == "socket":
                break
        if self.method in ("exec", "sudo"):
            writer = os.getuid() if self.method == "exec" else 0
            needs += _audit_files(context, writer)
        if self.method != "socket" and any(each.holds is False for each in needs):
            self.method = None
        self.findings = [*_here(context), *needs]
        for findings in methods.values():
            self.findings += findings
        self.findings += _userns(context, ready=ready)


def _here(context: Context) -> Iterator[Finding]:
    version = platform.python_version()
    module = sys.modules[context.module]
    yield Finding("python", f"{sys.executable} ({version})")
    yield _good("context", f"{context.variable} of {module.__file__}")
    if os.getuid() == 0:
        yield Finding("who", "root, who may nearly all: ask as the service's user")


def _annotations(context: Context) -> Iterator[Finding]:
    try:
        context.served_table()
    except StartError as error:
        yield _bad("annotation", str(error), "the daemon would not start")


def _audit(context: Context) -> Iterator[Finding]:
    """Look at where the audit's file is to be, as far as this user sees."""
    path = None if context.audit is None else context.audit.file
    if path is None:
        return
    remedy = "make its directory, or name another file"
    try:
        os.stat(os.path.dirname(path) + "/.")
        is_file = not os.path.lexists(path) or stat.S_ISREG(os.lstat(path).st_mode)
    except PermissionError as error:  # the daemon may see more
        yield Finding("audit", f"{path}: {error.strerror}")
    except OSError as error:
        yield _bad("audit", f"{path}: {error.strerror}", remedy)
    else:
        text = "its directory is there" if is_file else "it is no regular file"
        yield Finding("audit", f"{path}: {text}", remedy, holds=is_file)


def _audit_files(context: Context, writer: int) -> Iterator[Finding]:
    """Look at what the audit's writer would find: it has a uid and no capability."""
    path = None if context.audit is None else context.audit.file
    if path is None:
        return
    for each in (path, path + HEAD_SUFFIX):
        trouble = _trouble(each, writer)
        if trouble:
            remedy = f"the audit is written as uid {writer}, without capabilities"
            yield _bad("audit file", trouble, remedy)


def _trouble(path: str, writer: int) -> str:
    """Return why the audit's writer would not write `path`; "" if it would."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        place = os.path.dirname(path)
        may_make = _may(place, os.W_OK | os.X_OK, writer)
        return "" if may_make else f"{place} is not for uid {writer} to write"
    except OSError:  # `_audit` has said it
        return ""
    if not _may(path, os.R_OK | os.W_OK, writer):
        return f"{path} is not for uid {writer} to write"
    if found.st_uid not in (0, writer):
        return f"{path} belongs to uid {found.st_uid}"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"{path} is for others to write (mode {found.st_mode & 0o7777:04o})"
    return ""


def _may(path: str, mode: int, uid: int) -> bool:
    """Return whether a process of `uid` without capabilities has access to `path`."""
    if uid != os.getuid():
        return _mode_lets(path, mode, uid)
    if uid:
        return os.access(path, mode)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            capabilities.set_all(0)
            status = 0 if os.access(path, mode) else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _mode_lets(path: str, mode: int, uid: int) -> bool:
    """Judge by owner and mode, as far as this user sees them; its group is `uid`."""
    above = os.path.dirname(path)
    try:
        found = os.stat(path)
    except OSError:  # whoever starts the daemon may see more
        return True
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == uid else 0
    if mode & ~(found.st_mode >> shift):
        return False
    return above == path or _mode_lets(above, os.X_OK, uid)


def _kernel(context: Context) -> Iterator[Finding]:
    abi = landlock.best_abi()
    yield Finding("kernel", f"Linux {platform.release()}, Landlock ABI {abi}")
    sandbox = context.sandbox
    if sandbox is None:
        return
    required = sandbox.landlock == "require"
    without = "or landlock='best-effort' in the sandbox starts without"
    try:
        ruleset = landlock.prepare(sandbox)
    except LookupError as error:
        yield _bad("sandbox", str(error), "make the path, or take it out")
    else:
        if ruleset.descriptor is not None:
            os.close(ruleset.descriptor)
        missing = ", ".join(ruleset.not_enforced)
        yield Finding(
            "sandbox",
            f"the kernel cannot enforce: {missing}" if missing else "can be enforced",
            f"take a newer kernel, {without}",
            holds=not (missing and required),
        )
    try:
        seccomp.prepare()
    except OSError as error:
        yield Finding(
            "seccomp", str(error), f"install it, {without}", holds=not required
        )
    else:
        yield _good("seccomp", "system calls can be filtered")


def _identity(context: Context) -> Iterator[Finding]:
    try:
        ids = Ids.look_up(context.user, context.group)
    except LookupError as error:
        yield _bad("user", str(error), "make it, or name another")
        return
    yield Finding(
        "user",
        "as it is started" if ids.uid is None else f"uid {ids.uid}, gid {ids.gid}",
        "that is who asks: the daemon needs a user of its own (user=)",
        holds=ids.uid is None or ids.uid != os.getuid() or ids.uid == 0,
    )


def _socket(context: Context) -> Iterator[Finding]:
    path = socket_.path_of(context)
    if not socket_.is_there(context):
        hint = "privsep generate systemd prints what would listen"
        yield Finding("socket", f"there is no {path}; {hint}")
        return
    try:
        control, _ = socket_.connect(context, path, _DEADLINE)
    except StartError as error:
        remedy = "nothing else is tried while it is there"
        yield _bad("socket", str(error), remedy)
    else:
        control.close()
        yield _good("socket", f"{path}: the daemon lets this user in")


def _exec(context: Context) -> Iterator[Finding]:
    missing = exec_.needed(context) & ~capabilities.permitted()
    yield Finding(
        "exec",
        f"this process lacks {describe(missing)}"
        if missing
        else "this process has the capabilities",
        "systemd grants them: AmbientCapabilities=",
        holds=not missing,
    )


def _sudo(context: Context) -> Iterator[Finding]:
    if int(status.field(status.own(), b"NoNewPrivs")):
        remedy = "take NoNewPrivileges= out of the unit, or use a socket"
        yield _bad("sudo", "no_new_privs is set: it gains nothing", remedy)
    allowed, said = sudo.is_allowed(context, ("sudo",), _DEADLINE)
    yield Finding(
        "sudo",
        "the very command is allowed" if allowed else said,
        f"visudo -f /etc/sudoers.d/NAME:\n{sudo.rule(context)}",
        holds=allowed,
    )
    said_by_root = None
    try:
        said_by_root = rules.read(context.variable)
    except (OSError, PrivsepError) as error:
        yield _bad("sudo rules", str(error), "root must mend that file")
    else:
        yield _may_start(said_by_root, context)
    owners = () if said_by_root is None else said_by_root.owners
    yield from _trusted(_loaded(context), (0, *owners))
    yield _importable(context)


def _may_start(said: rules.Rules, context: Context) -> Finding:
    ids = os.geteuid(), frozenset((os.getegid(), *os.getgroups()))
    more = (
        0 if said.capabilities is None else context.capability_mask & ~said.capabilities
    )
    if not said.may_start(*ids):
        text = f"{said.path} does not let uid {ids[0]} start it"
    elif more:
        text = f"capabilities in {said.path} does not have {describe(more)}"
    else:
        there = os.path.exists(said.path)
        text = f"nothing in {said.path} forbids it" if there else f"no {said.path}"
        return _good("sudo rules", text)
    return _bad("sudo rules", text, "root may add it there")


def _loaded(context: Context) -> list[str]:
    """Return the files that the daemon would be made of."""
    files = [sudo.command(context, ())[0], sys.executable]
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        name = getattr(module, "__name__", "")
        if isinstance(origin, str) and not name.startswith("privsep.cli"):
            files.append(origin)
    return files


def _trusted(files: Iterable[str], owners: tuple[int, ...]) -> Iterator[Finding]:
    """Look at whose each file is, and each directory and link on the way to it."""
    wrong: dict[str, None] = {}
    for path in files:
        try:
            trust.walk(path, owners).close()
        except trust.Untrusted as error:
            wrong[str(error).partition(": it must be")[0]] = None
        except OSError as error:
            wrong[f"{path}: {error.strerror}"] = None
    shown = list(wrong)[:_MOST_SHOWN]
    if len(wrong) > _MOST_SHOWN:
        shown.append(f"and {len(wrong) - _MOST_SHOWN} more")
    yield Finding(
        "sudo files",
        "\n".join(shown) if wrong else "all are root's, and nobody else's to write",
        "install the service as root; or owners = [...] in root's file on the context",
        holds=not wrong,
    )


def _importable(context: Context) -> Finding:
    """Import the module as the daemon does: by the interpreter's own path alone."""
    done = subprocess.run(  # noqa: S603 - the interpreter that runs this
        [sys.executable, "-I", "-c", f"import {context.module}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finding(
        "sudo path",
        f"the daemon's interpreter imports {context.module}"
        if done.returncode == 0
        else done.stderr.strip().rpartition("\n")[2],
        "install it: neither PYTHONPATH nor the current directory counts for a daemon",
        holds=done.returncode == 0,
    )


def _userns(context: Context, *, ready: bool) -> Iterator[Finding]:
    if context.user is not None or context.group is not None:
        text = "only root is mapped there, and the context has user= or group="
        yield Finding("userns", f"start('userns') would not work: {text}")
        return
    if not ready:
        yield Finding("userns", "start('userns') would not work: see above")
        return
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "start('userns') would not work"
        try:
            namespaces.enter(())
            said = "start('userns') would work, for development"
        except namespaces.Forbidden as error:
            said = str(error)
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with open(reader) as file:
        yield Finding("userns", file.read())
    os.waitpid(child, 0)
