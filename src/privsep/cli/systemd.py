"""The units of a daemon that systemd starts: systemd.socket(5), systemd.exec(5).

Each option stands with its reason, and is there, or not, for what the context declares:
capabilities, user, sandbox, deadlines.
"""

from __future__ import annotations

import grp
import math
import os
import pwd
import sys
from typing import TYPE_CHECKING, NamedTuple

from privsep._lockdown import order
from privsep._lockdown.capability_names import NAMES, mask, number
from privsep._start import rules
from privsep._start import socket as socket_

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privsep.context import Context

_AFTER_DEADLINE = 10
_NO_DEADLINE = 3600


class Option(NamedTuple):
    """One line of a unit, and why it is there."""

    key: str
    value: str
    reason: str


def generate(context: Context, user: str) -> str:
    """Return the socket unit, the service unit and root's file for `context`.

    Args:
        context: whose daemon it is.
        user: whom its clients run as; there is such a user.

    Raises:
        StartError: the context is in no importable variable.

    """
    # systemd-analyze takes what stands behind a colon for another name.
    stem = f"privsep-{context.variable.replace(':', '-')}"
    sections = {
        f"/etc/systemd/system/{stem}.socket": _socket(context, user),
        f"/etc/systemd/system/{stem}.service": _service(context, stem),
        rules.path_of(context.variable): _rules(user),
    }
    files = ["\n".join([f"# {path}", *lines, ""]) for path, lines in sections.items()]
    return "\n".join(files)


def _shown(options: Iterable[Option]) -> Iterator[str]:
    for option in options:
        yield f"# {option.reason}"
        yield f"{option.key}={option.value}"


def _socket(context: Context, user: str) -> Iterator[str]:
    gid = pwd.getpwnam(user).pw_gid
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    yield "[Unit]"
    yield f"Description=Clients of the privsep context {_plain(context.name)}"
    yield "[Socket]"
    path = _escaped(socket_.path_of(context))
    yield from _shown(
        (
            Option(
                "ListenSequentialPacket",
                path,
                "Where clients look for it by themselves. They trust it because only "
                "root can put a socket there",
            ),
            Option(
                "SocketGroup", group, "Others need not even connect, to be turned away"
            ),
            Option("SocketMode", "0660", "As above"),
        )
    )
    yield "[Install]"
    yield from _shown(
        [Option("WantedBy", "sockets.target", "From the start of the system on")]
    )


def _rules(user: str) -> Iterator[str]:
    yield "# Who may connect, as the kernel says who it is; root may always. Also:"
    yield '# groups = ["..."], units = ["....service"] (Linux 6.5; the daemon must see'
    yield "# the process: ProtectProc=default in its unit)."
    yield f'users = ["{user}"]'


def _service(context: Context, stem: str) -> Iterator[str]:
    yield "[Unit]"
    yield f"Description=Daemon of the privsep context {_plain(context.name)}"
    yield from _shown(
        [
            Option(
                "Requires",
                f"{stem}.socket",
                "The daemon serves whoever connects there, and does not listen itself",
            )
        ]
    )
    yield "[Service]"
    for options in (_process, _identity, _files, _kernel, _network, _system_calls):
        yield from _shown(options(context))
    if context.environment:
        yield "# The context keeps these variables (environment=); give each its value:"
        for variable in context.environment:
            yield f"# Environment={variable}=..."


def _process(context: Context) -> Iterator[Option]:
    script = os.path.join(os.path.dirname(sys.executable), "privsep")
    words = (script, "serve", context.variable)
    yield Option(
        "ExecStart",
        " ".join(map(_quoted, words)).replace("$", "$$"),
        "An environment that root owns, with all in it: what is imported has the "
        "privileges below",
    )
    yield Option("Type", "notify", "It is ready when it has given up all the rest")
    yield Option(
        "ExecReload",
        "/bin/kill -HUP $MAINPID",
        "Reads anew who may connect, and opens a rotated audit file",
    )
    yield Option("KillMode", "mixed", "Running calls are finished at a stop")
    yield Option(
        "TimeoutStopSec",
        str(_longest_deadline(context) + _AFTER_DEADLINE),
        "The longest deadline of a call, and a little more",
    )
    yield Option("Restart", "on-failure", "Clients connect to the next by themselves")
    yield Option("WatchdogSec", "30", "One that no longer looks after its workers goes")


def _longest_deadline(context: Context) -> int:
    limits = [entry.limit for entry in context.entries()]
    longest = max(limits, default=0.0)
    return _NO_DEADLINE if longest == math.inf else math.ceil(longest)


def _identity(context: Context) -> Iterator[Option]:
    if context.user is None:
        yield Option(
            "DynamicUser",
            "yes",
            "The context names no user=: a uid that no other process has. It owns no "
            "file of root's; what its functions need of those is a capability's",
        )
    else:
        yield Option("User", str(context.user), "The context's user=")
    if context.group is not None:
        yield Option("Group", str(context.group), "The context's group=")
    held = " ".join(_names(_bits(context)))
    at_start = _names(_bits(context) & ~context.capability_mask)
    because = "The context's capabilities= and no other, for programs that it runs, too"
    if at_start:
        because += f" ({', '.join(at_start)} until its sandbox is made)"
    yield Option("CapabilityBoundingSet", held, because)
    if held:
        yield Option("AmbientCapabilities", held, "How it has them without being root")
    yield Option("NoNewPrivileges", "yes", "Nothing that it runs gains any by setuid")


def _bits(context: Context) -> int:
    bits = context.capability_mask
    if context.sandbox is not None:
        bits |= order.needed(context.sandbox)
    return bits


def _names(bits: int) -> list[str]:
    return [each for each in NAMES if bits >> number(each) & 1]


def _has(context: Context, *capabilities: str) -> bool:
    return bool(_bits(context) & mask(map(number, capabilities)))


def _paths(context: Context) -> list[str]:
    """Return what the sandbox names to read or to write."""
    sandbox = context.sandbox
    if sandbox is None:
        return []
    return [*(sandbox.read or ()), *(sandbox.write or ())]


def _reaches(context: Context, *directories: str) -> bool:
    """Return whether the sandbox names something at or below one of `directories`."""
    return any(
        f"{path}/".startswith(f"{directory}/")
        for path in _paths(context)
        for directory in directories
    )


def _files(context: Context) -> Iterator[Option]:
    yield Option("ProtectSystem", "strict", "It writes nowhere, but for what follows")
    written = _written(context)
    if written:
        yield Option(
            "ReadWritePaths",
            " ".join(map(_quoted, written)),
            "What its sandbox= says that it writes, and its audit file",
        )
    else:
        yield Option(
            "ReadWritePaths",
            "",
            "Its sandbox= names no path; name here what its functions do write",
        )
    if not _reaches(context, "/home", "/root", "/run/user"):
        yield Option("ProtectHome", "yes", "Nothing of it is in a home directory")
    if not _reaches(context, "/tmp", "/var/tmp"):  # noqa: S108 - these are replaced
        yield Option(
            "PrivateTmp", "yes", "Names that others chose cannot lead it astray"
        )
    if not _reaches(context, "/dev") and not _has(
        context, "CAP_MKNOD", "CAP_SYS_RAWIO", "CAP_SYS_ADMIN"
    ):
        yield Option(
            "PrivateDevices", "yes", "No disks and no memory; /dev/null and so"
        )


def _written(context: Context) -> list[str]:
    sandbox, audit = context.sandbox, context.audit
    written: list[str] = []
    if sandbox is not None:
        written += ["/"] if sandbox.write is None else sandbox.write
    if audit is not None and audit.file is not None:
        written.append(os.path.dirname(audit.file))
    return written


def _kernel(context: Context) -> Iterator[Option]:
    admin = "CAP_SYS_ADMIN"
    if not _reaches(context, "/proc", "/sys") and not _has(context, admin):
        yield Option(
            "ProtectKernelTunables", "yes", "It sets nothing in /proc and /sys"
        )
    if not _reaches(context, "/sys/fs/cgroup") and not _has(context, admin):
        yield Option(
            "ProtectControlGroups", "yes", "It moves no process, sets no limit"
        )
    for key, capability, reason in (
        ("ProtectKernelModules", "CAP_SYS_MODULE", "It loads no module"),
        ("ProtectKernelLogs", "CAP_SYSLOG", "It reads no log of the kernel"),
        ("ProtectClock", "CAP_SYS_TIME", "It sets no clock"),
        ("ProtectHostname", admin, "It names no host"),
        ("PrivateMounts", admin, "It mounts nothing for others"),
        ("RestrictRealtime", "CAP_SYS_NICE", "It keeps no processor for itself"),
        ("RestrictSUIDSGID", "CAP_FSETID", "It makes no file that gives privileges"),
    ):
        if not _has(context, capability):
            yield Option(key, "yes", reason)
    if not _has(context, admin):
        yield Option("RestrictNamespaces", "yes", "It makes no namespaces")
    if not _has(context, "CAP_KILL", "CAP_SYS_PTRACE", admin):
        yield Option("ProtectProc", "invisible", "Processes of others are no business")
    yield Option("LockPersonality", "yes", "Nothing runs as on another system")
    yield Option(
        "MemoryDenyWriteExecute",
        "yes",
        "No code is made at run time; a library that compiles some needs it off",
    )
    yield Option("KeyringMode", "private", "It shares no keys")


def _network(context: Context) -> Iterator[Option]:
    alone = context.sandbox is not None and context.sandbox.network is False
    families = ["AF_UNIX"]
    because = "Its sandbox= gives it no network"
    if not alone:
        families += ["AF_INET", "AF_INET6", "AF_NETLINK"]
        because = (
            "What its functions need of these is not known: take away what you can"
        )
    if _has(context, "CAP_NET_RAW"):
        families.append("AF_PACKET")
    yield Option("RestrictAddressFamilies", " ".join(families), because)
    if alone and not _has(context, "CAP_NET_ADMIN", "CAP_NET_RAW"):
        yield Option("PrivateNetwork", "yes", "As above")
        yield Option("IPAddressDeny", "any", "As above")


def _system_calls(context: Context) -> Iterator[Option]:
    yield Option("SystemCallArchitectures", "native", "No second table of system calls")
    allowed = ["@system-service", "seccomp", *_LANDLOCK]
    allowed += [group for capabilities, group in _NEED if _has(context, *capabilities)]
    yield Option(
        "SystemCallFilter",
        " ".join(allowed),
        "What services use, what the daemon gives up its privileges by, and what its "
        "capabilities are for",
    )
    yield Option("SystemCallErrorNumber", "EPERM", "A call that is refused fails")


_LANDLOCK = (
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
)
_NEED = (
    (("CAP_SYS_ADMIN",), "@mount"),
    (("CAP_SYS_TIME",), "@clock"),
    (("CAP_SYS_MODULE",), "@module"),
    (("CAP_SYS_BOOT",), "@reboot"),
    (("CAP_SYS_RAWIO",), "@raw-io"),
    (("CAP_SYS_CHROOT",), "chroot"),
    (("CAP_SYS_ADMIN", "CAP_SYS_PTRACE"), "@debug"),
    (("CAP_SYS_ADMIN",), "@swap"),
    (("CAP_BPF", "CAP_SYS_ADMIN"), "bpf"),
    (("CAP_DAC_READ_SEARCH",), "open_by_handle_at"),
)


def _plain(text: str) -> str:
    return " ".join(text.replace("%", "%%").split())


def _escaped(path: str) -> str:
    return path.replace("%", "%%")


def _quoted(word: str) -> str:
    """Return a word as systemd.syntax(7) has it written, without specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("%", "%%")
    return f'"{escaped}"' if set(word).intersection(" \t\"'\\;") else escaped
