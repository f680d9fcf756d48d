"""A loss that is not finite stops the run, names the culprit, and costs no good checkpoint."""

import os

import pytest
import torch
from detectron2.modeling import build_model

from multas.engine import Trainer
from multas.engine.finite import check_weights


@pytest.fixture
def breaking(tiny_cfg):
    """``breaking(cfg, what, iteration)``: a trainer whose model goes wrong at an iteration."""

    def build(cfg, spoil, iteration=4):
        torch.manual_seed(0)
        os.makedirs(cfg.OUTPUT_DIR)
        trainer = Trainer(cfg)
        trainer.resume_or_load(False)
        before_step = trainer._hooks[-1].before_step

        def at_iteration():
            before_step()
            if trainer.iter == iteration:
                spoil(trainer)

        trainer._hooks[-1].before_step = at_iteration
        return trainer

    return build


def spoil_classification(trainer):
    """Makes loss_cls NaN, the box loss stays finite."""
    original = type(trainer.model).forward

    def forward(batch):
        losses = original(trainer.model, batch)
        return losses | {"loss_cls": losses["loss_cls"] * float("nan")}

    trainer.model.forward = forward


def test_the_term_is_named_before_the_optimiser_steps(tiny_cfg, breaking):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 2)
    seen = {}

    def spoil(trainer):
        spoil_classification(trainer)
        seen.update({k: v.clone() for k, v in trainer.model.named_parameters()})

    trainer = breaking(cfg, spoil)
    with pytest.raises(FloatingPointError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "loss_cls = nan" in message
    assert "loss_box_reg = " not in message.splitlines()[0]
    assert "model_0000003.pth" in message
    assert "SOLVER.BASE_LR" in message
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, seen[name]), name
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000003.pth")
    assert not os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_the_path_is_named(tiny_cfg, tmp_path, breaking):
    teacher_cfg = tiny_cfg("MODEL.RESNETS.RES2_OUT_CHANNELS", 8)
    config, file = tmp_path / "teacher.yaml", tmp_path / "teacher.pth"
    config.write_text(teacher_cfg.dump())
    torch.save({"model": build_model(teacher_cfg).state_dict()}, file)
    cfg = tiny_cfg(
        "MODEL.META_ARCHITECTURE", "Distiller",
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(config),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(file),
        "MODEL.DISTILLATION.PATHS",
        [{"TYPE": "FeatureMSE", "STUDENT": "backbone"}, {"TYPE": "SoftDetection"}],
        "SOLVER.MAX_ITER", 4,
    )  # fmt: skip

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


def test_weights_that_are_not_finite_are_never_written(tiny_cfg, breaking):
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


def test_a_run_stopped_by_a_loss_resumes_from_the_good_checkpoint(tiny_cfg, breaking):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2)
    with pytest.raises(FloatingPointError):
        breaking(cfg, spoil_classification).train()
    trainer = Trainer(cfg)
    trainer.resume_or_load(True)
    assert trainer.start_iter == 4
    trainer.train()
    assert os.path.exists(os.path.join(cfg.OUTPUT_DIR, "student.pth"))


def test_under_autocast_the_run_stops_before_the_step_too(tiny_cfg, breaking):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 6)
    trainer = breaking(cfg, spoil_classification, 1)
    run = trainer._trainer.run_step
    steps = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.iter))

    def run_step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            run()

    trainer._trainer.run_step = run_step
    with pytest.raises(FloatingPointError, match="loss_cls = nan"):
        trainer.train()
    assert steps == [0]


@pytest.mark.gpu
def test_with_a_gradient_scaler_the_run_stops_before_the_step_too(tiny_cfg, breaking):
    cfg = tiny_cfg("SOLVER.MAX_ITER", 6, "SOLVER.AMP.ENABLED", True, "MODEL.DEVICE", "cuda")
    trainer = breaking(cfg, spoil_classification, 1)
    with pytest.raises(FloatingPointError, match="loss_cls = nan"):
        trainer.train()
