"""Training runs: equal to stock Detectron2, exactly resumable, students that stand alone."""

import os
from contextlib import contextmanager

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor, HookBase, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer

from multas.engine import Trainer
from training import copies, different, learned, start, train

RETINANET = [
    "MODEL.META_ARCHITECTURE", "RetinaNet",
    "MODEL.RETINANET.IN_FEATURES", ["p2", "p3", "p4"],
    "MODEL.RETINANET.NUM_CLASSES", 8,
    "MODEL.RETINANET.NUM_CONVS", 1,
]  # fmt: skip


@pytest.mark.parametrize("student", ["MultiTaskNetwork", "RetinaNet"])
def test_without_distillation_20_steps_equal_stock_training_bit_for_bit(
    tiny_cfg, distilled_cfg, student
):
    opts = [*(RETINANET if student == "RetinaNet" else []), "SOLVER.MAX_ITER", 20]
    expected = twenty_steps(tiny_cfg(*opts), build_optimizer)
    path = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}
    key = "MODEL.DISTILLATION.TEACHER"
    for paths, alpha in (([path], 0.0), ([], 1.0)):
        none = [] if paths else [f"{key}.CONFIG_FILE", "", f"{key}.WEIGHTS", ""]
        cfg = distilled_cfg(
            *opts, "MODEL.META_ARCHITECTURE", "Distiller", "MODEL.DISTILLATION.STUDENT", student,
            "MODEL.DISTILLATION.PATHS", paths, "MODEL.DISTILLATION.ALPHA", alpha,
            *none, "DATASETS.TRAIN", tiny_cfg().DATASETS.TRAIN,
        )  # fmt: skip
        losses, weights = twenty_steps(cfg, Trainer.build_optimizer)
        assert losses == expected[0]
        assert different(weights, expected[1]) == []


def twenty_steps(cfg, build_optimizer):
    """The losses of a plain trainer, and the weights after them."""
    model = build_seeded(cfg)
    trainer = SimpleTrainer(model, Trainer.build_train_loader(cfg), build_optimizer(cfg, model))
    trainer.train(0, 20)
    return trainer.storage.history("total_loss").values(), model.state_dict()


def build_seeded(cfg):
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    # A teacher or an adapter must not have shifted the random numbers behind the student's.
    assert float(torch.rand(())) == pytest.approx(after_student(cfg))
    return model


def after_student(cfg) -> float:
    torch.manual_seed(0)
    plain = cfg.clone()
    if plain.MODEL.META_ARCHITECTURE == "Distiller":
        plain.MODEL.META_ARCHITECTURE = plain.MODEL.DISTILLATION.STUDENT
    build_model(plain)
    return float(torch.rand(()))


def test_a_training_keeps_the_memory_of_freed_tensors(tiny_cfg, monkeypatch):
    calls = []

    @contextmanager
    def kept():
        calls.append("kept")
        yield True
        calls.append("given back")

    class Step(HookBase):
        def after_step(self):
            calls.append("step")

    monkeypatch.setattr("multas.engine.trainer.freed_memory_kept", kept)
    trainer = Trainer(tiny_cfg("SOLVER.MAX_ITER", 1, "DATASETS.TEST", []))
    trainer.register_hooks([Step()])
    trainer.train()
    assert calls == ["kept", "step", "given back"]


def test_a_distillation_step_changes_student_adapters_and_z(distilled_cfg):
    trainer = start(distilled_cfg("SOLVER.MAX_ITER", 1))
    before = learned(trainer)
    trainer.train()
    changed = different(before, learned(trainer))
    assert "z" in changed
    for part in ("backbone.", "heads.", "paths.mse.adapters."):
        assert any(name.startswith(part) for name in changed), part


def test_a_distilled_student_starts_from_weights_of_other_classes(distilled_cfg, tmp_path):
    """Only the layer that does not fit starts anew, as after weights of COCO."""
    own = copies(start(distilled_cfg("SOLVER.MAX_ITER", 1, folder="first")).model.state_dict())
    anew = next(name for name in own if name.startswith("heads.") and own[name].dim() == 4)
    given = {name: x + 1 for name, x in own.items()} | {anew: own[anew][1:]}
    torch.save({"model": given}, tmp_path / "coco.pth")
    cfg = distilled_cfg("SOLVER.MAX_ITER", 1, "MODEL.WEIGHTS", str(tmp_path / "coco.pth"))
    for name, found in start(cfg).model.state_dict().items():
        assert torch.equal(found, own[name] if name == anew else given[name]), name


def test_path_weights_losses_and_z_are_logged_but_are_no_losses(distilled_cfg):
    trainer = train(distilled_cfg())
    logged = trainer.storage.latest()
    for name in ("at", "mse", "soft"):
        weight, loss, z = (logged[f"path_{what}/{name}"][0] for what in ("weight", "loss", "z"))
        assert loss > 0
        # Logged after the step: v belongs to the step, z already moved on.
        assert weight == pytest.approx(torch.exp(torch.tensor(-z)).item(), rel=0.5)
    total = sum(v for k, (v, _) in logged.items() if k.startswith("loss_"))
    assert logged["total_loss"][0] == pytest.approx(total, rel=1e-4)


def test_a_run_prints_the_path_table_at_its_start(distilled_cfg, train_net, capsys):
    cfg = distilled_cfg("SOLVER.MAX_ITER", 1)
    train_net(cfg)
    with open(os.path.join(cfg.OUTPUT_DIR, "log.txt")) as file:
        log = file.read()
    for printed in (capsys.readouterr().out, log):
        table, training = printed.index("Distillation paths"), printed.index("plan ")
        assert table < training
        assert "backbone.bottom_up.res3" in printed[table:training]


def test_unlabelled_images_are_drawn_and_stay_unannotated(distilled_cfg, card):
    loader = Trainer.build_train_loader(distilled_cfg())
    batches = iter(loader)
    samples = [x for _ in range(4) for x in next(batches)]
    assert len(samples) == 16, "one epoch of both halves"
    assert sum("instances" not in x for x in samples) == 8


def test_decay_and_momentum_of_z_are_keys(distilled_cfg):
    def group_of_z(*opts):
        trainer = start(distilled_cfg(*opts))
        (z,) = trainer.path_weights.aggregator.parameters()
        groups = trainer.optimizer.param_groups
        return next(g for g in groups if any(p is z for p in g["params"]))

    assert group_of_z()["weight_decay"] == 0
    assert group_of_z()["momentum"] == 0.9
    key = "MODEL.DISTILLATION.AGGREGATION."
    group = group_of_z(f"{key}Z_WEIGHT_DECAY", 1e-4, f"{key}Z_MOMENTUM", 0.0)
    assert (group["weight_decay"], group["momentum"]) == (1e-4, 0)


def test_the_student_loads_in_a_plain_config_and_predicts_the_same(distilled_cfg, tiny_cfg):
    cfg = distilled_cfg()
    trainer = train(cfg)
    student_file = os.path.join(cfg.OUTPUT_DIR, "student.pth")
    content = torch.load(student_file, weights_only=True)
    plain_keys = build_model(tiny_cfg()).state_dict().keys()
    assert content.keys() == {"model", "served"}
    assert content["model"].keys() == plain_keys
    final = torch.load(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), weights_only=True)
    assert final["model"].keys() == plain_keys, "no teacher, no adapter under 'model'"

    os.remove(cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS)
    os.remove(cfg.MODEL.DISTILLATION.TEACHER.CONFIG_FILE)
    image = torch.randint(0, 255, (100, 128, 3), dtype=torch.uint8).numpy()
    outputs = []
    for config in (tiny_cfg(), cfg):
        config = config.clone()
        config.MODEL.WEIGHTS = student_file
        config.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.0
        outputs.append(DefaultPredictor(config)(image)["instances"])
    assert len(outputs[0]) > 0
    assert torch.equal(outputs[0].pred_boxes.tensor, outputs[1].pred_boxes.tensor)
    assert torch.equal(outputs[0].scores, outputs[1].scores)
    assert different(trainer.model.student.state_dict(), content["model"]) == []


@pytest.mark.parametrize("evaluator", ["voc", "coco"])
def test_training_ends_with_an_evaluation(tiny_cfg, evaluator):
    trainer = train(tiny_cfg("TEST.EVALUATOR", evaluator))
    assert {"AP", "AP50", "AP75"} <= trainer._last_eval_results["bbox"].keys()


def test_a_checkpoint_holds_plain_data_only(distilled_cfg):
    cfg = distilled_cfg()
    train(cfg)
    path = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    state = torch.load(path, weights_only=True)
    z = state["trainer"]["hooks"]["PathWeights"]["aggregator"]["z"]
    assert list(z) == ["at", "mse", "soft"]
    model = build_model(cfg)
    assert DetectionCheckpointer(model).load(path)["iteration"] == cfg.SOLVER.MAX_ITER - 1


@pytest.mark.parametrize("student", [[], RETINANET])
def test_channels_last_changes_no_more_than_rounding(tiny_cfg, student):
    # Where an activation lies so near zero that rounding switches it, a gradient jumps; with this
    # seed none does.
    opts = [*student, "SOLVER.MAX_ITER", 2, "SEED", 7]
    plain = train(tiny_cfg(*opts, folder="plain"))
    last = train(tiny_cfg(*opts, "SOLVER.CHANNELS_LAST", True, folder="last"))
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(last.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    stem = last.model.backbone.bottom_up.stem.conv1.weight
    assert stem.is_contiguous(memory_format=torch.channels_last)
