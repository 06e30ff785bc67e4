"""What each capability allows: one row each, in the order of their numbers.

Imported by the tests and by the daemons, whose workers run the actions.  An action
returns if the kernel lets it do its thing, and raises OSError if not.  None leaves a
trace outside of its process: it works on what is its own, sets what there is, or asks
for what cannot be done (by a magic number that is none, by a name that is not there),
which the kernel says only to those who have the capability.

Where an owner needs no capability, the file is a stranger's; where the mode decides,
it is an own one without any permission.  So it is all the same whether the process
has uid 0.  Sources: capabilities(7), and what an action names.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import select
import socket
import struct
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from io import FileIO

DONE = "done"
REFUSED = ("EPERM", "EACCES")
STRANGER = 1  #: the uid and gid of nobody who tests, and of no daemon


class Stage(NamedTuple):
    """What the actions find around them."""

    directory: str  #: where everybody may make files
    file: str  #: of a stranger, and everybody may read it
    process: int  #: of a stranger


class Row(NamedTuple):
    """One capability."""

    name: str
    action: Callable[[Stage], None] | None  #: None: there is none that is cheap
    granted: tuple[str, ...] = (DONE,)  #: what may come of it with the capability
    also: tuple[str, ...] = ()  #: capabilities that are as good, on every kernel
    formerly: tuple[str, ...] = ()  #: the same, on some kernels
    changes_process: bool = False  #: so the action runs in a child
    own_namespace: bool = False  #: root of a user namespace may do it in there
    without_action: str = ""  #: why there is none


def outcome(action: Callable[[Stage], None], stage: Stage) -> str:
    """Run an action; return DONE, or the name of the errno."""
    try:
        action(stage)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return DONE


def in_a_child(function: Callable[[], str]) -> str:
    """Return what `function` returns in a child; nothing, if it raises there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, function().encode())
        except BaseException:  # noqa: BLE001 - the child must not go on as its parent
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def outcomes(stage: Stage) -> dict[str, str]:
    """Run every action and return what came of it, by the names of the rows."""

    def run(row: Row, action: Callable[[Stage], None]) -> str:
        if row.changes_process:
            return in_a_child(lambda: outcome(action, stage))
        return outcome(action, stage)

    return {row.name: run(row, row.action) for row in TABLE if row.action}


# -- calls that Python lacks ---------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)

_GENERIC = {"bpf": 280, "clone3": 435, "perf_event_open": 241, "reboot": 142}
_SYSTEM_CALLS = {  # syscalls(2): the number is the architecture's
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "x86_64": {"bpf": 321, "clone3": 435, "perf_event_open": 298, "reboot": 169},
}


def _call(name: str, *arguments: object) -> int:
    """Call a function of libc; raise OSError as it fails."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def _system_call(name: str, *arguments: object) -> int:
    """Make a system call for which libc has no function that passes all of it on."""
    number = _SYSTEM_CALLS.get(platform.machine(), {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name} has no known number here")
    return _call("syscall", ctypes.c_long(number), *arguments)


# -- files ---------------------------------------------------------------------


@contextmanager
def _own_file(mode: int) -> Generator[FileIO, None, None]:
    """Make a file that is in no directory."""
    with open(os.memfd_create("own"), "r+b", buffering=0) as file:
        os.fchmod(file.fileno(), mode)
        yield file


def _open_again(file: FileIO, flags: int) -> None:
    os.close(os.open(f"/proc/self/fd/{file.fileno()}", flags))


def give_away_a_file(_: Stage) -> None:
    with _own_file(0o600) as file:
        os.fchown(file.fileno(), STRANGER, -1)


def write_to_a_file_without_permissions(_: Stage) -> None:
    with _own_file(0) as file:
        _open_again(file, os.O_WRONLY)


def read_a_file_without_permissions(_: Stage) -> None:
    with _own_file(0) as file:
        _open_again(file, os.O_RDONLY)


def change_the_mode_of_a_stranger_s_file(stage: Stage) -> None:
    """Change it to what it is."""
    os.chmod(stage.file, os.stat(stage.file).st_mode & 0o7777)


def write_to_a_file_that_stays_set_user_id(_: Stage) -> None:
    with _own_file(0o4700) as file:
        file.write(b"written")
        if not os.fstat(file.fileno()).st_mode & 0o4000:
            raise PermissionError(errno.EPERM, "the set-user-ID bit is gone")


def make_a_file_append_only(_: Stage) -> None:
    """ioctl_iflags(2)."""
    set_flags, append_only = 0x40086602, 0x20
    with _own_file(0o600) as file:
        fcntl.ioctl(file, set_flags, struct.pack("L", append_only))


def map_a_block_of_a_file(_: Stage) -> None:
    """FIBMAP; a file in memory has no blocks, which is said afterwards."""
    fibmap = 1
    with _own_file(0o600) as file:
        fcntl.ioctl(file, fibmap, struct.pack("i", 0))


def give_a_file_a_capability(_: Stage) -> None:
    """Set the attribute as struct vfs_cap_data is, with CAP_CHOWN permitted."""
    revision_2 = 0x02000000
    value = struct.pack("<5I", revision_2, 1, 0, 0, 0)
    with _own_file(0o700) as file:
        os.setxattr(file.fileno(), "security.capability", value)


def make_a_device(stage: Stage) -> None:
    path = f"{stage.directory}/null-{os.getpid()}"
    os.mknod(path, 0o020600, os.makedev(1, 3))  # null(4)
    os.unlink(path)


def lease_a_stranger_s_file(stage: Stage) -> None:
    """F_SETLEASE, fcntl(2); it ends with the descriptor."""
    with open(stage.file, "rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)


# -- processes -----------------------------------------------------------------


def signal_a_stranger_s_process(stage: Stage) -> None:
    os.kill(stage.process, 0)


def look_into_a_stranger_s_process(stage: Stage) -> None:
    """Do what takes the right to trace it, as proc_pid_cwd(5) says."""
    os.readlink(f"/proc/{stage.process}/cwd")


def become_another_group(_: Stage) -> None:
    os.setresgid(STRANGER, STRANGER, STRANGER)


def become_another_user(_: Stage) -> None:
    os.setresuid(STRANGER, STRANGER, STRANGER)


def drop_a_capability_from_the_bounding_set(_: Stage) -> None:
    capbset_drop, net_broadcast = 24, 11
    _call("prctl", capbset_drop, ctypes.c_ulong(net_broadcast))


def change_the_root_directory(_: Stage) -> None:
    os.chroot("/")


def lower_the_nice_value(_: Stage) -> None:
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, nice - 1)


def raise_a_hard_limit(_: Stage) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 1))
    except ValueError as error:  # what Python makes of EPERM
        raise PermissionError(errno.EPERM, str(error)) from error


def lock_memory_beyond_the_limit(_: Stage) -> None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    _call("mlock", ctypes.create_string_buffer(1), ctypes.c_size_t(1))


def leave_the_namespace_of_host_names(_: Stage) -> None:
    new_uts = 0x04000000
    _call("unshare", new_uts)


def choose_a_child_s_process_id(_: Stage) -> None:
    """Ask clone3(2) for process 1, which there is in every namespace."""
    set_tid = ctypes.c_int(1)
    arguments = struct.pack("8Q2Q8x", *[0] * 8, ctypes.addressof(set_tid), 1)
    _system_call("clone3", arguments, ctypes.c_size_t(len(arguments)))


# -- networks, and queues of System V ------------------------------------------


def bind_a_privileged_port(_: Stage) -> None:
    with socket.socket() as sock:
        # Whoever runs the same test may hold the port, for as long as a bind takes.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 1))


def listen_to_all_network_namespaces(_: Stage) -> None:
    """NETLINK_LISTEN_ALL_NSID, netlink(7)."""
    sol_netlink, listen_all_nsid = 270, 8
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(sol_netlink, listen_all_nsid, 1)


def set_the_mtu_of_the_loopback(_: Stage) -> None:
    """Set it to what it is, netdevice(7)."""
    get_mtu, set_mtu = 0x8921, 0x8922
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, get_mtu, struct.pack("16s24x", b"lo"))
        fcntl.ioctl(sock, set_mtu, request)


def open_a_raw_socket(_: Stage) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def look_at_a_queue_without_permissions(_: Stage) -> None:
    """IPC_STAT of an own one, which an owner may remove all the same: msgctl(2)."""
    ipc_private, ipc_rmid, ipc_stat = 0, 0, 2
    queue = _call("msgget", ipc_private, 0)
    try:
        _call("msgctl", queue, ipc_stat, ctypes.create_string_buffer(1024))
    finally:
        _call("msgctl", queue, ipc_rmid, None)


# -- the system ----------------------------------------------------------------


def unload_a_module_that_is_not_there(_: Stage) -> None:
    _call("delete_module", b"privsep-none", os.O_NONBLOCK)


def keep_accounts_in_a_directory(_: Stage) -> None:
    """acct(2)."""
    _call("acct", b"/")


def reboot_without_the_magic_numbers(_: Stage) -> None:
    """reboot(2): without them, all it does is fail."""
    nothing = ctypes.c_long(0)
    _system_call("reboot", nothing, nothing, nothing, nothing)


def set_the_clock_to_ticks_of_no_length(_: Stage) -> None:
    """adjtimex(2)."""
    adj_tick = 0x4000
    _call("adjtimex", ctypes.create_string_buffer(struct.pack("I", adj_tick), 512))


def hang_up_a_terminal(_: Stage) -> None:
    """vhangup(2), in a session that has no terminal."""
    os.setsid()
    _call("vhangup")


def open_the_kernel_s_log(_: Stage) -> None:
    """SYSLOG_ACTION_OPEN, syslog(2): it asks for the capability and does nothing."""
    action_open = 1
    _call("klogctl", action_open, None, 0)


def make_a_timer_that_wakes_the_system(_: Stage) -> None:
    """timerfd_create(2); it is never set."""
    realtime_alarm = 8
    os.close(_call("timerfd_create", realtime_alarm, 0))


def keep_the_system_awake(_: Stage) -> None:
    """EPOLLWAKEUP, epoll_ctl(2): the flag is left out without the capability."""
    wakeup = 1 << 29
    with select.epoll() as epoll, open(os.eventfd(0), "rb") as event:
        epoll.register(event, select.EPOLLIN | wakeup)
        with open(f"/proc/self/fdinfo/{epoll.fileno()}") as file:
            events = file.read().partition("events:")[2].split()[0]
    if not int(events, 16) & wakeup:
        raise PermissionError(errno.EPERM, "EPOLLWAKEUP is gone")


def count_the_kernel_s_time(_: Stage) -> None:
    """perf_event_open(2), with a counter that does not leave the kernel out."""
    software, size, cpu_clock = 1, 64, 0
    attributes = struct.pack("IIQ", software, size, cpu_clock)
    own, every_cpu, no_group = ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1)
    buffer = ctypes.create_string_buffer(attributes, size)
    flags = ctypes.c_ulong(0)
    os.close(_system_call("perf_event_open", buffer, own, every_cpu, no_group, flags))


def make_a_bpf_map(_: Stage) -> None:
    """BPF_MAP_CREATE, bpf(2), of a kind that is never for everybody."""
    map_create, queue = 0, 22
    key_size, value_size, entries = 0, 4, 1
    attributes = struct.pack("4I48x", queue, key_size, value_size, entries)
    size = ctypes.c_uint(len(attributes))
    os.close(_system_call("bpf", map_create, attributes, size))


# -- the audit of the kernel, netlink(7) ---------------------------------------

_NETLINK_AUDIT = 9
_HEADER = struct.Struct("IHHII")  # length, type, flags, sequence, port


def _ask_audit(kind: int) -> None:
    """Send a message without contents; raise OSError as the kernel answers."""
    request, acknowledge, error = 0x1, 0x4, 0x2
    flags = request | acknowledge
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT) as sock:
        sock.sendto(_HEADER.pack(_HEADER.size, kind, flags, 1, 0), (0, 0))
        answer, answered = b"", 0
        while answered != error:
            # It answers before the message counts as sent.
            answer = sock.recv(1 << 16, socket.MSG_DONTWAIT)
            answered = _HEADER.unpack_from(answer)[1]
    number = struct.unpack_from("i", answer, _HEADER.size)[0]
    if number:
        raise OSError(-number, f"audit message {kind}")


def write_an_empty_audit_record(_: Stage) -> None:
    """An error if audit is on, and left out if it is off."""
    first_user_message = 1100
    _ask_audit(first_user_message)


def ask_for_the_state_of_audit(_: Stage) -> None:
    audit_get = 1000
    _ask_audit(audit_get)


def listen_to_the_audit_log(_: Stage) -> None:
    read_log = 1
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_AUDIT) as sock:
        sock.bind((0, read_log))


# -- the table -----------------------------------------------------------------

_OF_A_MODULE = "only some security modules ask for it (Smack, AppArmor)"
#: what was taken out of CAP_SYS_ADMIN is still in it: capabilities(7) there
_ADMIN = ("CAP_SYS_ADMIN",)

TABLE = (
    Row("CAP_CHOWN", give_away_a_file),
    Row("CAP_DAC_OVERRIDE", write_to_a_file_without_permissions, own_namespace=True),
    Row(
        "CAP_DAC_READ_SEARCH",
        read_a_file_without_permissions,
        also=("CAP_DAC_OVERRIDE",),  # it bypasses the check for reading, too
        own_namespace=True,
    ),
    Row("CAP_FOWNER", change_the_mode_of_a_stranger_s_file),
    Row("CAP_FSETID", write_to_a_file_that_stays_set_user_id),
    Row("CAP_KILL", signal_a_stranger_s_process),
    Row("CAP_SETGID", become_another_group, changes_process=True),
    Row("CAP_SETUID", become_another_user, changes_process=True),
    Row(
        "CAP_SETPCAP",
        drop_a_capability_from_the_bounding_set,
        own_namespace=True,
        changes_process=True,
    ),
    Row("CAP_LINUX_IMMUTABLE", make_a_file_append_only),
    Row("CAP_NET_BIND_SERVICE", bind_a_privileged_port, own_namespace=True),
    # capabilities(7) has it as unused; since Linux 4.2 netlink asks for it.
    Row("CAP_NET_BROADCAST", listen_to_all_network_namespaces, own_namespace=True),
    Row("CAP_NET_ADMIN", set_the_mtu_of_the_loopback, own_namespace=True),
    Row("CAP_NET_RAW", open_a_raw_socket, own_namespace=True),
    Row("CAP_IPC_LOCK", lock_memory_beyond_the_limit, changes_process=True),
    Row("CAP_IPC_OWNER", look_at_a_queue_without_permissions, own_namespace=True),
    Row("CAP_SYS_MODULE", unload_a_module_that_is_not_there, ("ENOENT",)),
    Row("CAP_SYS_RAWIO", map_a_block_of_a_file, ("EINVAL",)),
    Row("CAP_SYS_CHROOT", change_the_root_directory, own_namespace=True),
    Row("CAP_SYS_PTRACE", look_into_a_stranger_s_process),
    Row("CAP_SYS_PACCT", keep_accounts_in_a_directory, ("EISDIR",)),
    Row(
        "CAP_SYS_ADMIN",
        leave_the_namespace_of_host_names,
        own_namespace=True,
        changes_process=True,
    ),
    Row(
        "CAP_SYS_BOOT",
        reboot_without_the_magic_numbers,
        ("EINVAL",),
        own_namespace=True,
    ),
    Row("CAP_SYS_NICE", lower_the_nice_value, changes_process=True),
    Row("CAP_SYS_RESOURCE", raise_a_hard_limit, changes_process=True),
    Row("CAP_SYS_TIME", set_the_clock_to_ticks_of_no_length, ("EINVAL",)),
    Row("CAP_SYS_TTY_CONFIG", hang_up_a_terminal, changes_process=True),
    Row("CAP_MKNOD", make_a_device),
    Row("CAP_LEASE", lease_a_stranger_s_file),
    Row("CAP_AUDIT_WRITE", write_an_empty_audit_record, (DONE, "EINVAL")),
    Row("CAP_AUDIT_CONTROL", ask_for_the_state_of_audit),
    Row("CAP_SETFCAP", give_a_file_a_capability, own_namespace=True),
    Row("CAP_MAC_OVERRIDE", None, without_action=_OF_A_MODULE),
    Row("CAP_MAC_ADMIN", None, without_action=_OF_A_MODULE),
    # Linux 6.6 takes CAP_SYS_ADMIN for it and warns, 6.18 does not: syslog(2).
    Row("CAP_SYSLOG", open_the_kernel_s_log, formerly=_ADMIN),
    Row("CAP_WAKE_ALARM", make_a_timer_that_wakes_the_system),
    Row("CAP_BLOCK_SUSPEND", keep_the_system_awake),
    Row("CAP_AUDIT_READ", listen_to_the_audit_log),
    Row("CAP_PERFMON", count_the_kernel_s_time, also=_ADMIN),
    Row("CAP_BPF", make_a_bpf_map, also=_ADMIN),
    Row(
        "CAP_CHECKPOINT_RESTORE",
        choose_a_child_s_process_id,
        ("EEXIST",),
        also=_ADMIN,
        changes_process=True,  # it would be two
        own_namespace=True,
    ),
)
