"""A measuring process, seen from the runner."""

import contextlib
import json
import os
import select
import signal
import subprocess
from typing import Any, Self

from benchmarks.environments import BENCH, ROOT, prepare
from benchmarks.rows import Contestant

ANSWER_SECONDS = 60


class CannotRunError(Exception):
    """A contestant could not be measured, through a fault of its own."""


class Measuring:
    """The measuring process of one contestant; a context manager, which ends it."""

    def __init__(self, contestant: Contestant, processors: int) -> None:
        """Make the environment and start the process.

        Raises:
            CannotRunError: the environment could not be made.

        """
        module = f"benchmarks.contestants.{contestant.module}"
        name = f"{contestant.environment}.{contestant.module}.{contestant.operation}"
        self._log = BENCH / f"{name}.log"
        try:
            python = prepare(contestant.environment)
        except (subprocess.CalledProcessError, OSError) as error:
            message = (
                f"the environment {contestant.environment} could not be made: {error}"
            )
            raise CannotRunError(message) from error
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-I", "-m", module, contestant.operation, str(processors)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def greeting(self) -> dict[str, Any]:
        """Read, once, its `versions` or why it is to be skipped (`skip`)."""
        return self._answer()

    def round(self, operations: int) -> float:
        """Have it run so many operations, and return the nanoseconds of one."""
        assert self._process.stdin
        with contextlib.suppress(
            BrokenPipeError
        ):  # then it does not answer either, and that is said
            self._process.stdin.write(f"{operations}\n".encode())
        return float(self._answer()["ns"])

    def _answer(self) -> dict[str, Any]:
        answers = self._process.stdout
        assert answers
        ready, _, _ = select.select([answers], [], [], ANSWER_SECONDS)
        line = answers.readline() if ready else b""
        if not line:
            why = "it ended" if ready else f"no answer in {ANSWER_SECONDS} seconds"
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
            message = f"{why}, see {self._log.relative_to(ROOT)}: {last}"
            raise CannotRunError(message)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End it by closing its stdin; kill its process group if it does not."""
        try:
            self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
