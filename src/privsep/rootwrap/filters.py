"""The filters: what a command has to be, and what runs then.

Runs in the privileged process.  A filter looks at words only; which file the command
is, and whether the whole is allowed, is the judge's to say.
"""

from __future__ import annotations

from privsep._start.trust import Untrusted
from privsep.rootwrap import executables
from privsep.rootwrap.errors import Differs, Missing

TYPE_CHECKING = False  # not typing's: that is 5 ms
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from privsep.rootwrap import process
    from privsep.rootwrap.beneath import Beneath
    from privsep.rootwrap.patterns import Anything, Exactly, Pattern

    Word = Exactly | Anything | Pattern | Beneath

NONE = "none"  #: no words but those that are listed
ANY = "any"  #: any number of any words
COMMAND = "command"  #: one more command, which another filter has to allow


class Options:
    """What a command gives up, and how long it may take; what is None is as it was."""

    __slots__ = ("capabilities", "no_new_privs", "timeout")

    def __init__(
        self,
        *,
        no_new_privs: bool = False,
        capabilities: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self.no_new_privs = no_new_privs
        self.capabilities = capabilities
        self.timeout = timeout

    def __or__(self, other: Options) -> Options:
        """Return the stricter of both, in each."""
        sets = [
            each.capabilities for each in (self, other) if each.capabilities is not None
        ]
        times = [each.timeout for each in (self, other) if each.timeout is not None]
        return Options(
            no_new_privs=self.no_new_privs or other.no_new_privs,
            capabilities=sets[0] & sets[-1] if sets else None,
            timeout=min(times, default=None),
        )


class Match:
    """What a filter makes of a command that it allows.

    Attributes:
        arguments: the words that run after the command's own.
        environment: variables for the command.
        inner: the words of a command that has to be allowed, too; it runs after
            `arguments`.
        spelled: a path by which the command was named, if it is not the filter's
            own: it has to be the same file.
        target: the process to signal; then no program runs.

    """

    __slots__ = ("arguments", "environment", "inner", "spelled", "target")

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        spelled: str | None = None,
        environment: Mapping[str, str] | None = None,
        inner: tuple[str, ...] | None = None,
        target: process.Target | None = None,
    ) -> None:
        self.arguments = tuple(arguments)
        self.spelled = spelled
        self.environment = dict(environment or {})
        self.inner = inner
        self.target = target


class Filter:
    """A command that is allowed, and as whom it runs.

    Attributes:
        name: as the policy has it.
        place: the file and line that it stands in.
        kind: its class, as the policy has it.
        command: the executable: a path, or a name to look for.
        run_as: the user.
        options: its own, beside the policy's.

    """

    __slots__ = ("command", "kind", "name", "options", "place", "run_as")

    def __init__(self, command: str, run_as: str) -> None:
        self.command = command
        self.run_as = run_as
        self.name = self.place = self.kind = ""
        self.options = Options()

    @property
    def word(self) -> str | None:
        """The base name of what the command's first word must be; None: a pattern."""
        return base_name(self.command)

    @property
    def chains(self) -> bool:
        """Whether it allows a command that another filter has to allow."""
        return False

    @property
    def sets_variables(self) -> bool:
        """Whether variables come before the command."""
        return False

    @property
    def passes_signals(self) -> bool:
        """Whether a signal is the same with this command before it."""
        return False

    def match(
        self, words: tuple[str, ...], directories: tuple[str, ...], held: list[int]
    ) -> Match:
        """Return what runs for `words`.

        Args:
            words: the command.
            directories: where executables are looked for.
            held: takes the descriptors that what runs refers to.

        Raises:
            Differs: the filter does not allow it.
            BadPattern: the policy has what is no regular expression.

        """
        raise NotImplementedError

    def describe(self) -> str:
        """Return what it allows, in words, beside the command."""
        raise NotImplementedError

    def words_allowed(self) -> Iterator[Word]:
        """Yield all that looks at a word."""
        return iter(())

    def _spelled(self, word: str) -> str | None:
        """Return `word` if it may name the command by another path, else None.

        Raises:
            Differs: it names another command.

        """
        if word in (self.command, base_name(self.command)):
            return None
        if "/" in word and base_name(word) == base_name(self.command):
            return word
        raise Differs(f"{word!r} is not {self.command}")


class WordsFilter(Filter):
    """A command with words, each of which is looked at by itself.

    Attributes:
        first: what the command's own word must be, instead of its name.
        words: what the words after it must be, by position.
        named: options and what their values must be, None for one without a value.
        rest: what may follow `words`: NONE, ANY or COMMAND.
        variables: names of environment variables, and what their values must be;
            all have to be set.

    """

    __slots__ = ("first", "named", "rest", "variables", "words")

    def __init__(
        self,
        command: str,
        run_as: str,
        *,
        first: Pattern | None = None,
        words: Sequence[Word] = (),
        named: Mapping[str, Word | None] | None = None,
        rest: str = NONE,
        variables: Mapping[str, Word] | None = None,
    ) -> None:
        super().__init__(command, run_as)
        self.first = first
        self.words = tuple(words)
        self.named = None if named is None else dict(named)
        self.rest = rest
        self.variables = dict(variables or {})

    @property
    def chains(self) -> bool:
        """Whether it allows a command that another filter has to allow."""
        return self.rest == COMMAND

    @property
    def sets_variables(self) -> bool:
        """Whether variables come before the command."""
        return bool(self.variables)

    @property
    def word(self) -> str | None:
        """The base name of what the command's first word must be; None: a pattern."""
        if self.first is None:
            return base_name(self.command)
        return None if self.first.literal is None else base_name(self.first.literal)

    def match(
        self, words: tuple[str, ...], directories: tuple[str, ...], held: list[int]
    ) -> Match:
        """Return what runs for `words`; see `Filter.match`."""
        del directories
        environment, words = self._take_variables(words, held)
        if not words:
            raise Differs("no command follows the variables")
        spelled = self._spelled(words[0])
        given, arguments = self._take_named(words[1:], held)
        count = len(self.words)
        if len(given) < count or (self.rest == NONE and len(given) > count):
            more = "" if self.rest == NONE else " or more"
            raise Differs(f"{len(given)} words follow, and not {count}{more}")
        arguments += [
            each.accept(word, held)
            for each, word in zip(self.words, given, strict=False)
        ]
        rest = given[count:]
        inner = None
        if self.rest == COMMAND:
            if not rest:
                raise Differs("no command follows")
            inner = tuple(rest)
        else:
            arguments += rest
        return Match(arguments, spelled=spelled, environment=environment, inner=inner)

    def words_allowed(self) -> Iterator[Word]:
        """Yield all that looks at a word."""
        if self.first is not None:
            yield self.first
        yield from self.words
        yield from filter(None, (self.named or {}).values())
        yield from self.variables.values()

    def _spelled(self, word: str) -> str | None:
        if self.first is None:
            return super()._spelled(word)
        if self.first.matches(word):
            return None
        if "/" in word and self.first.matches(base_name(word)):
            return word
        raise Differs(f"{word!r} does not match {self.first.text!r}")

    def _take_variables(
        self, words: tuple[str, ...], held: list[int]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the variables before the command, and the rest."""
        if not self.variables:
            return {}, words
        if words[:1] == ("env",):
            words = words[1:]
        count = len(self.variables)
        environment = {}
        for word in words[:count]:
            name, sign, value = word.partition("=")
            if not sign or name not in self.variables:
                raise Differs(f"{word!r} sets none of {', '.join(self.variables)}")
            environment[name] = self.variables[name].accept(value, held)
        if len(environment) < count:
            raise Differs(f"not all of {', '.join(self.variables)} are set")
        return environment, words[count:]

    def _take_named(
        self, words: tuple[str, ...], held: list[int]
    ) -> tuple[list[str], list[str]]:
        """Return the words that are no named options, and the options to run."""
        if self.named is None:
            return list(words), []
        given: list[str] = []
        options: list[str] = []
        todo = list(words[::-1])
        while todo:
            word = todo.pop()
            if not word.startswith("-"):
                given.append(word)
                continue
            name, sign, value = word.partition("=")
            if name not in self.named:
                raise Differs(f"{name!r} is none of its options")
            allowed = self.named[name]
            options.append(name)
            if allowed is None:
                if sign:
                    raise Differs(f"the option {name!r} has no value")
            elif sign:
                options[-1] += "=" + allowed.accept(value, held)
            elif todo:
                options.append(allowed.accept(todo.pop(), held))
            else:
                raise Differs(f"the option {name!r} lacks its value")
        return given, options

    def describe(self) -> str:
        """Return what it allows, in words, beside the command."""
        parts = []
        if self.first is not None and self.first.text != base_name(self.command):
            parts.append(f"called {self.first!r}")
        parts += [f"with {name}={value!r}" for name, value in self.variables.items()]
        for name, allowed in (self.named or {}).items():
            parts.append(name if allowed is None else f"{name} {allowed!r}")
        parts += [repr(each) for each in self.words]
        if self.rest == ANY:
            parts.append("any more words")
        if self.rest == COMMAND:
            parts.append("then an allowed command")
        return ", ".join(parts) or "no words"


class IpFilter(Filter):
    """Any ip command that runs no other command."""

    __slots__ = ()

    def match(
        self, words: tuple[str, ...], directories: tuple[str, ...], held: list[int]
    ) -> Match:
        """Return what runs for `words`; see `Filter.match`."""
        del directories, held
        from privsep.rootwrap import ip  # noqa: PLC0415 - 0.2 ms, for such commands

        spelled = self._spelled(words[0])
        ip.check(words[1:])
        return Match(words[1:], spelled=spelled)

    def describe(self) -> str:
        """Return what it allows, in words, beside the command."""
        return "any command of ip that runs no other"


class IpNetnsExecFilter(Filter):
    """``ip netns exec NAMESPACE``, and then a command that is allowed."""

    __slots__ = ()

    @property
    def chains(self) -> bool:
        """Whether it allows a command that another filter has to allow."""
        return True

    @property
    def passes_signals(self) -> bool:
        """Whether a signal is the same with this command before it."""
        return True

    def match(
        self, words: tuple[str, ...], directories: tuple[str, ...], held: list[int]
    ) -> Match:
        """Return what runs for `words`; see `Filter.match`."""
        del directories, held
        from privsep.rootwrap import ip  # noqa: PLC0415 - as above

        spelled = self._spelled(words[0])
        if len(words) < 5 or words[1] != "netns" or not words[2]:  # noqa: PLR2004
            raise Differs("it is not netns exec NAMESPACE COMMAND")
        if not "exec".startswith(words[2]):
            raise Differs(f"{words[2]!r} is not exec")
        ip.check_namespace(words[3])
        arguments = ("netns", "exec", words[3])
        return Match(arguments, spelled=spelled, inner=words[4:])

    def describe(self) -> str:
        """Return what it allows, in words, beside the command."""
        return "netns exec NAMESPACE, then an allowed command"


class KillFilter(Filter):
    """A signal to a process that runs a certain program; no command runs for it.

    Attributes:
        program: what the process has to run: a path, or a name to look for.
        signals: the words that may say which signal; none: only SIGTERM, unsaid.

    """

    __slots__ = ("program", "signals")

    def __init__(self, run_as: str, program: str, signals: Sequence[str]) -> None:
        super().__init__("kill", run_as)
        self.program = program
        self.signals = tuple(signals)

    def match(
        self, words: tuple[str, ...], directories: tuple[str, ...], held: list[int]
    ) -> Match:
        """Return what runs for `words`; see `Filter.match`."""
        from privsep.rootwrap import process  # noqa: PLC0415 - as above

        if words[0] != "kill":
            raise Differs(f"{words[0]!r} is not kill")
        form = "kill SIGNAL PID" if self.signals else "kill PID"
        if len(words) != len(form.split()):
            raise Differs(f"it is not {form}")
        signal = words[1] if self.signals else "-TERM"
        if self.signals and signal not in self.signals:
            allowed = ", ".join(self.signals)
            raise Differs(f"the signal {signal!r} is none of {allowed}")
        number = process.signal_number(signal)
        pid, pidfd = process.hold(words[-1])
        held.append(pidfd)
        self._check_program(pid, directories)
        return Match(words[1:], target=process.Target(pid, pidfd, number))

    def _check_program(self, pid: int, directories: tuple[str, ...]) -> None:
        from privsep.rootwrap import process  # noqa: PLC0415 - as above

        last = Differs(f"there is no program {self.program}")
        for path in executables.paths(self.program, directories):
            try:
                program = executables.find(path, ())
            except Missing:
                continue
            except Untrusted as error:
                last = Differs(str(error))
                continue
            try:
                process.check(pid, program)
            except Differs as why:
                last = why
            else:
                return
            finally:
                program.close()
        raise last

    def describe(self) -> str:
        """Return what it allows, in words, beside the command."""
        signals = " or ".join(self.signals) or "no signal named"
        return f"{signals}, to a process that runs {self.program}"


def base_name(word: str) -> str:
    """Return what follows the last slash."""
    return word.rpartition("/")[2]
