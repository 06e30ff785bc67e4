"""What a worker can do to the audit that its client has taken over: nothing but lie
about itself.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from audited import (
    OtherClient,
    audited,
    complete,
    ended,
    missing,
    only_root,
    peer,
    read,
    stopped,
    wait_for,
    wait_for_line,
    writer_pid,
)
from conftest import METHOD

if TYPE_CHECKING:
    from audited import Audited, Start

__all__ = ["audited"]


@pytest.fixture
def as_nobody(audited: Start, tmp_path: Path) -> Audited:
    """A service whose workers have another uid than the writer."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)  # so that it is the file that refuses
    service = audited(user=65534, group=65534)
    service.echo(1)
    wait_for_line(service.path, "call")
    return service


@only_root
def test_a_worker_does_not_reach_the_file(as_nobody: Audited) -> None:
    for path in (str(as_nobody.path), f"{as_nobody.path}.head"):
        for what in ("open_to_read", "open_to_write", "unlink"):
            assert as_nobody.try_to(what, path) == "PermissionError"


_KILLS = {"kill", "stop"}
_CHANGES = {"limit", "open its descriptors", "steal a descriptor", "write its memory"}


def tried(service: Audited, what: str, pid: int) -> str:
    """Return what a worker gets that tries to do something to a process."""
    if what in ("kill", "ptrace"):
        return service.try_to(what, pid)
    return service.attacks.reach(what, pid)


@only_root
@pytest.mark.parametrize("what", sorted(_KILLS | _CHANGES | {"ptrace"}))
def test_a_worker_does_not_reach_the_writer(as_nobody: Audited, what: str) -> None:
    writer = writer_pid()
    assert tried(as_nobody, what, writer) == "PermissionError"


@only_root
@pytest.mark.parametrize("what", sorted(_CHANGES - {"limit"} | {"ptrace"}))
def test_a_worker_does_not_reach_into_another(as_nobody: Audited, what: str) -> None:
    with OtherClient(as_nobody.process_id) as other:
        worker = int(other.step())
        assert tried(as_nobody, what, worker) == "PermissionError"


@only_root
def test_a_worker_that_may_kill_can_end_the_writer_which_is_said(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited(user=65534, group=65534, keep=["CAP_KILL"])
    writer = writer_pid()
    with ended(writer) as end:
        assert service.try_to("kill", writer) == "nothing"
        end.poll()
    service.context.stop()
    assert f"the audit's writer {writer} has ended" in caplog.text


def test_a_worker_holds_no_end_of_the_line_but_its_own(audited: Start) -> None:
    service = audited()
    service.echo(1)
    with_audit = service.sockets()
    service.context.stop()
    from service import services

    plain = services["plain"]
    with plain.context:
        assert len(with_audit) == len(plain.sockets()) + 1


# -- over its own line ---------------------------------------------------------

_AFTERWARDS = """"arguments":"'afterwards'\""""


def test_what_a_worker_makes_up_is_recorded_as_its_own(audited: Start) -> None:
    service = audited()
    with OtherClient(lambda: service.attacks.forge("service.echo", 50)) as other:
        service.echo(1)
        liar = int(other.step())
        service.echo(2)
    calls = service.calls()
    forged = [x for x in calls if x["arguments"] == "forged"]
    assert len(forged) == 50
    assert {x["worker"] for x in forged} == {liar}
    peers = {**peer(), "pid": other.pid if METHOD != "userns" else 0}
    assert [x["peer"] for x in forged] == [peers] * 50
    honest = [x for x in calls if x["worker"] != liar]
    assert [x["arguments"] for x in honest] == ["1", "2"]


@pytest.mark.parametrize("on_failure", ["report", "error"])
@pytest.mark.parametrize(
    ("attack", "arguments"),
    [
        ("send_garbage", (1, 500)),
        ("send_garbage", (2, 500)),
        ("begin_another_call", ()),
        ("say_nothing", ()),
        ("take_back", ()),
        ("flood", (2000,)),
        ("wipe_shared_memory", ()),
        ("jam_the_bell", ()),
        ("say_it_is_awake", ()),
    ],
)
def test_others_are_recorded_whatever_a_worker_sends(
    audited: Start, on_failure: str, attack: str, arguments: tuple[int, ...]
) -> None:
    service = audited(on_failure=on_failure)
    with OtherClient(
        lambda: service.echo("sent before"),
        lambda: getattr(service.attacks, attack)(*arguments),
    ) as other:
        other.step()
        service.echo("before")
        other.step()
        service.echo("afterwards")
        wait_for(service.path.parent, lambda: _AFTERWARDS in service.path.read_text())
    records = service.records()
    assert [x["seq"] for x in records] == list(range(1, len(records) + 1))
    assert records[-1]["outcome"] == "ended"
    calls = [x for x in records if x["event"] == "call"]
    shown = {"'sent before'", "'before'", "'afterwards'"}
    assert shown <= {x["arguments"] for x in calls if x["outcome"] == "returned"}


def test_what_was_sent_cannot_be_taken_back(audited: Start) -> None:
    service = audited()
    with stopped(writer_pid()):
        service.echo("sent before")
        assert service.attacks.take_back() == []
    first, second = service.calls()
    assert first["arguments"] == "'sent before'"
    assert second["entrypoint"] == "service.compromised.take_back"


def test_a_worker_cannot_hide_what_others_could_not_send(
    audited: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = audited()
    steps = service.process_id, service.attacks.wipe_shared_memory
    # One is there before the victim's worker is, and one afterwards.
    with OtherClient(*steps) as before, OtherClient(*steps) as after:
        before.step()
        service.echo(0)
        after.step()
        with stopped(writer_pid()):
            for number in range(3000):
                service.echo(number)
            assert int(before.step()) > 0
            assert int(after.step()) > 0
    records = service.records()
    lost = missing(records, caplog)
    assert lost > 0
    assert len(complete(records)) + lost == 3000 + 1 + 4


def test_a_flood_is_not_taken_into_memory(audited: Start) -> None:
    service = audited()
    service.echo(1)
    writer = writer_pid()
    before = most_resident(writer)
    service.attacks.flood(8000)
    service.echo("afterwards")
    wait_for(service.path.parent, lambda: _AFTERWARDS in service.path.read_text())
    assert most_resident(writer) - before < 8 * 1024
    assert len(service.calls()) == 8000 + 3


def most_resident(pid: int) -> int:
    """Return the most memory that a process has had, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


# -- over what all workers share -----------------------------------------------


def test_a_jammed_bell_does_not_keep_the_writer_from_its_signals(
    audited: Start,
) -> None:
    service = audited()
    with OtherClient(service.attacks.jam_the_bell) as other:
        other.step()
        old = service.path.with_suffix(".1")
        writer = writer_pid()
        for _ in range(20):
            service.path.rename(old)
            os.kill(writer, signal.SIGHUP)
            wait_for_line(service.path, "open")
        service.echo("afterwards")
    service.context.stop()
    # The end of the other's call may come as late as its worker gets a processor.
    calls = [x for x in read(service.path) if x["event"] == "call"]
    ours = [x["arguments"] for x in calls if x["entrypoint"] == "service.echo"]
    assert ours == ["'afterwards'"]
