"""The agreement of student and teacher: their scores side by side in an evaluation."""

import pytest
import torch
import yaml
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model

from multas.data import make_toy_classes
from multas.distillation import Teacher
from multas.engine import load_config
from multas.engine.weights.evaluated_models import TeacherModel, WithTeacherScores
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


# train_net.py --eval-only

NARROW = [
    "MODEL.DEVICE", "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 4,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4,
]  # fmt: skip


@pytest.fixture(scope="module")
def job(repository, tmp_path_factory):
    """Config of a distillation row of paper B on a tiny set, with weights of both networks."""
    folder = tmp_path_factory.mktemp("job")
    root = make_toy_classes(folder / "set", train=8, val=8, test=16)
    card = yaml.safe_load((repository / "datasets/cards/toy_classes.yaml").read_text())
    card |= {"name": "judged", "root": str(root), "strictness": "skip"}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    rows = f"{repository}/configs/adaptive/table2.yaml#toy"
    teacher, student = folder / "teacher.pth", folder / "student.pth"
    torch.manual_seed(3)
    model = build_model(Teacher.load_config(f"{rows}/teacher", NARROW))
    torch.save({"model": model.state_dict()}, teacher)
    cfg = load_config(f"{rows}/single_st", [
        "MODEL.DEVICE", "cpu",
        "MODEL.WEIGHTS", str(student),
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", f"{rows}/teacher",
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", str(teacher),
        "MODEL.DISTILLATION.TEACHER.OPTS", NARROW,
        "DATASETS.CARDS", [str(folder / "card.yaml")],
        "DATASETS.TEST", ["judged_test"],
        "OUTPUT_DIR", str(folder / "run"),
    ])  # fmt: skip
    torch.save({"model": build_model(cfg).state_dict()}, student)
    return cfg


def test_evaluating_alone_reports_the_agreement_where_the_config_asks(job, train_net):
    results = train_net(job, eval_only=True)
    judged, taught = results["classification"], results["teacher"]["classification"]
    assert judged["teacher_top1_error"] == taught["top1_error"]
    assert 0 <= judged["top1_agreement_error"] <= 100
    # The student is its own teacher: they agree on every image.
    options = job.MODEL.DISTILLATION.TEACHER
    itself = [
        "MODEL.DISTILLATION.TEACHER.CONFIG_FILE", options.CONFIG_FILE.replace("teacher", "student"),
        "MODEL.DISTILLATION.TEACHER.WEIGHTS", job.MODEL.WEIGHTS,
        "MODEL.DISTILLATION.TEACHER.OPTS", [],
    ]  # fmt: skip
    alone = train_net(job, *itself, eval_only=True)["classification"]
    assert (alone["top1_agreement_error"], alone["top1_error"]) == (0, judged["top1_error"])


def test_evaluating_alone_needs_no_teacher_where_the_config_does_not_ask(job, train_net):
    without = ["MODEL.DISTILLATION.TEACHER.WEIGHTS", "none.pth"]
    results = train_net(job, *without, "TEST.EVALUATE_TEACHER", False, eval_only=True)
    assert results["classification"].keys() == {"top1_error", "top5_error"}
    with pytest.raises(FileNotFoundError, match=r"TEACHER.WEIGHTS is 'none.pth'"):
        train_net(job, *without, eval_only=True)


def test_a_teacher_that_follows_the_student_is_not_there_to_be_evaluated(job, train_net):
    following = ["MODEL.DISTILLATION.TEACHER.EMA_DECAY", 0.9]
    results = train_net(job, *following, eval_only=True)
    assert results.keys() == {"classification"}
    assert "top1_agreement_error" not in results["classification"]
