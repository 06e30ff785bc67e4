"""Our rootwrap, from this repository."""

from functools import partial

from benchmarks.contestants.measure import Call, Round, latency, serve
from benchmarks.contestants.rootwrap_policy import operations, policy, program


def daemon() -> Call:
    """Return a call that runs true in the daemon, with pipes for its output."""
    from privsep.rootwrap import Client

    command = [program("privsep-rootwrap-daemon"), policy()]
    run = partial(Client(command).execute, ["true"])
    assert run() == (0, "", "")
    return run


def match(lines: int) -> Round:
    """Judge true, which is the last of so many filters."""
    from privsep.rootwrap import load
    from privsep.rootwrap.judge import judge

    read = load(policy(files=1, lines=lines))
    return latency(lambda: judge(["true"], read).close())


if __name__ == "__main__":
    serve(
        {
            **operations(program("privsep-rootwrap"), daemon),
            "match-10": lambda: match(8),
            "match-10000": lambda: match(9_998),
        },
        "privsep",
    )
