"""Bytes of a mebibyte or more go beside the message, and arrive as what they were."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any

import large
import msgpack
import pytest
import target
from conftest import METHOD
from hostile import (
    ATTACH,
    BYE,
    CALL,
    ENDED,
    ERR,
    FATE,
    HEADER,
    OVERRAN,
    PROMPTLY,
    RET,
    SEGMENTS,
    Answer,
    Daemon,
    Line,
    bare,
    call_body,
    daemon,
    pack,
    read_answer,
    send_with,
)
from hypothesis import given
from hypothesis import strategies as st
from large import MEBIBYTE, MOST

import privsep
import scripts
from privsep._client.channel import Channel
from privsep._wire import values
from privsep.context import status_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from large import Large

__all__ = ["daemon"]


@pytest.fixture(scope="module", params=["large", "large-threads"])
def service(request: pytest.FixtureRequest) -> Iterator[Large]:
    """One daemon for all tests; the leak check sees the module's one."""
    service = large.services[request.param]
    service.context.start(METHOD)
    service.echo(0)
    yield service
    service.context.stop()


@pytest.fixture(params=["large-bounded", "large-bounded-threads"])
def bounded(request: pytest.FixtureRequest) -> Iterator[Large]:
    service = large.services[request.param]
    service.context.start(METHOD)
    yield service
    service.context.stop()


@pytest.fixture
def limited() -> Iterator[Daemon]:
    daemon = Daemon(target.frugal, METHOD)
    yield daemon
    daemon.close()


DATA = os.urandom(MEBIBYTE)

# -- what arrives ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
@pytest.mark.parametrize(
    "size", [MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1, 16 * MEBIBYTE, 33 * MEBIBYTE + 1]
)
def test_a_large_value_comes_back_with_its_type(
    service: Large, size: int, kind: type[bytes | bytearray]
) -> None:
    value = kind(os.urandom(size))
    back = service.echo(value)
    assert type(back) is kind
    assert back == value


_NESTED: dict[str, Any] = {
    "in a list": [1, DATA, b"small"],
    "in a tuple": (DATA,),
    "in a set": {DATA, b"small"},
    "in a frozenset": frozenset({DATA}),
    "as a value": {"key": DATA, "other": 1},
    "as a key": {DATA: "value"},
    "as a key beside odd keys": {(1,): 2, DATA: bytearray(DATA)},
    "deep": [[{"a": ({"b": [bytearray(DATA)]}, DATA)}]],
    "twice": [DATA, DATA],
    "beside another kind": [DATA, bytearray(DATA), "x" * MEBIBYTE, 2**100],
}


@pytest.mark.parametrize("value", _NESTED.values(), ids=_NESTED)
def test_a_large_value_comes_back_nested(service: Large, value: Any) -> None:
    back = service.echo(value)
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, set)


def test_large_values_are_arguments_and_keywords(service: Large) -> None:
    sizes = service.take(DATA, DATA * 2, b"", more=DATA * 3, less=b"")
    assert sizes == {
        "0": MEBIBYTE,
        "1": 2 * MEBIBYTE,
        "2": 0,
        "more": 3 * MEBIBYTE,
        "less": 0,
    }


def test_a_large_value_and_an_open_file_cross_together(service: Large) -> None:
    with open(os.devnull, "rb") as null:
        file, data, number = service.echo([null, DATA, 7])
    with file:
        assert os.path.samestat(os.stat(file.fileno()), os.stat(os.devnull))
    assert (data, number) == (DATA, 7)


def test_a_large_value_that_an_exception_holds_arrives(service: Large) -> None:
    with pytest.raises(ValueError) as caught:
        service.fail(DATA)
    assert caught.value.args == (DATA,)


def test_small_calls_and_large_ones_take_turns_on_a_channel(service: Large) -> None:
    for size in (1, MEBIBYTE, 100_000, 2 * MEBIBYTE, 1):
        assert service.echo(bytes(size)) == bytes(size)
        assert service.echo(size) == size


def test_a_large_value_crosses_while_signals_interrupt(service: Large) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        value = os.urandom(40 * MEBIBYTE)
        assert service.echo(value) == value
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_large_bytearray_cannot_change_its_size_before_it_is_sent() -> None:
    value = bytearray(MEBIBYTE)
    encoder = values.Encoder(beside=True)
    encoder.encode(value)
    with pytest.raises(BufferError):
        value.append(1)
    encoder.clear()
    value.append(1)


def test_what_was_not_sent_does_not_go_with_the_next_call() -> None:
    encoder = values.Encoder(beside=True)
    encoder.encode_call((DATA,), {})
    assert encoder.something_beside
    encoder.encode_call((1,), {})
    assert not encoder.something_beside
    assert not encoder.segments


_small = st.recursive(
    st.one_of(st.binary(max_size=20), st.integers(), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.binary(max_size=20), st.integers()), inner),
    ),
    max_leaves=20,
)


@given(_small)
def test_large_values_anywhere_are_found_and_put_back(value: Any) -> None:
    """As if ten bytes were large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "LARGE", 10)
        encoder = values.Encoder(beside=True)
        data = encoder.encode(value)
        as_arguments = values.Encoder(beside=True)
        call = as_arguments.encode_call((value,), {"k": value})
    segments: list[bytes | None] = [bytes(segment) for segment in encoder.segments]
    assert all(segment and len(segment) >= 10 for segment in segments)
    assert len(segments) * 2 == len(as_arguments.segments)
    assert encoder.something_beside == bool(segments)
    back = values.decode_with(data, [], segments)
    assert repr(back) == repr(value)
    twice: list[bytes | None] = [bytes(part) for part in as_arguments.segments]
    assert repr(values.decode_with(call, [], twice)) == repr([[value], {"k": value}])


# -- bounds ------------------------------------------------------------------------


def test_max_message_counts_large_arguments(bounded: Large) -> None:
    for arguments in ([bytes(MOST)], [DATA] * 8, [bytes(MOST // 2), bytes(MOST // 2)]):
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.take(*arguments)
        assert bounded.take(b"next") == {"0": 4}
    assert bounded.take(bytes(MOST - 1000)) == {"0": MOST - 1000}


def test_max_message_counts_large_results(bounded: Large) -> None:
    worker = bounded.worker()
    for count, size in ((1, MOST), (8, MEBIBYTE), (2, MOST // 2)):
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.make(count, size)
        assert bounded.make(1, 5) == [bytes(5)]
        assert bounded.worker() == worker
    assert bounded.make(1, MOST - 1000) == [bytes(MOST - 1000)]


def test_a_daemon_declines_what_only_its_client_takes(bounded: Large) -> None:
    bounded.context.max_message = 2 * MOST
    try:
        worker = bounded.worker()
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {MOST}"):
            bounded.take(bytes(MOST + 1))
        assert bounded.take(b"next") == {"0": 4}
        assert bounded.worker() == worker
    finally:
        bounded.context.max_message = MOST


def test_a_client_declines_what_only_its_daemon_sends(bounded: Large) -> None:
    bounded.context.max_message = 2 * MEBIBYTE
    try:
        with pytest.raises(privsep.MessageTooLarge, match=f"limit is {2 * MEBIBYTE}"):
            bounded.make(1, 2 * MEBIBYTE + 1)
        assert bounded.make(1, 5) == [bytes(5)]
    finally:
        bounded.context.max_message = MOST


def test_files_of_a_message_that_is_too_large_do_not_go_with_the_next(
    bounded: Large,
) -> None:
    with open(os.devnull, "rb") as null:
        for value in ([null, bytes(MOST)], [null, "x" * MOST], [null, DATA, object()]):
            with pytest.raises((privsep.MessageTooLarge, privsep.Unserializable)):
                bounded.echo(value)
            assert bounded.echo("next") == "next"


# -- what a stranger sends -----------------------------------------------------------


def segment(place: int, code: int = 40) -> msgpack.ExtType:
    return msgpack.ExtType(code, struct.pack("!I", place))


def announce(line: Line, *lengths: int) -> None:
    line.send_frame(SEGMENTS, struct.pack(f"!{len(lengths)}I", *lengths))


def send_segments(line: Line, *segments: bytes) -> None:
    announce(line, *map(len, segments))
    assert line.receive_frame() == (SEGMENTS, b"")
    line.channel.sendall(b"".join(segments))


def ask_with(line: Line, name: bytes, arguments: bytes, *segments: bytes) -> Answer:
    send_segments(line, *segments)
    line.send_frame(CALL, call_body(name, arguments))
    return read_answer(line)


def test_the_hand_written_client_is_understood(daemon: Daemon) -> None:
    line = daemon.open_line()
    name = daemon.name("echo")
    body = call_body(name, pack([segment(1, 41), "x", segment(0)]))
    send_segments(line, DATA, b"little")
    line.send_frame(CALL, body)
    assert line.receive_frame() == (SEGMENTS, struct.pack("!I", MEBIBYTE))
    line.send_frame(SEGMENTS, b"")
    assert line.receive_exactly(MEBIBYTE) == DATA
    kind, body = line.receive_frame()
    assert kind == RET
    assert msgpack.unpackb(body) == [msgpack.ExtType(18, b"little"), "x", segment(0)]
    line.send_frame(CALL, call_body(name, pack("next")))
    assert read_answer(line).result == "next"
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "arguments",
    [
        pack(),
        pack("no segment"),
        pack(segment(0)),
        pack(segment(0), segment(0)),
        pack(segment(0), segment(0), segment(1)),
        pack(segment(0), segment(2)),
        pack(segment(2**32 - 1)),
        pack(msgpack.ExtType(40, b"")),
        pack(msgpack.ExtType(40, b"\0\0\0\0\0")),
        pack(segment(0), segment(1), bare(0)),
        pack(segment(0), segment(1))[:-1],
        b"\xc1",
        b"",
    ],
    ids=repr,
)
def test_a_message_that_does_not_fit_its_segments_is_refused(
    daemon: Daemon, arguments: bytes
) -> None:
    line = daemon.open_line()
    name = daemon.name("echo")
    answer = ask_with(line, name, arguments, b"first", DATA)
    assert answer.error[0] == "Refused"
    line.send_frame(CALL, call_body(name, pack("still there")))
    assert read_answer(line).result == "still there"
    daemon.check_unharmed()


def test_segments_for_a_name_that_is_no_entrypoint_are_let_go(daemon: Daemon) -> None:
    line = daemon.start_call("echo", "ready")
    assert read_answer(line).result == "ready"
    before = daemon.resident()
    answer = ask_with(line, b"os.close", pack(segment(0)), bytes(128 * MEBIBYTE))
    assert answer.error[0] == "Refused"
    assert daemon.resident() - before < 64 * MEBIBYTE
    daemon.check_unharmed()


@pytest.mark.parametrize(
    "announced",
    [b"", b"\0\0\0", bytes(5), bytes(4 * 2049)],
    ids=["none", "odd", "odd beyond one", "too many"],
)
def test_an_announcement_that_is_none_ends_the_channel(
    daemon: Daemon, announced: bytes
) -> None:
    line = daemon.open_line()
    line.send_frame(SEGMENTS, announced)
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


def test_segments_that_come_unasked_end_the_channel(daemon: Daemon) -> None:
    line = daemon.open_line()
    lengths = struct.pack("!I", 4)
    line.channel.sendall(HEADER.pack(len(lengths), SEGMENTS) + lengths + b"data")
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [RET, ERR, BYE, SEGMENTS, 255])
def test_segments_with_a_frame_of_another_kind_end_the_channel(
    daemon: Daemon, kind: int
) -> None:
    line = daemon.open_line()
    send_segments(line, DATA)
    line.send_frame(kind, b"")
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


def test_segments_over_the_limit_are_declined_before_they_come(
    limited: Daemon,
) -> None:
    line = limited.open_line()
    most = limited.context.max_message
    for lengths in ([most + 1], [2**32 - 1] * 2048, [1, most]):
        announce(line, *lengths)
        assert read_answer(line).error[0] == "MessageTooLarge"
    answer = ask_with(line, limited.name("count_arguments"), pack(segment(0)), b"x")
    assert answer.result == 1
    limited.check_unharmed()


@pytest.mark.parametrize("rest", [1, 10_000])
def test_segments_and_their_frame_are_counted_together(
    limited: Daemon, rest: int
) -> None:
    line = limited.open_line()
    name = limited.name("count_arguments")
    body = call_body(name, pack(segment(0), "x" * rest))
    fits = bytes(limited.context.max_message - len(body))
    for data, error in ((fits + b"x", ["MessageTooLarge"]), (fits, [])):
        send_segments(line, data)
        line.send_frame(CALL, body)
        assert read_answer(line).error[:1] == error
    limited.check_unharmed()


def test_announced_segments_take_no_memory_before_their_bytes_come(
    daemon: Daemon,
) -> None:
    lines = [daemon.start_call("echo", "ready") for _ in range(4)]
    assert [read_answer(line).result for line in lines] == ["ready"] * 4
    before = daemon.resident()
    for line in lines:
        announce(line, 2**27, 2**27)
        assert line.receive_frame() == (SEGMENTS, b"")
        line.channel.sendall(b"x" * 1000)
    assert daemon.resident() - before < 64 * MEBIBYTE
    daemon.check_unharmed()


def test_an_announcement_or_half_a_segment_and_silence_holds_nobody_up(
    daemon: Daemon,
) -> None:
    for size in (0, MEBIBYTE - 1) * 4:  # twice as many as there are workers
        line = daemon.open_line()
        announce(line, MEBIBYTE)
        if line.receive_frame()[0] == SEGMENTS:  # else BYE: the others wait
            line.channel.sendall(bytes(size))
    daemon.check_unharmed()


def test_segments_that_come_in_small_pieces_arrive(daemon: Daemon) -> None:
    # A read ends where descriptors are, however much it was to wait for.
    line = daemon.open_line()
    announce(line, 400, 3)
    assert line.receive_frame() == (SEGMENTS, b"")
    for _ in range(400):
        socket.send_fds(line.channel, [b"x"], [line.fate.fileno()])
    for byte in b"end":
        line.channel.sendall(bytes([byte]))
    arguments = pack([segment(0), segment(1)])
    line.send_frame(CALL, call_body(daemon.name("echo"), arguments))
    assert read_answer(line).result == [b"x" * 400, b"end"]
    daemon.check_unharmed()


def test_segments_and_descriptors_come_in_this_order_only(daemon: Daemon) -> None:
    line = daemon.open_line()
    send_segments(line, b"data")
    line.send_frame(ATTACH, b"")
    assert line.receive_frame() == (ATTACH, b"")
    arguments = pack(segment(0), bare(0))
    body = call_body(daemon.name("count_arguments"), arguments)
    send_with(line, body, [line.fate.fileno()])
    assert read_answer(line).result == 2
    line.send_frame(ATTACH, b"")
    assert line.receive_frame() == (ATTACH, b"")
    announce(line, 4)
    assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


@pytest.mark.parametrize("kind", [CALL, ERR, SEGMENTS])
def test_a_large_reply_that_nobody_takes_is_given_up(daemon: Daemon, kind: int) -> None:
    line = daemon.open_line()
    line.send_frame(CALL, call_body(daemon.name("make_bytes"), pack(MEBIBYTE)))
    assert line.receive_frame() == (SEGMENTS, struct.pack("!I", MEBIBYTE))
    line.send_frame(kind, b"no answer to it")
    ending, status, _ = line.read_fate()
    assert (ending, status) == (ENDED, 0)
    with pytest.raises((EOFError, ConnectionError)):
        while True:
            assert line.receive_frame()[0] == BYE
    daemon.check_unharmed()


# -- deadlines, and workers that go ----------------------------------------------------


def _call_a_worker_that(behaves: Callable[[socket.socket], object]) -> str:
    """Make a large call of 0.2 seconds to the test's own hand-written worker."""
    entry = status_entry(dict)._replace(limit=0.2)
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for sock in (end for pair in pairs for end in pair):
            stack.enter_context(sock)
        (ours, worker), (fate, supervisor) = pairs
        worker.settimeout(PROMPTLY)
        supervisor.send(FATE.pack(OVERRAN, 9, 12345))
        thread = threading.Thread(target=behaves, args=(worker,))
        thread.start()
        channel = Channel(ours, fate, target.processes)
        deadline = monotonic() + 0.2
        try:
            with pytest.raises(privsep.CallTimeout) as caught:
                channel.call(entry, (bytes(16 * MEBIBYTE),), {}, 0, deadline, 0.2)
        finally:
            thread.join()
        assert not channel.usable
        return str(caught.value)


def test_a_deadline_ends_a_call_whose_segments_are_not_asked_for() -> None:
    said = _call_a_worker_that(lambda worker: worker.recv(1000))
    assert "its worker 12345 was killed" in said


def test_a_deadline_ends_a_call_whose_segments_are_not_read() -> None:
    def stop(worker: socket.socket) -> None:
        worker.recv(1000)
        worker.sendall(HEADER.pack(0, SEGMENTS))

    assert "did not end in time" in _call_a_worker_that(stop)


def test_a_deadline_ends_a_call_whose_result_stops_in_a_segment() -> None:
    def stop(worker: socket.socket) -> None:
        worker.recv(1000)
        worker.sendall(HEADER.pack(0, SEGMENTS))
        worker.recv(16 * MEBIBYTE, socket.MSG_WAITALL)
        worker.recv(1000)
        worker.sendall(HEADER.pack(4, SEGMENTS) + struct.pack("!I", MEBIBYTE))
        worker.recv(1000)
        worker.sendall(bytes(1000))

    assert "did not end in time" in _call_a_worker_that(stop)


def test_a_worker_that_retires_takes_no_call_with_large_values() -> None:
    # Clients want one worker in turn, so it retires while any of them sends.
    lines = scripts.run(
        """
        import os, large, forks
        service = large.services["large"]
        service.context.workers = 1
        service.context.start("fork")
        def many():
            data = os.urandom(large.MEBIBYTE)
            for number in range(25):
                assert service.echo([data, number]) == [data, number]
            return "all"
        children = [forks.Child(many) for _ in range(3)]
        print(many(), *[child.result() for child in children])
        service.context.stop()
        """
    )
    assert lines == ["all all all all"]
