"""A run that is taken up again ends with the bits of one that was not stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.engine import HookBase

from device_checks.check import Check, Place
from device_checks.steps import PATHS, TWO_PATHS
from device_checks.trainings import exact, train
from multas.engine import Trainer
from multas.util.signals import PASSED_ON

# cuBLAS wants it for results that repeat, and reads it when the first product is computed.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
_STEPS, _STOP = 6, 3


class _Stop(HookBase):
    """Asks the training to end, as a cluster does; it leaves a checkpoint behind that step."""

    def before_step(self) -> None:
        if self.trainer.iter == _STOP:
            os.kill(os.getpid(), PASSED_ON)


@contextmanager
def repeatable() -> Iterator[None]:
    """Operations give the same bits whenever they run, or say that they cannot."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _resumed(row: str, place: Place) -> None:
    opts = ["SOLVER.MAX_ITER", _STEPS]
    whole = train(place.trainings.config(row, place.device, *opts))
    cfg = place.trainings.config(row, place.device, *opts)
    try:
        train(cfg, lambda trainer: trainer.register_hooks([_Stop()]))
    except SystemExit:
        torch.rand(3, device=place.device)
    with exact():
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        start = trainer.start_iter
        assert start == _STOP + 1, f"it goes on at iteration {start}, not {_STOP + 1}"
        trainer.train()
    found, wanted = trainer.model.state_dict(), whole.model.state_dict()
    others = [name for name, x in wanted.items() if not torch.equal(x, found[name])]
    assert not others, f"{len(others)} of {len(wanted)} tensors differ, such as {others[0]}"


def _check(place: Place) -> str:
    rows = (TWO_PATHS, "configs/adaptive/table2.yaml#toy/multiobjective", PATHS["PDFDistil"])
    with repeatable():
        for row in rows:
            _resumed(row, place)
    return f"{len(rows)} runs to the same bits"


def checks() -> Iterator[Check]:
    yield Check("resume", _check)
