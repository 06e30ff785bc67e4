"""A root with something beneath it, and kernels with and without openat2."""

from __future__ import annotations

import errno
import functools
import os
import pickle
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import privsep
from privsep._lockdown import attributes, libseccomp, seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with files, and beside it another with a file."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_text("inside")
    (root / "sub/file").write_text("inside")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    return root


@pytest.fixture
def descriptor(root: Path) -> Iterator[int]:
    """A descriptor of `root`."""
    descriptor = os.open(root, os.O_PATH)
    yield descriptor
    os.close(descriptor)


def read(descriptor: int) -> str:
    with open(descriptor) as file:
        return file.read()


def content(root: Any, path: Any, *flags: int) -> str:
    return read(privsep.open_beneath(root, path, *flags))


def refusal(root: Any, path: Any, *arguments: int) -> OSError:
    with pytest.raises(OSError) as caught:
        os.close(privsep.open_beneath(root, path, *arguments))
    return caught.value


def in_child(function: Callable[[], object], *before: Callable[[], object]) -> Any:
    """Return what `function` returns in a child, which calls `before` first."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                for each in before:
                    each()
                outcome: object = (function(), None)
            except BaseException as error:  # noqa: BLE001 - it is told
                outcome = (None, error)
            os.write(writer, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    value, raised = pickle.loads(data)  # noqa: S301 - of our own child
    if raised is not None:
        raise raised
    return value


def answer_openat2_with(number: int) -> None:
    """Make openat2 fail with errno `number` in this process from now on."""
    attributes.forbid_new_privileges()
    library = libseccomp.Library()
    rules = library.new_filter(libseccomp.ALLOW)
    rules.add(libseccomp.fail_with(number), library.number("openat2"))
    rules.load()


def refuse_openat2() -> None:
    """Refuse it as a sandbox does; the kernel logs each time, so this is slow."""
    attributes.forbid_new_privileges()
    library = seccomp.prepare()
    sandbox = privsep.Sandbox(
        syscalls=["~openat2"], network=True, execute=None, signals=True
    )
    seccomp.restrict(library, sandbox)


class Kernel(NamedTuple):
    """Runs functions where openat2 is there, or is not."""

    name: str
    restrict: tuple[Callable[[], object], ...]

    def run(self, function: Callable[[], object]) -> Any:
        return in_child(function, *self.restrict)


NEW = Kernel("openat2", ())
OLD = Kernel("old kernel", (functools.partial(answer_openat2_with, errno.ENOSYS),))
REFUSED = Kernel("refused", (refuse_openat2,))


def on_kernels(*kernels: Kernel) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kernel", kernels, ids=lambda kernel: kernel.name)


any_kernel = on_kernels(NEW, OLD, REFUSED)


without_openat2 = on_kernels(OLD, REFUSED)
