"""Path weights that learn from validation images."""

import pytest
import torch

from multas.distillation.aggregation.bilevel import Bilevel
from multas.engine import Trainer
from multas.engine.validation_weights import ValidationWeights
from tiny_classifier import PATHS, images, make_distiller
from training import train
from weighing import run_steps, trainer_of, weighed

pytestmark = pytest.mark.usefixtures("storage")


def bilevel(paths, validation, *opts):
    """A Distiller whose path weights learn from a batch, and the hook that does it."""
    distiller = weighed(make_distiller(paths, "NAME", "bilevel", *opts))
    hook = ValidationWeights(distiller.path_weights, distiller.student, [validation] * 20)
    return distiller, hook


def validation_loss_after_step(logs: torch.Tensor, lr: float) -> float:
    """Of one plain training step with path weights exp(logs)."""
    paths = [{**p, "WEIGHT": w} for p, w in zip(PATHS, logs.exp().tolist(), strict=True)]
    distiller = weighed(make_distiller(paths, "NAME", "hand_tuned").double())
    run_steps(distiller, [images(4)], lr=lr)
    return sum(distiller.student(images(4, seed=7)).values()).item()


def test_the_step_of_log_v_is_the_hypergradient_of_one_training_step():
    lr, start = 1e-3, torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)
    paths = [{**p, "WEIGHT": w} for p, w in zip(PATHS, start.exp().tolist(), strict=True)]
    distiller, hook = bilevel(paths, images(4, seed=7))
    distiller.double()
    for teacher in distiller.distillation.teachers:
        teacher.model.double()
    run_steps(distiller, [images(4)], hook, lr=lr)
    assert distiller.student.annotated_images == {"cls": 4}, "those of training alone"
    aggregator = distiller.path_weights.aggregator
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
    distiller, hook = bilevel(PATHS, images(2, seed=3))
    plain = weighed(make_distiller(PATHS, "NAME", "hand_tuned"))
    distiller.student.loss_normalizer = 5.0
    for model, hooks in ((distiller, [hook]), (plain, [])):
        trainer = trainer_of(model, [images(4)] * 3, *hooks, lr=0.0)
        model.train()  # with statistics
        trainer.train(0, 1)
    assert distiller.student.loss_normalizer == 5.0
    for (name, a), b in zip(distiller.named_buffers(), plain.buffers(), strict=False):
        if "running" in name:
            assert torch.equal(a, b), name
    assert all(module.training for module in distiller.student.modules())


@pytest.mark.parametrize("options", [("LOW_MEMORY", True), ("SCOPE_LAYERS", ["backbone"])])
def test_scopes_without_whole_gradients_are_refused(options):
    with pytest.raises(ValueError, match=r"bilevel needs whole path gradients: set .*SCOPE"):
        bilevel(PATHS, images(2), *options)


def test_it_is_for_bilevel_alone():
    distiller = weighed(make_distiller(PATHS, "NAME", "mgda"))
    with pytest.raises(ValueError, match="is for aggregation bilevel"):
        ValidationWeights(distiller.path_weights, distiller.student, [])


def test_a_path_weight_of_zero_has_no_logarithm():
    with pytest.raises(ValueError, match="WEIGHT of every path must be above 0"):
        Bilevel(names=["a"], hand_tuned=[0.0])


def test_the_trainer_takes_validation_images_from_the_config(distilled_cfg, card):
    options = ["MODEL.DISTILLATION.AGGREGATION.NAME", "bilevel", "DATASETS.TEST", []]
    key = "MODEL.DISTILLATION.AGGREGATION.DATA"
    with pytest.raises(ValueError, match=r"bilevel: name annotated data sets .* in .*\.DATA"):
        Trainer(distilled_cfg(*options))
    trainer = train(distilled_cfg(*options, key, [f"{card['name']}_val"]))
    assert not torch.equal(trainer.path_weights.aggregator.u, torch.zeros(2).double())
