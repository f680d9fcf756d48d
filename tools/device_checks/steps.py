"""Training steps: every aggregation, every path, 16 bits, and channels last."""

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from unittest import mock

import torch
from fvcore.common.registry import Registry

from device_checks.check import Check, Place, Skipped
from device_checks.trainings import (
    Losses,
    Trainings,
    check_finite,
    describe,
    largest_difference,
    losses_of,
    train,
)
from multas.distillation import AGGREGATOR_REGISTRY, PATH_REGISTRY
from multas.engine import Trainer
from multas.engine.steps import mixed_precision

_PAPER_A, _PAPER_B = "configs/limited-data/table", "configs/adaptive/table"
TWO_PATHS = f"{_PAPER_B}2.yaml#toy/hand_tuned"
ONE_PATH = f"{_PAPER_B}3.yaml#toy/single_at"
# A row with each path.
PATHS = {
    "AttentionTransfer": ONE_PATH,
    "NeuronSelectivity": f"{_PAPER_B}3.yaml#toy/single_nst",
    "SoftTarget": f"{_PAPER_B}3.yaml#toy/single_st",
    "L2Logits": f"{_PAPER_B}3.yaml#toy/single_l2",
    "FeatureMap": "configs/adaptive/figure2.yaml#toy/hand_tuned_fm_st",
    "SoftmaxRegression": "configs/adaptive/figure2.yaml#toy/hand_tuned_at_sr",
    "Overhaul": "configs/adaptive/figure2.yaml#toy/hand_tuned_ofd_st",
    "FKD": f"{_PAPER_B}5.yaml#toy/single_feats_p",
    "LocalizationDistillation": f"{_PAPER_B}5.yaml#toy/single_box",
    "FeatureMSE": f"{_PAPER_A}1.yaml#toy/half/supervised_mse",
    "DeFeat": f"{_PAPER_A}1.yaml#toy/half/supervised_defeat",
    "PDFDistil": f"{_PAPER_A}1.yaml#toy/half/supervised_pdf",
    "SoftDetection": f"{_PAPER_A}1.yaml#toy/half/self_trained",
    "CrossKD": f"{_PAPER_B}5.yaml#toy/single_box",
}
_OWN = "MODEL.DISTILLATION.PATHS"
# Paths that no row of the papers has.
OPTIONS_OF_PATHS: Mapping[str, list] = {
    "CrossKD": [_OWN, [{"TYPE": "CrossKD", "STUDENT": "heads.det"}]]
}
_AGGREGATION = "MODEL.DISTILLATION.AGGREGATION"
_OPTIONS: Mapping[str, list] = {
    "GradNorm": [f"{_AGGREGATION}.SCOPE_LAYERS", ["backbone.res3"]],
    "Bilevel": [f"{_AGGREGATION}.DATA", ["toy_classes_val"]],
    "DWA": [f"{_AGGREGATION}.PERIOD", 1],
}
# The losses of the first iteration in 16 bits against float32: bfloat16 has 8 bits of precision.
_HALF = (0.1,)
_TOO_LARGE = 2.0**60  # a scale at which float16 overflows


def _with_options(name: str, place: Place) -> str:
    row = ONE_PATH if name == "Single" else TWO_PATHS
    opts: list = [f"{_AGGREGATION}.NAME", name, *_OPTIONS.get(name, [])]
    return place.trainings.compared(row, place.device, *opts)


def _torchjd(place: Place) -> str:
    if find_spec("torchjd") is None:
        raise Skipped("torchjd is not installed")
    return _with_options("torchjd:AlignedMTL", place)


def _path(name: str, place: Place) -> str:
    assert name in PATHS, f"tools/device_checks/steps.py has no row for the path {name}"
    return place.trainings.compared(PATHS[name], place.device, *OPTIONS_OF_PATHS.get(name, []))


def _half(dtype: torch.dtype, place: Place) -> str:
    """A classifier and a detector in 16 bits, in float16 also with too large a scale."""
    said = []
    for row in (TWO_PATHS, PATHS["PDFDistil"]):
        cfg = place.trainings.config(row, place.device, "SOLVER.AMP.ENABLED", True)
        with mock.patch.object(mixed_precision, "native_half", lambda _: dtype):
            trainer = train(cfg)
        found = _losses(trainer)
        largest_difference(found, place.trainings.losses(row, place.device), _HALF)
        weights = trainer.model.state_dict().values()
        kinds = {x.dtype for x in weights if x.is_floating_point()}
        assert kinds == {torch.float32}, f"the weights are {kinds}"
        said.append(describe(found))
    if dtype is torch.float16:
        said.append(_overflow(place.trainings, place.device))
    return ", ".join(said)


def _overflow(trainings: Trainings, device: str) -> str:
    """Steps at too large a scale are left out, and the scale falls."""
    cfg = trainings.config(TWO_PATHS, device, "SOLVER.AMP.ENABLED", True)
    before = {}

    def prepare(trainer: Trainer) -> None:
        kind = torch.device(device).type
        scaler = torch.amp.GradScaler(kind, init_scale=_TOO_LARGE)
        trainer._trainer.grad_scaler = scaler
        before.update({n: p.detach().clone() for n, p in trainer.model.named_parameters()})

    with mock.patch.object(mixed_precision, "native_half", lambda _: torch.float16):
        trainer = train(cfg, prepare)
    scale = trainer._trainer.grad_scaler.get_scale()
    steps = cfg.SOLVER.MAX_ITER
    assert scale == _TOO_LARGE / 2**steps, f"the scale is {scale:g} after {steps} overflows"
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert not moved, f"{moved[0]} has changed in a step that should be left out"
    return "overflows left out"


def _channels_last(place: Place) -> str:
    said = []
    for row in (TWO_PATHS, PATHS["PDFDistil"]):
        cfg = place.trainings.config(row, place.device, "SOLVER.CHANNELS_LAST", True)
        trainer = train(cfg)
        formats = [p for p in trainer.model.parameters() if p.dim() == 4 and p.shape[1] >= 8]
        last = [p.is_contiguous(memory_format=torch.channels_last) for p in formats]
        assert all(last), f"{last.count(False)} of {len(last)} weights are not channels last"
        found = _losses(trainer)
        worst = largest_difference(found, place.trainings.losses(row, place.device))
        said.append(f"{worst:.0e}")
    return f"{' and '.join(said)} from channels first"


def _losses(trainer: Trainer) -> Losses:
    found = losses_of(trainer)
    check_finite(found)
    return found


def _own(registry: Registry) -> list[str]:
    """What multas itself has registered, sorted."""
    return sorted(name for name, cls in registry if cls.__module__.startswith("multas."))


def checks() -> Iterator[Check]:
    """Checks of steps; a path or aggregation that is registered later has one, too."""
    for name in _own(AGGREGATOR_REGISTRY):
        yield Check(f"aggregation {name}", partial(_with_options, name))
    yield Check("aggregation torchjd", _torchjd)
    for name in _own(PATH_REGISTRY):
        yield Check(f"path {name}", partial(_path, name))
    yield Check("16 bits: bfloat16", partial(_half, torch.bfloat16))
    yield Check("16 bits: float16, scaled", partial(_half, torch.float16))
    yield Check("channels last", _channels_last)
