"""What can be found wrong with a run before it has cost time."""

from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from multas.data.loader import SeededDataset, TrainLoader, require_registered
from multas.data.mapper import MultasMapper
from multas.data.task_batches import TaskLoader
from multas.distillation import Distillation, Distiller
from multas.evaluation.build import evaluator_types
from multas.modeling import MultiTaskNetwork

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
# Key of a model input -> key of the dataset dict that it is made of.
_IN_DICT = {"instances": "annotations", "sem_seg": "sem_seg_file_name", "label": "label"}
_ANNOTATIONS = tuple(_IN_DICT.values())


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
    background. So can a wrong label of pixels without annotation.

    Args:
        model: of a Distiller, its student counts. Heads that are not known are not checked.
        names: of loaded data sets; those without classes are passed over.

    Raises:
        ValueError: a head has another number of classes or another label of pixels without
            annotation, or two data sets number their classes differently.
    """
    model = getattr(model, "module", model)
    model = model.student if isinstance(model, Distiller) else model
    for key, ignored in _ignored_labels(model):
        for name in names:
            data = MetadataCatalog.get(name)
            if "seg" in data.get("annotates", ()) and data.ignore_label != ignored:
                raise ValueError(
                    f"{key} is {ignored}, but {data.ignore_label} stands for pixels without "
                    f"annotation in the data set '{name}' (`ignore_label` of its card). Set {key} "
                    f"{data.ignore_label}."
                )
    for key, kind, count in _class_counts(model):
        first: tuple[str, list[str]] | None = None
        for name in names:
            classes = list(MetadataCatalog.get(name).get(kind, None) or ())
            if not classes:
                continue
            if len(classes) != count:
                raise ValueError(
                    f"{key} is {count}, but the data set '{name}' has {len(classes)} classes: "
                    f"{_shortened(classes)}. Set {key} {len(classes)}, or use other data."
                )
            first = first or (name, classes)
            _check_order(first, (name, classes))


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


def _ignored_labels(model: nn.Module) -> Iterator[tuple[str, int]]:
    for head, key, kind in _known_heads(model):
        if kind == "stuff_classes":
            yield key.replace("NUM_CLASSES", "IGNORE_VALUE"), head.ignore_value


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


def check_annotations(model: nn.Module, loader: TrainLoader | TaskLoader) -> None:
    """Make sure that there is something to learn from, and nothing that the model cannot take.

    Args:
        model: that is trained.
        loader: its data.

    Raises:
        ValueError: no image is annotated and nothing is distilled, a model that needs annotations
            meets images without, or a task's mini-batch has none that is annotated for it.
    """
    model = getattr(model, "module", model)
    distillation = model.distillation if isinstance(model, Distiller) else None
    student = model.student if isinstance(model, Distiller) else model
    if isinstance(loader, TaskLoader):
        _check_tasks(student, distillation, loader)
        return
    dataset = loader.dataset
    if not isinstance(dataset, SeededDataset) or not isinstance(dataset.mapper, MultasMapper):
        return  # a user's own loader
    joined = [dataset.mapper.pseudo_labels.join(d) for d in dataset.dicts]
    if isinstance(student, MultiTaskNetwork) and getattr(model, "hard_labels", True):
        _check_heads(student, distillation, joined)
    if distillation is not None:
        return
    model = student
    bare = [d for d in joined if not any(key in d for key in _ANNOTATIONS)]
    if not bare or (len(bare) < len(joined) and getattr(model, "accepts_unannotated", False)):
        return
    raise ValueError(
        f"DATASETS.TRAIN: {len(bare)} of {len(joined)} images are not annotated (the first is "
        f"{bare[0]['file_name']}), "
        + (
            "and nothing is distilled: there is nothing to learn from. "
            if len(bare) == len(joined)
            else f"which {type(model).__name__} cannot take without distillation. "
        )
        + "Name pseudo-labels for them in DATASETS.PSEUDO_LABELS.FILES (tools/pseudo_label.py), "
        "distill (MODEL.META_ARCHITECTURE Distiller), or leave them out."
    )


def _check_heads(
    model: MultiTaskNetwork, distillation: Distillation | None, joined: Sequence[dict]
) -> None:
    specs = () if distillation is None else distillation.specs
    layers = [name for spec in specs for name in spec.student]
    tapped = {layer.split(".")[1] for layer in layers if layer.startswith("heads.")}
    untrained = [
        f"'{task}' (no '{_IN_DICT[model.annotation_of(task)]}')"
        for task in model.heads
        if task not in tapped and not any(_IN_DICT[model.annotation_of(task)] in d for d in joined)
    ]
    # Without any, either all are taught by paths through the backbone, or nothing is.
    if 0 < len(untrained) < len(model.heads):
        raise ValueError(
            f"DATASETS.TRAIN: none of its {len(joined)} images is annotated for the task "
            f"{', '.join(untrained)}, so its head would never be trained. Name data sets that "
            "are (`annotates` of a card), or drop the task from MODEL.MULTITASK.TASKS."
        )


def _check_tasks(model: nn.Module, distillation: Distillation | None, loader: TaskLoader) -> None:
    if not isinstance(model, MultiTaskNetwork):
        raise ValueError(
            f"DATASETS.TASK_BATCHES is for a MultiTaskNetwork, but {type(model).__name__} is "
            "trained: name its data in DATASETS.TRAIN."
        )
    for number, (task, part) in enumerate(zip(loader.tasks, loader.loaders, strict=True)):
        if distillation is not None and distillation.taps_for(task):
            continue
        dataset = part.dataset
        if not isinstance(dataset, SeededDataset) or not isinstance(dataset.mapper, MultasMapper):
            continue  # a user's own loader
        wanted = _IN_DICT[model.annotation_of(task)]
        joined = [dataset.mapper.pseudo_labels.join(d) for d in dataset.dicts]
        if not any(wanted in d for d in joined):
            raise ValueError(
                f"DATASETS.TASK_BATCHES[{number}]: none of its {len(joined)} images is annotated "
                f"for the task '{task}' (no '{wanted}'; the first image is "
                f"{joined[0]['file_name']}), and no path works on them: there is nothing to learn "
                "from. Name other data sets in TRAIN, or another TASK."
            )
