"""A loss that is not finite stops the run, names the culprit, and costs no good checkpoint."""

import os

import pytest
import torch
from detectron2.engine import HookBase

from multas.engine import Trainer
from multas.engine.finite import check_weights
from training import PATHS, copies, different, start, train


class Spoil(HookBase):
    def __init__(self, spoil, iteration: int) -> None:
        self._spoil, self._iteration = spoil, iteration

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            self._spoil(self.trainer)


def breaking(cfg, spoil, iteration=4) -> Trainer:
    """A trainer whose model goes wrong at an iteration."""
    trainer = start(cfg)
    trainer.register_hooks([Spoil(spoil, iteration)])
    return trainer


def spoil_classification(trainer):
    """Makes loss_cls NaN, the box loss stays finite."""
    original = type(trainer.model).forward

    def forward(batch):
        losses = original(trainer.model, batch)
        return losses | {"loss_cls": losses["loss_cls"] * float("nan")}

    trainer.model.forward = forward


def test_the_term_is_named_before_the_optimiser_steps(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2)
    seen = {}

    def spoil(trainer):
        spoil_classification(trainer)
        seen.update(copies(dict(trainer.model.named_parameters())))

    trainer = breaking(cfg, spoil)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "loss_cls = nan" in message
    assert "loss_box_reg = " not in message.splitlines()[0]
    assert "model_0000003.pth" in message
    assert "SOLVER.BASE_LR" in message
    assert different(dict(trainer.model.named_parameters()), seen) == []
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000003.pth")
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_the_path_is_named(distilled_cfg):
    cfg = distilled_cfg("MODEL.DISTILLATION.PATHS", PATHS[1:], "SOLVER.MAX_ITER", 4)

    def spoil(trainer):
        path = trainer.model.distillation.paths["soft"]
        path.register_forward_hook(lambda *args: {k: v / 0 for k, v in args[-1].items()})

    with pytest.raises(FloatingPointError) as caught:
        breaking(cfg, spoil, 2).train()
    message = str(caught.value).splitlines()[0]
    assert "loss_kd_soft = inf" in message or "loss_kd_soft = nan" in message
    assert "paths at fault, raw losses: soft = inf." in message
    assert "mse" not in message
    assert "MODEL.DISTILLATION.PATHS" in message


def test_weights_that_are_not_finite_are_never_written(tiny_cfg):
    # A finite loss with infinite gradients: the loss shows it one iteration too late.
    cfg = tiny_cfg("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2)

    def spoil(trainer):
        next(trainer.model.parameters()).register_hook(lambda grad: grad / 0)

    trainer = breaking(cfg, spoil, 5)
    with pytest.raises(FloatingPointError, match="no checkpoint was written"):
        trainer.train()
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000003.pth")
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "model_0000005.pth"))


def test_the_first_parameters_at_fault_are_named():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    check_weights(model)
    with torch.no_grad():
        model[1].bias[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"1 parameters.*1\.bias"):
        check_weights(model)


def test_a_run_stopped_by_a_loss_resumes_from_the_good_checkpoint(tiny_cfg):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2)
    with pytest.raises(FloatingPointError):
        breaking(cfg, spoil_classification).train()
    assert train(cfg, resume=True).start_iter == 4
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_in_mixed_precision_the_run_stops_before_the_step_too(tiny_cfg, device):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 6, "SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", device)
    trainer = breaking(cfg, spoil_classification, 1)
    steps = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.iter))
    with pytest.raises(FloatingPointError, match="loss_cls = nan"):
        trainer.train()
    assert steps == [0] or device == "cuda", "a scaler may skip the first step"
    assert 1 not in steps
