"""What trains a run: a process of this machine, or a job of a Slurm cluster."""

import fcntl
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from .runs import Run

THREADS = "OMP_NUM_THREADS"
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Runner(Protocol):
    """Trains runs, several at a time."""

    def train(self, run: Run) -> bool:
        """Train a run, from its last checkpoint if it has one; False if it failed."""

    def stop(self) -> None:
        """End all trainings."""


@contextmanager
def claimed(run: Run) -> Iterator[IO[str]]:
    """Hold the folder of a run, once nobody else does; yields the lock.

    Two tables that are computed at the same time share runs.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


class Local:
    """Processes of this machine, which share its cores and GPUs.

    Args:
        jobs: how many there are at a time.
    """

    def __init__(self, jobs: int) -> None:
        self.threads = max(1, usable_cores() // jobs)
        self._gpus: queue.SimpleQueue[int] = queue.SimpleQueue()
        for job in range(jobs):
            self._gpus.put(job % max(1, torch.cuda.device_count()))
        self._processes: set[subprocess.Popen] = set()

    def train(self, run: Run) -> bool:
        gpu = self._gpus.get()
        try:
            with claimed(run) as lock, open(run.console, "a") as console:
                return run.is_finished or self._run(run, self._environment(gpu), console, lock) == 0
        finally:
            self._gpus.put(gpu)

    def _run(self, run: Run, environment: Mapping[str, str], console: IO, lock: IO) -> int:
        console.write(f"$ {THREADS}={self.threads} {run.command_line}\n")
        console.flush()
        process = subprocess.Popen(
            [sys.executable, *run.arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            # It holds the lock as well: if this process is killed, the training may go on.
            pass_fds=[lock.fileno()],
        )
        self._processes.add(process)
        status = process.wait()
        self._processes.discard(process)
        return status

    def _environment(self, gpu: int) -> dict[str, str]:
        own = {THREADS: str(self.threads), "PYTHONUNBUFFERED": "1"}
        if torch.cuda.device_count() > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            own["CUDA_VISIBLE_DEVICES"] = visible[gpu] if len(visible) > 1 else str(gpu)
        return os.environ | own

    def stop(self) -> None:
        for process in list(self._processes):
            process.terminate()


class Cluster:
    """Jobs of a cluster, by way of submitit; this process waits for them.

    Args:
        name: "slurm", or "local" to try it without one.
        folder: for the logs of the jobs.
        options: KEY=VALUE of submitit's update_parameters, like slurm_partition=gpu.

    Raises:
        SystemExit: there is no submitit, or an option is not of this form.
    """

    def __init__(self, name: str, folder: Path, options: Sequence[str] = ()) -> None:
        try:
            import submitit
        except ImportError as error:
            raise SystemExit("--submit needs submitit: pip install 'multas[cluster]'.") from error
        self._command = submitit.helpers.CommandFunction
        self._executor = submitit.AutoExecutor(folder=str(folder), cluster=name)
        self._executor.update_parameters(name="reproduce", **_parameters(options))
        self._jobs: set[Any] = set()

    def train(self, run: Run) -> bool:
        with claimed(run):
            if run.is_finished:
                return True
            command = [sys.executable, *run.arguments]
            job = self._executor.submit(self._command(command, cwd=str(REPOSITORY)))
            self._jobs.add(job)
            error = job.exception()
            self._jobs.discard(job)
            with open(run.console, "a") as console:
                console.write(f"$ {run.command_line}\n{job.stdout() or ''}{job.stderr() or ''}")
                console.write(f"{error}\n" if error else "")
            return error is None

    def stop(self) -> None:
        for job in list(self._jobs):
            job.cancel()


def _parameters(options: Sequence[str]) -> dict[str, int | str]:
    parameters: dict[str, int | str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise SystemExit(f"--submit-option {option}: give KEY=VALUE, like slurm_partition=gpu.")
        parameters[key] = int(value) if value.isdigit() else value
    return parameters


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
