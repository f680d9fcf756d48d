"""Times and memory of training steps, by benchmarks/run.py."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from device_checks.check import Check, Place, Skipped

_RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


def _run(name: str, place: Place) -> str:
    if not place.is_gpu:
        raise Skipped(f"python benchmarks/run.py {name} measures this CPU")
    command = [sys.executable, str(_RUN), "--rounds", str(place.rounds), name]
    done = subprocess.run(command, capture_output=True, text=True)
    output = [line for line in done.stdout.splitlines() if line.strip()]
    errors = [line for line in (*done.stderr.splitlines(), *output) if "Error" in line]
    assert done.returncode == 0 and not any(x.startswith("Failed: ") for x in output), errors[-1:]
    return f"written to {output[-1]}"


def checks() -> Iterator[Check]:
    for name in ("step", "aggregation"):
        yield Check(f"benchmark {name}", partial(_run, name), measures=True)
