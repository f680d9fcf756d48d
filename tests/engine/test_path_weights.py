"""The hook that weighs paths: with Detectron2's own trainers, in mixed precision, and its alpha."""

import math
import os
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import DefaultTrainer, SimpleTrainer
from detectron2.modeling import build_model
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import limited_network
import training
from multas.distillation import StepLosses
from multas.engine.alpha import RAMP_SHAPES, Alpha
from multas.engine.path_weights import PathWeights
from multas.engine.steps.mixed_precision import MixedPrecisionTrainer
from tiny_classifier import PATHS, images, make_distiller
from training import different, learned, start, train
from weighing import copies, run_steps, weighed

KEY = "MODEL.DISTILLATION.AGGREGATION."
NAMES = ("at", "mse", "soft")


@pytest.fixture
def stock_cfg(distilled_cfg, card):
    """``stock_cfg(KEY, VALUE, ...)``: what Detectron2's own loader can read, too."""

    def build(*opts, folder="run"):
        data = ["DATASETS.TRAIN", [f"{card['name']}_half"], "DATASETS.TEST", []]
        schedule = ["SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.1]
        return distilled_cfg(*data, *schedule, *opts, folder=folder)

    return build


def stock_trainer(cfg, hook: bool = True, resume: bool = False) -> DefaultTrainer:
    """Detectron2's own trainer, as its tutorial has it, and the hook as our docstring has it."""
    torch.manual_seed(cfg.SEED)
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    trainer = DefaultTrainer(cfg)
    if hook:
        trainer.path_weights = PathWeights.for_trainer(trainer)
        trainer.register_hooks([trainer.path_weights])
    trainer.resume_or_load(resume)
    return trainer


# Detectron2's trainers


@pytest.mark.parametrize("name", ["adaptive", "mgda"])
def test_detectron2s_own_trainer_trains_as_ours_does(stock_cfg, name):
    ours = start(stock_cfg(f"{KEY}NAME", name, folder="ours"))
    theirs = stock_trainer(stock_cfg(f"{KEY}NAME", name, folder="theirs"))
    theirs.model.load_state_dict(ours.model.state_dict())
    theirs.path_weights.load_state_dict(ours.path_weights.state_dict())
    before = learned(ours)
    batches = iter(theirs.data_loader)
    batches = [next(batches) for _ in range(3)]
    for trainer in (ours, theirs):
        assert type(trainer._trainer) is SimpleTrainer
        trainer._trainer._data_loader_iter = iter(batches)
        trainer.train()
    assert different(learned(theirs), learned(ours)) == []
    changed = different(before, learned(theirs))
    assert [n for n in changed if n.startswith("paths.mse.adapters")], "adapters learn"
    assert ("z" in changed) == (name == "adaptive")
    logged = theirs.storage.latest()
    weights = [logged[f"path_weight/{n}"][0] for n in NAMES]
    assert weights == [ours.storage.latest()[f"path_weight/{n}"][0] for n in NAMES]
    assert min(weights) > 0


def test_adapters_and_z_are_in_its_optimiser_and_follow_the_schedule(stock_cfg):
    trainer = stock_trainer(
        stock_cfg("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", [])
    )
    rates = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append({g["lr"] for g in optimizer.param_groups})
    )
    groups = {id(p): g for g in trainer.optimizer.param_groups for p in g["params"]}
    everything = [*trainer.model.parameters(), *trainer.path_weights.aggregator.parameters()]
    assert (
        len(groups)
        == len(everything)
        == sum(len(g["params"]) for g in trainer.optimizer.param_groups)
    )
    z = groups[id(trainer.path_weights.aggregator.z)]
    assert z["weight_decay"] == 0
    assert groups[id(next(trainer.model.distillation.parameters()))]["weight_decay"] > 0
    trainer.train()
    base = trainer.cfg.SOLVER.BASE_LR
    assert [rate for (rate,) in rates] == pytest.approx([0.1 * base, 0.55 * base, base])


def test_its_checkpoints_carry_adapters_and_path_weights(stock_cfg):
    cfg = stock_cfg(f"{KEY}NAME", "grad_norm", "SOLVER.CHECKPOINT_PERIOD", 3)
    first = stock_trainer(cfg)
    first.train()
    second = stock_trainer(cfg, resume=True)
    assert second.start_iter == 3
    assert not torch.equal(first.path_weights.aggregator.v, torch.ones(3).double())
    assert different(learned(second), learned(first)) == []


@pytest.mark.parametrize("prepared", [False, True])
def test_without_the_hook_it_ends_at_once(stock_cfg, prepared):
    trainer = stock_trainer(stock_cfg(), hook=False)
    if prepared:
        trainer.model.prepare()
    before = copies(trainer.model)
    with pytest.raises(RuntimeError, match=r"PathWeights\.for_trainer\(trainer\)"):
        trainer.train()
    assert different(copies(trainer.model), before) == []


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.META_ARCHITECTURE", "MultiTaskNetwork"),
        ("MODEL.DISTILLATION.PATHS", [], "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", "",
         "MODEL.DISTILLATION.TEACHER.WEIGHTS", ""),
    ],
)  # fmt: skip
def test_where_there_is_nothing_to_distill_it_is_no_hook(stock_cfg, opts):
    trainer = stock_trainer(stock_cfg(*opts, "SOLVER.MAX_ITER", 1))
    assert trainer.path_weights is None
    trainer.train()
    assert not [name for name in trainer.storage.latest() if "path" in name]


def test_a_distiller_that_is_prepared_after_it_was_wrapped_is_refused(distilled_cfg):
    cfg = distilled_cfg()
    wrapped = nn.DataParallel(build_model(cfg))
    trainer = SimpleNamespace(cfg=cfg, _trainer=SimpleNamespace(model=wrapped))
    with pytest.raises(RuntimeError, match=r"call prepare\(\) in build_model"):
        PathWeights.for_trainer(trainer)


def test_a_distiller_without_paths_has_nothing_to_weigh():
    distiller = make_distiller([])
    with pytest.raises(ValueError, match="needs a Distiller that is prepared and has paths"):
        PathWeights(distiller.cfg, distiller)


class NewerTrainer(SimpleTrainer):
    """What Detectron2 does since 0.6: gradients may be zeroed before the forward pass."""

    def run_step(self) -> None:
        self.optimizer.zero_grad()
        losses = self.model(next(self._data_loader_iter))
        sum(losses.values()).backward()
        self.after_backward()
        self._write_metrics(losses, 0.0)
        self.optimizer.step()

    def after_backward(self) -> None:
        self.gradients = [p.grad for p in self.model.parameters()]


@pytest.mark.parametrize("name", ["adaptive", "mgda"])
def test_when_gradients_are_zeroed_does_not_matter(name):
    parameters = []
    for kind in (SimpleTrainer, NewerTrainer):
        distiller = weighed(make_distiller(PATHS, "NAME", name))
        trainer = run_steps(distiller, [images(4)] * 3, kind=kind)
        parameters.append(copies(distiller) | copies(distiller.path_weights.aggregator))
    assert all(gradient is not None for gradient in trainer.gradients)
    assert different(*parameters) == []


@pytest.mark.parametrize("aggregation", ["adaptive", "dwa", "mgda", "grad_norm"])
def test_every_aggregation_keeps_detectron2s_own_step(distilled_cfg, aggregation):
    assert type(start(distilled_cfg(f"{KEY}NAME", aggregation))._trainer) is SimpleTrainer


@pytest.mark.parametrize("aggregation", ["adaptive", "mgda"])
def test_the_trainer_trains_in_bfloat16_where_there_is_no_gpu(distilled_cfg, aggregation):
    opts = ["SOLVER.AMP.ENABLED", True, "DATASETS.TEST", []]
    trainer = train(distilled_cfg(f"{KEY}NAME", aggregation, *opts))
    inner = trainer._trainer
    assert isinstance(inner, MixedPrecisionTrainer) and not inner.grad_scaler.is_enabled()
    with inner.autocast():
        assert torch.get_autocast_dtype("cpu") is torch.bfloat16
    logged = trainer.storage.latest()
    total = sum(value for key, (value, _) in logged.items() if key.startswith("loss_"))
    assert logged["total_loss"][0] == pytest.approx(total, rel=1e-4)


def test_a_scaler_that_overflows_moves_neither_student_nor_z():
    distiller = weighed(make_distiller(PATHS, "NAME", "adaptive"))
    before = copies(distiller)
    run_steps(distiller, [images(4)], scaler=torch.amp.GradScaler("cpu", init_scale=math.inf))
    assert different(copies(distiller), before) == []
    assert not distiller.path_weights.aggregator.z.any()


@pytest.mark.parametrize("name", ["adaptive", "mgda"])
def test_a_model_is_the_hooks_while_it_trains_and_no_longer(name):
    distiller = weighed(make_distiller(PATHS, "NAME", name))
    assert isinstance(distiller(images(2)), dict)
    run_steps(distiller, [images(2)])
    assert isinstance(distiller(images(2)), StepLosses)


FEATURES = ["SCOPE", "features", "SCOPE_LAYERS", ["backbone.res3"]]


@pytest.mark.parametrize(
    "options",
    [["adaptive"], ["dwa", "PERIOD", 1], ["mgda"], ["mgda", *FEATURES], ["grad_norm"]],
)
def test_a_pass_without_gradients_is_no_step(options):
    """Detectron2's PreciseBN makes some in training mode."""
    distiller = weighed(make_distiller(PATHS, "NAME", *options, alpha=0.5))
    hook, batch = distiller.path_weights, images(2)
    distiller(batch)
    before = training.copies(hook.aggregator.state_dict())
    weights, monitors = hook.aggregator.weights(), dict(hook.monitors)
    with torch.no_grad():
        losses, raw = distiller(batch), distiller.forward(batch)
    assert different(hook.aggregator.state_dict(), before) == []
    assert torch.equal(hook.aggregator.weights(), weights)
    assert monitors.keys() == hook.monitors.keys()
    for path, weight, loss in zip(hook.aggregator.names, weights, raw.paths, strict=True):
        assert losses[f"loss_kd_{path}"].item() == pytest.approx(0.5 * (weight * loss).item())


# Alpha


def share(iteration: int, iters: int, shape: str, start: int = 0) -> float:
    return Alpha(iters=iters, shape=shape, start=start).at(iteration)


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 200),
    st.sampled_from(RAMP_SHAPES),
)
def test_alpha_rises_to_its_value_and_stays(a, b, iters, shape):
    early, late = (share(i, iters, shape) for i in sorted((a, b)))
    assert 0 <= early <= late <= 1
    assert share(iters, iters, shape) == share(iters + a, iters, shape) == 1
    assert share(a, 0, shape) == 1
    assert share(a, iters, shape, start=a + 1) == share(a, 0, shape, start=a + 1) == 0
    assert share(a + b, iters, shape, start=b) == share(a, iters, shape)


def test_shapes_of_the_ramp():
    assert [share(i, 4, "linear") for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert share(0, 10, "sigmoid") == math.exp(-5)
    assert share(5, 10, "sigmoid") == math.exp(-1.25)


@pytest.mark.parametrize(
    ("start", "iters", "shape", "message"),
    [
        (0, 10, "cosine", "RAMP.SHAPE is 'cosine'; choose from"),
        (0, -1, "linear", "RAMP.ITERS is -1"),
        (-1, 0, "linear", "RAMP.START is -1"),
    ],
)
def test_a_wrong_ramp_is_refused_before_training(start, iters, shape, message):
    with pytest.raises(ValueError, match=message):
        Alpha(iters=iters, shape=shape, start=start)


def test_alpha_is_a_factor_of_the_regulariser_as_well():
    distiller = weighed(make_distiller(PATHS, "NAME", "adaptive", alpha=0.5))
    hook = distiller.path_weights
    hook.aggregator.z.data.fill_(2.0)
    losses = distiller(images(2))
    assert losses["loss_kd_z"].item() == 0.5 * 2.0 * len(PATHS)
    torch.stack(list(losses.values())).sum().backward()
    rest = hook.monitors["path_weight"] * hook.monitors["path_loss"]
    torch.testing.assert_close(hook.aggregator.z.grad, 0.5 * (1 - rest.clamp(max=10.0)))


@pytest.mark.parametrize("name", ["hand_tuned", "mgda"])
def test_alpha_scales_what_distillation_adds_and_is_logged(storage, name):
    keys = {"RAMP__START": 10, "RAMP__ITERS": 4, "RAMP__SHAPE": "linear"}
    paths = [{"TYPE": "FeatureMSE"}, {"TYPE": "SoftDetection"}]
    distiller = limited_network.make_distiller(paths, ALPHA=0.5, AGGREGATION__NAME=name, **keys)
    distiller.train()
    hook, batch = distiller.path_weights, [limited_network.sample()]
    hook.trainer = SimpleNamespace(iter=14, storage=storage)

    def losses_at(iteration: int) -> dict:
        hook.trainer.iter = iteration
        hook.before_step()
        assert storage.latest()["path_alpha"][0] == {9: 0, 11: 0.125, 14: 0.5}[iteration]
        return distiller(batch)

    full = losses_at(14)
    assert {"loss_kd_mse", "loss_kd_soft", "loss_cls"} <= full.keys()
    for iteration, factor in ((9, 0), (11, 0.25)):
        for loss_name, loss in losses_at(iteration).items():
            expected = full[loss_name] * (factor if "kd" in loss_name else 1)
            torch.testing.assert_close(loss, expected)
