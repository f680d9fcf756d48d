"""Path weights that learn from validation images."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from multas.distillation.aggregation import Bilevel
from multas.engine import Trainer
from multas.engine.steps.bilevel_step import BilevelStep
from multas.engine.steps.path_gradients import PathGradients
from tiny_classifier import PATHS, images, make_distiller


@pytest.fixture(autouse=True)
def storage():
    """Detectron2's models log while they train."""
    with EventStorage() as storage:
        yield storage


def step_of(distiller, validation, lr=0.01, *opts) -> BilevelStep:
    optimizer = torch.optim.SGD(distiller.parameters(), lr=lr)
    paths = PathGradients(distiller.student, distiller.distillation)
    batches = [images(4)] * 20
    step = BilevelStep(distiller, batches, optimizer, paths, validation=[validation] * 20)
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return step


def validation_loss_after_step(logs: torch.Tensor, lr: float) -> float:
    """Of one plain training step with path weights exp(logs)."""
    paths = [{**p, "WEIGHT": w} for p, w in zip(PATHS, logs.exp().tolist(), strict=True)]
    distiller = make_distiller(paths, "NAME", "hand_tuned").double()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=lr)
    trainer = SimpleTrainer(distiller, [images(4)], optimizer)
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    trainer.run_step()
    return sum(distiller.student(images(4, seed=7)).values()).item()


def test_the_step_of_log_v_is_the_hypergradient_of_one_training_step():
    lr, start = 1e-3, torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
    paths = [{**p, "WEIGHT": w} for p, w in zip(PATHS, start.exp().tolist(), strict=True)]
    distiller = make_distiller(paths, "NAME", "bilevel")
    distiller.double()
    for teacher in distiller.distillation.teachers:
        teacher.model.double()
    step_of(distiller, images(4, seed=7), lr).run_step()
    assert distiller.student.annotated_images == {"cls": 4}, "those of training alone"
    aggregator = distiller.distillation.aggregator
    moved = (aggregator.u - start) / aggregator.lr
    measured = []
    for i in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[i] = 0.05
        up, down = (validation_loss_after_step(start + s * shift, lr) for s in (1, -1))
        measured.append(-(up - down))
    measured = torch.tensor(measured, dtype=torch.float64)
    # The step is the hypergradient up to one common factor.
    cosine = torch.cosine_similarity(moved, measured, dim=0)
    assert float(cosine) > 0.999
    assert moved.abs().max() <= 1


def test_a_path_that_harms_validation_loses_weight():
    aggregator = Bilevel(names=["good", "bad"], hand_tuned=[1.0, 1.0], lr=0.1)
    gram, products = torch.eye(2).double(), torch.tensor([1.0, -1.0]).double()
    for _ in range(10):
        aggregator.improve(gram, products, torch.tensor(2.0).double())
    v = aggregator.weigh(gram, products)
    assert v[0] > 1 > v[1] > 0


def test_validation_images_leave_no_trace_in_the_student():
    distiller = make_distiller(PATHS, "NAME", "bilevel")
    distiller.student.loss_normalizer = 5.0
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.0)
    paths = PathGradients(distiller.student, distiller.distillation)
    batches, validation = [images(4)] * 3, [images(2, seed=3)] * 3
    step = BilevelStep(distiller, batches, optimizer, paths, validation=validation)
    plain = make_distiller(PATHS, "NAME", "hand_tuned")
    other = SimpleTrainer(plain, [images(4)] * 3, torch.optim.SGD(plain.parameters(), lr=0.0))
    step.run_step()
    other.run_step()
    assert distiller.student.loss_normalizer == 5.0
    for (name, a), b in zip(distiller.named_buffers(), plain.buffers(), strict=False):
        if "running" in name:
            assert torch.equal(a, b), name
    assert all(module.training for module in distiller.student.modules())


@pytest.mark.parametrize("options", [("LOW_MEMORY", True), ("SCOPE_LAYERS", ["backbone"])])
def test_scopes_without_whole_gradients_are_refused(options):
    with pytest.raises(ValueError, match=r"Bilevel needs whole path gradients: set .*SCOPE"):
        step_of(make_distiller(PATHS, "NAME", "bilevel", *options), images(2))


def test_a_path_weight_of_zero_has_no_logarithm():
    with pytest.raises(ValueError, match="WEIGHT of every path must be above 0"):
        Bilevel(names=["a"], hand_tuned=[0.0])


def test_the_trainer_takes_validation_images_from_the_config(tiny_cfg, card, tmp_path):
    teacher = tiny_cfg("MODEL.FPN.OUT_CHANNELS", 16)
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    torch.save({"model": build_model(teacher).state_dict()}, tmp_path / "teacher.pth")
    options = [
        "MODEL.META_ARCHITECTURE", "Distiller",
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", str(tmp_path / "teacher.yaml"),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(tmp_path / "teacher.pth"),
        "MODEL.DISTILLATION.PATHS", [{"TYPE": "FeatureMSE", "STUDENT": "backbone"}],
        "MODEL.DISTILLATION.AGGREGATION.NAME", "bilevel",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="BILEVEL_DATA"):
        Trainer(tiny_cfg(*options))
    key = "MODEL.DISTILLATION.AGGREGATION.BILEVEL_DATA"
    trainer = Trainer(tiny_cfg(*options, key, [f"{card['name']}_val"]))
    trainer.resume_or_load(False)
    before = trainer.model.distillation.aggregator.u.clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.distillation.aggregator.u)
