"""The checks that data sets and models agree on their classes."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROIHeads
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import nn

from multas.data.dataset_dicts import require_registered
from multas.deploy.exported_model import ExportedModel
from multas.distillation import unwrap
from multas.evaluation.build import evaluator_types
from multas.evaluation.metric_names import check_metric
from multas.modeling import TaskHead
from multas.util.annotation import BOXES, MASKS, STANDARD, Annotation
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

# The heads of Detectron2, with the node of their config and the annotation that they learn from.
_STOCK_HEADS: tuple[tuple[type[nn.Module], str, Annotation], ...] = (
    (RetinaNet, "MODEL.RETINANET", BOXES),
    (ROIHeads, "MODEL.ROI_HEADS", BOXES),
    (SemSegFPNHead, "MODEL.SEM_SEG_HEAD", MASKS),
)


class _Head(NamedTuple):
    """A head, the node of the config from which it is built, and the annotation it learns from."""

    module: Any
    node: str
    annotation: Annotation


def check_test_sets(cfg: CfgNode) -> list[dict]:
    """Load every data set that is evaluated, so that faults show before training.

    Returns:
        Their dataset dicts.

    Raises:
        UserError: A data set is not registered, its files are wrong, or an expected result is
            none that it has.
        KeyError: There is no evaluator for a data set.
    """
    sets = [("DATASETS.TEST", name) for name in cfg.DATASETS.TEST]
    early = cfg.SOLVER.EARLY_STOPPING
    if early.ENABLED and early.DATASET:
        sets.append(("SOLVER.EARLY_STOPPING.DATASET", early.DATASET))
    loaded: list[dict] = []
    for key, name in sets:
        require_registered([name], key)
        records = DatasetCatalog.get(name)
        loaded += records
        boxes = [r[BOXES.dataset_key] for r in records if BOXES.dataset_key in r]
        if boxes and not any(boxes):
            logger.warning(
                f"{key}: no image of '{name}' has an object, so there is no AP of boxes."
            )
        evaluator_types(name)
    for task, metric, *_ in cfg.TEST.EXPECTED_RESULTS:
        if len(cfg.DATASETS.TEST) != 1:
            raise UserError("TEST.EXPECTED_RESULTS needs one data set in DATASETS.TEST.")
        check_metric(cfg, cfg.DATASETS.TEST[0], f"{task}/{metric}", "TEST.EXPECTED_RESULTS")
    return loaded


def check_classes(model: nn.Module, names: Sequence[str]) -> None:
    """Make sure that a model has the classes of the data sets that it meets.

    A wrong number could go unnoticed: Detectron2's RetinaNet takes the class after its last one for
    background. ``names`` are those of loaded data sets.

    Raises:
        UserError: A head has another number of classes, or two data sets number them differently.
    """
    student, _ = unwrap(model)
    if isinstance(student, ExportedModel):
        _check_file_classes(student, names)
        return
    for head in _known_heads(student):
        module, kind = head.module, head.annotation
        count = getattr(module, "num_classes", None)
        if isinstance(module, SemSegFPNHead):
            count = module.predictor.out_channels  # the only place where it has the number
        if count is None or not kind.classes_key:
            continue
        key = f"{head.node}.NUM_CLASSES"
        first: tuple[str, list[str]] | None = None
        for name in names:
            data = MetadataCatalog.get(name)
            classes = list(data.get(kind.classes_key, None) or ())
            annotates = data.get("annotates", ())
            if not classes or (annotates and kind.task not in annotates):
                continue
            if len(classes) != count:
                raise UserError(
                    f"{key} is {count}, but the data set '{name}' has {len(classes)} classes: "
                    f"{_shortened(classes)}. Set {key} {len(classes)}, or use other data."
                )
            first = first or (name, classes)
            _check_order(first, (name, classes))


def _check_file_classes(model: ExportedModel, names: Sequence[str]) -> None:
    """Make sure that an exported network and data sets have the same classes, in one order."""
    for kind in STANDARD:
        own = model.classes(kind)
        for name in names if own else ():
            data = MetadataCatalog.get(name)
            theirs = list(data.get(kind.classes_key, None) or ())
            if theirs and kind.task in data.get("annotates", (kind.task,)) and theirs != own:
                raise UserError(
                    f"{model.file} has the classes {_shortened(own or ())}, but the data set "
                    f"'{name}' has {_shortened(theirs)}; numbers would mean other classes. Use "
                    "data with the classes of the file, in its order, or another file."
                )


def check_ignored_labels(cfg: CfgNode, model: nn.Module, names: Sequence[str]) -> None:
    """Make sure that all that reads masks knows the label of pixels without annotation.

    Raises:
        UserError: A data set (``names``: those of training) has another label for them.
    """
    student, distillation = unwrap(model)
    heads = [head for head in _known_heads(student) if head.annotation == MASKS]
    values = [(head.node, getattr(head.module, "ignore_value", None)) for head in heads]
    if heads or distillation is not None:
        # Augmentations and paths read this key.
        values.append(("MODEL.SEMANTIC_FPN_HEAD", cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE))
    for name in names:
        data = MetadataCatalog.get(name)
        if MASKS.task not in data.get("annotates", ()):
            continue
        for node, value in values:
            key = f"{node}.IGNORE_VALUE"
            if value not in (None, data.ignore_label):
                raise UserError(
                    f"{key} is {value}, but {data.ignore_label} stands for pixels without "
                    f"annotation in the data set '{name}' (`ignore_label` of its card). Set {key} "
                    f"{data.ignore_label}."
                )


def _known_heads(model: nn.Module) -> Iterator[_Head]:
    """The heads of a MultiTaskNetwork, or of a model of Detectron2."""
    heads = getattr(model, "heads", None)
    parts: list[Any] = [model, *(getattr(model, x, None) for x in ("roi_heads", "sem_seg_head"))]
    if isinstance(heads, nn.ModuleDict):
        parts.extend(heads.values())
    for part in parts:
        if isinstance(part, TaskHead):
            node = part.config_node or f"MODEL.MULTITASK.HEADS, {type(part).__name__}"
            yield _Head(part, node, part.annotation)
        for cls, node, annotation in _STOCK_HEADS:
            if isinstance(part, cls):
                yield _Head(part, node, annotation)


def _check_order(one: tuple[str, list[str]], other: tuple[str, list[str]]) -> None:
    number = {name: i for i, name in enumerate(one[1])}
    for i, name in enumerate(other[1]):
        if number.get(name, i) != i:
            raise UserError(
                f"Class '{name}' is number {number[name]} in the data set '{one[0]}', but number "
                f"{i} in '{other[0]}'. Give `classes` in the same order in both cards."
            )


def _shortened(names: Sequence[str], count: int = 8) -> str:
    more = [f"… {names[-1]}"] if len(names) > count else []
    return ", ".join([*names[: count - len(more)], *more])
