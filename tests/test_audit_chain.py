"""A change of the record shows, and where."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from audited import audited, read

from privsep.audit import Chain, Misfit, format_head, verify
from privsep.audit import main as audit_command

if TYPE_CHECKING:
    from collections.abc import Callable

    from audited import Start

__all__ = ["audited"]


@pytest.fixture
def written(audited: Start) -> Path:
    service = audited()
    for number in range(5):
        service.echo(number)
    service.records()
    return service.path


def _change(lines: list[str]) -> None:
    lines[2] = lines[2].replace('"context":"audited"', '"context":"other"')


def _remove(lines: list[str]) -> None:
    del lines[2]


def _insert(lines: list[str]) -> None:
    lines.insert(2, lines[1])


def _reorder(lines: list[str]) -> None:
    lines[2], lines[3] = lines[3], lines[2]


def _cut_begin(lines: list[str]) -> None:
    del lines[:2]


def _cut_line(lines: list[str]) -> None:
    lines[-1] = lines[-1][:-20]


def _cut_end(lines: list[str]) -> None:
    del lines[-2:]


def _reformat(lines: list[str]) -> None:
    lines[2] = lines[2].replace(",", ", ", 1)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (_change, ":3: record 3 does not fit"),
        (_remove, ":3: record 3 is missing"),
        (_insert, ":3: record 2 stands after record 2"),
        (_reorder, ":3: record 3 is missing"),
        (_cut_begin, ":1: record 3 is no beginning of a file"),
        (_cut_line, ":{last}: the line is incomplete"),
        (_cut_end, "the end is missing: the last record is {last}"),
        (_reformat, ":3: record 3 does not fit"),
    ],
)
def test_a_change_is_found_and_its_line_named(
    written: Path, tamper: Callable[[list[str]], None], said: str
) -> None:
    lines = written.read_text().splitlines(keepends=True)
    tamper(lines)
    said = said.format(last=len(lines))  # how many "begin" there are is chance
    written.write_text("".join(lines))
    finished = subprocess.run(
        [sys.executable, "-m", "privsep.audit", "verify", str(written)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert said in finished.stderr


def test_a_chain_that_was_computed_anew_does_not_match_the_head(written: Path) -> None:
    chain = Chain()
    lines = []
    for record in read(written):
        record["context"] = "forged"
        if "prev" in record:
            record["prev"] = chain.head
        lines.append(chain.seal(record))
    written.write_bytes(b"".join(lines))
    assert audit_command(["verify", str(written)]) == 1
    Path(f"{written}.head").unlink()
    assert audit_command(["verify", str(written)]) == 0  # as docs/audit.md says


def test_the_chain_goes_on_after_a_restart(audited: Start) -> None:
    service = audited()
    service.echo(1)
    first = service.records()
    again = audited(service.path)
    again.echo(2)
    records = again.records()
    assert records[: len(first)] == first
    assert records[len(first)]["event"] == "open"
    assert records[len(first)]["prev"] == first[-1]["hash"]


def test_the_chain_goes_on_in_a_file_that_was_rotated_while_none_wrote(
    audited: Start,
) -> None:
    service = audited()
    service.echo(1)
    service.records()
    old = service.path.with_suffix(".1")
    service.path.rename(old)
    again = audited(service.path)
    again.echo(2)
    again.records()
    assert audit_command(["verify", str(old), str(service.path)]) == 0


def test_a_file_that_was_cut_while_none_wrote_shows_a_gap(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    service.echo(1)
    service.records()
    lines = service.path.read_text().splitlines(keepends=True)
    service.path.write_text("".join(lines[:-1]))
    again = audited(service.path)
    again.echo(1)
    again.context.stop()
    assert "lacks its last 1 records" in caplog.text
    assert audit_command(["verify", str(service.path)]) == 1


# -- each of its kind ----------------------------------------------------------


def misfit(path: Path, lines: list[bytes]) -> str:
    """Return what `verify` says of a file with these lines."""
    path.write_bytes(b"".join(lines))
    with pytest.raises(Misfit) as caught:
        verify([str(path)])
    return str(caught.value).removeprefix(str(path))


def test_no_byte_can_be_changed_unseen(written: Path) -> None:
    data = b"".join(written.read_bytes().splitlines(keepends=True)[:2])
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        said = misfit(written, [bytes(changed)])
        line = data.count(b"\n", 0, place) + 1
        assert said.startswith(f":{line}: ")


def test_no_line_can_be_removed_unseen(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) - 1):
        said = misfit(written, lines[:index] + lines[index + 1 :])
        assert said.startswith(f":{index + 1}: ")


def test_no_end_can_be_cut_off_unseen(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    for index in range(len(lines)):
        said = misfit(written, lines[:index])
        assert said.startswith(f": the end is missing: the last record is {index}, ")
    for size in range(1, len(lines[-1])):
        said = misfit(written, [*lines[:-1], lines[-1][:size]])
        assert said == f":{len(lines)}: the line is incomplete"


def test_no_line_can_be_inserted_unseen(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    for index in range(len(lines) + 1):
        for line in (*lines, b"\n", b"{}\n", b'{"seq":1}\n', b"[" * 100_000 + b"\n"):
            said = misfit(written, [*lines[:index], line, *lines[index:]])
            # of two lines that are the same, the second is the one too many
            assert said.startswith((f":{index + 1}: ", f":{index + 2}: "))


def test_no_two_lines_can_be_swapped_unseen(written: Path) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    for first in range(len(lines)):
        for second in range(first + 1, len(lines)):
            swapped = list(lines)
            swapped[first], swapped[second] = lines[second], lines[first]
            assert misfit(written, swapped).startswith(f":{first + 1}: ")


def test_it_is_said_which_records_fit(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(read(written))
    capsys.readouterr()
    assert audit_command(["verify", str(written)]) == 0
    assert capsys.readouterr().out == f"{count} records fit: 1 to {count}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["verify"],
        ["check", "x"],
        ["verify", "--witness"],
        ["verify", "--witness", "x"],
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_command(arguments) == 2
    assert "usage:" in capsys.readouterr().err


# -- against what syslog or the journal have -----------------------------------


class Witnessed(NamedTuple):
    """An audit's file, and what a log has of it."""

    path: Path
    log: Path

    def verify(self, *options: str) -> str:
        """Return what was found, or nothing."""
        try:
            verify([str(self.path)], *options)
        except Misfit as misfit:
            return str(misfit)
        return ""

    def rewrite(self, lines: list[bytes], chain: Chain) -> None:
        """Write the file, and the head that fits it."""
        self.path.write_bytes(b"".join(lines))
        head = format_head(chain.number, chain.head)
        Path(f"{self.path}.head").write_bytes(head)
        assert self.verify() == ""


@pytest.fixture(params=["records", "heads"])
def witnessed(
    audited: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> Witnessed:
    """Return an audit of which a log got all records, or now and then the head."""
    kind = {"records": b"<86>", "heads": b"<85>"}[request.param]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        service = audited(syslog=listener.getsockname(), head_every=1)
        service.echo(1)
        service.records()
        log = tmp_path / "log.txt"
        with log.open("wb") as file:
            file.write(b"Jan  1 00:00:00 host kernel: {nothing of ours}\n" + b"\xff\n")
            file.write(b'Jan  1 00:00:00 {"context":"other","hash":"0","seq":99}\n')
            listener.setblocking(False)
            while True:
                try:
                    datagram = listener.recv(4096)
                except BlockingIOError:
                    break
                if datagram.startswith(kind):
                    file.write(b"Jan  1 00:00:00 host " + datagram[4:] + b"\n")
    return Witnessed(service.path, log)


def test_a_log_that_fits_is_found_to_fit(witnessed: Witnessed) -> None:
    assert witnessed.verify(str(witnessed.log)) == ""


def test_an_end_that_was_cut_off_with_its_head_is_missed_by_a_log(
    witnessed: Witnessed,
) -> None:
    lines = witnessed.path.read_bytes().splitlines(keepends=True)
    last = read(witnessed.path)[-2]
    witnessed.rewrite(lines[:-1], Chain(last["seq"], last["hash"]))
    said = witnessed.verify(str(witnessed.log))
    assert f"the end is missing: the last record is {last['seq']}, " in said
    assert f"{witnessed.log}:" in said
    assert said.endswith(f"knows of {last['seq'] + 1}")


def test_a_chain_that_was_computed_anew_does_not_match_a_log(
    witnessed: Witnessed,
) -> None:
    records = read(witnessed.path)
    chain = Chain()
    lines = []
    for record in records:
        if record["seq"] == len(records):
            record["outcome"] = "forged"
        lines.append(chain.seal(record))
    witnessed.rewrite(lines, chain)
    said = witnessed.verify(str(witnessed.log))
    assert (
        f":{len(lines)}: record {len(lines)} is not the one that {witnessed.log}:"
        in said
    )
