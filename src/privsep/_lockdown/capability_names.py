"""Names and numbers of capabilities, capabilities(7), and sets as bit masks.

Runs in both processes; reads nothing, changes nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not typing's: rootwrap reads names in a start of its own
if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
SETGID = NAMES.index("CAP_SETGID")
SETUID = NAMES.index("CAP_SETUID")
SETPCAP = NAMES.index("CAP_SETPCAP")
SYS_PTRACE = NAMES.index("CAP_SYS_PTRACE")
SYS_ADMIN = NAMES.index("CAP_SYS_ADMIN")
SYS_RESOURCE = NAMES.index("CAP_SYS_RESOURCE")


def number(capability: str | int) -> int:
    """Return the number of a capability, given by name or number.

    The name may lack its ``CAP_`` and be in any case.

    Raises:
        ValueError: no such capability; the message has the nearest name.
        TypeError: neither a name nor a number.

    """
    # True would be CAP_DAC_OVERRIDE.
    if isinstance(capability, int) and not isinstance(capability, bool):
        if not 0 <= capability < len(NAMES):
            msg = f"no capability has the number {capability} (0 to {len(NAMES) - 1})"
            raise ValueError(msg)
        return capability
    if not isinstance(capability, str):
        msg = f"a capability is given by name or number, not as {capability!r}"
        raise TypeError(msg)
    name = capability.upper()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name in NAMES:
        return NAMES.index(name)
    from privsep._lockdown.nearest import nearest  # noqa: PLC0415 - only to explain

    longer = [known for known in NAMES if known.startswith(name)]
    near = nearest(name, longer or NAMES)
    msg = f"no capability is named {capability!r}; did you mean {near}?"
    raise ValueError(msg)


def mask(capabilities: Iterable[int]) -> int:
    """Return the bit mask of capability numbers."""
    result = 0
    for capability in capabilities:
        result |= 1 << capability
    return result


def describe(bits: int) -> str:
    """Return the names in a bit mask, for a message; "none" if it is empty."""
    names = (
        NAMES[bit] if bit < len(NAMES) else f"capability {bit}"
        for bit in range(bits.bit_length())
        if bits >> bit & 1
    )
    return ", ".join(names) or "none"
