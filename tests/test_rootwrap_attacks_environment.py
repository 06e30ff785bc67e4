"""Nothing of the caller's environment reaches the command, nor finds it."""

from __future__ import annotations

import pytest
from rootwrap_attacks import wrapped
from wrapping import Wrapped

__all__ = ["wrapped"]


_VARIABLES = [
    "BASH_ENV",
    "BASH_FUNC_show%%",
    "CDPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "IFS",
    "IP_LIB_DIR",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LD_AUDIT",
    "LD_DEBUG_OUTPUT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCALDOMAIN",
    "LOCPATH",
    "MALLOC_TRACE",
    "NLSPATH",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONVERBOSE",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TERMCAP",
    "TMPDIR",
    "TZ",
    "XDG_RUNTIME_DIR",
]


@pytest.fixture(scope="module")
def showing(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    wrapped = Wrapped(tmp_path_factory.mktemp("showing"))
    wrapped.configure(directories=["/usr/bin", "/bin"])
    wrapped.allow("env: CommandFilter, env, @me", "sh: CommandFilter, sh, @me")
    return wrapped


@pytest.fixture(scope="module")
def reached(showing: Wrapped) -> set[str]:
    """The variables of a command whose caller has set all of those."""
    done = showing.run("env", variables=dict.fromkeys(_VARIABLES, "/nowhere/evil"))
    assert done.returncode == 0
    return {line.partition("=")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("name", _VARIABLES)
def test_no_variable_of_the_caller_reaches_the_command(
    reached: set[str], name: str
) -> None:
    assert "PATH" in reached
    assert name not in reached


@pytest.mark.parametrize("path", ["@dir/evil", ".", "", ":", "evil", "@dir/evil:@bin"])
def test_the_callers_path_finds_nothing(wrapped: Wrapped, path: str) -> None:
    done = wrapped.run(
        "show",
        variables={"PATH": wrapped.filled(path)},
        cwd=wrapped.directory / "evil",
    )
    assert done.stdout == "ran\n"
