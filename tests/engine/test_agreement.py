"""The agreement of student and teacher: their scores side by side in an evaluation."""

import pytest
import torch
from detectron2.evaluation import inference_on_dataset

from multas.distillation import Teacher
from multas.engine.named_models import TeacherModel, WithTeacherScores
from multas.evaluation import ClassificationEvaluator


class Scores(torch.nn.Module):
    """Fixed scores for the images 0, 1, 2, … whose number is their colour."""

    def __init__(self, rows) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, batched_inputs):
        assert not self.training
        return [{"scores": self.rows[int(x["image"][0, 0, 0])]} for x in batched_inputs]


@pytest.mark.parametrize("training", [True, False])
def test_a_classifier_is_judged_beside_its_teacher(training):
    student = Scores([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]).train(training)
    teacher = Teacher(Scores([[0.8, 0.2], [0.6, 0.4], [0.7, 0.3], [0.1, 0.9]]))
    both = WithTeacherScores(student, TeacherModel(teacher, "BGR"))
    batches = [[{"image": torch.full((3, 2, 2), i), "label": label}] for i, label in
               enumerate([0, 1, 0, 0])]  # fmt: skip
    results = inference_on_dataset(both, batches, ClassificationEvaluator("toy"))
    assert results["classification"] == {
        "top1_error": 50.0,
        "top5_error": 0.0,
        "top1_agreement_error": 50.0,
        "top5_agreement_error": 0.0,
        "teacher_top1_error": 50.0,
    }
    assert student.training is training
    assert not teacher.model.training
