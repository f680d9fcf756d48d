"""What can be found wrong with a run before it has cost time."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from multas.data.dataset_dicts import require_registered
from multas.distillation import Distiller
from multas.evaluation.build import evaluator_types

# Of the heads, and of what derives from them: the config key, and the classes that it counts.
_KEYS = {
    "RetinaNet": ("MODEL.RETINANET.NUM_CLASSES", "thing_classes"),
    "ROIHeads": ("MODEL.ROI_HEADS.NUM_CLASSES", "thing_classes"),
    "DenseDetectionHead": ("MODEL.DENSE_HEAD.NUM_CLASSES", "thing_classes"),
    "GFLHead": ("MODEL.GFL_HEAD.NUM_CLASSES", "thing_classes"),
    "SemanticFPNHead": ("MODEL.SEMANTIC_FPN_HEAD.NUM_CLASSES", "stuff_classes"),
    "SemSegFPNHead": ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "stuff_classes"),
    "LinearClassificationHead": ("MODEL.LINEAR_HEAD.NUM_CLASSES", "label_classes"),
}
# What a card's `annotates` calls images that are annotated with these classes.
_TASKS = {"thing_classes": "det", "stuff_classes": "seg", "label_classes": "cls"}


def check_test_sets(cfg: CfgNode) -> None:
    """Load every data set that is evaluated once: a fault is to show before training, not after.

    Raises:
        ValueError: one is not registered, or its files are wrong.
        KeyError: nobody knows how to evaluate one.
    """
    sets = [("DATASETS.TEST", name) for name in cfg.DATASETS.TEST]
    early = cfg.SOLVER.EARLY_STOPPING
    if early.ENABLED and early.DATASET:
        sets.append(("SOLVER.EARLY_STOPPING.DATASET", early.DATASET))
    for key, name in sets:
        require_registered([name], key)
        DatasetCatalog.get(name)
        evaluator_types(name)


def check_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Make sure that a model has the classes of the data sets that it meets.

    A wrong number can go unnoticed: Detectron2's RetinaNet takes the class behind its last for
    background.

    Args:
        model: of a Distiller, its student counts. Heads that are not known are not checked.
        names: of loaded data sets; those without classes, and for a head those that are annotated
            for other tasks alone, are passed over.

    Raises:
        ValueError: a head has another number of classes, or two data sets number them differently.
    """
    model = getattr(model, "module", model)
    model = model.student if isinstance(model, Distiller) else model
    for key, kind, count in _class_counts(model):
        first: tuple[str, list[str]] | None = None
        for name in names:
            data = MetadataCatalog.get(name)
            classes = list(data.get(kind, None) or ())
            annotates = data.get("annotates", ())
            if not classes or (annotates and _TASKS[kind] not in annotates):
                continue
            if len(classes) != count:
                raise ValueError(
                    f"{key} is {count}, but the data set '{name}' has {len(classes)} classes: "
                    f"{_shortened(classes)}. Set {key} {len(classes)}, or use other data."
                )
            first = first or (name, classes)
            _check_order(first, (name, classes))


def check_ignored_labels(cfg: CfgNode, model: nn.Module, names: Sequence[str]) -> None:
    """Make sure that pixels without annotation are known as such to all that reads masks.

    Args:
        cfg: of the run.
        model: that is trained; without a head for masks or paths there is nothing to check.
        names: of training sets.

    Raises:
        ValueError: a data set has another label for them.
    """
    model = getattr(model, "module", model)
    student = model.student if isinstance(model, Distiller) else model
    heads = [key for _, key, kind in _known_heads(student) if kind == "stuff_classes"]
    keys = [key.replace("NUM_CLASSES", "IGNORE_VALUE") for key in heads]
    if keys or isinstance(model, Distiller):
        # Augmentations and paths look there.
        keys = list(dict.fromkeys([*keys, "MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE"]))
    for name in names:
        data = MetadataCatalog.get(name)
        if "seg" not in data.get("annotates", ()):
            continue
        for key in keys:
            value = reduce(getattr, key.split("."), cfg)
            if value != data.ignore_label:
                raise ValueError(
                    f"{key} is {value}, but {data.ignore_label} stands for pixels without "
                    f"annotation in the data set '{name}' (`ignore_label` of its card). Set {key} "
                    f"{data.ignore_label}."
                )


def _known_heads(model: nn.Module) -> Iterator[tuple[Any, str, str]]:
    """Every head with its config key and the classes that it counts."""
    heads = getattr(model, "heads", None)
    parts: list[Any] = [model, *(getattr(model, x, None) for x in ("roi_heads", "sem_seg_head"))]
    if isinstance(heads, nn.ModuleDict):
        parts.extend(heads.values())
    for part in parts:
        for base in type(part).__mro__:
            if base.__name__ in _KEYS:
                yield part, *_KEYS[base.__name__]


def _class_counts(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    return ((key, kind, _num_classes(head)) for head, key, kind in _known_heads(model))


def _num_classes(head: Any) -> int:
    # Detectron2's SemSegFPNHead does not remember the number.
    return head.num_classes if hasattr(head, "num_classes") else head.predictor.out_channels


def _check_order(one: tuple[str, list[str]], other: tuple[str, list[str]]) -> None:
    number = {name: i for i, name in enumerate(one[1])}
    for i, name in enumerate(other[1]):
        if number.get(name, i) != i:
            raise ValueError(
                f"Class '{name}' is number {number[name]} in the data set '{one[0]}', but number "
                f"{i} in '{other[0]}'. Give `classes` in the same order in both cards."
            )


def _shortened(names: Sequence[str], count: int = 8) -> str:
    more = [f"… {names[-1]}"] if len(names) > count else []
    return ", ".join([*names[: count - len(more)], *more])
