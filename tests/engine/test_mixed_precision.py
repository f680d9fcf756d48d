"""SOLVER.AMP.ENABLED: what it means, and that nothing falls out of it."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from multas.config import add_multas_config, merge_config, merge_opts
from multas.config.limits import check_limits
from multas.distillation import AGGREGATOR_REGISTRY
from multas.engine import load_config
from multas.engine.contract import config_facts
from multas.engine.steps import mixed_precision
from multas.engine.steps.mixed_precision import (
    MixedPrecisionTrainer,
    describe_precision,
    resolve_precision,
)
from multas.engine.validation_weights import ValidationWeights
from multas.modeling.precision import native_half
from multas.util.errors import UserError
from tiny_classifier import PATHS, images, make_distiller
from training import start, train
from weighing import copies, run_steps, trainer_of, weighed

AMP = "SOLVER.AMP.ENABLED"
OPTIONS = {"grad_norm": ["SCOPE_LAYERS", ["backbone.res3"]], "dwa": ["PERIOD", 1]}


@pytest.fixture(params=[None, torch.bfloat16, torch.float16])
def native(request, monkeypatch):
    """What the hardware multiplies: nothing of 16 bits, or one of the two formats."""
    monkeypatch.setattr(mixed_precision, "native_half", lambda device: request.param)
    return request.param


def given(*opts, frozen=False):
    cfg = get_cfg()
    add_multas_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    merge_opts(cfg, opts)
    if frozen:
        cfg.freeze()
    return cfg


def test_the_hardware_says_what_it_multiplies(monkeypatch):
    device = torch.device("cuda")
    for capability, half in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert native_half(device) is half
    for avx, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda a=avx: a)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda a=amx: a)
        assert native_half(torch.device("cpu")) is (torch.bfloat16 if avx or amx else None)
        assert native_half(torch.device("mps")) is None


@pytest.mark.parametrize("frozen", [True, False])
def test_auto_is_decided_by_the_hardware_and_logged(native, frozen):
    cfg = given(AMP, "auto", frozen=frozen)
    resolved = resolve_precision(cfg)
    assert resolved.SOLVER.AMP.ENABLED is (native is not None)
    assert cfg.SOLVER.AMP.ENABLED == "auto" and resolved.is_frozen() is frozen
    assert resolve_precision(resolved) is resolved
    said = {None: "no 16-bit numbers", torch.bfloat16: "in bfloat16:", torch.float16: "scaled"}
    assert said[native] in describe_precision(resolved)
    on, off = (describe_precision(given(AMP, value)) for value in (True, False))
    assert ("no gain" in on) is (native is None) and "float32" in off


def test_auto_and_truth_replace_each_other_in_files_and_pairs(tmp_path):
    file = tmp_path / "auto.yaml"
    file.write_text("SOLVER: {AMP: {ENABLED: auto}}\nMODEL: {DEVICE: cpu}\n")
    cfg = given()
    merge_config(cfg, str(file))
    assert cfg.SOLVER.AMP.ENABLED == "auto"
    for value in ("True", "auto", "False"):
        merge_opts(cfg, [AMP, value])
        assert str(cfg.SOLVER.AMP.ENABLED) == value
    again = given(AMP, "auto")
    file.write_text("SOLVER: {AMP: {ENABLED: False}}\n")
    merge_config(again, str(file))
    assert again.SOLVER.AMP.ENABLED is False
    with pytest.raises(UserError, match=rf"{AMP} is 'perhaps'.*expected bool"):
        merge_opts(cfg, [AMP, "perhaps"])
    with pytest.raises(UserError, match=rf"{AMP} is 'perhaps'.*'auto'"):
        merge_opts(again, [AMP, "auto"])
        merge_opts(again, [AMP, "perhaps"])
        check_limits(again)


def test_what_is_written_and_compared_has_the_decision(tmp_path):
    cfg = load_config(opts=[AMP, "auto", "MODEL.DEVICE", "cpu"])
    own = tmp_path / "config.yaml"
    own.write_text(cfg.dump())
    plain = given()
    plain.merge_from_file(str(own))  # as Detectron2 reads it
    assert config_facts(cfg)[AMP] is plain.SOLVER.AMP.ENABLED is cfg.SOLVER.AMP.ENABLED


@pytest.mark.parametrize(
    "name",
    [
        "single", "hand_tuned", "equal", "adaptive", "fading", "imtl_l", "uw_so", "dwa", "mgda",
        "grad_norm", "bilevel", "gradient_ratio", "gradient_similarity", "dto",
    ],
)  # fmt: skip
def test_every_aggregation_trains_in_bfloat16(storage, name):
    paths = PATHS[:1] if name == "single" else PATHS
    distiller = weighed(make_distiller(paths, "NAME", name, *OPTIONS.get(name, [])))
    hooks = []
    if name == "bilevel":
        validation = [images(4, seed=7)] * 3
        hooks = [ValidationWeights(distiller.path_weights, distiller.student, validation)]
    before = copies(distiller)
    run_steps(distiller, [images(4)] * 3, *hooks, bfloat16=True)
    after = copies(distiller)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(not torch.equal(before[n], after[n]) for n in before)
    assert distiller.path_weights.aggregator.weights().isfinite().all()


def test_no_aggregation_is_left_out():
    own = {name for name, kind in AGGREGATOR_REGISTRY if kind.__module__.startswith("multas.")}
    tested = test_every_aggregation_trains_in_bfloat16.pytestmark[0].args[1]
    assert {name.lower().replace("_", "") for name in tested} == {name.lower() for name in own}


@pytest.mark.parametrize(
    ("network", "mode", "gradients"),
    [
        ("Distiller", "separate", "sum"),
        ("MultiTaskNetwork", "mixed", "mgda"),
        ("MultiTaskNetwork", "alternate", "sum"),
    ],
)
def test_mini_batches_of_several_tasks_train_in_bfloat16(
    two_teachers_cfg, network, mode, gradients
):
    model = train(two_teachers_cfg(
        AMP, True, "MODEL.META_ARCHITECTURE", network, "DATASETS.TASK_MODE", mode,
        "MODEL.MULTITASK.GRADIENTS", gradients, "DATASETS.TEST", [], "SOLVER.MAX_ITER", 2,
    )).model  # fmt: skip
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_a_plain_model_of_detectron2_trains_in_bfloat16(tiny_cfg):
    trainer = train(tiny_cfg(
        AMP, True, "MODEL.META_ARCHITECTURE", "RetinaNet", "DATASETS.TEST", [],
        "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"], "MODEL.RETINANET.NUM_CLASSES", 8,
        "MODEL.RETINANET.NUM_CONVS", 1,
    ))  # fmt: skip
    assert isinstance(trainer._trainer, MixedPrecisionTrainer)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_auto_reaches_the_trainer_of_a_config_that_was_made_by_hand(
    tiny_cfg, native, caplog, recwarn
):
    caplog.set_level("INFO", "multas")
    cfg = tiny_cfg()
    cfg.SOLVER.AMP.ENABLED = "auto"
    trainer = start(cfg)
    assert isinstance(trainer._trainer, MixedPrecisionTrainer) is (native is not None)
    assert trainer.cfg.SOLVER.AMP.ENABLED is (native is not None)
    assert caplog.text.count(describe_precision(trainer.cfg)) == 1
    assert not [w for w in recwarn if "GradScaler" in str(w.message)]
    if native is not None:
        assert trainer._trainer.autocast().fast_dtype is native
        assert trainer._trainer.grad_scaler.is_enabled() is (native is torch.float16)


class OneLoss(nn.Linear):
    """A model whose loss is a tensor, as Detectron2's trainers allow."""

    def forward(self, batch):
        return super().forward(batch).float().square().sum()


def test_a_loss_may_stand_alone(storage):
    model = OneLoss(3, 2)
    before = copies(model)
    trainer = run_steps(model, [torch.ones(1, 3)], bfloat16=True)
    assert not torch.equal(before["weight"], model.weight)
    assert trainer.storage.latest()["total_loss"][0] > 0


def test_gradients_are_unscaled_before_they_are_clipped(storage):
    """With a scale, a clipped step is as long as without one."""
    moved = []
    for scale in (None, 2.0**12):
        distiller = weighed(make_distiller(PATHS, "NAME", "adaptive").double())
        for teacher in distiller.distillation.teachers:
            teacher.model.double()
        scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
        trainer = trainer_of(distiller, [images(4)], scaler=scaler)
        clip = get_cfg()
        clip.SOLVER.CLIP_GRADIENTS.ENABLED, clip.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = True, 1e-3
        maybe_add_gradient_clipping(clip, trainer.optimizer)
        before = copies(distiller)
        trainer.train(0, 1)
        moved.append({name: p - before[name] for name, p in copies(distiller).items()})
    for name, step in moved[0].items():
        torch.testing.assert_close(moved[1][name], step, rtol=1e-6, atol=1e-12, msg=name)
        assert step.abs().max() <= 1e-3 * trainer.optimizer.param_groups[0]["lr"] * (1 + 1e-6)
