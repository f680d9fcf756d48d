"""Teachers that follow the student: by hand, by config, exactly resumable, evaluated anew."""

import os

import pytest
import torch
from detectron2.engine import DefaultPredictor, HookBase
from detectron2.modeling import build_model
from torch import nn

from multas.distillation import Teacher
from multas.distillation.teacher.mean_teacher import MeanTeacher
from multas.engine import Trainer
from multas.engine.weights.ema import MeanTeachers
from multas.engine.weights.evaluated_models import TeacherModel, live_weights
from training import copies, different, start, train, train_in_parts, weights_in

KEY = "MODEL.DISTILLATION"
SOFT = {"TYPE": "SoftDetection"}
HEAD = "heads.det.predictor.cls_score.weight"
NORM = "backbone.bottom_up.stem.conv1.norm.running_mean"
MSE = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}


class Small(nn.Module):
    """Parameters, BatchNorm's statistics and its counter."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.fill(value)

    def fill(self, value: float) -> None:
        for tensor in self.state_dict().values():
            tensor.fill_(value)


@pytest.fixture
def mean_cfg(tiny_cfg, card):
    """The tiny student, taught by its own average, on labelled and unlabelled images."""

    def build(*opts, folder: str = "run"):
        return tiny_cfg(
            "MODEL.META_ARCHITECTURE", "Distiller",
            f"{KEY}.PATHS", [SOFT],
            f"{KEY}.TEACHER.EMA_DECAY", 0.9,
            "DATASETS.TRAIN", [f"{card['name']}_half", f"{card['name']}_half2_unlabeled"],
            *opts, folder=folder,
        )  # fmt: skip

    return build


@pytest.fixture
def files(teacher_files):
    """``files(KEY, VALUE, ...)``: config and random weights of the student's network, or of one
    that differs from it as the keys say."""
    narrow = ["MODEL.RESNETS.STEM_OUT_CHANNELS", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 4,
              "MODEL.FPN.OUT_CHANNELS", 8]  # fmt: skip
    return lambda *opts: teacher_files(*narrow, *opts)


def teacher_of(trainer: Trainer, number: int = 0) -> dict[str, torch.Tensor]:
    return live_weights(trainer.model.distillation.teachers[number].model)


class Course(HookBase):
    """The student before the first step and after every one."""

    def before_train(self) -> None:
        self.student = [copies(live_weights(self.trainer.model))]

    def after_step(self) -> None:
        self.student.append(copies(live_weights(self.trainer.model)))

    def average(self, name: str, decay: float) -> torch.Tensor:
        average = self.student[0][name].double()
        for weights in self.student[1:]:
            average = decay * average + (1 - decay) * weights[name].double()
        return average


# The average


@pytest.mark.parametrize(
    ("mean_teacher", "expected"),
    [
        (MeanTeacher(0.75), [5.0, 5.75, 6.8125]),
        (MeanTeacher(0.75, from_student=False), [2.75, 4.0625, 5.546875]),
        (MeanTeacher(0.75, start=1), [5.0, 5.75, 6.8125]),
        (MeanTeacher(0.75, start=2), [5.0, 8.0, 8.5]),
        (MeanTeacher(0.75, start=2, from_student=False), [2.0, 2.0, 4.0]),
    ],
)
def test_the_average_is_the_one_worked_out_by_hand(mean_teacher, expected):
    student, teacher = Small(5.0), Teacher(Small(2.0), mean_teacher=mean_teacher)
    hook = MeanTeachers(student, [Teacher(Small(0.0)), teacher])
    hook.before_train()
    counter = int(teacher.model.norm.num_batches_tracked)
    for value, average in zip((5.0, 8.0, 10.0), expected, strict=True):
        student.fill(value)
        hook.after_step()
        state = teacher.model.state_dict()
        assert state.pop("norm.num_batches_tracked") == counter
        assert len(state) == 4
        assert all((tensor == average).all() for tensor in state.values())


@pytest.mark.parametrize(
    "aggregation",
    [
        ["NAME", "single"],
        ["NAME", "equal"],
        ["NAME", "hand_tuned"],
        ["NAME", "adaptive"],
        ["NAME", "dwa"],
        ["NAME", "mgda"],
        ["NAME", "mgda", "SCOPE", "features", "SCOPE_LAYERS", ["backbone.bottom_up.stem"]],
        ["NAME", "grad_norm", "SCOPE_LAYERS", ["backbone.bottom_up.res3"]],
        ["NAME", "bilevel"],
    ],
)
def test_the_teacher_is_the_average_whatever_the_aggregation(mean_cfg, card, aggregation):
    pairs = zip(aggregation[::2], aggregation[1::2], strict=True)
    cfg = mean_cfg(
        *(x for key, value in pairs for x in (f"{KEY}.AGGREGATION.{key}", value)),
        f"{KEY}.AGGREGATION.DATA", [f"{card['name']}_val"],
        f"{KEY}.PATHS", [SOFT] if "single" in aggregation else [SOFT, MSE],
        "DATASETS.TEST", [],
    )  # fmt: skip
    trainer, course = start(cfg), Course()
    trainer.register_hooks([course])
    trainer.train()
    assert len(course.student) == 4
    assert {HEAD, NORM} <= set(different(course.student[-1], teacher_of(trainer)))
    for name, tensor in teacher_of(trainer).items():
        if tensor.is_floating_point():
            expected = course.average(name, 0.9)
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, course.student[0][name])


def test_a_student_without_any_label_learns_from_its_average(mean_cfg, card):
    cfg = mean_cfg(
        f"{KEY}.HARD_LABELS", False, "DATASETS.TRAIN", [f"{card['name']}_half2_unlabeled"],
        "DATASETS.TEST", [],
    )  # fmt: skip
    trainer, course = start(cfg), Course()
    trainer.register_hooks([course])
    trainer.train()
    assert not torch.equal(course.student[-1][HEAD], course.student[0][HEAD])
    average = teacher_of(trainer)[HEAD].double()
    torch.testing.assert_close(average, course.average(HEAD, 0.9), rtol=1e-5, atol=1e-6)


# How it starts


def test_it_starts_as_a_copy_of_the_loaded_student(mean_cfg, tmp_path):
    torch.manual_seed(7)
    plain = mean_cfg("MODEL.META_ARCHITECTURE", "MultiTaskNetwork")
    loaded = build_model(plain).state_dict()
    torch.save({"model": loaded}, tmp_path / "start.pth")
    trainer = start(mean_cfg("MODEL.WEIGHTS", str(tmp_path / "start.pth")))
    assert different(teacher_of(trainer), loaded)
    trainer.before_train()
    assert different(teacher_of(trainer), loaded) == []
    addresses = {tensor.data_ptr() for tensor in live_weights(trainer.model).values()}
    assert not addresses & {tensor.data_ptr() for tensor in teacher_of(trainer).values()}


@pytest.fixture
def as_loaded(monkeypatch):
    """Fixed teachers keep the weights of their file: folding batch norms would change bits."""
    monkeypatch.setattr(Teacher, "optimize_for_inference", lambda self, evaluated=False: None)


@pytest.mark.usefixtures("as_loaded")
def test_a_teacher_in_its_burn_in_equals_a_fixed_one_to_the_bit(mean_cfg, files):
    opts = [*files(), "DATASETS.TEST", []]
    fixed = train(mean_cfg(*opts, f"{KEY}.TEACHER.EMA_DECAY", 0.0, folder="fixed"))
    waiting = train(mean_cfg(*opts, f"{KEY}.TEACHER.EMA_START", 3, folder="waiting"))
    following = train(mean_cfg(*opts, folder="following"))
    loaded = torch.load(opts[3], weights_only=True)["model"]
    for trainer in (fixed, waiting):
        assert different(teacher_of(trainer), loaded) == []
        assert different(live_weights(trainer.model), live_weights(fixed.model)) == []
    assert different(teacher_of(following), loaded)
    assert different(live_weights(following.model), live_weights(fixed.model))
    checkpoint = os.path.join(fixed.cfg.OUTPUT_DIR, "model_final.pth")
    assert "MeanTeachers" not in torch.load(checkpoint, weights_only=True)["trainer"]["hooks"]


def test_before_the_ramp_a_student_learns_from_labels_alone(mean_cfg):
    opts = ["DATASETS.TEST", []]
    alone = train(mean_cfg(*opts, "MODEL.META_ARCHITECTURE", "MultiTaskNetwork", folder="alone"))
    waiting = train(mean_cfg(*opts, f"{KEY}.RAMP.START", 3, folder="waiting"))
    taught = train(mean_cfg(*opts, f"{KEY}.RAMP.START", 2, folder="taught"))
    assert different(live_weights(waiting.model), live_weights(alone.model)) == []
    assert different(live_weights(taught.model), live_weights(alone.model))


def test_its_options_are_merged_into_the_students_config(mean_cfg):
    opts = [f"{KEY}.TEACHER.OPTS", ["MODEL.DENSE_HEAD.SCORE_THRESH_TEST", 0.33]]
    model = Trainer.build_model(mean_cfg(*opts))
    (teacher,) = model.distillation.teachers
    assert teacher.model.heads["det"].detect.score_thresh == 0.33
    assert model.student.heads["det"].detect.score_thresh == 0.05


def test_the_path_table_says_that_it_follows(mean_cfg, files):
    table = start(mean_cfg(f"{KEY}.TEACHER.EMA_START", 20)).path_weights.table()
    assert "Teacher 0 follows the student, decay 0.9, after 20 iterations as its copy." in table
    fixed = mean_cfg(*files(), f"{KEY}.TEACHER.EMA_DECAY", 0.0, folder="fixed")
    assert "follows" not in start(fixed).path_weights.table()


# What is refused


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (
            ["MODEL.RESNETS.STEM_OUT_CHANNELS", 8],
            r"stem.conv1.weight is \(8, 3, 7, 7\) in the teacher and \(4, 3, 7, 7\) in the student",
        ),
        (["MODEL.RESNETS.DEPTH", 34], r"res2.2.conv1.weight is \(.*\) in the teacher and absent"),
        (["INPUT.FORMAT", "RGB"], r"INPUT.FORMAT is RGB in the teacher and BGR in the student"),
    ],
)
def test_a_teacher_of_another_network_cannot_follow(mean_cfg, files, opts, message):
    with pytest.raises(ValueError, match=rf"EMA_DECAY is 0.9: .*{message}.*CONFIG_FILE.*EMA_DECAY"):
        Trainer.build_model(mean_cfg(*files(*opts)))


@pytest.mark.parametrize(
    ("key", "value"), [("EMA_DECAY", 1.0), ("EMA_DECAY", -0.1), ("EMA_START", -1)]
)
def test_keys_out_of_range_are_named(mean_cfg, key, value):
    with pytest.raises(ValueError, match=f"TEACHER.{key} is {value}; give"):
        Trainer.build_model(mean_cfg(f"{KEY}.TEACHER.{key}", value))


def test_a_fixed_teacher_still_needs_its_files(mean_cfg):
    with pytest.raises(FileNotFoundError, match=r"TEACHER.CONFIG_FILE is '': no such file"):
        Trainer.build_model(mean_cfg(f"{KEY}.TEACHER.EMA_DECAY", 0.0))


# What it is part of


@pytest.mark.parametrize("aggregation", ["adaptive", "mgda"])
def test_an_interrupted_run_resumes_to_the_same_bits(mean_cfg, aggregation):
    opts = [
        f"{KEY}.AGGREGATION.NAME", aggregation, f"{KEY}.PATHS", [SOFT, MSE],
        f"{KEY}.TEACHER.EMA_START", 2, f"{KEY}.RAMP.ITERS", 4,
        "SOLVER.MAX_ITER", 6, "DATASETS.TEST", [],
    ]  # fmt: skip
    whole = train(mean_cfg(*opts, folder="whole"))
    second = train_in_parts(mean_cfg(*opts, "SOLVER.CHECKPOINT_PERIOD", 3, folder="parts"), last=4)
    assert different(teacher_of(second), teacher_of(whole)) == []
    assert different(live_weights(second.model), live_weights(whole.model)) == []
    assert different(teacher_of(second), live_weights(second.model))


def test_it_is_neither_trained_nor_in_the_students_files(mean_cfg, tiny_cfg):
    cfg = mean_cfg()
    trainer = train(cfg)
    (teacher,) = trainer.model.distillation.teachers
    assert not any(module.training for module in teacher.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.model.parameters())
    groups = trainer._trainer.optimizer.param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert not trained & {id(p) for p in teacher.model.parameters()}
    assert not {id(m) for m in trainer.model.modules()} & {id(m) for m in teacher.model.modules()}

    student = live_weights(trainer.model)
    for name in ("student.pth", "model_final.pth"):
        assert different(weights_in(cfg, name), student) == []
    outputs = []
    image = torch.randint(0, 255, (100, 128, 3), dtype=torch.uint8).numpy()
    for config in (tiny_cfg(), cfg.clone()):
        config.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "student.pth")
        config.MODEL.DENSE_HEAD.SCORE_THRESH_TEST = 0.0
        predictor = DefaultPredictor(config)
        assert different(predictor.model.state_dict(), student) == []
        outputs.append(predictor(image)["instances"])
    assert len(outputs[0]) > 0
    assert torch.equal(outputs[0].scores, outputs[1].scores)


@pytest.mark.usefixtures("as_loaded")
def test_only_a_teacher_that_follows_is_evaluated_every_time(mean_cfg, files, monkeypatch):
    tested = []

    def test(cfg, model):
        if isinstance(model, TeacherModel):
            tested.append(copies(live_weights(model.teacher.model)))
        return {"bbox": {"AP": float(len(tested))}}

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    _, config, _, weights = files("MODEL.RESNETS.STEM_OUT_CHANNELS", 8)
    trainer = train(mean_cfg(
        f"{KEY}.MORE_TEACHERS", [{"CONFIG_FILE": config, "WEIGHTS": weights}],
        f"{KEY}.PATHS", [SOFT, {**MSE, "TEACHER_ID": 1}],
        "TEST.EVALUATE_TEACHER", True, "TEST.EVAL_PERIOD", 1,
    ))  # fmt: skip
    following, fixed, *later = tested
    assert different(fixed, torch.load(weights, weights_only=True)["model"]) == []
    assert len(later) == 2
    assert different(following, later[0]) and different(later[0], later[1])
    assert different(later[1], teacher_of(trainer)) == []
    results = trainer._last_eval_results
    assert results["teacher"]["bbox"]["AP"] == 4
    assert results["teacher1"]["bbox"]["AP"] == 2


def test_any_of_several_teachers_may_follow(mean_cfg, files):
    trainer, course = start(mean_cfg(
        *files("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        f"{KEY}.TEACHER.EMA_DECAY", 0.0,
        f"{KEY}.MORE_TEACHERS", [{"EMA_DECAY": 0.5}, {"EMA_DECAY": 0.9}],
        f"{KEY}.PATHS", [SOFT, {**MSE, "TEACHER_ID": 1}],
        "DATASETS.TEST", [],
    )), Course()  # fmt: skip
    trainer.register_hooks([course])
    trainer.train()
    for number, decay in ((1, 0.5), (2, 0.9)):
        average = teacher_of(trainer, number)[HEAD].double()
        torch.testing.assert_close(average, course.average(HEAD, decay), rtol=1e-5, atol=1e-6)
