"""The average of the weights: the reference's numbers, exact resume, figures by name."""

import os

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import nn

from multas.distillation.teacher.teacher import Teacher
from multas.engine import Trainer
from multas.engine.report import last_values
from multas.engine.weights.ema import WeightAverage, ema_decay
from multas.engine.weights.evaluated_models import TeacherModel, live_weights, swapped_weights
from training import copies, different, start, train, train_in_parts, weights_in

EMA = ["SOLVER.EMA.ENABLED", True, "SOLVER.EMA.RAMP", 2.0]


class Small(nn.Module):
    """16 floating numbers in four tensors of two kinds, and BatchNorm's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)
        self.norm = nn.BatchNorm1d(2)
        self.shift = nn.Parameter(torch.zeros(2))

    def floating(self) -> list[torch.Tensor]:
        return [t for t in self.state_dict().values() if t.is_floating_point()]

    def set(self, vector: torch.Tensor) -> None:
        sizes = [t.numel() for t in self.floating()]
        for tensor, part in zip(self.floating(), vector.split(sizes), strict=True):
            tensor.copy_(part.view_as(tensor))


def test_decay_is_the_references(repository):
    case = np.load(repository / "tests" / "golden" / "multas" / "ema_decay_a.npz")
    decay, tau = float(case["in_decay"]), float(case["in_tau"])
    ours = [ema_decay(int(k), decay, tau) for k in case["in_updates"]]
    np.testing.assert_allclose(ours, case["out_decay"], rtol=1e-9)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_average_is_the_references(repository, dtype, rtol):
    case = np.load(repository / "tests" / "golden" / "multas" / "ema_run_a.npz")
    model = Small().to(dtype)
    model.set(torch.from_numpy(case["in_initial"]).to(dtype))
    average = WeightAverage(model)
    average.before_train()
    rows = zip(case["in_model"], case["in_int_buffer"], case["out_ema"], case["out_int_buffer"],
               strict=True)  # fmt: skip
    for values, count, expected, expected_count in rows:
        model.set(torch.from_numpy(values).to(dtype))
        model.norm.num_batches_tracked.fill_(int(count))
        average.after_step()
        ours = [t.flatten() for t in average.weights.values() if t.is_floating_point()]
        np.testing.assert_allclose(torch.cat(ours), expected, rtol=rtol, atol=rtol / 100)
        assert average.weights["norm.num_batches_tracked"] == expected_count


def test_a_constant_model_is_its_own_average():
    model = Small()
    average = WeightAverage(model, decay=0.9, ramp=0)
    average.before_train()
    for _ in range(5):
        average.after_step()
    assert different(average.weights, model.state_dict()) == []


def test_the_average_does_not_share_memory_with_the_model():
    model = Small()
    average = WeightAverage(model)
    average.before_train()
    with torch.no_grad():
        model.shift.add_(1)
    assert torch.equal(average.weights["shift"], torch.zeros(2))


def test_replaced_weights_are_given_back_to_the_bit_also_after_an_error():
    model = Small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    other = {k: v + 1 for k, v in before.items()}
    with pytest.raises(RuntimeError), swapped_weights(model, other):
        assert different(live_weights(model), other) == []
        raise RuntimeError
    assert different(model.state_dict(), before) == []
    with (
        pytest.raises(ValueError, match="another model"),
        swapped_weights(model, {"x": torch.ones(1)}),
    ):
        pass


def test_training_is_the_same_with_and_without_an_average(tiny_cfg):
    plain = train(tiny_cfg("TEST.EVAL_PERIOD", 2, folder="plain"))
    averaged = train(tiny_cfg(*EMA, "TEST.EVAL_PERIOD", 2, folder="ema"))
    assert different(live_weights(averaged.model), live_weights(plain.model)) == []


def test_evaluation_draws_no_random_number_of_the_training(tiny_cfg):
    states = []
    for period in (0, 1):
        train(tiny_cfg("TEST.EVAL_PERIOD", period, folder=f"every{period}"))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_an_interrupted_average_resumes_to_the_same_bits(tiny_cfg):
    whole = train(tiny_cfg(*EMA, "SOLVER.MAX_ITER", 6, folder="whole"))
    cfg = tiny_cfg(*EMA, "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, folder="parts")
    second = train_in_parts(cfg, 4)
    for folder in (whole.cfg.OUTPUT_DIR, cfg.OUTPUT_DIR):
        assert os.path.isfile(os.path.join(folder, "student_raw.pth"))
    for name in ("student.pth", "student_raw.pth"):
        assert different(weights_in(cfg, name), weights_in(whole.cfg, name)) == []
    assert different(weights_in(cfg, "student.pth"), live_weights(second.model))


def test_metrics_are_named_and_the_plain_ones_are_the_products(tiny_cfg):
    # After three steps a decay of 1 still has the first weights: the two must differ.
    cfg = tiny_cfg("SOLVER.EMA.ENABLED", True, "SOLVER.EMA.DECAY", 1.0, "SOLVER.EMA.RAMP", 0.0)
    tested = []

    class Recording(Trainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            tested.append(copies(live_weights(model)))
            return {"bbox": {"AP": float(len(tested))}}

    trainer = start(cfg, kind=Recording)
    first = copies(live_weights(trainer.model))
    trainer.train()
    assert different(tested[0], live_weights(trainer.model)) == []
    assert different(tested[1], first) == []
    last = last_values(cfg.OUTPUT_DIR)
    assert (last["student/bbox/AP"], last["bbox/AP"]) == (1.0, 2.0)
    assert "ema/bbox/AP" not in last, "each figure has one name"


def test_final_weights_may_be_the_only_ones_that_are_evaluated(tiny_cfg):
    trainer = train(tiny_cfg(*EMA, "TEST.FINAL_WEIGHTS_ONLY", True))
    assert trainer._last_eval_results.keys() == {"bbox"}
    with swapped_weights(trainer.model, trainer._final.average.weights):
        again = trainer.test(trainer.cfg, trainer.model)
    assert trainer._last_eval_results == again


def test_without_an_average_the_student_is_the_product(tiny_cfg):
    trainer = train(tiny_cfg())
    results = trainer._last_eval_results
    assert results.keys() == {"bbox"}
    assert different(weights_in(trainer.cfg, "student.pth"), live_weights(trainer.model)) == []
    assert not os.path.exists(os.path.join(trainer.cfg.OUTPUT_DIR, "student_raw.pth"))


def test_the_average_of_a_distilled_student_loads_and_predicts(tiny_cfg, distilled_cfg):
    cfg = distilled_cfg(*EMA, "TEST.EVALUATE_TEACHER", True)
    trainer = train(cfg)
    assert {"student", "teacher", "bbox"} == trainer._last_eval_results.keys()
    assert "AP" in trainer._last_eval_results["teacher"]["bbox"]

    plain = tiny_cfg("MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0)
    plain.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "student.pth")
    image = torch.randint(0, 255, (100, 128, 3), dtype=torch.uint8).numpy()
    predictor = DefaultPredictor(plain)
    assert different(predictor.model.state_dict(), weights_in(cfg, "student.pth")) == []
    assert len(predictor(image)["instances"]) > 0


def test_a_teacher_is_evaluated_in_its_own_channel_order_and_in_original_coordinates(tiny_cfg):
    cfg = tiny_cfg("INPUT.FORMAT", "RGB", "MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.0)
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    own = next(iter(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    student_cfg = tiny_cfg("INPUT.FORMAT", "BGR")
    students = next(iter(Trainer.build_test_loader(student_cfg, cfg.DATASETS.TEST[0])))
    with torch.no_grad():
        expected = model(own)[0]["instances"]
        outputs = TeacherModel(Teacher(model, "RGB"), "BGR")(students)[0]["instances"]
        unturned = model(students)[0]["instances"]
    assert len(expected) > 0
    assert outputs.image_size == (own[0]["height"], own[0]["width"])
    assert torch.equal(outputs.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert not torch.equal(unturned.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_teachers_are_evaluated_once(distilled_cfg, monkeypatch):
    tested = []

    def test(cfg, model):
        tested.append(type(model))
        return {"bbox": {"AP": 1.0}}

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    train(distilled_cfg("TEST.EVALUATE_TEACHER", True, "TEST.EVAL_PERIOD", 1))
    assert tested.count(TeacherModel) == 1
    assert len(tested) == 4
