"""Whatever is sent on a channel, the daemon lives and serves the others."""

from __future__ import annotations

import math
import select
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import msgpack
import pytest
import target
from hostile import (
    ATTACH,
    BYE,
    CALL,
    CALL_HEADER,
    ERR,
    HEADER,
    LOG,
    OVERRAN,
    PROMPTLY,
    RET,
    RUNS_ON,
    SEGMENTS,
    Daemon,
    call_body,
    daemon,
    held,
    open_daemon,
    pack,
    pair_of,
    read_answer,
    release,
    wait_for_end,
    wait_until_read,
)
from observe import Threads

from privsep._daemon import slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from observe import Release

__all__ = ["daemon", "held", "open_daemon", "release"]


def test_the_hand_written_client_is_understood(daemon: Daemon) -> None:
    assert daemon.call("echo", [1, "two", b"three"]) == [1, "two", b"three"]
    daemon.check_unharmed()


# -- frames --------------------------------------------------------------------


def test_half_a_header_and_silence_holds_nobody_up(daemon: Daemon) -> None:
    for _ in range(8):  # twice as many as there are workers
        daemon.open_line().channel.sendall(HEADER.pack(100, CALL)[:3])
    daemon.check_unharmed()


def test_half_a_frame_and_silence_holds_nobody_up(daemon: Daemon) -> None:
    for _ in range(8):
        line = daemon.open_line()
        body = call_body(daemon.name("echo"), pack("x" * 100_000))
        line.channel.sendall((HEADER.pack(len(body), CALL) + body)[:70_000])
    daemon.check_unharmed()


@pytest.mark.parametrize("name", ["processes", "threads"])
def test_a_frame_that_comes_for_ever_is_ended_when_others_wait(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It has a minute in all, which this daemon, forked from here, makes less."""
    monkeypatch.setattr(slots, "READ_WITHIN", 0.5)
    daemon = Daemon(getattr(target, name), "fork")
    lines = [daemon.open_line() for _ in range(4)]
    for line in lines:
        line.channel.sendall(HEADER.pack(32 << 20, CALL))
        wait_until_read(line)

    def trickle() -> None:
        left = lines.copy()
        while left:
            threading.Event().wait(0.05)
            for line in left.copy():
                try:
                    line.channel.sendall(bytes(16 << 10))
                except ConnectionError:
                    left.remove(line)

    trickling = Threads([trickle])
    try:
        daemon.ping()
        ended, _, _ = select.select([line.channel for line in lines], [], [], PROMPTLY)
        (first, *_) = [line for line in lines if line.channel in ended]
        assert first.receive_frame() == (BYE, b"")
    finally:
        for line in lines:
            line.channel.shutdown(socket.SHUT_RDWR)
    assert trickling.outcomes() == [None]
    daemon.check_unharmed()
    daemon.close()


@pytest.mark.parametrize("announcement", [(ATTACH, b""), (SEGMENTS, bytes(3) + b"\1")])
def test_an_announcement_whose_answer_has_no_room_holds_nobody_up(
    daemon: Daemon, announcement: tuple[int, bytes]
) -> None:
    """The reply before it, which is not read, takes all of the worker's buffer."""
    for _ in range(4):
        line = daemon.open_line(keep=True)
        line.workers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        line.send_frame(CALL, call_body(daemon.name("make_bytes"), pack(4000)))
        assert select.select([line.channel], [], [], PROMPTLY)[0]
        line.send_frame(*announcement)
        wait_until_read(line)
    daemon.check_unharmed()


def test_a_frame_of_which_another_has_need_is_ended_by_bye(daemon: Daemon) -> None:
    lines = [daemon.open_line() for _ in range(4)]
    for line in lines:
        line.channel.sendall(HEADER.pack(100, CALL)[:3])
    daemon.ping()
    ended, _, _ = select.select([line.channel for line in lines], [], [], PROMPTLY)
    assert len(ended) == 1
    assert next(x for x in lines if x.channel in ended).receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 2**28 + 1])
def test_a_header_that_claims_gigabytes_holds_nobody_up(
    daemon: Daemon, length: int
) -> None:
    for _ in range(8):
        daemon.open_line().channel.sendall(HEADER.pack(length, CALL) + b"x" * 1000)
    daemon.check_unharmed()


def test_a_claim_within_the_limit_takes_no_memory_before_the_bytes_come(
    daemon: Daemon,
) -> None:
    for _ in range(4):
        daemon.open_line().channel.sendall(HEADER.pack(2**28, CALL) + b"x" * 1000)
    assert daemon.resident() < 200 * 1024 * 1024
    daemon.check_unharmed()


def test_a_frame_over_the_limit_is_refused_and_the_channel_goes_on(
    open_daemon: Callable[[str], Daemon],
) -> None:
    daemon = open_daemon("frugal")
    line = daemon.open_line()
    line.send_frame(CALL, bytes(256 * 1024 + 1))
    answer = read_answer(line)
    assert answer.error[0] == "MessageTooLarge"
    line.send_frame(CALL, call_body(daemon.name("echo"), pack(1)))
    assert read_answer(line).result == 1
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [0, RET, ERR, LOG, BYE, 6, 255])
def test_a_frame_of_another_kind_ends_the_channel(daemon: Daemon, kind: int) -> None:
    line = daemon.open_line()
    line.send_frame(kind, call_body(daemon.name("echo"), pack(1)))
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", bytes(CALL_HEADER.size - 1), bytes(CALL_HEADER.size), b"\xff" * 200],
    ids=repr,
)
def test_a_call_without_its_header_is_refused(daemon: Daemon, body: bytes) -> None:
    assert daemon.ask(body).error[0] == "Refused"
    daemon.check_unharmed()


def test_calls_that_are_sent_before_the_reply_are_answered_in_turn(
    daemon: Daemon,
) -> None:
    line = daemon.open_line()
    frames = []
    for number in range(500):
        body = call_body(daemon.name("echo"), pack(number))
        frames.append(HEADER.pack(len(body), CALL) + body)
    line.channel.sendall(b"".join(frames))
    assert [read_answer(line).result for _ in range(500)] == list(range(500))
    daemon.check_unharmed()


def test_a_call_byte_by_byte_is_answered(daemon: Daemon) -> None:
    line = daemon.open_line()
    body = call_body(daemon.name("echo"), pack(7))
    for byte in HEADER.pack(len(body), CALL) + body:
        line.channel.sendall(bytes([byte]))
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_descriptors_that_come_with_a_frame_or_on_the_fate_line_are_dropped(
    daemon: Daemon, held: ExitStack
) -> None:
    ours, theirs = pair_of(held, socket.SOCK_STREAM)
    line = daemon.open_line()
    body = call_body(daemon.name("echo"), pack(7))
    socket.send_fds(
        line.channel, [HEADER.pack(len(body), CALL) + body], [theirs.fileno()] * 100
    )
    assert read_answer(line).result == 7
    socket.send_fds(line.fate, [b"x"], [theirs.fileno()] * 100)
    theirs.close()
    wait_for_end(ours)
    daemon.check_unharmed()


def test_urgent_bytes_are_no_trap(daemon: Daemon) -> None:
    line = daemon.open_line()
    try:
        line.fate.send(b"K", socket.MSG_OOB)
    except OSError:
        pytest.skip("this kernel has no urgent bytes on AF_UNIX sockets")
    line.channel.send(b"x", socket.MSG_OOB)
    daemon.check_idle()
    daemon.check_unharmed()


# -- the call ------------------------------------------------------------------

_NO_ENTRYPOINTS = [
    b"",
    b"target",
    b"target._helper",
    b"target.log",
    b"target.Context",
    b"target.os.system",
    b"target.sys.exit",
    b"target.__builtins__",
    b"target.echo.__globals__",
    b"target.echo.__class__",
    b"os.system",
    b"builtins.eval",
    b"__main__.echo",
    b"echo",
    b"target.echo\0",
    b"TARGET.ECHO",
    b"target.echo ",
    b"antigravity.fly",
    b"\xff\xfe\x00",
    b"target." + b"a." * 3000,
    b"x" * 65_535,
]


def test_a_name_that_is_no_entrypoint_is_refused(daemon: Daemon) -> None:
    for name in _NO_ENTRYPOINTS:
        answer = daemon.ask(call_body(name, pack()))
        assert answer.error[0] == "Refused"
        assert "is not an entrypoint" in answer.message
        assert len(answer.message) < 1500
    daemon.check_unharmed()


@pytest.mark.parametrize("claim", [0, 5, 12, 65_535])
def test_a_false_size_of_the_name_is_refused(daemon: Daemon, claim: int) -> None:
    name = daemon.name("echo")
    answer = daemon.ask(call_body(name, b"", name_size=claim))
    assert answer.error[0] == "Refused"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "timeout", [math.nan, -1.0, -math.inf, -0.0, 5e-324, 0.0, 1e-9, math.inf, 1e308]
)
def test_no_timeout_in_the_header_lengthens_or_breaks_a_deadline(
    daemon: Daemon, timeout: float
) -> None:
    line = daemon.start_call("echo", 7, timeout=timeout)
    with suppress(EOFError):
        assert read_answer(line).result == 7
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "timeout", [math.nan, -1.0, 1e9, 1e18, 1e300, 1.7e308, math.inf]
)
def test_no_timeout_in_the_header_breaks_a_daemon_without_deadlines(
    open_daemon: Callable[[str], Daemon], timeout: float
) -> None:
    daemon = open_daemon("patient")
    line = daemon.start_call("echo", 7, timeout=timeout)
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_the_deadline_counts_what_a_name_imports(
    open_daemon: Callable[[str], Daemon],
) -> None:
    daemon = open_daemon("filled")
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("hangs"), pack(), timeout=0.2))
    assert line.read_fate()[0] == OVERRAN
    assert daemon.ask(call_body(daemon.name("gone"), pack())).error[0] == "Refused"
    daemon.check_unharmed()


def test_a_deadline_of_a_month_is_served(open_daemon: Callable[[str], Daemon]) -> None:
    daemon = open_daemon("month")
    line = daemon.start_call("echo", 7, timeout=31 * 86400.0)
    assert read_answer(line).result == 7
    daemon.check_unharmed()


def test_a_timeout_in_the_header_shortens_the_deadline(
    daemon: Daemon, release: Release
) -> None:
    line = daemon.start_call("wait_for_end", release.path, timeout=0.1)
    assert line.read_fate()[0] in (OVERRAN, RUNS_ON)
    release.let_go()
    daemon.check_unharmed()


def _nested(depth: int, leaf: bytes = b"\xc0") -> bytes:
    return b"\x91" * depth + leaf


_SET, _TUPLE, _FROZENSET, _MAPPING = (
    msgpack.packb(msgpack.ExtType(code, b"")) for code in (2, 1, 3, 4)
)
_EMPTY_KEYWORDS = b"\x80"


def _as_argument(value: bytes) -> bytes:
    """[[value], {}]."""
    return b"\x92\x91" + value + _EMPTY_KEYWORDS


_MALFORMED = {
    "nothing": b"",
    "garbage": b"\xc1" * 100,
    "random": bytes(range(255, -1, -1)),
    "trailing bytes": pack(1) + b"\xc0",
    "truncated": pack("abc")[:-3],
    "a number": b"\x01",
    "one element": b"\x91\x90",
    "three elements": b"\x93\x90\x80\x80",
    "a dict": b"\x80",
    "arguments that are a dict": b"\x92\x80\x80",
    "keywords that are a list": b"\x92\x90\x90",
    "an array of 4 Gi elements": b"\x92\xdd\xff\xff\xff\xff",
    "a map of 4 Gi pairs": b"\x92\x90\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\x92\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\x92\xc6\xff\xff\xff\xff",
    "an extension of 4 GiB": b"\x92\xc9\xff\xff\xff\xff\x10",
    "an unknown extension": _as_argument(msgpack.packb(msgpack.ExtType(99, b"x"))),
    "a negative extension": _as_argument(b"\xd4\xf0x"),
    "a false timestamp": _as_argument(b"\xd4\xff\x00"),
    "a timestamp beyond its range": _as_argument(b"\xd7\xff" + b"\xff" * 8),
    "a mark with a payload": _as_argument(msgpack.packb(msgpack.ExtType(1, b"x"))),
    "a lone mark": _as_argument(_TUPLE),
    "a mark in second place": _as_argument(b"\x92\xc0" + _TUPLE),
    "two marks": _as_argument(b"\x92" + _TUPLE + _TUPLE),
    "two marks of a set": _as_argument(b"\x92" + _SET + _SET),
    "a mark as a key": _as_argument(b"\x81" + _TUPLE + b"\xc0"),
    "a mark as a value": _as_argument(b"\x81\xc0" + _TUPLE),
    "marks as the same key": _as_argument(b"\x82" + (_TUPLE + b"\xc0") * 2),
    "a mapping with an odd number": _as_argument(b"\x92" + _MAPPING + b"\x01"),
    "a set of lists": _as_argument(b"\x92" + _SET + b"\x90"),
    "a frozenset of dicts": _as_argument(b"\x92" + _FROZENSET + b"\x80"),
    "a mapping with a list as key": _as_argument(b"\x93" + _MAPPING + b"\x90\xc0"),
    "a dict with a list as key": _as_argument(b"\x81\x90\xc0"),
    "a dict with a dict as key": _as_argument(b"\x81\x80\xc0"),
    "half a complex": _as_argument(msgpack.packb(msgpack.ExtType(17, b"12345678"))),
    "text that is not UTF-8": _as_argument(b"\xa2\xff\xfe"),
    "a keyword that is a number": b"\x92\x90\x81\x01\x02",
    "a keyword that is bytes": b"\x92\x90\x81\xc4\x05value\x02",
    "a keyword that is None": b"\x92\x90\x81\xc0\x02",
    "a keyword that is a tuple": b"\x92\x90\x93"
    + _MAPPING
    + b"\x91"
    + _TUPLE
    + b"\x01",
}


def test_arguments_that_no_client_writes_are_refused(daemon: Daemon) -> None:
    for what, arguments in _MALFORMED.items():
        answer = daemon.ask(call_body(daemon.name("echo"), arguments))
        assert answer.error[:1] == ["Refused"], what
    daemon.check_unharmed()


def test_large_messages_are_refused_as_small_ones_are(daemon: Daemon) -> None:
    """They are decoded in another way; here each has an argument more."""
    text = b"\xda" + struct.pack("!H", 10_000) + b"x" * 10_000
    for what, arguments in _MALFORMED.items():
        if not (arguments.startswith(b"\x92\x91") and arguments.endswith(b"\x80")):
            continue
        large = b"\x92\x92" + arguments[2:-1] + text + _EMPTY_KEYWORDS
        answer = daemon.ask(call_body(daemon.name("echo"), large))
        assert answer.error[:1] == ["Refused"], what
    daemon.check_unharmed()


@pytest.mark.parametrize("text", ["", "x" * 10_000], ids=["small", "large"])
def test_an_extension_that_msgpack_knows_makes_no_object(
    daemon: Daemon, text: str
) -> None:
    """MessagePack's timestamp never comes to our hook; it arrives as a number."""
    stamp = b"\xd6\xff\x00\x00\x00\x01"
    value = b"\x92" + stamp + msgpack.packb(text)
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(value)))
    assert answer.result == [1.0, text]
    daemon.check_unharmed()


@pytest.mark.parametrize("depth", [101, 1000, 1100, 8000, 1_000_000])
def test_deep_nesting_is_refused(daemon: Daemon, depth: int) -> None:
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(_nested(depth))))
    assert answer.error[0] == "MessageTooLarge"
    daemon.check_unharmed()


@pytest.mark.parametrize("mark", [_TUPLE, _SET, _FROZENSET, _MAPPING], ids=repr)
def test_deep_nesting_of_marked_containers_is_refused(
    daemon: Daemon, mark: bytes
) -> None:
    head = b"\x92" + mark if mark != _MAPPING else b"\x93" + mark + b"\xc0"
    answer = daemon.ask(
        call_body(daemon.name("echo"), _as_argument(head * 5000 + b"\xc0"))
    )
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    daemon.check_unharmed()


def test_more_than_a_million_elements_are_refused(daemon: Daemon) -> None:
    many = b"\xdd" + struct.pack("!I", 1_000_001) + b"\xc0" * 1_000_001
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(many)))
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    lists = b"\xdd" + struct.pack("!I", 600_000) + b"\x91\xc0" * 600_000
    answer = daemon.ask(call_body(daemon.name("echo"), _as_argument(lists)))
    assert answer.error[0] == "MessageTooLarge"
    daemon.check_unharmed()


def test_nested_claims_of_huge_arrays_take_no_time_and_no_memory(
    daemon: Daemon,
) -> None:
    """Each level claims a million elements, and none has them."""
    claims = (b"\xdd" + struct.pack("!I", 1_000_000)) * 1000
    answer = daemon.ask(
        call_body(daemon.name("echo"), b"\x92" + claims + b"\xc0" * 1_000_000)
    )
    assert answer.error[0] in ("MessageTooLarge", "Refused")
    daemon.check_unharmed()


def test_a_keyword_twice_is_a_keyword_once(daemon: Daemon) -> None:
    twice = b"\x92\x90\x82\xa5value\x01\xa5value\x02"
    answer = daemon.ask(call_body(daemon.name("echo"), twice))
    assert answer.result == 2
    daemon.check_unharmed()


def test_arguments_that_do_not_fit_the_function_are_a_type_error(
    daemon: Daemon,
) -> None:
    for arguments in (pack(), pack(1, 2), pack(1, value=2), pack(nothing=1)):
        answer = daemon.ask(call_body(daemon.name("echo"), arguments))
        assert answer.error[0] == "TypeError"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "keyword", ["self", "__class__", "a b", "\udcff", "", "é" * 1000]
)
def test_strange_keywords_stay_keywords(daemon: Daemon, keyword: str) -> None:
    answer = daemon.ask(call_body(daemon.name("keywords"), pack(**{keyword: 1})))
    assert answer.result == {keyword: 1}
    daemon.check_unharmed()
