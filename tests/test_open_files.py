"""Sockets, files and descriptors cross as what they are, and none is left over."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import files
import pytest
from conftest import METHOD

import privsep
import scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from files import Files


@pytest.fixture(params=["processes", "threads"])
def service(request: pytest.FixtureRequest) -> Iterator[Files]:
    service: Files = getattr(files, request.param)
    service.context.start(METHOD)
    yield service
    service.context.stop()


FAILURES = (privsep.PrivsepError, RuntimeError, TypeError, ValueError)


def own_descriptors() -> int:
    """Count them.

    There may be one less later: a daemon of threads lets go of its first stderr, and
    then we do, some time after its start.
    """
    return len(os.listdir("/proc/self/fd"))


# -- what arrives ------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0.0, 2.5])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_arrives_as_one_with_its_family_type_and_timeout(
    service: Files, family: int, kind: int, timeout: float | None
) -> None:
    with socket.socket(family, kind) as sock:
        sock.settimeout(timeout)
        assert service.inspect(sock) == ("socket", False, family, kind, timeout)
        with service.echo(sock) as back:
            assert (back.family, back.type, back.gettimeout()) == (
                family,
                kind,
                timeout,
            )
            assert not os.get_inheritable(back.fileno())
            assert os.path.sameopenfile(back.fileno(), sock.fileno())


@pytest.mark.parametrize(
    ("mode", "buffering", "kind", "arrives"),
    [
        ("r", -1, "TextIOWrapper", "r"),
        ("w", -1, "TextIOWrapper", "w"),
        ("r+", -1, "TextIOWrapper", "r+"),
        ("a", -1, "TextIOWrapper", "w"),
        ("rb", -1, "BufferedReader", "rb"),
        ("wb", -1, "BufferedWriter", "wb"),
        ("ab", -1, "BufferedWriter", "wb"),
        ("r+b", -1, "BufferedRandom", "rb+"),
        ("rb", 0, "FileIO", "rb"),
        ("wb", 0, "FileIO", "wb"),
        ("r+b", 0, "FileIO", "rb+"),
    ],
)
def test_a_file_arrives_with_its_mode(
    service: Files, tmp_path: Path, mode: str, buffering: int, kind: str, arrives: str
) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    with open(path, mode, buffering) as file:
        encoding = "utf-8" if "Text" in kind else None
        assert service.inspect(file) == (kind, False, arrives, encoding)
        with service.echo(file) as back:
            assert (type(back), back.mode) == (type(file), arrives)
            assert os.path.sameopenfile(back.fileno(), file.fileno())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "UTF8", "utf-16"])
def test_a_text_file_keeps_its_encoding(
    service: Files, tmp_path: Path, encoding: str
) -> None:
    path = tmp_path / "file"
    path.write_text("a word", encoding)
    with path.open(encoding=encoding) as file:
        assert service.read(file) == "a word"


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_file_is_read_on_where_the_sender_was(
    service: Files, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "file"
    path.write_text("one\ntwo\nthree\n")
    with open(path, mode) as file:
        file.readline()
        rest = service.read(file)
        assert rest in ("two\nthree\n", b"two\nthree\n")
        assert not file.read()  # one offset for both


def test_what_is_written_is_in_order(service: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("w") as file:
        file.write("before, ")
        service.write(file, "in the daemon, ")
        file.write("after")
    assert path.read_text() == "before, in the daemon, after"


def test_what_is_appended_stays_appended(service: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("first, ")
    with path.open("a") as file:
        file.seek(0)
        service.write(file, "second")
    assert path.read_text() == "first, second"


def test_a_pipe_crosses(service: Files) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"through the pipe")
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert service.read(pipe) == b"through the pipe"


def test_a_pidfd_crosses(service: Files) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with privsep.Fd(os.pidfd_open(child.pid)) as pidfd:
        child.kill()
        assert service.wait_for_end(pidfd)
    child.communicate()


def test_files_cross_within_containers(service: Files) -> None:
    with ExitStack() as stack:
        one, other = map(stack.enter_context, socket.socketpair())
        null = stack.enter_context(open(os.devnull, "rb"))
        sent = {"sockets": (one, [other]), "file": null, b"": {"n": 1}}
        back = service.echo(sent)
        assert type(back["sockets"]) is tuple
        assert back[b""] == {"n": 1}
        for mine, its in (
            (one, back["sockets"][0]),
            (other, back["sockets"][1][0]),
            (null, back["file"]),
        ):
            stack.enter_context(its)
            assert os.path.sameopenfile(mine.fileno(), its.fileno())


def test_one_file_twice_arrives_as_two(service: Files) -> None:
    with open(os.devnull, "rb") as null:
        one, other = service.echo([null, null])
        with one, other:
            assert one.fileno() != other.fileno()


def test_the_sender_keeps_its_own(service: Files) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"sent before")
        assert service.receive(theirs) == b"sent before"
        theirs.send(b"after")
        assert ours.recv(100) == b"after"


def test_as_many_as_the_kernel_sends_at_once_cross(service: Files) -> None:
    back = service.return_many(253)
    assert len({each.fileno() for each in back}) == 253
    assert len(service.echo(back)) == 253


# -- the classic use -----------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[Any]:
    files.network.start("userns")
    yield files
    files.network.stop()


def test_a_listening_socket_on_a_low_port_comes_from_one_narrow_function(
    network: Any,
) -> None:
    with network.listen(80) as listener:
        assert listener.getsockname() == ("127.0.0.1", 80)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_raw_socket_comes_from_one_narrow_function(network: Any) -> None:
    with network.raw_socket() as raw:
        assert (raw.family, raw.type) == (socket.AF_PACKET, socket.SOCK_RAW)


def test_a_tun_device_comes_from_one_narrow_function(network: Any) -> None:
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("there is no /dev/net/tun")
    with network.tun("tun-test"):
        assert "tun-test" in network.interfaces()
    assert "tun-test" not in network.interfaces()


def test_a_network_namespace_comes_as_a_descriptor(network: Any) -> None:
    with network.network_namespace() as namespace:
        its = os.fstat(namespace.fileno())
    ours = os.stat("/proc/self/ns/net")
    assert its.st_dev == ours.st_dev
    assert its.st_ino != ours.st_ino


# -- what does not cross -------------------------------------------------------------


def test_a_closed_file_does_not_cross(service: Files) -> None:
    with open(os.devnull) as file:
        pass
    with pytest.raises(privsep.Unserializable, match="closed"):
        service.echo(file)
    sock = socket.socket()
    sock.close()
    with pytest.raises(privsep.Unserializable, match="closed"):
        service.echo([sock])
    fd = privsep.Fd(os.open(os.devnull, os.O_RDONLY))
    fd.close()
    with pytest.raises(privsep.Unserializable, match="closed Fd"):
        service.echo(fd)
    assert service.echo(1) == 1


def test_files_cross_with_large_bytes_on_a_channel_that_knows_them(
    either: Any,
) -> None:
    """There no file is announced before it is sent, but where segments come first."""
    large = bytes(2 << 20)
    with privsep.Fd(os.dup(0)) as file:
        for value in ([file], [file, large], [file], [large], [file, large]):
            back = either.echo(value)
            assert [type(each) for each in back] == [type(each) for each in value]
            assert back[-1] == large or back[-1].fileno() >= 0


def test_a_descriptor_that_is_closed_is_an_error_at_once(service: Files) -> None:
    """Where `Fd` does not know of it; and of the call nothing is sent."""
    number = os.dup2(0, 200)  # which nothing takes that is opened meanwhile
    closed = privsep.Fd(number)
    os.close(number)
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            service.echo(closed)
    closed.detach()
    assert service.echo(1) == 1


def test_a_text_file_in_another_encoding_does_not_cross(
    service: Files, tmp_path: Path
) -> None:
    with (
        (tmp_path / "file").open("w", encoding="koi8-r") as file,
        pytest.raises(privsep.Unserializable, match=r"'koi8-r'.*utf-8"),
    ):
        service.echo(file)


def test_more_than_the_kernel_sends_at_once_is_too_large(service: Files) -> None:
    with pytest.raises(privsep.MessageTooLarge, match="253 open files"):
        service.return_many(254)
    with open(os.devnull) as null, pytest.raises(privsep.MessageTooLarge):
        service.echo([null] * 254)
    assert service.echo(1) == 1


def test_an_exception_does_not_carry_files(service: Files) -> None:
    with (
        privsep.Fd(os.open(os.devnull, os.O_RDONLY)) as fd,
        pytest.raises(ValueError, match="with a file") as caught,
    ):
        service.raise_with(fd)
    assert caught.value.args[1].startswith("privsep.Fd(")


# -- nothing is left over --------------------------------------------------------------


def _use(service: Files) -> None:
    """Have open files cross in each way, and fail in each."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as null:
        sock, rest = service.echo([theirs, {"file": null}])
        sock.close()
        rest["file"].close()
        failing: tuple[Callable[[], object], ...] = (
            lambda: service.fail(theirs, null),
            lambda: service.raise_with(theirs),
            lambda: service.echo([null, object()]),
            lambda: service.echo([null, b"x" * 2 * files.LIMIT]),
            lambda: service.inspect(null, null),  # one argument too many
            service.return_file_and_object,
            service.return_file_and_too_much,
        )
        for call in failing:
            with pytest.raises(FAILURES):
                call()
    for descriptor in service.return_many(3):
        descriptor.close()


def test_ten_thousand_calls_leave_no_descriptor_on_either_side(service: Files) -> None:
    _use(service)
    ours, theirs = own_descriptors(), sorted(service.descriptors())
    for _ in range(1_112 if service is files.processes else 100):  # nine calls each
        _use(service)
    assert sorted(service.descriptors()) == theirs
    assert own_descriptors() in (ours, ours - 1)


def test_a_call_that_overruns_leaves_no_descriptor(service: Files) -> None:
    service.echo(1)
    with open(os.devnull, "rb") as null:
        ours = own_descriptors()
        with pytest.raises(privsep.CallTimeout):
            service.take_and_sleep(null, 1.0)
        assert service.echo(1) == 1
        assert own_descriptors() in (ours, ours - 1)


def test_no_room_for_descriptors_in_the_client_is_an_error_and_no_leak(
    service: Files,
) -> None:
    service.echo(1)
    before = own_descriptors()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before + 3, limit[1]))
    try:
        with pytest.raises(privsep.MessageTooLarge, match="RLIMIT_NOFILE"):
            service.return_many(20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert own_descriptors() in (before, before - 1)
    assert service.echo(1) == 1


def test_a_worker_that_retires_takes_no_call_with_files() -> None:
    # Two clients want one worker in turn, so it retires while either sends.
    lines = scripts.run(
        """
        import os, files, forks
        service = files.processes
        service.context.workers = 1
        service.context.start("fork")
        def many():
            for number in range(50):
                with open(os.devnull, "rb") as null:
                    one, other = service.echo([null, number])
                    assert other == number
                    one.close()
            return "all"
        children = [forks.Child(many) for _ in range(3)]
        print(many(), *[child.result() for child in children])
        service.context.stop()
        """
    )
    assert lines == ["all all all all"]


def test_a_worker_that_is_taken_for_idle_as_it_is_called_runs_nothing(
    tmp_path: Path,
) -> None:
    # It stands still with the CALL in its hands, and can read no answer afterwards.
    lines = scripts.run(
        """
        import os, select, sys, files, forks
        from pathlib import Path
        from privsep._daemon.serve import Service
        stands_still = sys.argv[1]
        os.mkfifo(stands_still)
        service = files.processes
        service.context.workers = 1
        answer = Service._answer
        def stand_still_and_answer(self, message, beside, frames, encoder, slot):
            if b"return_many" in message and os.path.exists(stands_still):
                Path(stands_still).write_text("")
                poll = select.poll()
                poll.register(frames.sock, select.POLLRDHUP)
                poll.poll(60_000)
            return answer(self, message, beside, frames, encoder, slot)
        Service._answer = stand_still_and_answer
        service.context.start("fork")
        service.echo(1)
        def call_meanwhile():
            Path(stands_still).read_text()
            os.unlink(stands_still)
            return service.echo(2)
        child = forks.Child(call_meanwhile)
        print(len(service.return_many(3)), child.result())
        service.context.stop()
        """,
        tmp_path / "stands still",
    )
    assert lines == ["3 2"]


# -- Fd ----------------------------------------------------------------------


def test_fd_owns_its_descriptor() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    fd = privsep.Fd(descriptor)
    assert fd.fileno() == descriptor
    del fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_is_detached_stays_open() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    with privsep.Fd(descriptor) as fd:
        assert fd.detach() == descriptor
    os.close(descriptor)
    with pytest.raises(ValueError, match="closed or detached"):
        fd.fileno()


@pytest.mark.parametrize("wrong", [-1, "3", 3.0, True, None])
def test_fd_takes_a_descriptor(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"descriptor"):
        privsep.Fd(wrong)
