"""Contexts whose units systemd-analyze rates: what services ask for, and more."""

from __future__ import annotations

from privsep import Audit, Context, Sandbox

_OFF = Sandbox()  # no network, no writing
_LOG = Audit("/var/log/rated/audit.jsonl")


def _context(
    *capabilities: str,
    user: str | None = None,
    sandbox: Sandbox | None = None,
    audit: Audit | None = None,
) -> Context:
    names = [f"CAP_{name}" for name in capabilities]
    return Context("rated", capabilities=names, user=user, sandbox=sandbox, audit=audit)


#: at most 2.0, whatever else is asked for
_BY_ITSELF = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE "
    "MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW "
    "PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_BOOT SYS_CHROOT SYS_MODULE "
    "SYS_NICE SYS_PACCT SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
WITHIN = {
    **{name.lower(): _context(name) for name in _BY_ITSELF.split()},
    "nothing": _context(),
    "nothing_of_root": _context(user="root"),
    "nothing_audited": _context(audit=_LOG),
    "pair": _context("NET_ADMIN", "NET_RAW"),
    "pair_of_user": _context("NET_ADMIN", "NET_RAW", user="daemon"),
    "pair_audited": _context(
        "KILL",
        "SYS_TIME",
        user="daemon",
        audit=_LOG,
        sandbox=Sandbox(write=None, network=True),
    ),
    "ports": _context(
        "NET_BIND_SERVICE",
        "DAC_OVERRIDE",
        user="daemon",
        sandbox=Sandbox(write=["/etc"], network={"bind": [80]}),
    ),
    "off": _context("DAC_OVERRIDE", "CHOWN", "FOWNER", "FSETID", sandbox=_OFF),
    "off_of_user": _context(
        "DAC_OVERRIDE",
        "CHOWN",
        "FOWNER",
        "FSETID",
        "SETUID",
        "SETGID",
        user="daemon",
        sandbox=_OFF,
    ),
    "off_of_root": _context("DAC_OVERRIDE", "SYS_PTRACE", user="root", sandbox=_OFF),
    "off_network": _context("NET_ADMIN", "NET_RAW", sandbox=_OFF),
    "off_audited": _context("DAC_OVERRIDE", audit=_LOG, sandbox=_OFF),
    "paths": _context(
        "DAC_OVERRIDE",
        sandbox=Sandbox(
            read=["/srv", "/home/x"],
            write=["/var/tmp/x", "/srv/out"],
            execute=["/usr/bin", "/root/bin"],
        ),
    ),
    "homes": _context(
        "DAC_OVERRIDE", user="daemon", sandbox=Sandbox(write=["/home", "/tmp"])
    ),
    "device": _context("SYS_RAWIO", sandbox=Sandbox(write=["/dev/mem"])),
    "tunables": _context("NET_ADMIN", sandbox=Sandbox(write=["/proc/sys/net"])),
    "list": _context(
        "DAC_OVERRIDE",
        sandbox=Sandbox(syscalls=["@system-service", "perf_event_open", "~@chown"]),
    ),
    "namespaces": _context(
        sandbox=Sandbox(namespaces=["net", "uts", "ipc"], private_tmp=True)
    ),
}
#: more than 2.0: each with how docs/systemd.md calls it
SAID = {
    "ptrace": "`CAP_SYS_PTRACE`",
    "files_of_root": '`CAP_DAC_OVERRIDE`, `CAP_CHOWN`, `user="root"`',
    "pair_that_kills": "`CAP_KILL`, `CAP_SYS_TIME`, `user=`, no sandbox",
    "four": "`CAP_SETUID`, `CAP_SETGID`, `CAP_DAC_OVERRIDE`, `CAP_KILL`, `user=`",
    "rawio": "`CAP_SYS_RAWIO`",
    "checkpoint": "`CAP_CHECKPOINT_RESTORE`",
    "admin_off": "`CAP_SYS_ADMIN`, `user=`, a sandbox without network",
    "admin": "`CAP_SYS_ADMIN`",
    "admin_of_root": "`CAP_SYS_ADMIN`, `CAP_NET_ADMIN`, `CAP_DAC_OVERRIDE`, "
    '`user="root"`',
    "mighty": "`CAP_SYS_ADMIN`, `CAP_SYS_MODULE`, `CAP_NET_RAW`, `CAP_SYS_PTRACE`",
}
BEYOND = {
    "ptrace": _context("SYS_PTRACE"),
    "files_of_root": _context("DAC_OVERRIDE", "CHOWN", user="root"),
    "pair_that_kills": _context("KILL", "SYS_TIME", user="daemon"),
    "four": _context("SETUID", "SETGID", "DAC_OVERRIDE", "KILL", user="daemon"),
    "rawio": _context("SYS_RAWIO"),
    "checkpoint": _context("CHECKPOINT_RESTORE"),
    "admin_off": _context("SYS_ADMIN", user="daemon", sandbox=_OFF),
    "admin": _context("SYS_ADMIN"),
    "admin_of_root": _context("SYS_ADMIN", "NET_ADMIN", "DAC_OVERRIDE", user="root"),
    "mighty": _context("SYS_ADMIN", "SYS_MODULE", "NET_RAW", "SYS_PTRACE"),
}
globals().update(WITHIN | BEYOND)
