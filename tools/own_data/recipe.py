"""The configs of a job, found from its data and written as plain YAML files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multas.config.files import merge
from multas.data.suggestions import Suggestion
from multas.util.annotation import BOXES, LABELS, MASKS
from own_data.config_files import Config, set_key, write_config
from own_data.networks import PIXELS, TEACHERS, network_of, start_from
from own_data.paths import path_of
from own_data.settings import settings_of
from own_data.task_data import TaskData
from own_data.thresholds import FIXED

# With a tenth of the labels of blood cells, an input of 240 px and 300 iterations, GFLHead gave AP
# 48.6, with one anchor at each place and 9 bins 49.7, DenseDetectionHead (focal loss, balanced L1)
# 45.5 (validation list, one seed). At 160 px both gave 42.0, and GIoU, or mutual guidance with
# GIoU and the quality focal loss, did not help the latter: 42.2 and 40.5.
HEADS = {
    BOXES: "GFLHead",
    MASKS: "SemanticFPNHead",
    LABELS: "LinearClassificationHead",
}
_COUNTS = {BOXES: "GFL_HEAD", MASKS: "SEMANTIC_FPN_HEAD", LABELS: "LINEAR_HEAD"}
BATCH = 8
# For a batch of 8. In few iterations AdamW comes further than SGD: 300 of them with a quarter of
# the labels gave AP 45.4 on blood cells, from random weights 31.6, and 41.1 on chess pieces,
# against 35.7, 22.8 and 27.7 with SGD at 0.03 (46.7, 33.0 and 37.4 with AdamW at 0.004);
# validation lists, one seed, DenseDetectionHead.
RATE = 0.002
# That of a pretrained teacher, for the same batch. With a tenth of the labels, EfficientNet-Lite2
# gave AP 35.2, 38.8, 43.6 and 41.6 with 0.001, 0.002, 0.004 and 0.008 on blood cells, and 45.4,
# 48.4, 49.2 and 48.4 on chess pieces (likewise). The student is not better with this rate: 42.0 and
# 50.4 with 0.002, 42.7 and 46.4 with 0.004.
TEACHER_RATE = 0.004
# AdamW moves the logarithms of the path weights by the rate alone: they begin where they rest, and
# have one of their own.
AGGREGATION = {"NAME": "adaptive", "START": "rest", "Z_LR": 0.05}
# With a tenth of the labels, the student of nuclei had AP 43.9 with 0.3 and 42.4 with 1, that of
# chess pieces 61.4 and 61.8 (43.2 and 59.6 without a teacher; validation lists, one seed).
ALPHA = 0.3
THRESHOLDS = "thresholds.yaml"


def write_configs(
    data: Sequence[TaskData],
    folder: Path,
    output: Path,
    *,
    size: str,
    seed: int,
    iterations: int,
    pretrained: tuple[str, str] = ("", ""),
    teacher: tuple[str, str] | None = None,
    paths: Sequence[Mapping[str, Any]] | None = None,
    most: int = 0,
) -> None:
    """Write base.yaml, supervised.yaml, distilled.yaml and, unless there is one, teacher.yaml.

    thresholds.yaml is a part of distilled.yaml where there are pseudo-labels, see
    :func:`write_thresholds`.

    Args:
        data: of each task.
        folder: of the files.
        output: of the trainings.
        size: of the student, a file of configs/sizes.
        iterations: of each training.
        pretrained: MODEL.TIMM.PRETRAINED of student and teacher, see :func:`pretrained_weights`.
        teacher: config and weights of a teacher that is there already.
        paths: what is distilled; None = one path for each task, between the heads.
        most: pixels that the shortest edge of the input may have; 0 = as the objects need it.
    """
    first = next((task for task in data if task.annotation is BOXES), data[0])
    settings = settings_of(
        first.annotated, first.annotation, image_format="RGB", most=most, one_anchor=True
    )
    base = _base(data, settings, network_of(size, pretrained[0]), iterations, seed)
    start_from(base, pretrained[0], size)
    base["OUTPUT_DIR"] = str(output)
    if pretrained[0]:
        reason = "those that the pretrained weights were trained on"
        for key in (f"MODEL.{key}" for key in PIXELS):
            settings[key] = Suggestion(settings[key].value, reason)
    reasons = [f"{key}: {found.reason}." for key, found in settings.items()]
    write_config(folder / "base.yaml", base, ["What the models of this job share.", *reasons])
    labeled = [list(task.labeled) for task in data]
    supervised: Config = _training(data, labeled) | {"OUTPUT_DIR": str(output / "supervised")}
    write_config(
        folder / "supervised.yaml", supervised, ["The student without a teacher."], ["base.yaml"]
    )
    if teacher is None:
        own = network_of(TEACHERS[size], pretrained[1])
        for key in (*PIXELS, "ANCHOR_GENERATOR"):  # those of the data
            own["MODEL"].pop(key, None)
        start_from(own, pretrained[1], TEACHERS[size])
        if pretrained[1]:
            set_key(own, "SOLVER.BASE_LR", _rate(base["SOLVER"]["IMS_PER_BATCH"], TEACHER_RATE))
        merge(own, _training(data, labeled) | {"OUTPUT_DIR": str(output / "teacher")}, "teacher")
        write_config(folder / "teacher.yaml", own, ["The teacher."], ["base.yaml"])
        teacher = str(folder / "teacher.yaml"), str(output / "teacher" / "student.pth")
    distilled = _distilled(data, output, teacher, paths)
    bases = ["base.yaml"]
    if "PSEUDO_LABELS" in distilled["DATASETS"]:
        bases.append(THRESHOLDS)
        why = (
            "As long as it is this one, the trained teacher's own take its place, if there is a "
            "val split to choose them on."
        )
        write_thresholds(folder / THRESHOLDS, {"SCORE_THRESH": FIXED}, [why])
    write_config(folder / "distilled.yaml", distilled, ["The student with its teacher."], bases)


def write_thresholds(file: Path, options: Mapping[str, Any], comments: Sequence[str]) -> None:
    """Write the keys of DATASETS.PSEUDO_LABELS that say which of a teacher's boxes are used."""
    about = "The score from which on a teacher's boxes count as pseudo-labels."
    content = {"DATASETS": {"PSEUDO_LABELS": dict(options)}}
    write_config(file, content, [about, *comments])


def _base(
    data: Sequence[TaskData],
    settings: Mapping[str, Suggestion],
    network: Config,
    iterations: int,
    seed: int,
) -> Config:
    images = min(len(task.annotated) for task in data)
    batch = min(BATCH, images)
    config: Config = {
        "VERSION": 2,
        "DATASETS": {
            "CARDS": [str(task.card) for task in data],
            "TEST": [task.test for task in data],
        },
        "MODEL": {
            "META_ARCHITECTURE": "MultiTaskNetwork",
            "WEIGHTS": "",
            "MULTITASK": {
                "TASKS": [task.task for task in data],
                "HEADS": [HEADS[task.annotation] for task in data],
            },
        },
        "SOLVER": {
            "IMS_PER_BATCH": batch,
            "BASE_LR": _rate(batch),
            "OPTIMIZER": "adamw",
            "WEIGHT_DECAY": 0.05,
            "MAX_ITER": iterations,
            "WARMUP_ITERS": min(100, iterations // 10),
            "LR_SCHEDULER_NAME": "WarmupCosineLR",
            "CHECKPOINT_PERIOD": max(iterations // 4, 1),
            "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 5.0},
            "AMP": {"ENABLED": "auto"},
            "CHANNELS_LAST": True,
        },
        "DATALOADER": {"NUM_WORKERS": min(4, max((os.cpu_count() or 1) - 2, 0))},
        "TEST": {"EVAL_PERIOD": 0},
        "SEED": seed,
    }
    merge(config, network, "the network")
    for task in data:
        set_key(config, f"MODEL.{_COUNTS[task.annotation]}.NUM_CLASSES", len(task.classes))
        if task.annotation is MASKS:
            set_key(config, "MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE", task.ignore_label)
    for key, suggestion in settings.items():
        set_key(config, key, suggestion.value)
    return config


def _rate(batch: int, of_eight: float = RATE) -> float:
    """The learning rate for a batch, by the linear rule."""
    return of_eight * batch / BATCH


def _training(data: Sequence[TaskData], names: Sequence[list[str]]) -> Config:
    """The data sets to train on, in one batch for each task."""
    if len(data) == 1:
        return {"DATASETS": {"TRAIN": names[0]}}
    pairs = zip(data, names, strict=True)
    batches = [{"TASK": task.task, "TRAIN": own} for task, own in pairs]
    return {"DATASETS": {"TASK_BATCHES": batches}}


def _distilled(
    data: Sequence[TaskData],
    output: Path,
    teacher: tuple[str, str],
    paths: Sequence[Mapping[str, Any]] | None,
) -> Config:
    # Images without annotations come once, in the batch of the first task.
    names = [[*task.labeled, *(task.unlabeled if task is data[0] else ())] for task in data]
    config = _training(data, names)
    if factors := _repeat_factors(data[0]):
        config["DATASETS"]["TRAIN_REPEAT_FACTOR"] = factors
    boxes = data[0].annotation is BOXES and bool(data[0].unlabeled)
    if boxes:
        config["DATASETS"]["PSEUDO_LABELS"] = {
            "FILES": [str(output / name) for name in pseudo_label_files(data[0])]
        }
    model: Config = {"GFL_HEAD": {"WEIGHT_BY_SCORE": True}} if boxes else {}
    if paths is None:
        paths = [path_of(task.annotation, len(data) > 1) for task in data]
    if paths:
        model["META_ARCHITECTURE"] = "Distiller"
        model["DISTILLATION"] = {
            "TEACHER": {"CONFIG_FILE": teacher[0], "WEIGHTS": teacher[1], "PRECISION": "auto"},
            "PATHS": [dict(path) for path in paths],
            "ALPHA": ALPHA,
            "AGGREGATION": dict(AGGREGATION),
        }
    return config | {"MODEL": model, "OUTPUT_DIR": str(output / "distilled")}


def _repeat_factors(task: TaskData) -> list[list[Any]]:
    """DATASETS.TRAIN_REPEAT_FACTOR that makes half of the images annotated ones, if fewer are.

    The few right annotations would otherwise be lost among what a teacher says of the others.
    """
    unlabeled = sum(len(task.records[name]) for name in task.unlabeled)
    if unlabeled <= len(task.annotated):
        return []
    factor = round(unlabeled / len(task.annotated), 2)
    return [[name, factor] for name in task.labeled]


def pseudo_label_files(task: TaskData) -> list[str]:
    """The names of the files of a teacher's labels, one for each data set without annotations."""
    if len(task.unlabeled) == 1:
        return ["pseudo_labels.json"]
    return [f"pseudo_labels_{name}.json" for name in task.unlabeled]
