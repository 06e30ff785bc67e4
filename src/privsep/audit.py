"""`Audit`: where the record of all calls goes; its format, and its verification.

The declaration is read on both sides; the chain is written by the audit's writer
and checked by ``python -m privsep.audit verify FILE...``, as whoever may read the
files.  json and hashlib are loaded by those two only.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

SYSLOG = "/dev/log"
JOURNALD = "/run/systemd/journal/socket"
HEAD_SUFFIX = ".head"
NO_HEAD = "0" * 64

_HEAD = re.compile(rb"(\d{20}) ([0-9a-f]{64})\n")
_UNSEALED = '"hash":""'


class Audit:
    """Have every call and every refusal of a context recorded.

    Args:
        file: absolute path of a JSON-lines file, made with mode 0600 or appended
            to; one daemon at a time writes it.
        syslog: send the records to syslog (authpriv), too; or the path of its
            socket.
        journald: send them to the journal, too; or the path of its socket.
        on_failure: "report": what cannot be recorded is counted, and reported on
            the daemon's stderr and in the audit itself; "error": a call whose
            beginning is not recorded is refused.
        head_every: after so many records the chain's head goes to syslog and the
            journal, or where neither is on to ``/dev/log`` if that is there; 0:
            never.

    Raises:
        ValueError: an argument is out of its range, or there is no sink.

    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        *,
        syslog: bool | str = False,
        journald: bool | str = False,
        on_failure: Literal["report", "error"] = "report",
        head_every: int = 1000,
    ) -> None:
        self.file = None if file is None else os.fspath(file)
        self.syslog = SYSLOG if syslog is True else syslog or None
        self.journald = JOURNALD if journald is True else journald or None
        self.on_failure = on_failure
        self.head_every = head_every
        if self.file is None and self.syslog is None and self.journald is None:
            raise ValueError("an audit needs a file, syslog or journald")
        for path in (self.file, self.syslog, self.journald):
            if path is not None and not os.path.isabs(path):
                msg = f"{path!r} is not absolute: the daemon's directory is /"
                raise ValueError(msg)
        if on_failure not in ("report", "error"):
            msg = f"on_failure is {on_failure!r}; it may be 'report' or 'error'"
            raise ValueError(msg)
        if head_every < 0:
            msg = f"head_every is {head_every}; it must be 0 or more"
            raise ValueError(msg)


class Chain:
    """Numbers records and seals each with a hash of itself and all before it.

    A record's hash is the SHA-256 of the hash before it and of the record's own
    line with an empty hash.
    """

    def __init__(self, number: int = 0, head: str = NO_HEAD) -> None:
        import hashlib  # noqa: PLC0415 - see the module's docstring
        import json  # noqa: PLC0415

        self.number = number
        self.head = head
        self._sha256 = hashlib.sha256
        encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
        self._encode = encoder.encode

    def seal(self, record: dict[str, object]) -> bytes:
        """Return the line of `record`, which is the chain's next."""
        self.number += 1
        record["seq"] = self.number
        record["hash"] = ""
        text = self._encode(record)
        self.head = self._sha256((self.head + text).encode()).hexdigest()
        # Quotes within values are escaped: it stands there once.
        return text.replace(_UNSEALED, f'"hash":"{self.head}"').encode() + b"\n"

    def witness(self, context: str) -> bytes:
        """Return what others than the files may know of the chain: its head."""
        known = {"context": context, "event": "head", "hash": self.head}
        return self._encode({**known, "seq": self.number}).encode()


def parse_head(data: bytes) -> tuple[int, str] | None:
    """Return number and hash of the last record, as a head file has them."""
    match = _HEAD.fullmatch(data)
    return (int(match[1]), match[2].decode()) if match else None


def format_head(number: int, head: str) -> bytes:
    """Return what `parse_head` reads; it has always the same size."""
    return b"%020d %s\n" % (number, head.encode())


class Misfit(Exception):
    """The first place in the files that does not fit."""


class _Known:
    """What others than the files know of the chain: numbers, and their hashes."""

    def __init__(self) -> None:
        self._places: dict[int, dict[str, str]] = {}

    def add(self, number: int, head: str, place: str) -> None:
        self._places.setdefault(number, {})[head] = place

    def check(self, chain: Chain, place: str) -> None:
        """Raise `Misfit` if the chain's last record is not the one that is known."""
        for head, known in self._places.get(chain.number, {}).items():
            if head != chain.head:
                msg = f"{place}record {chain.number} is not the one that {known} knows"
                raise Misfit(msg)

    def check_end(self, last: int, path: str) -> None:
        """Raise `Misfit` if a record after the last one is known."""
        beyond = max(self._places, default=0)
        if beyond > last:
            known = next(iter(self._places[beyond].values()))
            msg = (
                f"{path}: the end is missing: the last record is {last}, {known} "
                f"knows of {beyond}"
            )
            raise Misfit(msg)


def verify(paths: Sequence[str], witness: str | None = None) -> range:
    """Check that `paths`, oldest first, hold one unbroken chain.

    Args:
        paths: the audit's files; beside the last, its head file.
        witness: a text file with what syslog or the journal have of the context.

    Returns:
        The numbers of the records.

    Raises:
        Misfit: names the first line that does not fit, and why.
        OSError: a file cannot be read.

    """
    known = _Known()
    # The head first: a running writer writes it after the record.
    head_path = paths[-1] + HEAD_SUFFIX
    head = _read_head(head_path)
    if head is not None:
        known.add(*head, head_path)
    if witness is not None:
        _read_witness(witness, _context(paths[0]), known)
    chain: Chain | None = None
    count = 0
    for path in paths:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                place = f"{path}:{number}: "
                chain = _check(line, chain, place)
                known.check(chain, place)
                count += 1
    last = 0 if chain is None else chain.number
    known.check_end(last, paths[-1])
    return range(last - count + 1, last + 1)


def _check(line: bytes, chain: Chain | None, place: str) -> Chain:
    """Check one line that follows `chain`; return the chain with it."""
    if not line.endswith(b"\n"):
        raise Misfit(f"{place}the line is incomplete")
    record = _parse(line)
    if record is None:
        raise Misfit(f"{place}no record")
    number = record["seq"]
    assert isinstance(number, int)  # noqa: S101 - _parse looked
    if chain is None:
        previous = record.get("prev")
        if not isinstance(previous, str):
            msg = f"{place}record {number} is no beginning of a file: lines are missing"
            raise Misfit(msg)
        chain = Chain(number - 1, previous)
    if number != chain.number + 1:
        raise Misfit(place + _jump(number, chain.number))
    if "prev" in record and record["prev"] != chain.head:
        msg = f"{place}record {number} follows another record than the one before it"
        raise Misfit(msg)
    if chain.seal(record) != line:
        msg = (
            f"{place}record {number} does not fit: it, or what stands before it, was "
            "changed"
        )
        raise Misfit(msg)
    return chain


def _parse(line: bytes) -> dict[str, object] | None:
    """Return the record in a line that may hold anything; None if there is none."""
    import json  # noqa: PLC0415

    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or type(record.get("seq")) is not int:
        return None
    return record


def _jump(number: int, last: int) -> str:
    if number <= last:
        return f"record {number} stands after record {last}"
    if number == last + 2:
        return f"record {last + 1} is missing"
    return f"records {last + 1} to {number - 1} are missing"


def _read_head(path: str) -> tuple[int, str] | None:
    """Return what the head file says; None if there is none (a rotated file's)."""
    try:
        with open(path, "rb") as file:
            data = file.read(1024)
    except FileNotFoundError:
        return None
    head = parse_head(data)
    if head is None and data:
        raise Misfit(f"{path}: no head")
    return head


def _context(path: str) -> object:
    """Return the context that the first line of a file names."""
    with open(path, "rb") as file:
        record = _parse(file.readline())
    return None if record is None else record.get("context")


def _read_witness(path: str, context: object, known: _Known) -> None:
    """Read the context's records and heads, each what follows a log's own words."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            record = _parse(line[line.find(b"{") :])
            if record is not None and record.get("context") == context:
                place = f"{path}:{number}"
                known.add(cast("int", record["seq"]), str(record.get("hash")), place)


def main(arguments: Sequence[str]) -> int:
    """Run ``verify [--witness LOG] FILE...``; return the exit status."""
    command, *paths = arguments or [""]
    witness = None
    if paths[:1] == ["--witness"]:
        witness = "".join(paths[1:2])
        paths = paths[2:]
    if command != "verify" or not paths:
        sys.stderr.write(
            "usage: python -m privsep.audit verify [--witness LOG] FILE... "
            "(oldest first)\n"
        )
        return 2
    try:
        numbers = verify(paths, witness)
    except (Misfit, OSError) as trouble:
        sys.stderr.write(f"{trouble}\n")
        return 1
    which = f": {numbers[0]} to {numbers[-1]}" if numbers else ""
    sys.stdout.write(f"{len(numbers)} records fit{which}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
