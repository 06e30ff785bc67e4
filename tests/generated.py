"""Contexts of which units and rules are generated: each asks for other things."""

import privsep

plain = privsep.Context("plain", capabilities=[], timeout=5.0)
network = privsep.Context("network", capabilities=["CAP_NET_ADMIN"], timeout=None)
writer = privsep.Context(
    "writes 100% of\n[it]",
    capabilities=["CAP_DAC_OVERRIDE", "CAP_CHOWN"],
    sandbox=privsep.Sandbox(read=["/home/x", "/etc"], write=['/etc/a b%"\\$c']),
)
own_user = privsep.Context(
    "own_user",
    capabilities=["CAP_KILL", "CAP_SYS_TIME"],
    user="daemon",
    environment=["HTTP_PROXY"],
    sandbox=privsep.Sandbox(write=None, network=True),
    audit=privsep.Audit("/var/log/my-service/audit.jsonl"),
)
mighty = privsep.Context(
    "mighty",
    capabilities=["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_NET_RAW", "CAP_SYS_PTRACE"],
)
boxed = privsep.Context(
    "boxed",
    capabilities=["CAP_DAC_OVERRIDE"],
    sandbox=privsep.Sandbox(write=["/etc"], syscalls=["~@mount"]),
)
audited = privsep.Context(
    "audited",
    capabilities=[],
    audit=privsep.Audit("/etc/audit.jsonl"),  # of its own /etc
)
private = privsep.Context(
    "private", capabilities=[], sandbox=privsep.Sandbox(private_tmp=True)
)


@plain.entrypoint
def long() -> None: ...


@writer.entrypoint
def write() -> None: ...


@network.entrypoint
def echo(value: object) -> object:
    return value
