"""Losses against the numbers of the original authors' code (tests/golden), on the device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from device_checks.check import Check, Place, Skipped
from device_checks.golden_losses import CASES, Numbers

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"
# Relative to a value, and to the largest entry of a gradient: in float64, and of the few cases that
# are stored in float32. The tests on the CPU have bounds of their own for each case, as tight.
_DOUBLE, _SINGLE = 1e-7, 1e-4
_NEARLY, _MATCHES = 1e-9, 1e-5  # absolute


def _load(file: Path, device: str) -> tuple[dict[str, Tensor], bool]:
    """The numbers of a case, and whether they are of float32; those of paper A count as exact."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = {k: torch.from_numpy(np.asarray(v)) for k, v in stored.items() if v.dtype != "U"}
    floating = [x for name, x in arrays.items() if name.startswith("in_") and x.is_floating_point()]
    single = file.parent.name == "adaptive" and any(x.dtype == torch.float32 for x in floating)
    for name, x in arrays.items():
        if x.is_floating_point() and not single and name not in ("in_targets", "in_priors"):
            x = x.double()
        arrays[name] = x.to(device)
        if name.startswith("in_") and f"grad_{name.removeprefix('in_')}" in arrays:
            arrays[name].requires_grad_()
    return arrays, single


def _differences(file: Path, function: Callable, device: str) -> Iterator[tuple[str, float, float]]:
    """What is stored of a case, how far it is off, and how far it may be."""
    g, single = _load(file, device)
    found = function(g)
    outputs = found if isinstance(found, Mapping) else {_loss_name(g): found}
    bound = _SINGLE if single else _DOUBLE
    for name, value in outputs.items():
        wanted = g[f"out_{name}"].double()
        # Qualities of matches are given in float32.
        nearly = _MATCHES if file.stem.startswith("match_") else _NEARLY
        off = (value.detach().double() - wanted).abs() - nearly
        yield name, float((off / wanted.abs().clamp(min=nearly)).clamp(min=0).max()), bound
    last = list(outputs.values())[-1]
    stored = [n for n in g if n.startswith("grad_") and f"in_{n.removeprefix('grad_')}" in g]
    inputs = [g[f"in_{name.removeprefix('grad_')}"] for name in stored]
    if not stored or not last.requires_grad:
        return
    for name, ours in zip(stored, torch.autograd.grad(last.sum(), inputs), strict=True):
        wanted = g[name].double().reshape(ours.shape)
        off = (ours.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-11)
        yield name, float(off), bound


def _loss_name(g: Numbers) -> str:
    return "loss" if "out_loss" in g else "loss_kd"


def _check(place: Place) -> str:
    if not FOLDER.is_dir():
        raise Skipped(f"no {FOLDER}, which the repository has")
    count, worst = 0, 0.0
    for pattern, function in CASES.items():
        files = sorted(FOLDER.glob(f"{pattern}.npz"))
        assert files, f"no case {pattern} in {FOLDER}"
        for file in files:
            for name, off, bound in _differences(file, function, place.device):
                assert off <= bound, f"{file.stem}: {name} is {off:.1e} off"
                worst = max(worst, off if bound == _DOUBLE else 0.0)
            count += 1
    return f"{count} cases, {worst:.0e} off at most"


def checks() -> Iterator[Check]:
    yield Check("golden numbers", partial(_check))
