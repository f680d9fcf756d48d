"""Images per second of a training step with one process and with two (gloo, on the CPU).

``python benchmarks/scaling.py JOB RANK`` runs one process and prints the seconds of its steps.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import aggregation
from stock import random_batch, whole_step
from tables import rate_table

ALTERNATIVES = (aggregation.STOCK, "adaptive", "mgda, parameters")
PATHS, SIZE, BATCH, STEPS = 5, 320, 2, 3
MAX_ROUNDS = 3


@dataclass(frozen=True)
class Job:
    """A run of several processes.

    Attributes:
        alternative: see :func:`aggregation.new_trainer`.
        processes: number of processes.
        threads: threads per process.
        meeting: file for the initialisation of the process group.
        size: image size, pixels.
        batch: images per process.
        steps: number of measured steps.
    """

    alternative: str
    processes: int
    threads: int
    meeting: str = ""
    size: int = SIZE
    batch: int = BATCH
    steps: int = STEPS


def work(job: Job, rank: int) -> list[float]:
    """Seconds of each step of one process, after a first step that does not count."""
    torch.set_num_threads(job.threads)
    together = job.processes > 1
    if together:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{job.meeting}", rank=rank, world_size=job.processes
        )

    def wrap(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model) if together else model

    torch.manual_seed(rank)
    batch = random_batch(job.batch, job.size, aggregation.OBJECTS, aggregation.CLASSES)
    step = whole_step(aggregation.new_trainer(job.alternative, PATHS, batch, wrap=wrap))
    seconds = []
    with EventStorage():
        for _ in range(job.steps + 1):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
    if together:
        torch.distributed.destroy_process_group()
    return seconds[1:]


def launch(job: Job) -> float:
    """Median seconds of a step, measured in new processes.

    Raises:
        RuntimeError: a process failed; the message is its last line.
    """
    # The loopback interface, as the host name may not resolve.
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": str(job.threads)}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        task = json.dumps(asdict(job) | {"meeting": str(Path(folder) / "meeting")})
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, task, str(rank)], env=environment,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(job.processes)
        ]  # fmt: skip
        try:
            outputs = [worker.communicate() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        if worker.returncode:
            raise RuntimeError((errors.strip().splitlines() or ["no message"])[-1])
    return statistics.median(json.loads(outputs[0][0].splitlines()[-1]))


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    rounds, cores = min(rounds, MAX_ROUNDS), torch.get_num_threads()
    half = max(cores // 2, 1)
    tables = []
    for alternative in ALTERNATIVES:
        # Seconds per batch, since a step of two processes handles two batches.
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for processes, threads in dict.fromkeys(((1, half), (2, half), (1, cores))):
                name = f"{processes} × {threads}"
                each = launch(Job(alternative, processes, threads, size=SIZE, batch=BATCH))
                seconds.setdefault(name, []).append(each / processes)
        tables.append(f"{alternative}:\n\n{rate_table(seconds, 'processes × threads', BATCH)}")
    title = f"## Scaling: K = {PATHS}, {SIZE} px, batch {BATCH} per process, {rounds} rounds"
    return "\n\n".join([title, *tables])


if __name__ == "__main__":
    # Other output, e.g. of libraries, comes before this line.
    print(json.dumps(work(Job(**json.loads(sys.argv[1])), int(sys.argv[2]))))
