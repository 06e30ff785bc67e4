"""What is measured against what, and what is asked of it.

A new row is an entry of `ROWS`; a new peer is a module of `contestants` and a file of
`requirements`, too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One measuring process: an operation of a module of `contestants`.

    An environment is made from `requirements/NAME.txt`, or holds nothing where there is
    no such file.
    """

    label: str
    environment: str
    module: str
    operation: str


@dataclass(frozen=True)
class Ratio:
    """One contestant's time divided by another's, and what is asked of it."""

    over: Contestant
    under: Contestant
    at_most: float | None = None
    at_least: float | None = None
    adds_at_most: float | None = None
    """Microseconds that the first may take longer than the second."""

    @property
    def target(self) -> str:
        """The bound, as the table shows it."""
        if self.adds_at_most is not None:
            return f"≤ {self.adds_at_most:g} µs more"
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        return " and ".join(
            f"{sign} {bound:g}" for sign, bound in bounds if bound is not None
        )

    def meets(self, value: float) -> bool:
        """Say whether a ratio is within the bounds."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


@dataclass(frozen=True)
class Row:
    """Contestants measured in turn: `rounds` times, `operations` each time."""

    name: str
    title: str
    ratios: tuple[Ratio, ...]
    operations: int
    rounds: int
    rate: bool = False
    """Show operations a second, not the time of one."""
    processors: int = 0
    """How many the two sides share; 0: as the scheduler puts them."""

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """Each contestant of the ratios once, in the order of measuring."""
        return tuple(
            dict.fromkeys(
                side for ratio in self.ratios for side in (ratio.under, ratio.over)
            )
        )


def floor(label: str, operation: str) -> Contestant:
    """Name a floor."""
    return Contestant(label, "floor", "floor", operation)


def privsep(operation: str, label: str = "privsep") -> Contestant:
    """Name an operation of ours."""
    return Contestant(label, "privsep", "privsep", operation)


def audited(label: str, operation: str) -> Contestant:
    """Name an operation of ours that is recorded."""
    return Contestant(label, "privsep", "privsep", operation)


def oslo_privsep(operation: str) -> Contestant:
    """Name an operation of oslo.privsep."""
    return Contestant("oslo.privsep", "oslo_privsep", "oslo_privsep", operation)


def drop_in(operation: str) -> Contestant:
    """Name an operation of oslo.privsep, with ours in its place."""
    return Contestant("privsep-oslo", "privsep_oslo", "oslo_privsep", operation)


def rootwrap(label: str, operation: str) -> Contestant:
    """Name an operation of our rootwrap."""
    return Contestant(label, "privsep", "rootwrap", operation)


def oslo_rootwrap(operation: str, label: str = "oslo.rootwrap") -> Contestant:
    """Name an operation of oslo.rootwrap."""
    return Contestant(label, "oslo_rootwrap", "oslo_rootwrap", operation)


INTERPRETER = floor("python3 -I -S -c pass", "pass")

ECHO = (
    Ratio(privsep("echo"), floor("socketpair ping-pong", "ping-pong"), at_most=1.5),
    Ratio(oslo_privsep("echo"), privsep("echo"), at_least=3),
    Ratio(
        Contestant(
            "ping-pong with MessagePack", "privsep", "floor", "packed-ping-pong"
        ),
        floor("socketpair ping-pong", "ping-pong"),
    ),
)

BARE_COPY = floor("bare copy there and back", "copy-large")

LARGE = (
    Ratio(privsep("echo-large"), BARE_COPY, at_most=3),
    Ratio(floor("a sealed memfd each way", "memfd-large"), BARE_COPY),
)

STREAM = (Ratio(privsep("stream"), floor("the same bytes, bare", "stream"), at_most=3),)

STREAM_ITEM = (Ratio(privsep("stream-item", "an item"), privsep("echo", "a call")),)

ASYNCIO = (
    Ratio(privsep("echo-asyncio", "await aio(echo)(1)"), privsep("echo", "echo(1)")),
)

VALIDATION = (
    Ratio(
        privsep("echo-annotated", "str, int, list[str]"),
        privsep("echo-unannotated", "no annotations"),
        adds_at_most=3,
    ),
)

AUDIT = (
    Ratio(audited("with audit", "echo-audited"), privsep("echo"), adds_at_most=8),
    Ratio(audited("audit required", "echo-audit-required"), privsep("echo")),
)

NOTHING = floor("a system call", "getppid")

LOCKDOWN = (
    Ratio(privsep("lockdown", "one capability is left"), NOTHING),
    Ratio(privsep("lockdown-sandbox", "and a sandbox"), NOTHING),
    Ratio(privsep("lockdown-list", "and a list of system calls"), NOTHING),
)

PROOF = (
    Ratio(privsep("proof", "one capability is left"), NOTHING, adds_at_most=2000),
    Ratio(privsep("proof-sandbox", "and a sandbox"), NOTHING, adds_at_most=2000),
    Ratio(
        privsep("proof-list", "and a list of system calls"), NOTHING, adds_at_most=2000
    ),
    # A child tries then: most of it is the fork of this large process.
    Ratio(privsep("proof-kill", "and a list that kills"), NOTHING),
)

ROWS = (
    Row("echo", "echo(1), one thread", ECHO, operations=100, rounds=200),
    Row(
        "echo-1-cpu",
        "echo(1), both sides on one processor",
        ECHO,
        operations=100,
        rounds=100,
        processors=1,
    ),
    Row(
        "echo-2-cpus",
        "echo(1), a processor for each side",
        ECHO,
        operations=100,
        rounds=100,
        processors=2,
    ),
    Row(
        "large",
        "echo of 16 MiB",
        LARGE,
        operations=3,
        rounds=40,
    ),
    Row(
        "stream",
        "a gibibyte in items of 64 KiB",
        STREAM,
        operations=1,
        rounds=10,
    ),
    Row(
        "stream-item",
        "an item of a stream, and a call, on one processor",
        STREAM_ITEM,
        operations=1000,
        rounds=100,
        processors=1,
    ),
    Row(
        "echo-asyncio",
        "awaiting echo(1), and calling it, on one processor",
        ASYNCIO,
        operations=100,
        rounds=100,
        processors=1,
    ),
    Row(
        "validation",
        "a call with three arguments, judged or not",
        VALIDATION,
        operations=100,
        rounds=200,
    ),
    Row("audit", "echo(1), recorded in a file", AUDIT, operations=100, rounds=200),
    Row(
        "echo-thread-isolation",
        "echo(1), one thread, worker threads",
        (Ratio(oslo_privsep("echo"), privsep("echo-thread-isolation")),),
        operations=100,
        rounds=100,
    ),
    Row(
        "echo-threads",
        "echo(1), four threads, worker processes",
        (Ratio(oslo_privsep("echo-threads"), privsep("echo-threads")),),
        operations=400,
        rounds=100,
        rate=True,
    ),
    Row(
        "fork",
        "fork start and first call",
        (Ratio(privsep("fork"), oslo_privsep("fork"), at_most=1),),
        operations=1,
        rounds=60,
    ),
    Row(
        "fork-thread-isolation",
        "fork start and first call, worker threads",
        (Ratio(privsep("fork-thread-isolation"), oslo_privsep("fork"), at_most=1),),
        operations=1,
        rounds=60,
    ),
    Row(
        "fork-script",
        "a script that starts by fork and calls once, imports and all",
        (Ratio(privsep("fork-script"), oslo_privsep("fork-script")),),
        operations=1,
        rounds=20,
    ),
    Row(
        "exec",
        "exec start and first call",
        (Ratio(privsep("exec"), INTERPRETER),),
        operations=1,
        rounds=40,
    ),
    Row(
        "sudo",
        "sudo start and first call",
        (
            Ratio(
                privsep("sudo"),
                floor("sudo python3 -I -S -c pass", "sudo-pass"),
                at_most=2.5,
            ),
        ),
        operations=1,
        rounds=40,
    ),
    Row(
        "sudo-annotated",
        "sudo start and first call, its arguments judged",
        (
            Ratio(
                privsep("sudo-annotated"),
                floor("sudo python3 -I -S -c pass", "sudo-pass"),
                at_most=2.5,
            ),
        ),
        operations=1,
        rounds=40,
    ),
    Row(
        "oslo-echo",
        "echo(1), one thread, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("echo"), drop_in("echo"), at_least=3),),
        operations=100,
        rounds=100,
    ),
    Row(
        "oslo-echo-1-cpu",
        "echo(1), both sides on one processor, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("echo"), drop_in("echo"), at_least=3),),
        operations=100,
        rounds=60,
        processors=1,
    ),
    Row(
        "oslo-echo-2-cpus",
        "echo(1), a processor for each side, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("echo"), drop_in("echo"), at_least=3),),
        operations=100,
        rounds=60,
        processors=2,
    ),
    Row(
        "oslo-echo-threads",
        "echo(1), four threads, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("echo-threads"), drop_in("echo-threads")),),
        operations=400,
        rounds=60,
        rate=True,
    ),
    Row(
        "oslo-fork",
        "fork start and first call, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("fork"), drop_in("fork")),),
        operations=1,
        rounds=40,
    ),
    Row(
        "oslo-sudo",
        "sudo privsep-helper and first call, ours in place of oslo.privsep",
        (Ratio(oslo_privsep("sudo"), drop_in("sudo"), at_least=3),),
        operations=1,
        rounds=20,
    ),
    Row(
        "lockdown",
        "giving up the rest for good, the proof and all",
        LOCKDOWN,
        operations=1,
        rounds=60,
    ),
    Row(
        "proof",
        "what of that is trying to regain it",
        PROOF,
        operations=1,
        rounds=60,
    ),
    Row(
        "rootwrap",
        "rootwrap runs true, one-shot",
        (
            Ratio(rootwrap("privsep-rootwrap", "one-shot"), INTERPRETER, at_most=2),
            Ratio(oslo_rootwrap("one-shot"), rootwrap("privsep-rootwrap", "one-shot")),
        ),
        operations=1,
        rounds=60,
    ),
    Row(
        "rootwrap-daemon",
        "rootwrap's daemon runs true",
        (
            Ratio(
                rootwrap("privsep-rootwrap-daemon", "daemon"),
                floor("subprocess.run of true, with pipes", "true-with-pipes"),
                at_most=1.25,
            ),
            Ratio(
                oslo_rootwrap("daemon"), rootwrap("privsep-rootwrap-daemon", "daemon")
            ),
        ),
        operations=20,
        rounds=60,
    ),
    Row(
        "rootwrap-daemon-threads",
        "rootwrap's daemon runs true, one thread beside eight",
        (
            Ratio(
                rootwrap("one thread", "daemon-1-thread"),
                rootwrap("eight threads", "daemon-8-threads"),
                at_least=1.6,
            ),
            Ratio(
                oslo_rootwrap("daemon-1-thread", "oslo.rootwrap, one thread"),
                oslo_rootwrap("daemon-8-threads", "oslo.rootwrap, eight threads"),
            ),
        ),
        operations=80,
        rounds=40,
        rate=True,
    ),
    Row(
        "rootwrap-match",
        "rootwrap judges true",
        (
            Ratio(
                rootwrap("10,000 filters", "match-10000"),
                rootwrap("10 filters", "match-10"),
                adds_at_most=20,
            ),
        ),
        operations=100,
        rounds=60,
    ),
    Row(
        "process",
        "what a process costs, and what of it is Python",
        (Ratio(INTERPRETER, floor("subprocess.run of true", "true")),),
        operations=1,
        rounds=40,
    ),
)
