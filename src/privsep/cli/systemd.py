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

from privsep._lockdown import order, runtime, syscall_groups
from privsep._lockdown.capability_names import NAMES, mask, number
from privsep._lockdown.ids import Ids
from privsep._start import rules
from privsep._start import socket as socket_

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from privsep.audit import Audit
    from privsep.context import Context

_AFTER_DEADLINE = 10
_NO_DEADLINE = 3600


class Option(NamedTuple):
    """One line of a unit, and why it is there, or is not."""

    key: str
    value: str | None  #: None: the context has no room for it
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
    for key, value, reason in options:
        if value is None:
            yield f"# {key}= is not here: {reason}"
        else:
            yield f"# {reason}"
            yield f"{key}={value}"


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
    yield "# What systemd-analyze security counts against it: capabilities, the system"
    yield "# calls and address families that are let through, and what is not here."
    for options in _OF_SERVICE:
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
        if _is_root(context):
            groups = Ids.look_up(context.user, context.group).groups or ()
            because = "Those of its group are not root's without it"
            yield Option("SupplementaryGroups", " ".join(map(str, groups)), because)
        else:
            yield Option("RemoveIPC", None, "others of that user would lose theirs")
    if context.group is not None:
        yield Option("Group", str(context.group), "The context's group=")
    held = " ".join(_names(_bits(context)))
    at_start = _names(_bits(context) & ~context.capability_mask)
    because = "The context's capabilities= and no other, for programs that it runs, too"
    if at_start:
        because += f" ({', '.join(at_start)} until its sandbox is made)"
    yield Option("CapabilityBoundingSet", held, because)
    if held and not _is_root(context):
        inherits = context.sandbox is not None and context.sandbox.inherit_capabilities
        because = "How it has them without being root"
        if not inherits:
            because += "; programs that it runs have none (inherit_capabilities=)"
        yield Option("AmbientCapabilities", held, because)
    yield Option("NoNewPrivileges", "yes", "Nothing that it runs gains any by setuid")
    yield Option("PrivateUsers", None, "it would hide who connects")
    yield Option("UMask", None, "files are made as by every start: the daemon sets 022")


def _is_root(context: Context) -> bool:
    return context.user in ("root", 0)


def _bits(context: Context) -> int:
    """Return the capabilities that the daemon starts with."""
    bits = context.capability_mask
    if context.sandbox is not None:
        bits |= order.needed(context.sandbox)
    return bits


def _names(bits: int) -> list[str]:
    return [each for each in NAMES if bits >> number(each) & 1]


def _held(context: Context, capabilities: Iterable[str]) -> list[str]:
    """Return which of `capabilities` the context's functions have."""
    return _names(context.capability_mask & mask(map(number, capabilities)))


def _unless_held(
    context: Context, key: str, value: str, capabilities: Iterable[str], reason: str
) -> Option:
    """Return an option, unless it forbids what one of `capabilities` is for."""
    held = _held(context, capabilities)
    if held:
        return Option(key, None, f"it forbids what {', '.join(held)} is for")
    return Option(key, value, reason)


def _unless_named(
    context: Context, key: str, value: str, directories: Iterable[str], reason: str
) -> Option:
    """Return an option, unless it hides what the context names, or a part of it."""
    named = [
        path
        for path in _named(context)
        for directory in directories
        if _is_below(path, directory)
    ]
    if named:
        return Option(key, None, _plain(f"the context names {', '.join(named)}"))
    return Option(key, value, reason)


def _unless_whole(
    context: Context, key: str, value: str, directories: Iterable[str], reason: str
) -> Option:
    """Return an option, unless the context names what it hides as a whole."""
    named = [path for path in _named(context) if path in directories]
    if named:
        why = f"the context names {', '.join(named)}"
        if context.user is None:
            why += "; DynamicUser= brings it all the same: give the context a user="
        return Option(key, None, why)
    return Option(key, value, reason)


def _named(context: Context) -> list[str]:
    """Return what the context names to read, to execute or to write."""
    sandbox = context.sandbox
    named = [] if context.audit is None else _audit_directories(context.audit)
    if sandbox is not None:
        for paths in (sandbox.read, sandbox.execute, sandbox.write):
            named += paths or ()
    return named


def _audit_directories(audit: Audit) -> list[str]:
    return [] if audit.file is None else [os.path.dirname(audit.file)]


def _is_below(path: str, directory: str) -> bool:
    return f"{path}/".startswith(f"{directory}/")


def _files(context: Context) -> Iterator[Option]:
    yield Option("RootDirectory", None, "the daemon's files are the machine's")
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
    yield from _logs(context)
    hidden = [*_HOMES, *_TEMPORARY]
    reading, writing = _shown_again(context, hidden)
    home = _unless_whole(context, "ProtectHome", "yes", _HOMES, "Homes are not its own")
    if home.value and any(_is_in(_HOMES, path) for path in [*reading, *writing]):
        home = home._replace(value="tmpfs", reason="Homes are not its own, but for:")
    yield home
    yield _unless_whole(
        context,
        "PrivateTmp",
        "yes",
        _TEMPORARY,
        "Names that others chose cannot lead it astray",
    )
    if reading:
        because = "It is there that it reads, or its interpreter's modules are"
        yield Option("BindReadOnlyPaths", " ".join(map(_quoted, reading)), because)
    if writing:
        because = "It is there that its sandbox= or its audit writes"
        yield Option("BindPaths", " ".join(map(_quoted, writing)), because)


_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - these are replaced


def _is_in(directories: Iterable[str], path: str) -> bool:
    """Return whether `path` is below one of `directories`, and not one itself."""
    return path not in directories and any(
        _is_below(path, directory) for directory in directories
    )


def _shown_again(context: Context, hidden: list[str]) -> tuple[list[str], list[str]]:
    """Return what is needed below `hidden`: to be read only, and to be written."""
    sandbox = context.sandbox
    read = {sys.base_prefix, sys.prefix, *runtime.python_paths()}
    written = set() if context.audit is None else {*_audit_directories(context.audit)}
    if sandbox is not None:
        read.update(sandbox.read or (), sandbox.execute or ())
        written.update(sandbox.write or ())
    read -= written
    return _outermost(hidden, read), _outermost(hidden, written)


def _outermost(hidden: list[str], paths: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths):
        if _is_in(hidden, path) and not any(_is_below(path, each) for each in found):
            found.append(path)
    return found


def _written(context: Context) -> list[str]:
    sandbox, audit = context.sandbox, context.audit
    written: list[str] = []
    if sandbox is not None:
        written += ["/"] if sandbox.write is None else sandbox.write
    if audit is not None:
        written += _audit_directories(audit)
    return written


def _logs(context: Context) -> Iterator[Option]:
    """Have the audit's directory made, for a user that is there only by then."""
    if context.audit is None or context.user is not None:
        return
    for directory in _audit_directories(context.audit):
        if _is_below(directory, "/var/log") and directory != "/var/log":
            yield Option(
                "LogsDirectory",
                _quoted(os.path.relpath(directory, "/var/log")),
                "Where its user's audit file is; give it to nobody else's logs",
            )


def _devices(context: Context) -> Iterator[Option]:
    private = _private_devices(context)
    yield private
    if private.value is None:
        why = "it closes all devices but the clock's"
        yield Option("ProtectClock", None, why)
        return
    clock = ("CAP_SYS_TIME", "CAP_WAKE_ALARM")
    yield _unless_held(context, "ProtectClock", "yes", clock, "It sets no clock")
    if not _is_open(context):
        return
    opens_root_s = _is_root(context) or _held(context, ["CAP_DAC_OVERRIDE"])
    for capability, device, is_opened in (
        ("CAP_NET_ADMIN", "/dev/net/tun", True),
        ("CAP_SYSLOG", "/dev/kmsg", True),
        ("CAP_SYS_TIME", "/dev/rtc0", opens_root_s),
    ):
        if is_opened and _held(context, [capability]):
            yield Option("BindPaths", f"-{device}", f"{capability} is for it, too")
            yield Option("DeviceAllow", f"{device} rw", "As above")


def _private_devices(context: Context) -> Option:
    option = _unless_held(
        context,
        "PrivateDevices",
        "yes",
        ("CAP_MKNOD", "CAP_SYS_RAWIO", _ADMIN, "CAP_SYS_TTY_CONFIG"),
        "No disks and no memory; /dev/null and so",
    )
    if option.value is None:
        return option
    return _unless_named(context, option.key, option.value, ["/dev"], option.reason)


def _is_open(context: Context) -> bool:
    """Return whether nothing says which files the context's functions write."""
    return context.sandbox is None or context.sandbox.write is None


_ADMIN = "CAP_SYS_ADMIN"


def _kernel(context: Context) -> Iterator[Option]:
    tunables = _unless_held(
        context,
        "ProtectKernelTunables",
        "yes",
        (_ADMIN, "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_MAC_ADMIN"),
        "It sets nothing in /proc and /sys",
    )
    if tunables.value:
        tunables = _unless_named(
            context, tunables.key, tunables.value, ("/proc", "/sys"), tunables.reason
        )
    yield tunables
    if tunables.value and _is_open(context) and _held(context, ["CAP_NET_ADMIN"]):
        yield Option("ReadWritePaths", "/proc/sys/net", "CAP_NET_ADMIN is for it, too")
    groups = _unless_held(
        context,
        "ProtectControlGroups",
        "yes",
        [_ADMIN],
        "It moves no process, sets no limit",
    )
    if groups.value:
        groups = _unless_named(
            context, groups.key, groups.value, ["/sys/fs/cgroup"], groups.reason
        )
    yield groups
    for key, capabilities, reason in (
        ("ProtectKernelModules", ["CAP_SYS_MODULE"], "It loads no module"),
        ("ProtectKernelLogs", ["CAP_SYSLOG"], "It reads no log of the kernel"),
        ("ProtectHostname", [_ADMIN], "It names no host"),
        ("RestrictRealtime", ["CAP_SYS_NICE"], "It keeps no processor for itself"),
    ):
        yield _unless_held(context, key, "yes", capabilities, reason)
    yield _files_that_give_privileges(context)
    yield Option(
        "PrivateMounts", "yes", "What it mounts is its own, as with all of the above"
    )
    yield _namespaces(context)
    yield _processes(context)
    yield Option("ProcSubset", None, "what its functions read of /proc is not known")
    yield Option("LockPersonality", "yes", "Nothing runs as on another system")
    yield Option(
        "MemoryDenyWriteExecute",
        "yes",
        "No code is made at run time; a library that compiles some needs it off",
    )
    yield Option("KeyringMode", "private", "It shares no keys")


def _files_that_give_privileges(context: Context) -> Option:
    option = _unless_held(
        context,
        "RestrictSUIDSGID",
        "yes",
        ["CAP_FSETID"],
        "It makes no file that gives privileges",
    )
    if option.value is None and context.user is None:
        why = f"{option.reason}; DynamicUser= brings it all the same: give it a user="
        return option._replace(reason=why)
    return option


def _namespaces(context: Context) -> Option:
    value, because = "yes", "It makes no namespaces"
    own = [] if context.sandbox is None else list(context.sandbox.namespaces)
    if context.sandbox is not None and context.sandbox.private_tmp:
        own.append("mount")
    if own:
        value = " ".join(sorted({_OF_NAMESPACE.get(each, each) for each in own}))
        because = "Those of its sandbox= (namespaces=, private_tmp=), and no other"
    capabilities = (_ADMIN, "CAP_CHECKPOINT_RESTORE")
    return _unless_held(context, "RestrictNamespaces", value, capabilities, because)


_OF_NAMESPACE = {"mount": "mnt"}  # others are named as privsep.Sandbox names them


def _processes(context: Context) -> Option:
    capabilities = [_ADMIN, "CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE"]
    # A sandbox lets CAP_KILL reach others only where it says so.
    if context.sandbox is None or context.sandbox.signals:
        capabilities.append("CAP_KILL")
    because = "Processes of others are no business"
    return _unless_held(context, "ProtectProc", "invisible", capabilities, because)


def _network(context: Context) -> Iterator[Option]:
    sandbox = context.sandbox
    if sandbox is not None and sandbox.network is False:
        because = "Its sandbox= gives it no network"
        yield Option("RestrictAddressFamilies", "AF_UNIX", because)
        yield Option("IPAddressDeny", "any", "As above")
        if sandbox.abstract_sockets:
            why = "others' abstract sockets (abstract_sockets=) are outside of it"
            yield Option("PrivateNetwork", None, why)
        else:
            capabilities = ("CAP_NET_ADMIN", _ADMIN)
            yield _unless_held(
                context, "PrivateNetwork", "yes", capabilities, "As above"
            )
        return
    families = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]
    if _held(context, ["CAP_NET_RAW"]):
        families.append("AF_PACKET")
    yield Option(
        "RestrictAddressFamilies",
        " ".join(families),
        "What its functions need of these is not known: take away what you can",
    )
    why = "no sandbox= of the context says network=False"
    yield Option("PrivateNetwork", None, why)
    yield Option("IPAddressDeny", None, why)


def _system_calls(context: Context) -> Iterator[Option]:
    yield Option("SystemCallArchitectures", "native", "No second table of system calls")
    asked = _asked_system_calls(context)
    allowed = ["@system-service", "seccomp", *_LANDLOCK]
    if _bits(context) & ~context.capability_mask:
        allowed.append("mount")
    for capability, names in _SYSTEM_CALLS.items():
        if _held(context, [capability]):
            allowed += names.split()
    yield Option(
        "SystemCallFilter",
        " ".join(dict.fromkeys([*allowed, *asked])),
        "What services use, what the daemon gives up its privileges by, and what its "
        "capabilities and its sandbox= are for",
    )
    if not asked.keys() & {_RESOURCES, *syscall_groups.members(_RESOURCES)}:
        yield _unless_held(
            context,
            "SystemCallFilter",
            f"~{_RESOURCES}",
            (_ADMIN, "CAP_SYS_NICE", "CAP_SYS_RESOURCE"),
            "It sets no priority and chooses no processor; a program that does (nice, "
            "taskset) needs this off",
        )
    yield Option("SystemCallErrorNumber", "EPERM", "A call that is refused fails")


def _asked_system_calls(context: Context) -> dict[str, None]:
    """Return what the sandbox's list allows, in its order; a list with ~ is open."""
    listed = None if context.sandbox is None else context.sandbox.syscalls
    if not listed or listed[0].startswith("~"):
        return {}
    return dict.fromkeys(name for name in listed if not name.startswith("~"))


_LANDLOCK = (
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
)
_RESOURCES = "@resources"
#: what is a capability's, capabilities(7), and not among @system-service
_SYSTEM_CALLS = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_MODULE": "@module",
    "CAP_SYS_RAWIO": "@raw-io",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_PTRACE": "@debug",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_ADMIN": "@mount @swap @debug bpf fanotify_init fanotify_mark "
    "quotactl quotactl_fd setdomainname sethostname",
    "CAP_SYS_BOOT": "@reboot",
    "CAP_SYS_TIME": "@clock",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
    "CAP_PERFMON": "perf_event_open",
    "CAP_BPF": "bpf",
}


_OF_SERVICE = (
    _process,
    _identity,
    _files,
    _devices,
    _kernel,
    _network,
    _system_calls,
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
