"""What a check is: a name, and a function that runs on a device and says what it has found."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from device_checks.trainings import Trainings


class Skipped(Exception):
    """Raised by a check that cannot run here; says why."""


@dataclass(frozen=True)
class Check:
    """A check.

    Args:
        name: of the check, by which ``--only`` chooses it.
        run: the check itself. It returns what it has measured, in a few words, or raises an
            AssertionError that says what is wrong, or :class:`Skipped`.
        measures: whether it takes times, for which nothing else should run.
    """

    name: str
    run: Callable[["Place"], str]
    measures: bool = False


@dataclass
class Place:
    """Where checks run.

    Args:
        device: a device of torch, such as "cuda" or "cpu".
        trainings: tiny trainings on it and on the CPU.
        rounds: how often benchmarks measure.
    """

    device: str
    trainings: Trainings
    rounds: int = 5

    @cached_property
    def is_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


@dataclass(frozen=True)
class Outcome:
    """The result of a check, as a row of the table."""

    name: str
    verdict: str
    said: str
    seconds: float


def run_check(check: Check, place: Place) -> Outcome:
    """Run a check, whatever happens in it."""
    start = time.perf_counter()
    try:
        verdict, said = "ok", check.run(place)
    except Skipped as reason:
        verdict, said = "skipped", str(reason)
    except Exception as error:  # a fault of one check is no reason to leave out the others
        lines = [line for line in str(error).splitlines() if line.strip()] or ["no message"]
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        verdict, said = "FAILED", kind + lines[0].strip()
    return Outcome(check.name, verdict, said, time.perf_counter() - start)
