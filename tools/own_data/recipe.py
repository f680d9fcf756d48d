"""The configs of a job, found from its data and written as plain YAML files."""

import logging
import os
import socket
import textwrap
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from multas.config.files import merge, read_file
from multas.data.suggestions import STRIDES, Suggestion, suggest
from multas.engine import Trainer, load_config
from multas.modeling.timm_models import HUB, create_timm_model
from multas.modeling.weight_files import check_is_file
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.errors import UserError
from multas.util.files import write_text
from own_data.data import TaskData
from own_data.scripts import REPOSITORY
from own_data.thresholds import FIXED

logger = logging.getLogger("multas.own_data")

Config = dict[str, Any]

SIZES = REPOSITORY / "configs" / "sizes"
# The teacher of a student of each size.
TEACHERS = {"nano": "medium", "small": "large", "medium": "large"}
HEADS = {
    BOXES: "DenseDetectionHead",
    MASKS: "SemanticFPNHead",
    LABELS: "LinearClassificationHead",
}
_COUNTS = {BOXES: "DENSE_HEAD", MASKS: "SEMANTIC_FPN_HEAD", LABELS: "LINEAR_HEAD"}
_PATHS: Mapping[Annotation, Config] = {
    BOXES: {"TYPE": "SoftDetection", "STUDENT": "heads.det", "LAYERWISE": True},
    MASKS: {"TYPE": "SoftTarget", "STUDENT": "heads.seg", "NAME": "st_seg"},
    LABELS: {"TYPE": "SoftTarget", "STUDENT": "heads.cls", "NAME": "st_cls"},
}
FEATURE_PATH = {"TYPE": "FeatureMSE", "STUDENT": "backbone"}
NONE = "none"
_PIXELS = ("PIXEL_MEAN", "PIXEL_STD")
BATCH = 8
RATE = 0.03  # for a batch of 8
LARGEST_CLASSIFIED = 224  # px, the side of what a classifier sees
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
    """
    first = next((task for task in data if task.annotation is BOXES), data[0])
    settings = settings_of(
        first.annotated, first.annotation, len(first.classes), image_format="RGB"
    )
    base = _base(data, settings, _fragment(size, pretrained[0]), iterations, seed)
    _start_from(base, pretrained[0], size)
    base["OUTPUT_DIR"] = str(output)
    if pretrained[0]:
        reason = "those that the pretrained weights were trained on"
        for key in (f"MODEL.{key}" for key in _PIXELS):
            settings[key] = Suggestion(settings[key].value, reason)
    reasons = [f"{key}: {found.reason}." for key, found in settings.items()]
    _write(folder / "base.yaml", base, ["What the models of this job share.", *reasons])
    labeled = [list(task.labeled) for task in data]
    supervised: Config = _training(data, labeled) | {"OUTPUT_DIR": str(output / "supervised")}
    _write(
        folder / "supervised.yaml", supervised, ["The student without a teacher."], ["base.yaml"]
    )
    if teacher is None:
        own = _fragment(TEACHERS[size], pretrained[1])
        for key in (*_PIXELS, "ANCHOR_GENERATOR"):  # those of the data
            own["MODEL"].pop(key, None)
        _start_from(own, pretrained[1], TEACHERS[size])
        merge(own, _training(data, labeled) | {"OUTPUT_DIR": str(output / "teacher")}, "teacher")
        _write(folder / "teacher.yaml", own, ["The teacher."], ["base.yaml"])
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
    _write(folder / "distilled.yaml", distilled, ["The student with its teacher."], bases)


def write_thresholds(file: Path, options: Mapping[str, Any], comments: Sequence[str]) -> None:
    """Write the keys of DATASETS.PSEUDO_LABELS that say which of a teacher's boxes are used."""
    about = "The score from which on a teacher's boxes count as pseudo-labels."
    content = {"DATASETS": {"PSEUDO_LABELS": dict(options)}}
    _write(file, content, [about, *comments])


def pretrained_weights(size: str, given: Sequence[str]) -> tuple[str, str]:
    """What student and teacher start from: MODEL.TIMM.PRETRAINED of both, "" for random weights.

    Args:
        size: of the student.
        given: "hub", files, or "none", of both or of the student alone; empty: the hub's weights,
            if they can be had.

    Raises:
        UserError: A file, or what was asked for of the hub, cannot be had.
    """
    for weights in given:
        if weights not in (HUB, NONE):
            check_is_file(weights, "--pretrained")
    if given:
        student, teacher = (*given, given[0] if given[0] in (HUB, NONE) else NONE)[:2]
        return ("" if student == NONE else student), ("" if teacher == NONE else teacher)
    if not _hub_answers():
        os.environ["HF_HUB_OFFLINE"] = "1"  # or it would be asked for a minute
    try:
        for name in (size, TEACHERS[size]):
            cfg = load_config(str(SIZES / f"{name}.yaml"), ["MODEL.TIMM.PRETRAINED", HUB])
            create_timm_model(cfg, len(cfg.MODEL.PIXEL_MEAN))
    except UserError as error:
        print(f"Both networks start from random weights. {error}\n", flush=True)
        return "", ""
    return HUB, HUB


def _hub_answers() -> bool:
    """Whether the host of timm's hub is known here, or a proxy that knows it."""
    if urllib.request.getproxies():
        return True
    host = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.create_connection((host or "", 443), timeout=3).close()
    except OSError:
        return False
    return True


def _start_from(config: Config, weights: str, size: str) -> None:
    """Start from weights, in place; their pixels are then those that they were trained on."""
    if weights:
        _set(config, "MODEL.TIMM.PRETRAINED", weights)
        config["MODEL"] |= {key: _fragment(size)["MODEL"][key] for key in _PIXELS}


def fitting_paths(
    data: Sequence[TaskData],
    write: Callable[[Sequence[Mapping[str, Any]] | None], None],
    config: Callable[[], CfgNode],
) -> Sequence[Mapping[str, Any]] | None:
    """The paths from a teacher that is there already: what fits of heads, features, or none.

    Args:
        data: of each task.
        write: writes the configs with some paths.
        config: reads that of the distilled student.

    Raises:
        UserError: No path fits, and there are no images that the teacher could label.
    """
    why = ""
    for paths in (None, [FEATURE_PATH]):
        write(paths)
        try:
            Trainer.build_model(config())
            return paths
        except UserError as error:
            why = str(error)
            logger.warning(f"The teacher's {'features' if paths else 'heads'} do not fit: {why}")
    if not any(task.unlabeled for task in data):
        raise UserError(
            f"Nothing of this teacher can be distilled ({why}), and there are no images without "
            "labels that it could label. Give more images, or leave out --teacher."
        )
    return []


def _fragment(size: str, weights: str = HUB) -> Config:
    """The keys of a network; without pretrained weights one that is quick to learn from random."""
    folder = SIZES if weights else SIZES / "from_scratch"
    return read_file(str(folder / f"{size}.yaml"))


def settings_of(
    records: Sequence[Mapping[str, Any]],
    annotation: Annotation,
    num_classes: int,
    strides: Sequence[int] = STRIDES,
    image_format: str = "BGR",
) -> dict[str, Suggestion]:
    """What a config should have for annotated images, by key; see :func:`suggest`.

    A classifier sees squares of the size of the images, of at most 224 px.
    """
    boxes = annotation is BOXES
    found = suggest(
        records, num_classes=num_classes if boxes else 0, image_format=image_format, strides=strides
    )
    if annotation is not LABELS:
        return found
    side = min(found["INPUT.MIN_SIZE_TEST"].value, LARGEST_CLASSIFIED)
    reason = f"the size of the images, at most {LARGEST_CLASSIFIED}"
    values = {"MIN_SIZE_TRAIN": [side], "MIN_SIZE_TEST": side, "CENTER_CROP_TEST": side}
    values["AUGMENTATION"] = "resized_crop"
    kept = {key: value for key, value in found.items() if not key.startswith("INPUT.M")}
    return kept | {f"INPUT.{key}": Suggestion(value, reason) for key, value in values.items()}


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
            "BASE_LR": RATE * batch / BATCH,
            "WEIGHT_DECAY": 0.0005,
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
        _set(config, f"MODEL.{_COUNTS[task.annotation]}.NUM_CLASSES", len(task.classes))
        if task.annotation is MASKS:
            _set(config, "MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE", task.ignore_label)
    for key, suggestion in settings.items():
        _set(config, key, suggestion.value)
    return config


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
    model: Config = {"DENSE_HEAD": {"WEIGHT_BY_SCORE": True}} if boxes else {}
    if paths is None:
        paths = [_path(task.annotation, len(data) > 1) for task in data]
    if paths:
        model["META_ARCHITECTURE"] = "Distiller"
        model["DISTILLATION"] = {
            "TEACHER": {"CONFIG_FILE": teacher[0], "WEIGHTS": teacher[1], "PRECISION": "auto"},
            "PATHS": [dict(path) for path in paths],
            "AGGREGATION": {"NAME": "adaptive"},
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


def _path(annotation: Annotation, of_several: bool) -> Config:
    own: Config = {"TASKS": [annotation.task]} if of_several else {}
    return {**_PATHS[annotation], **own}


def _set(config: Config, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    for group in groups:
        config = config.setdefault(group, {})
    config[name] = value


def _write(file: Path, config: Config, comments: Sequence[str], bases: Sequence[str] = ()) -> None:
    lines = [
        f"# {line}"
        for comment in comments
        for line in textwrap.wrap(comment, 96, break_long_words=False)
    ]
    base = list(bases) if len(bases) > 1 else "".join(bases)
    content = ({"_BASE_": base} if base else {}) | config
    text = yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join([*lines, text]))
