"""Policies in TOML, and the conversion of both forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rootwrap_services import SERVICES, rows
from wrapping import BAD_POLICY, ME, NO_EXECUTABLE, NOT_ALLOWED, Wrapped, running

from privsep.rootwrap import BadPolicy
from privsep.rootwrap.judge import judge

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def wrapped(tmp_path: Path) -> Wrapped:
    wrapped = Wrapped(tmp_path / "own")
    wrapped.script("show", "ip", "nice", "cat", "rm")
    return wrapped


def _write(wrapped: Wrapped, text: str) -> None:
    (wrapped.filters / "test.toml").write_text(wrapped.filled(text))


def _outcome(wrapped: Wrapped, words: str | list[str]) -> list[str] | int:
    """Return the words that run after the command's own, or the status."""
    listed = words.split() if isinstance(words, str) else words
    with wrapped.judge(*listed) as verdict:
        if not verdict.allowed:
            return verdict.status
        return [word.removeprefix(f"{wrapped.bin}/") for word in verdict.argv]


# What a table allows


@pytest.mark.parametrize(
    ("table", "allowed", "refused"),
    [
        ("", ["show", "show a", "show a b"], ["sho", "@dir/show"]),
        ("words = []", ["show"], ["show a"]),
        ('words = ["a", "b"]', ["show a b"], ["show a", "show a b c", "show b a"]),
        ('words = ["a"]\nrest = "any"', ["show a", "show a b"], ["show", "show b"]),
        ('words = ["a", { any = true }]', ["show a x"], ["show a", "show a x y"]),
        (
            "words = [{ pattern = '[a-c]|x' }]",
            ["show a", "show x"],
            ["show d", "show ax"],
        ),
        (
            'words = [{ beneath = "@dir/bin" }]',
            ["show @dir/bin", "show @dir/bin/x"],
            ["show @dir", "show @dir/binx", "show @dir/bin/../x"],
        ),
        ('words = [{ file = "@dir/x" }]', ["show @dir/x"], ["show @dir/./x"]),
        (
            'options = { "-v" = true, "--mtu" = { pattern = "[0-9]+" } }',
            ["show", "show -v", "show --mtu 5", "show --mtu=5 -v", "show -v -v"],
            ["show -x", "show --mtu", "show --mtu x", "show -v=1", "show a", "show -"],
        ),
        (
            'options = { "-v" = true }\nwords = ["a"]',
            ["show a", "show -v a", "show a -v"],
            ["show", "show -v", "show a b", "show -- a", "show -v -- a"],
        ),
        (
            'options = { "-v" = true }\nwords = ["a"]\nrest = "any"',
            ["show a", "show -v a b", "show a b -v"],
            ["show", "show a -x"],
        ),
        (
            'called = "s.*"',
            ["show", "sXw a"],
            ["xshow"],
        ),
        ("environment = { A = true }", ["A=1 show", "env A=x show a"], ["show"]),
        ('environment = { A = "1" }', ["A=1 show"], ["A=2 show", "A= show"]),
        (
            'environment = { A = { pattern = "[0-9]" }, B = true }',
            ["A=1 B=x show", "env B= A=2 show"],
            ["A=x B=x show", "A=1 show", "A=1 B=1 C=1 show"],
        ),
    ],
)
def test_a_table_allows_what_it_says(
    wrapped: Wrapped, table: str, allowed: list[str], refused: list[str]
) -> None:
    _write(wrapped, f'[[allow]]\ncommand = "show"\nrun_as = "{ME}"\n{table}\n')
    for words in allowed:
        assert isinstance(_outcome(wrapped, words), list), words
    for words in refused:
        assert _outcome(wrapped, words) == NOT_ALLOWED, words


def test_options_go_before_the_words(wrapped: Wrapped) -> None:
    _write(
        wrapped,
        f'[[allow]]\ncommand = "show"\nrun_as = "{ME}"\nwords = [{{ any = true }}]\n'
        'options = { "--size" = { any = true } }\n',
    )
    assert _outcome(wrapped, "show a --size 5") == ["show", "--size", "5", "a"]
    assert _outcome(wrapped, "show --size -x a") == ["show", "--size", "-x", "a"]


def test_a_command_may_follow(wrapped: Wrapped) -> None:
    _write(
        wrapped,
        f"""
        [[allow]]
        command = "nice"
        run_as = "{ME}"
        words = ["-n", {{ pattern = '-?\\d+' }}]
        rest = "command"
        [[allow]]
        command = "show"
        run_as = "{ME}"
        words = ["x"]
        """,
    )
    assert _outcome(wrapped, "nice -n 5 show x") == ["nice", "-n", "5", "show", "x"]
    assert _outcome(wrapped, "nice -n 5 show y") == NOT_ALLOWED
    assert _outcome(wrapped, "nice -n 5") == NOT_ALLOWED
    assert _outcome(wrapped, "nice -n 5 rm x") == NOT_ALLOWED


def test_the_grammar_of_ip_is_known(wrapped: Wrapped) -> None:
    _write(
        wrapped,
        f"""
        [[allow]]
        command = "ip"
        run_as = "{ME}"
        grammar = "ip"
        [[allow]]
        command = "ip"
        run_as = "{ME}"
        grammar = "ip netns exec"
        [[allow]]
        command = "show"
        run_as = "{ME}"
        """,
    )
    assert _outcome(wrapped, "ip -o link") == ["ip", "-o", "link"]
    assert _outcome(wrapped, "ip vrf exec red sh") == NOT_ALLOWED
    assert _outcome(wrapped, "ip netns exec a show") == [
        *("ip", "netns", "exec", "a", "show")
    ]
    assert _outcome(wrapped, "ip netns exec a sh") == NOT_ALLOWED


def test_a_process_may_be_signalled(wrapped: Wrapped) -> None:
    _write(
        wrapped,
        f'[[allow]]\nrun_as = "{ME}"\nsignals = ["-9"]\nprocess = "/bin/sleep"\n',
    )
    with running("sleep", "1000") as process:
        assert _outcome(wrapped, f"kill {process.pid}") == NOT_ALLOWED
        assert _outcome(wrapped, f"kill -9 {process.pid}") == [
            *("kill", "-9", str(process.pid))
        ]


def test_a_table_has_its_own_options(wrapped: Wrapped) -> None:
    _write(
        wrapped,
        f'[[allow]]\nname = "this"\ncommand = "show"\nrun_as = "{ME}"\n'
        'no_new_privs = true\ncapabilities = ["net_admin"]\ntimeout = 5\n',
    )
    with wrapped.judge("show") as verdict:
        assert verdict.filter is not None
        assert verdict.filter.name == "this"
        assert verdict.filter.place.endswith("test.toml:1")
        assert verdict.options.no_new_privs
        assert verdict.options.capabilities == 1 << 12
        assert verdict.options.timeout == 5.0


def test_the_default_user_is_root(wrapped: Wrapped) -> None:
    _write(wrapped, '[[allow]]\ncommand = "show"\n')
    with wrapped.judge("show") as verdict:
        assert verdict.user is not None
        assert verdict.user.uid == 0


def test_both_forms_stand_beside_each_other(wrapped: Wrapped) -> None:
    wrapped.allow("a: RegExpFilter, show, @me, show, x", name="b.filters")
    _write(wrapped, f'[[allow]]\ncommand = "show"\nrun_as = "{ME}"\nwords = ["y"]\n')
    assert _outcome(wrapped, "show x") == ["show", "x"]
    assert _outcome(wrapped, "show y") == ["show", "y"]
    assert _outcome(wrapped, "show z") == NOT_ALLOWED


# What is wrong with one


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "command must be a text, and is None"),
        ("command = 5", "command must be a text, and is 5"),
        ('command = ""', "command must be a text, and is ''"),
        ('command = "x"\nrunas = "me"', "runas: no such key here"),
        ('command = "x"\nrun_as = 0', "run_as must be a text"),
        ('command = "x"\nwords = "a"', "words must be a list, and is 'a'"),
        ('command = "x"\nwords = [5]', "5 is no word"),
        ('command = "x"\nwords = [{ any = false }]', "is no word"),
        ('command = "x"\nwords = [{ beneath = "x" }]', "is no word"),
        ('command = "x"\nwords = [{ any = true, pattern = "x" }]', "is no word"),
        ('command = "x"\nwords = [{ glob = "*" }]', "is no word"),
        ('command = "x"\nrest = "all"', "rest is 'all'"),
        ('command = "x"\noptions = ["-v"]', "options must be a table"),
        ('command = "x"\noptions = { v = true }', "must begin with -"),
        ('command = "x"\noptions = { "-v" = false }', "False is no word"),
        (
            'command = "x"\noptions = { "-v" = true }\nrest = "command"',
            "options cannot be told",
        ),
        ('command = "x"\ncalled = 5', "called must be a pattern"),
        ('command = "x"\nenvironment = ["A"]', "environment must be a table"),
        ('command = "x"\nenvironment = { "A=" = true }', "no name of a variable"),
        ('command = "x"\ngrammar = "tc"', "grammar is 'tc'"),
        ('command = "x"\ngrammar = "ip"\nwords = []', "words: no such key here"),
        ('signals = ["-9"]', "process must be a text"),
        ('signals = ["9"]\nprocess = "x"', "must begin with -"),
        ('signals = "-9"\nprocess = "x"', "signals must be a list of texts"),
        ('command = "x"\nno_new_privs = 1', "no_new_privs is 1"),
        ('command = "x"\ncapabilities = ["nope"]', "no capability is named 'nope'"),
        ('command = "x"\ntimeout = 0', "timeout is 0"),
        ('command = "x"\ntimeout = true', "timeout is True"),
        ('command = "x"\ntimeout = nan', "timeout is nan"),
        ('command = "x"\ntimeout = "5"', "timeout is '5'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(
    wrapped: Wrapped, table: str, said: str
) -> None:
    head = '[[allow]]\ncommand = "show"\n\n'
    _write(wrapped, f"{head}[[allow]]\n{table}\n")
    with pytest.raises(BadPolicy) as error:
        wrapped.load()
    assert "test.toml:4: " in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[allow]\n", "it is no TOML"),
        ("[[allow]]\nx =\n", "line 2"),
        ("[allow]\ncommand = 'x'\n", "it holds other things than [[allow]] tables"),
        ("[[deny]]\ncommand = 'x'\n", "it holds other things than [[allow]] tables"),
        ("allow = [5]\n", "[[allow]] is no table"),
        ("allow = " + "[" * 5000, "it is no TOML"),
    ],
)
def test_what_is_no_policy_is_refused(wrapped: Wrapped, text: str, said: str) -> None:
    _write(wrapped, text)
    with pytest.raises(BadPolicy) as error:
        wrapped.load()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_allows_nothing(wrapped: Wrapped) -> None:
    _write(wrapped, "")
    assert _outcome(wrapped, "show") == NOT_ALLOWED


# Conversion


def _convert(wrapped: Wrapped, path: Path) -> tuple[int, str]:
    done = wrapped.call("--convert", str(path))
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wrapped]:
    """Policies of services that were converted to TOML and back."""
    found = {}
    for service, (filters, _) in SERVICES.items():
        wrapped = Wrapped(tmp_path_factory.mktemp(service))
        original = wrapped.directory / "original.filters"
        original.write_text(filters)
        status, text = _convert(wrapped, original)
        assert status == (1 if "DeprecatedDnsmasqFilter" in filters else 0)
        (wrapped.filters / "test.toml").write_text(text)
        found[service] = wrapped
    return found


@pytest.mark.parametrize("back", [False, True], ids=["TOML", "and back"])
@pytest.mark.parametrize("service", SERVICES)
def test_a_converted_policy_judges_as_before(
    services: dict[str, Wrapped], service: str, *, back: bool, tmp_path: Path
) -> None:
    wrapped = services[service]
    if back:
        place = tmp_path / "back"
        place.mkdir()
        again = Wrapped(place)
        status, text = _convert(wrapped, wrapped.filters / "test.toml")
        assert status == 0
        (again.filters / "test.filters").write_text(text)
        wrapped = again
    policy = wrapped.load()
    for row in rows():
        if row.service == service:
            with judge(row.words, policy) as verdict:
                decider = verdict.filter.name if verdict.filter else ""
                # Nothing is installed: what is allowed has no executable.
                expected = row.outcome.rpartition(" ")[2]
                if verdict.status == NO_EXECUTABLE:
                    assert decider == expected, row
                else:
                    assert (verdict.status, expected) == (NOT_ALLOWED, "no"), row


def test_options_are_converted_there_and_back(wrapped: Wrapped) -> None:
    wrapped.allow(
        "a: CommandFilter, show, @me",
        *("[Options a]", "no_new_privs = true", "capabilities = CAP_CHOWN"),
        "timeout = 2.5",
    )
    original = wrapped.filters / "test.filters"
    status, text = _convert(wrapped, original)
    assert status == 0
    original.unlink()
    (wrapped.filters / "test.toml").write_text(text)
    status, text = _convert(wrapped, wrapped.filters / "test.toml")
    assert status == 0
    assert text.splitlines() == [
        "[Filters]",
        f"a: CommandFilter, show, {ME}",
        "",
        "[Options a]",
        "no_new_privs = true",
        "capabilities = CAP_CHOWN",
        "timeout = 2.5",
    ]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('options = { "-v" = true }', "it has named options"),
        ('words = ["a"]\nrest = "any"', "it has words, and any that follow them"),
        ('environment = { A = "1" }', "an EnvFilter says nothing of values"),
        ('words = ["a,b"]', "a field has a comma"),
        ("words = ['\\d{1,2}', { pattern = 'a{1,2}' }]", "a field has a comma"),
        (
            'words = [{ beneath = "/x" }, { pattern = "y+" }]',
            "a PathFilter has no word",
        ),
        ('words = [{ beneath = "/x" }, "/y"]', "a PathFilter has no word"),
        ('words = [{ beneath = "/x" }, "pass"]', "a PathFilter has no word"),
        ('words = [{ beneath = "/x" }]\nrest = "any"', "it has words, and any"),
        ('name = "a = b"', "its name is none for a .filters file"),
    ],
)
def test_what_has_no_other_form_is_said_to_have_none(
    wrapped: Wrapped, table: str, why: str
) -> None:
    _write(wrapped, f'[[allow]]\ncommand = "show"\n{table}\n')
    status, text = _convert(wrapped, wrapped.filters / "test.toml")
    assert status == 1
    assert text.startswith("[Filters]\n# not converted: ")
    assert why in text


def test_a_class_that_is_not_known_is_said_not_to_be_converted(
    wrapped: Wrapped,
) -> None:
    wrapped.allow("odd: OddFilter, x, y")
    status, text = _convert(wrapped, wrapped.filters / "test.filters")
    assert status == 1
    assert "# not converted: " in text
    assert "no filter class 'OddFilter'" in text


@pytest.mark.parametrize(
    "word", ["plain", 'quote"', "back\\slash", "it's", "a\tb", "é", "'\\", "\\'"]
)
def test_words_are_quoted_as_toml_has_them(wrapped: Wrapped, word: str) -> None:
    pattern = "".join(f"[{c}]" if c not in "\\'" else f"\\{c}" for c in word)
    wrapped.allow(f"a: RegExpFilter, show, @me, show, {pattern}")
    _, text = _convert(wrapped, wrapped.filters / "test.filters")
    (wrapped.filters / "test.filters").unlink()
    (wrapped.filters / "test.toml").write_text(text)
    assert _outcome(wrapped, ["show", word]) == ["show", word]


@pytest.mark.parametrize("name", ["gone.filters", "bad.filters", "bad.toml"])
def test_what_cannot_be_read_cannot_be_converted(wrapped: Wrapped, name: str) -> None:
    for each in ("bad.filters", "bad.toml"):
        (wrapped.directory / each).write_text("nonsense")
    done = wrapped.call("--convert", str(wrapped.directory / name))
    assert (done.returncode, done.stdout) == (BAD_POLICY, "")
    assert done.stderr.count("\n") == 1
