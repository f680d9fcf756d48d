"""Memory of alternatives, each in a separate process."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence


def peak_gigabytes(
    script: str, arguments: Mapping[str, Sequence[object]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Run a script for each alternative and round.

    Args:
        script: its last line of output is the peak memory of the process in bytes.
        arguments: name of an alternative -> arguments of the script.
        rounds: number of runs per alternative.

    Returns:
        GB of each alternative, and the error messages of those that failed.

    Raises:
        RuntimeError: the first alternative, the base of comparison, failed.
    """
    gigabytes: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for name, own in arguments.items():
        for _ in range(rounds):
            command = [sys.executable, script, *map(str, own)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                missing[name] = (done.stderr.strip().splitlines() or ["killed"])[-1][:100]
                gigabytes.pop(name, None)
                break
            gigabytes.setdefault(name, []).append(float(done.stdout.split()[-1]) / 1e9)
    first = next(iter(arguments))
    if first in missing:
        raise RuntimeError(f"no peak memory of {first}: {missing[first]}")
    return gigabytes, missing


def shared_memory() -> int:
    """Memory of this process and those of multiprocessing in bytes, shared pages counted once."""
    total = 0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        with open(f"/proc/{process}/smaps_rollup") as file:
            lines = dict(line.split(":", 1) for line in file)
        total += 1024 * int(lines["Pss"].split()[0])
    return total
