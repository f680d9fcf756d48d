"""Paths on mini-batches of tasks: which images count, teachers per task, objects from masks."""

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from hypothesis import given
from hypothesis import strategies as st

from limited_network import network_cfg, sample
from multas.distillation import Distiller, Teacher, build_distillation
from multas.distillation.functional.foreground import (
    cell_centers,
    foreground_mask,
    mask_foreground,
)
from multas.engine.steps.build import build_step
from multas.engine.steps.gradient_step import GradientStep
from multas.engine.steps.mixed_precision import MixedPrecision
from multas.engine.steps.path_gradients import PathGradients
from multas.engine.steps.task_gradients import TaskGradients

ENTRIES = [{"TASK": "det", "TRAIN": ["a"]}, {"TASK": "seg", "TRAIN": ["b"]}]


@pytest.fixture(autouse=True)
def storage():
    with EventStorage() as storage:
        yield storage


def make_distiller(paths, teacher_tasks=("det", "seg"), mode="separate", **keys):
    """A student with both heads and one teacher for each of ``teacher_tasks``."""
    cfg = network_cfg(
        **{"tasks": ("det", "seg"), "PATHS": paths, "AGGREGATION__NAME": "hand_tuned"} | keys
    )
    cfg.DATASETS.TASK_BATCHES, cfg.DATASETS.TASK_MODE = ENTRIES, mode
    torch.manual_seed(0)
    student = build_model(cfg)
    teachers = [Teacher(build_model(network_cfg(8, (t,)))) for t in teacher_tasks]
    return Distiller(
        student=student,
        build=lambda s: build_distillation(cfg, s, teachers),
        hard_labels=cfg.MODEL.DISTILLATION.HARD_LABELS,
    ).prepare()


def image(seed: int, task: str | None = None) -> dict:
    x = sample(seed, annotated=task != "seg")
    if task == "seg":
        x["sem_seg"] = torch.zeros(64, 96, dtype=torch.long)
        x["sem_seg"][10:40, 20:70] = 3
        x["sem_seg"][50:, :] = 255
    if task is not None:
        x |= {"task": task, "mini_batch": ("det", "seg").index(task)}
    return x


def of_paths(losses: dict) -> dict:
    return {name.removeprefix("loss_kd_"): x for name, x in losses.items() if "kd_" in name}


def alone(distiller, inputs) -> dict:
    """Path losses of images that are no one's batch."""
    return of_paths(
        distiller([{k: v for k, v in x.items() if k not in ("task", "mini_batch")} for x in inputs])
    )


def eval_norms(distiller):
    """Images do not see each other."""
    distiller.train()
    for module in distiller.modules():
        if "BatchNorm" in type(module).__name__:
            module.eval()
    return distiller


def test_a_path_without_tasks_is_the_mean_over_all_images():
    distiller = eval_norms(make_distiller([{"TYPE": "FeatureMSE"}], ("det",)))
    det, seg = [image(0, "det")], [image(1, "seg"), image(2, "seg"), image(3, "seg")]
    whole = of_paths(distiller(det + seg))["mse"]
    parts = [alone(distiller, part)["mse"] for part in (det, seg)]
    torch.testing.assert_close(whole, parts[0] / 4 + 3 * parts[1] / 4)


def test_a_path_of_one_task_sees_its_images_alone():
    path = {"TYPE": "FeatureMSE", "TASKS": ["seg"]}
    distiller = eval_norms(make_distiller([path], ("det",)))
    det, seg = [image(0, "det")], [image(1, "seg"), image(2, "seg")]
    torch.testing.assert_close(of_paths(distiller(det + seg))["mse"], alone(distiller, seg)["mse"])


@pytest.mark.parametrize("name", ["adaptive", "hand_tuned", "mgda"])
def test_every_task_has_a_teacher_of_its_own_under_one_aggregation(name):
    paths = [
        {"TYPE": "SoftDetection", "TASKS": ["det"]},
        {"TYPE": "FeatureMSE", "NAME": "from_det", "TASKS": ["det"]},
        {"TYPE": "FeatureMSE", "NAME": "from_seg", "TASKS": ["seg"], "TEACHER_ID": 1},
        {
            "TYPE": "SoftTarget", "NAME": "pixels", "TASKS": ["seg"], "TEACHER_ID": 1,
            "STUDENT": ["heads.seg"], "TEACHER": ["heads.seg"],
        },
    ]  # fmt: skip
    distiller = eval_norms(make_distiller(paths, AGGREGATION__NAME=name))
    losses = distiller([image(0, "det"), image(1, "seg")])
    assert losses["loss_sem_seg"] > 0 and losses["loss_cls"] > 0
    assert distiller.distillation.names == ["soft", "from_det", "from_seg", "pixels"]
    if name == "mgda":
        raw, _ = distiller.distillation.take_losses()
    else:
        raw = distiller.distillation.monitors["path_loss"]
    assert all(loss > 0 for loss in raw)


def test_distillation_adds_its_gradient_to_mgda_over_tasks(monkeypatch):
    """With equal weights it is the plain sum of everything, adapters and z included."""
    monkeypatch.setattr(
        "multas.engine.steps.task_gradients.mgda_weights",
        lambda gram, losses, how: torch.full((len(gram),), 1 / len(gram)),
    )
    results = []
    for weighed in (False, True):
        distiller = make_distiller([{"TYPE": "FeatureMSE"}], ("det",), AGGREGATION__NAME="adaptive")
        optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
        parts = distiller, [[image(0, "det"), image(1, "seg")]], optimizer
        tasks = TaskGradients(distiller)
        trainer = GradientStep(*parts, tasks) if weighed else SimpleTrainer(*parts)
        eval_norms(distiller)
        trainer.run_step()
        results.append({n: p.detach() for n, p in distiller.named_parameters()})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


PATHS_OF_TASKS = [
    {"TYPE": "SoftDetection", "TASKS": ["det"]},
    {"TYPE": "FeatureMSE", "TASKS": ["seg"], "TEACHER_ID": 1},
]


@pytest.mark.parametrize("objective", [False, True])
@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("scale", [None, 64.0])
def test_mgda_over_tasks_and_mgda_over_paths_meet(objective, low_memory, scale):
    """g + alpha sum_i v_i g_i with g from the tasks' min-norm point, also as an objective."""
    keys = {"TASK_AS_OBJECTIVE": objective, "LOW_MEMORY": low_memory, "NAME": "mgda"}
    distiller = make_distiller(PATHS_OF_TASKS, **{f"AGGREGATION__{k}": v for k, v in keys.items()})
    batch = [image(0, "det"), image(1, "seg")]
    tasks = TaskGradients(distiller)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.0)
    precision = scale and MixedPrecision(
        torch.device("cpu"), scaler=torch.amp.GradScaler("cpu", init_scale=scale)
    )
    paths = PathGradients(distiller.student, distiller.distillation, tasks)
    step = GradientStep(distiller, [batch], optimizer, paths, precision=precision)
    eval_norms(distiller)
    parameters = list(distiller.student.parameters())
    own = tasks.combine(distiller(batch), parameters, keep_graph=True)
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for loss in distiller.distillation.take_losses()[0]
    ]
    step.run_step()
    aggregator = distiller.distillation.aggregator
    weights = [1.0, *(distiller.distillation.alpha * aggregator.weights()).tolist()]
    if objective:
        weights[0] = float(aggregator.monitors()["task_weight"])
    assert min(weights) > 0
    for parameter, *pieces in zip(parameters, own, *rows, strict=True):
        terms = [w * g for w, g in zip(weights, pieces, strict=True) if g is not None]
        torch.testing.assert_close(parameter.grad, sum(terms), rtol=1e-4, atol=1e-6)


def test_the_config_has_tasks_weighed_beside_paths(storage):
    distiller = make_distiller(PATHS_OF_TASKS, AGGREGATION__NAME="mgda")
    cfg = network_cfg(tasks=("det", "seg"))
    cfg.MODEL.MULTITASK.GRADIENTS = "mgda"
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    plain = SimpleTrainer(distiller, [[image(0, "det"), image(1, "seg")]], optimizer)
    build_step(cfg, plain, iter).run_step()
    logged = storage.latest()
    assert {"task_weight/det", "task_weight/seg", "loss_kd_soft", "loss_kd_mse"} <= logged.keys()


def test_mgda_over_tasks_needs_gradients_of_parameters():
    distiller = make_distiller(
        PATHS_OF_TASKS,
        AGGREGATION__NAME="mgda",
        AGGREGATION__SCOPE="features",
        AGGREGATION__SCOPE_LAYERS=["backbone.bottom_up.res3"],
    )
    with pytest.raises(ValueError, match=r"SCOPE to parameters, or GRADIENTS to sum"):
        PathGradients(distiller.student, distiller.distillation, TaskGradients(distiller))


def test_a_detection_teacher_labels_the_images_for_segmentation():
    distiller = eval_norms(make_distiller([{"TYPE": "SoftDetection"}], ("det",)))
    assert distiller.student.always_run == {"det"}
    both = of_paths(distiller([image(0, "det"), image(1, "seg")]))["soft"]
    single = [alone(distiller, [image(i, t)])["soft"] for i, t in ((0, "det"), (1, "seg"))]
    torch.testing.assert_close(both, sum(single) / 2)


def test_tasks_of_a_path_are_checked():
    with pytest.raises(ValueError, match=r"'mse': TASKS names 'depth'.*det, seg"):
        make_distiller([{"TYPE": "FeatureMSE", "TASKS": ["depth"]}])
    with pytest.raises(ValueError, match="TASK_MODE to separate"):
        make_distiller([{"TYPE": "FeatureMSE", "TASKS": ["det"]}], mode="mixed")


# Objects from masks


def test_foreground_of_an_image_with_a_mask_alone_is_its_objects():
    path = {"TYPE": "DeFeat", "LAYERWISE": True}
    distiller = eval_norms(make_distiller([path], ("seg",)))
    inputs = [image(1, "seg")]
    losses = of_paths(distiller(inputs))
    # The same rectangle as a box: centres of cells lie in pixels 20 … 69 and 10 … 39.
    boxed = image(1)
    boxed["instances"].gt_boxes = Boxes(torch.tensor([[20.0, 10, 69.99, 39.99]] * 2))
    expected = of_paths(distiller([boxed]))
    assert losses["defeat_foreground"] > 0
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    # Pixels without annotation are no objects, whatever their label is.
    distiller.ignore_value = 3
    inputs[0]["sem_seg"][inputs[0]["sem_seg"] > 0] = 3
    assert of_paths(distiller(inputs))["defeat_foreground"] == 0
    chosen = eval_norms(make_distiller([path | {"OBJECT_CLASSES": [4]}], ("seg",)))
    assert of_paths(chosen(inputs))["defeat_foreground"] == 0


@given(
    st.lists(
        st.tuples(*[st.integers(0, 15)] * 4).map(
            lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]) + 1, max(b[1], b[3]) + 1)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_drawn_boxes_have_the_foreground_of_the_boxes(boxes):
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[0, y0:y1, x0:x1] = True
    centers = cell_centers([(16, 16), (8, 8)], (16, 16))
    # On the right and lower border a box counts, and the pixel behind it does not.
    inner = torch.tensor([boxes]).float() - torch.tensor([0, 0, 1e-3, 1e-3])
    valid = torch.ones(1, len(boxes), dtype=torch.bool)
    assert torch.equal(mask_foreground(mask, centers), foreground_mask(inner, valid, centers))
