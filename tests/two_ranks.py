"""Run a test file as a script on two ranks of one machine."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def run_on_two_ranks(file: str, folder: Path, timeout: float = 240) -> list[dict]:
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
