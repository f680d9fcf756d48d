"""A training as a job of submitit, which continues when its time is up or its node is needed."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from multas.util.signals import PASSED_ON, not_orphaned


class Job:
    """Runs a command that continues by itself when it is run again.

    Args:
        command: its words.
        cwd: the working directory.
    """

    def __init__(self, command: Sequence[str], cwd: str) -> None:
        self.command, self.cwd = list(command), cwd
        self._pid = 0

    def __call__(self) -> None:
        with subprocess.Popen(self.command, cwd=self.cwd) as process, not_orphaned(process):
            self._pid = process.pid
            if status := process.wait():
                raise RuntimeError(f"{shlex.join(self.command)} ended with status {status}.")

    def checkpoint(self) -> Any:
        """End the command, which keeps what it has done, and return what submitit runs next.

        Submitit calls this in a signal handler, in the midst of the wait of ``__call__``.
        """
        import submitit

        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, PASSED_ON)
            # The status is left to the other wait.
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Job(self.command, self.cwd))
