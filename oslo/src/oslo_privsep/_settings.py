"""The options of one context, read without oslo.config where that is exact.

Runs in the privileged process, before it drops anything.  The caller has chosen the
files, so who may write one decides what it may say: a file that is not root's alone
sets neither whom the daemon runs as nor what it keeps.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, NamedTuple

from oslo_privsep import _options
from privsep._start import trust
from privsep._start.trust import Untrusted
from privsep.context import MAX_WORKERS
from privsep.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from privsep._start.judge import Rights

#: what only a file of root's may set
_ROOTS = ("user", "group", "capabilities", "hardening")
_LARGEST = 16 * 1024 * 1024  # bytes of a file


class Settings(NamedTuple):
    """What the options say; see `_options.options`."""

    user: str | None
    group: str | None
    capabilities: list[int]
    thread_pool_size: int
    hardening: str
    worker_type: str


_KNOWN = frozenset(Settings._fields)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-, ")


class File(NamedTuple):
    """A configuration file that has been read."""

    path: str
    text: str
    is_roots: bool


class _Unusual(Exception):
    """What only oslo.config reads exactly."""


def read_files(places: Iterable[tuple[str, bool]], rights: Rights) -> list[File]:
    """Read the files at `places`.

    The caller need not be allowed to read them, but to reach them: else what is told of
    a start says whether they are there.

    Args:
        places: the path of each, and whether that is a directory, whose ``*.conf`` are
            meant.
        rights: the caller's.

    Raises:
        StartError: one cannot be read; the message does not hold what is in it.

    """
    return [
        _read(path, rights)
        for place, is_directory in places
        for path in (_paths_in(place, rights) if is_directory else [place])
    ]


def _read(path: str, rights: Rights) -> File:
    try:
        with rights:
            held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            data, is_roots = _contents(path, held)
        finally:
            os.close(held)
        return File(path, data.decode(), is_roots)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        msg = f"--config-file {path}: {why}"
        raise StartError(msg) from None


def _contents(path: str, held: int) -> tuple[bytes, bool]:
    """Return what is in a file, and whether it is root's alone.

    It is held without having been opened: to open a device may do something.
    """
    if not stat.S_ISREG(os.fstat(held).st_mode):
        raise OSError(0, "it is no file")
    try:
        return trust.read_file(path), True
    except Untrusted:
        with open(f"/proc/self/fd/{held}", "rb") as file:
            return file.read(_LARGEST), False


def _paths_in(directory: str, rights: Rights) -> list[str]:
    """Return the paths of the ``*.conf`` in a directory, in their order.

    Raises:
        StartError: it cannot be listed.

    """
    try:
        with rights:
            names = sorted(os.listdir(directory))
    except OSError as error:
        msg = f"--config-dir {directory}: {error.strerror}"
        raise StartError(msg) from None
    return [f"{directory}/{name}" for name in names if name.endswith(".conf")]


def read(section: str, files: Iterable[File], say: Callable[[str], object]) -> Settings:
    """Return what `files` say in `section`; the last one counts.

    Args:
        section: the context's.
        files: in their order.
        say: called with each warning.

    Raises:
        StartError: a value is none of its option's.

    """
    declared = _options.declared(section)
    found: dict[str, str] = {}
    for file in files:
        values = _values_in(file, section)
        if not file.is_roots:
            for name in _ROOTS:
                if values.pop(name, None) is not None:
                    say(
                        f"{file.path}: [{section}] {name} is ignored: others than "
                        "root may write the file"
                    )
        found |= values
    try:
        return _settings(found, declared)
    except ValueError as error:
        msg = f"[{section}]: {error}"
        raise StartError(msg) from None


def _settings(found: Mapping[str, str], declared: _options.Declared) -> Settings:
    names = found.get("capabilities")
    count = int(found.get("thread_pool_size", _options.processors()))
    if count < 1:
        msg = f"thread_pool_size is {count}; it must be 1 or more"
        raise ValueError(msg)
    return Settings(
        found.get("user"),
        found.get("group"),
        declared.capabilities if names is None else _capabilities(names),
        min(count, MAX_WORKERS),
        _one_of("hardening", found, ("compatible", "strict")),
        _one_of("worker_type", found, ("thread", "process")),
    )


def _capabilities(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    return [_options.capability(word) for word in words]


def _one_of(name: str, found: Mapping[str, str], choices: tuple[str, ...]) -> str:
    value = found.get(name, choices[0])
    if value not in choices:
        msg = f"{name} is {value!r}; it may be {' or '.join(choices)}"
        raise ValueError(msg)
    return value


def _values_in(file: File, section: str) -> dict[str, str]:
    """Return the options that `file` sets in `section`, as text."""
    try:
        return _scan(file.text, section)
    except _Unusual:
        return _ask_oslo(file, section)


def _scan(text: str, section: str) -> dict[str, str]:
    """Return what plain lines set; the last one of a name counts.

    Raises:
        _Unusual: a line that needs more: a continued or quoted value, a reference.

    """
    found: dict[str, str] = {}
    has_section = is_here = may_continue = False
    for line in text.splitlines():
        if line[:1].isspace() and line.strip():
            if may_continue:
                raise _Unusual
            continue
        if not line.strip() or line[0] in "#;":
            continue
        may_continue = False
        if line[0] == "[":
            has_section = True
            is_here = _is_header_of(section, line)
        elif not has_section:
            raise _Unusual
        elif is_here:
            name, value = _assignment(line)
            may_continue = name in Settings._fields
            if may_continue:
                found[name] = value
    return found


def _is_header_of(section: str, line: str) -> bool:
    """Return whether `line` begins `section`.

    Raises:
        _Unusual: it may be another spelling of it.

    """
    if line.strip() == f"[{section}]":
        return True
    if line.strip("[] \t").lower() == section.lower():
        raise _Unusual
    return False


def _assignment(line: str) -> tuple[str, str]:
    """Return name and value of a line.

    Raises:
        _Unusual: it is more than a name and a plain value.

    """
    at = min((line.find(mark) for mark in "=:" if mark in line), default=-1)
    name, value = line[:at].strip(), line[at + 1 :].strip()
    if at < 0 or (name not in Settings._fields and name.replace("-", "_") in _KNOWN):
        raise _Unusual
    if name in _KNOWN and not _PLAIN.issuperset(value):
        raise _Unusual
    return name, value


def _ask_oslo(file: File, section: str) -> dict[str, str]:
    """Return what oslo.config finds in `file`."""
    from oslo_config import cfg  # noqa: PLC0415 - hardly ever needed

    conf = cfg.ConfigOpts()
    names = [name for name in Settings._fields if name != "capabilities"]
    conf.register_opts([cfg.StrOpt(name) for name in names], group=section)
    conf.register_opt(cfg.ListOpt("capabilities"), group=section)
    with in_memory([file.text]) as paths:
        try:
            conf([], default_config_files=paths, use_env=False)
            values = {name: conf[section][name] for name in Settings._fields}
        except Exception as error:  # noqa: BLE001 - it says so with many classes
            kind = type(error).__name__
            msg = f"--config-file {file.path}: oslo.config cannot read it ({kind})"
            raise StartError(msg) from None
    numbers = values["capabilities"]
    if numbers is not None:
        values["capabilities"] = ",".join(numbers)
    return {name: value for name, value in values.items() if value is not None}


class in_memory:  # noqa: N801 - it is used as a function
    """Texts as files that this process can open whatever it drops; a context manager.

    Args:
        texts: of the files.

    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._descriptors = [_memory_file(text) for text in texts]

    def __enter__(self) -> list[str]:
        """Return the paths of the files."""
        return [f"/proc/self/fd/{descriptor}" for descriptor in self._descriptors]

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for descriptor in self._descriptors:
            os.close(descriptor)


def _memory_file(text: str) -> int:
    descriptor = os.memfd_create("config")
    os.write(descriptor, text.encode())
    return descriptor


def say(text: str) -> None:
    """Warn: the client logs what the daemon writes to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
