#!/usr/bin/env python
"""Check that everything trains on a GPU as on a CPU, and measure how fast.

    python tools/gpu_check.py                               # all, on the first GPU
    python tools/gpu_check.py --only 'path *' 'two *'
    python tools/gpu_check.py --device cpu                  # what a CPU can show of it

Tiny trainings on embedded data: every aggregation and path with finite losses that agree with those
of the CPU in float32, 16 bits (bfloat16, and float16 with scaled losses), channels last, two
processes with NCCL, steps that wait for the GPU and send to it only where they must (on a CPU by a
device that is pretended: every operation runs, without values), the numbers of the authors' code,
runs that resume to the same bits, exported networks in ONNX Runtime's CUDA provider;
and the benchmarks step and aggregation, whose results go to benchmarks/results. A check that cannot
run here (one GPU, a library that is not installed) is skipped, with the reason. The exit status is
1 if one has failed. `pytest -m gpu` runs the same checks, without the benchmarks.
"""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from tabulate import tabulate

from device_checks import (
    benchmarks,
    exported,
    golden,
    ranks,
    resuming,
    steps,
    synchronisation,
    transfers,
)
from device_checks.check import Check, Outcome, Place, run_check
from device_checks.trainings import Trainings
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
_MODULES = (golden, steps, synchronisation, transfers, ranks, resuming, exported, benchmarks)


def all_checks() -> Iterator[Check]:
    """All checks, those first that take little time."""
    for module in _MODULES:
        yield from module.checks()


def chosen(patterns: Sequence[str]) -> list[Check]:
    """The checks whose names fit one of the patterns, or all if there is none.

    Raises:
        UserError: a pattern fits no check.
    """
    known = list(all_checks())
    for pattern in patterns:
        if not any(fnmatch(check.name, pattern) for check in known):
            names = ", ".join(check.name for check in known)
            raise UserError(f"--only {pattern}: fits none of {names}.")
    return [c for c in known if not patterns or any(fnmatch(c.name, p) for p in patterns)]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME",
                        help="checks by name; * stands for any letters")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the benchmarks")
    return parser.parse_args(argv)


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [[x.name, x.verdict, x.said, x.seconds] for x in outcomes]
    header = ["check", "result", "what was found", "seconds"]
    return tabulate(rows, header, tablefmt="github", floatfmt=".1f", disable_numparse=[0, 1, 2])


def missing(device: str) -> str:
    """Why checks cannot run on a device; "" where they can."""
    try:
        torch.zeros(1, device=device).item()
    except (AssertionError, NotImplementedError, RuntimeError):
        there = torch.cuda.device_count()
        return (
            f"No check was run: torch {torch.__version__} finds {there or 'no'} GPU"
            f"{'s' * (there > 1)} here, and not '{device}'. --device cpu shows what a CPU can."
        )
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Trainings say nothing of their configs, which are known."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    os.chdir(REPOSITORY)  # the paths in configs start there
    checks = chosen(args.only)
    if reason := missing(args.device):
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, _quiet():
        place = Place(args.device, Trainings(Path(folder)), args.rounds)
        outcomes = []
        for check in checks:
            print(f"{check.name} …", file=sys.stderr, flush=True)
            outcomes.append(run_check(check, place))
    print(table(outcomes))
    failed = [x for x in outcomes if x.verdict == "FAILED"]
    print(f"\n{len(outcomes)} checks on {_name(args.device)}, {len(failed)} failed.")
    return 1 if failed else 0


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


if __name__ == "__main__":
    raise SystemExit(run(main))
