"""What trains a run: a process of this machine, or a job of a Slurm cluster."""

import fcntl
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from multas.util.errors import UserError
from multas.util.signals import PASSED_ON, not_orphaned
from reproduction import job as jobs_module
from reproduction.job import Job
from reproduction.run import Run

THREADS = "OMP_NUM_THREADS"
_POLL_SECONDS = 1.0
# A training may take any number of days; by itself submitit queues a job again three times.
_MOST_TIMEOUTS = 1000
REPOSITORY = Path(__file__).resolve().parent.parent.parent


class Runner(Protocol):
    """Trains runs, several at a time."""

    def train(self, run: Run) -> bool:
        """Train a run, from its last checkpoint if it has one; False if it failed.

        Raises:
            Exception: why it could not even start.
        """

    def stop(self) -> None:
        """End all trainings."""


class Stopped(Exception):
    """Raised when the call ends and nothing may start any more."""


@contextmanager
def claimed(run: Run, stopped: threading.Event) -> Iterator[IO[str]]:
    """Hold the folder of a run, once nobody else does; yields the lock.

    Two tables that are computed at the same time share runs.

    Raises:
        Stopped: ``stopped`` was set before.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(lock_of(run), "w") as lock:
        waits = False
        while not stopped.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waits:
                    print(f"{run.title}: another call is at it; waiting for that.", flush=True)
                waits = True
                stopped.wait(_POLL_SECONDS)
            else:
                yield lock
                return
    raise Stopped


def lock_of(run: Run) -> Path:
    """The lock that is held by whoever trains the run."""
    return run.folder / "lock"


class Local:
    """Processes of this machine, which share its cores and GPUs.

    Args:
        jobs: how many there are at a time.
        gpus: the most GPUs that one of them has.

    Raises:
        UserError: this machine has fewer GPUs.
    """

    def __init__(self, jobs: int, gpus: int = 1) -> None:
        there = torch.cuda.device_count()
        if gpus > max(1, there):
            raise UserError(f"--gpus is {gpus}, but this machine has {there}.")
        self.threads = max(1, usable_cores() // (jobs * gpus))  # of each of its processes
        self.share = min(1.0, there / (jobs * gpus))
        self._gpus: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for job in range(jobs):
            self._gpus.put([(job * gpus + i) % max(1, there) for i in range(gpus)])
        self._processes: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def train(self, run: Run) -> bool:
        gpus = self._gpus.get()
        try:
            with claimed(run, self._stopped) as lock, open(run.console, "a") as console:
                environment = self._environment(gpus[: run.gpus])
                return run.is_finished or self._run(run, environment, console, lock) == 0
        finally:
            self._gpus.put(gpus)

    def _run(self, run: Run, environment: Mapping[str, str], console: IO, lock: IO) -> int:
        console.write(resources(self.threads, self.share * run.gpus))
        console.write(f"$ {THREADS}={self.threads} {run.command_line}\n")
        return self._wait_for(run.arguments, environment, console, lock)

    def _wait_for(
        self, arguments: Sequence[str], environment: Mapping[str, str], console: IO, lock: IO
    ) -> int:
        """Run Python with these arguments; returns the status that it ends with."""
        console.flush()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=REPOSITORY,
            env=environment,
            stdout=console,
            stderr=subprocess.STDOUT,
            # It holds the lock as well: if this process is killed, the training may go on.
            pass_fds=[lock.fileno()],
        )
        self._processes.add(process)
        with not_orphaned(process):
            status = process.wait()
        self._processes.discard(process)
        return status

    def _environment(self, gpus: Sequence[int]) -> dict[str, str]:
        own = {THREADS: str(self.threads), "PYTHONUNBUFFERED": "1"}
        if torch.cuda.device_count() > 1:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            names = [visible[gpu] if len(visible) > 1 else str(gpu) for gpu in gpus]
            own["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        return os.environ | own

    def stop(self) -> None:
        self._stopped.set()
        for process in list(self._processes):
            process.send_signal(PASSED_ON)


class Cluster:
    """Jobs of a cluster, by way of submitit; this process waits for them.

    A job holds the lock of its run, so that it may outlive this process: the same command given
    again adds a job that waits for the first, and then finds the run finished. A job whose time is
    up, or whose node is needed, is queued again and continues.

    Args:
        name: "slurm", or "local" to try it without one.
        folder: for the logs of the jobs.
        options: KEY=VALUE of submitit's update_parameters, like slurm_partition=gpu; without them
            a job has a day, the GPUs of its run (of "local": if there is one), and eight cores for
            each of them.

    Raises:
        UserError: there is no submitit or no such cluster, or an option is not of this form.
    """

    def __init__(self, name: str, folder: Path, options: Sequence[str] = ()) -> None:
        try:
            import cloudpickle
            import submitit
        except ImportError as error:
            raise UserError("--submit needs submitit: pip install 'multas[cluster]'.") from error
        self._options = _parameters(options)
        self._has_gpus = name == "slurm" or torch.cuda.is_available()
        # The process of a job cannot import this folder.
        cloudpickle.register_pickle_by_value(jobs_module)
        try:
            self._executor = submitit.AutoExecutor(
                folder=str(folder), cluster=name, slurm_max_num_timeout=_MOST_TIMEOUTS
            )
        except RuntimeError as error:
            raise UserError(f"--submit {name}: {error}") from error
        self._submitting = threading.Lock()
        self._jobs: set[Any] = set()
        self._stopped = threading.Event()

    def train(self, run: Run) -> bool:
        if run.is_finished:
            return True
        if self._stopped.is_set():
            raise Stopped
        run.folder.mkdir(parents=True, exist_ok=True)
        # Signals must reach the training, so that flock makes way for it.
        flock = ["flock", "--no-fork", str(lock_of(run).absolute())]
        command = Job([*flock, sys.executable, *run.arguments], str(REPOSITORY))
        parameters = self._parameters(run)
        with self._submitting:
            self._executor.update_parameters(name="reproduce", **parameters)
            job = self._executor.submit(command)
        self._jobs.add(job)
        error = job.exception()
        self._jobs.discard(job)
        threads, gpus = parameters["cpus_per_task"], parameters["gpus_per_node"]
        with open(run.console, "a") as console:
            console.write(resources(int(threads), float(gpus)))
            console.write(f"$ {run.command_line}\n{job.stdout() or ''}{job.stderr() or ''}")
            console.write(f"{error}\n" if error else "")
        return error is None

    def _parameters(self, run: Run) -> dict[str, int | str]:
        gpus = run.gpus if self._has_gpus else 0
        own = {"timeout_min": 1440, "cpus_per_task": 8 * run.gpus, "gpus_per_node": gpus}
        return {**own, **self._options}

    def stop(self) -> None:
        self._stopped.set()
        for job in list(self._jobs):
            job.cancel()


def resources(threads: int, gpus: float) -> str:
    """The line in front of a training in a console: the threads and GPUs that it has."""
    return f"# {threads} threads, {gpus:.2f} GPUs\n"


def read_resources(console: str) -> tuple[int, float]:
    """The threads and GPUs of a console's last training; one each where it does not say."""
    found = re.findall(r"^# (\d+) threads, ([\d.]+) GPUs$", console, re.MULTILINE)
    threads, gpus = found[-1] if found else (1, 1)
    return int(threads), float(gpus)


def _parameters(options: Sequence[str]) -> dict[str, int | str]:
    parameters: dict[str, int | str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--submit-option {option}: give KEY=VALUE, like slurm_partition=gpu.")
        parameters[key] = int(value) if value.isdigit() else value
    return parameters


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
