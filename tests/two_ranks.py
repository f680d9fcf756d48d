"""Run a test file as a script on two ranks of one machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from detectron2.utils import comm


@contextmanager
def process_group(folder: str | Path, rank: int) -> Iterator[None]:
    """In it, the two processes of :func:`run_on_two_ranks` are ranks of one gloo group.

    Args:
        folder: where they meet.
        rank: of this process.
    """
    meeting = f"file://{Path(folder) / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    try:
        yield
    finally:
        # Detectron2 remembers groups: their threads would outlive them and abort the process.
        comm._get_global_gloo_group.cache_clear()
        comm._LOCAL_PROCESS_GROUP = None
        torch.distributed.destroy_process_group()


def run_on_two_ranks(file: str, folder: Path, timeout: float = 240) -> list:
    """Start ``python file folder rank`` twice.

    Args:
        file: a script; each of its processes leaves <folder>/rank<rank>.pth.
        folder: where the ranks meet and leave their results.
        timeout: of each, in seconds.

    Returns:
        What the two ranks have left.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, file, str(folder), str(rank)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            output, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"rank{rank}.pth") for rank in range(2)]
