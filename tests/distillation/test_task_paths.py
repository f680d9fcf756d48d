"""Paths on mini-batches of tasks: which images count, teachers per task, objects from masks."""

import pytest
import torch
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st

import weighing
from limited_network import network_cfg, sample
from multas.distillation.functional.foreground import (
    cell_centers,
    foreground_mask,
    mask_foreground,
)
from multas.engine.steps.task_gradients import TaskGradients, TaskWeights
from weighing import copies, parameters_of, run_steps, weighed, without_statistics

pytestmark = pytest.mark.usefixtures("storage")
ENTRIES = [{"TASK": "det", "TRAIN": ["a"]}, {"TASK": "seg", "TRAIN": ["b"]}]


def make_distiller(
    paths, teacher_tasks=("det", "seg"), mode="separate", mgda_over_tasks=False, **keys
):
    """A student with both heads and one teacher for each of ``teacher_tasks``; images do not see
    each other."""
    cfg = network_cfg(
        tasks=("det", "seg"), **{"PATHS": paths, "AGGREGATION__NAME": "hand_tuned"} | keys
    )
    cfg.DATASETS.TASK_BATCHES, cfg.DATASETS.TASK_MODE = ENTRIES, mode
    teachers = (network_cfg(8, (task,)) for task in teacher_tasks)
    distiller = without_statistics(weighing.make_distiller(cfg, *teachers))
    return weighed(distiller, TaskGradients(distiller) if mgda_over_tasks else None)


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


def test_a_path_without_tasks_is_the_mean_over_all_images():
    distiller = make_distiller([{"TYPE": "FeatureMSE"}], ("det",))
    det, seg = [image(0, "det")], [image(1, "seg"), image(2, "seg"), image(3, "seg")]
    whole = of_paths(distiller(det + seg))["mse"]
    parts = [alone(distiller, part)["mse"] for part in (det, seg)]
    torch.testing.assert_close(whole, parts[0] / 4 + 3 * parts[1] / 4)


def test_a_path_of_one_task_sees_its_images_alone():
    path = {"TYPE": "FeatureMSE", "TASKS": ["seg"]}
    distiller = make_distiller([path], ("det",))
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
    distiller = make_distiller(paths, AGGREGATION__NAME=name)
    losses = distiller([image(0, "det"), image(1, "seg")])
    assert losses["loss_sem_seg"] > 0 and losses["loss_cls"] > 0
    assert distiller.distillation.names == ["soft", "from_det", "from_seg", "pixels"]
    assert (distiller.path_weights.monitors["path_loss"] > 0).all()


def test_distillation_adds_its_gradient_to_mgda_over_tasks(monkeypatch):
    """With equal weights it is the plain sum of everything, adapters and z included."""
    monkeypatch.setattr(
        "multas.engine.steps.task_gradients.mgda_weights",
        lambda gram, losses, *how: torch.full((len(gram),), 1 / len(gram)),
    )
    results = []
    for by_tasks in (False, True):
        distiller = make_distiller([{"TYPE": "FeatureMSE"}], ("det",), AGGREGATION__NAME="adaptive")
        z = distiller.path_weights.aggregator.z
        hooks = [TaskWeights(distiller, TaskGradients(distiller), [z])] if by_tasks else []
        run_steps(distiller, [[image(0, "det"), image(1, "seg")]], *hooks)
        assert z.abs().min() > 0
        results.append(copies(distiller) | {"z": z.detach()})
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
    keys = {f"AGGREGATION__{k}": v for k, v in keys.items()}
    distiller = make_distiller(PATHS_OF_TASKS, mgda_over_tasks=True, ALPHA=0.5, **keys)
    batch = [image(0, "det"), image(1, "seg")]
    parameters = parameters_of(distiller.student)
    losses = distiller.forward(batch)
    own = TaskGradients(distiller).combine(losses.task, parameters, keep_graph=True)
    rows = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for loss in losses.paths
    ]
    scaler = scale and torch.amp.GradScaler("cpu", init_scale=scale)
    run_steps(distiller, [batch], scaler=scaler, lr=0.0)
    aggregator = distiller.path_weights.aggregator
    weights = [1.0, *(0.5 * aggregator.weights()).tolist()]
    if objective:
        weights[0] = float(aggregator.monitors()["task_weight"])
    assert min(weights) > 0
    for parameter, *pieces in zip(parameters, own, *rows, strict=True):
        terms = [w * g for w, g in zip(weights, pieces, strict=True) if g is not None]
        torch.testing.assert_close(parameter.grad, sum(terms), rtol=1e-4, atol=1e-6)


def test_weights_of_tasks_are_logged_beside_those_of_paths():
    distiller = make_distiller(PATHS_OF_TASKS, mgda_over_tasks=True, AGGREGATION__NAME="mgda")
    logged = run_steps(distiller, [[image(0, "det"), image(1, "seg")]]).storage.latest()
    assert {"task_weight/det", "task_weight/seg", "loss_kd_soft", "loss_kd_mse"} <= logged.keys()
    assert min(logged[f"task_weight/{task}"][0] for task in ("det", "seg")) > 0


def test_mgda_over_tasks_needs_gradients_of_parameters():
    with pytest.raises(ValueError, match=r"SCOPE to parameters, or GRADIENTS to sum"):
        make_distiller(
            PATHS_OF_TASKS,
            mgda_over_tasks=True,
            AGGREGATION__NAME="mgda",
            AGGREGATION__SCOPE="features",
            AGGREGATION__SCOPE_LAYERS=["backbone.bottom_up.res3"],
        )


def test_a_detection_teacher_labels_the_images_for_segmentation():
    distiller = make_distiller([{"TYPE": "SoftDetection"}], ("det",))
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
    distiller = make_distiller([path], ("seg",))
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
    chosen = make_distiller([path | {"OBJECT_CLASSES": [4]}], ("seg",))
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
