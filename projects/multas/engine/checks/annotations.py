"""The check that there is something to learn from."""

from collections.abc import Sequence

from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils import comm
from torch import nn

from multas.data.loader import SeededDataset, TrainLoader
from multas.data.mapper import MultasMapper
from multas.data.task_batches import KEY, TaskLoader
from multas.distillation import Distiller, unwrap
from multas.modeling import MultiTaskNetwork
from multas.util.annotation import STANDARD
from multas.util.errors import UserError

_NOTHING = "there is nothing to learn from"


def check_annotations(
    model: nn.Module,
    loader: TrainLoader | TaskLoader,
    key: str = "DATASETS.TRAIN",
    *,
    every_head: bool = True,
) -> None:
    """Make sure that there is something to learn from, and nothing that the model cannot take.

    Args:
        model: the model that is trained.
        loader: its data, from the config key ``key``. A user's own loader is not checked.
        every_head: whether each head of a network must be taught, and not just one of them.

    Raises:
        UserError: Nothing is learned from the images or from the mini-batches of a task, nothing
            teaches a head, or a model that needs annotations meets images without them.
    """
    student, distillation = unwrap(model)
    if isinstance(student, MultiTaskNetwork):
        _check_network(student, model, loader, key, every_head)
    elif isinstance(loader, TaskLoader):
        raise UserError(
            f"{KEY} is for a MultiTaskNetwork, but {type(student).__name__} is trained: name its "
            "data in DATASETS.TRAIN."
        )
    elif (dicts := _joined(loader)) is not None:
        _check_stock_model(student, distillation is not None, dicts, key)


def _parts(loader: TrainLoader | TaskLoader, key: str) -> list[tuple[str, str | None, TrainLoader]]:
    """The place in the config, the task (None = all) and the images of each part of the data."""
    if not isinstance(loader, TaskLoader):
        return [(key, None, loader)]
    parts = enumerate(zip(loader.tasks, loader.loaders, strict=True))
    return [(f"{KEY}[{number}]", task, part) for number, (task, part) in parts]


def _joined(loader: TrainLoader) -> list[dict] | None:
    """The dataset dicts with their pseudo-labels; None = it is a user's own loader."""
    dataset = getattr(loader, "dataset", None)
    if not isinstance(dataset, SeededDataset) or not isinstance(dataset.mapper, MultasMapper):
        return None
    return [dataset.mapper.pseudo_labels.join(d) for d in dataset.dicts]


def _check_stock_model(model: nn.Module, distilled: bool, dicts: Sequence[dict], key: str) -> None:
    bare = [d for d in dicts if not any(kind.dataset_key in d for kind in STANDARD)]
    if len(bare) < len(dicts) and getattr(model, "accepts_unannotated", False):
        return
    if bare and not distilled:
        reason = f"and nothing is distilled: {_NOTHING}"
        if len(bare) < len(dicts):
            reason = f"which {type(model).__name__} cannot take without distillation"
        raise UserError(_not_annotated(bare, len(dicts), key, reason))
    synchronised = nn.SyncBatchNorm, NaiveSyncBatchNorm
    if bare and comm.get_world_size() > 1:
        for name, module in model.named_modules():
            # Annotated and unannotated images pass separately, so that the passes of ranks differ.
            if isinstance(module, synchronised):
                raise UserError(
                    f"{key}: {len(bare)} of {len(dicts)} images are not annotated, and "
                    f"{type(model).__name__} has the layer '{name}', which waits for other "
                    "processes that may have no such images. Take another norm than SyncBN (BN, "
                    "GN, FrozenBN), one process, or a MultiTaskNetwork."
                )


def _not_annotated(bare: Sequence[dict], count: int, key: str, reason: str, what: str = "") -> str:
    return (
        f"{key}: {len(bare)} of {count} images are not annotated{what} (the first is "
        f"{bare[0]['file_name']}), {reason}. Name pseudo-labels for them in "
        "DATASETS.PSEUDO_LABELS.FILES (tools/pseudo_label.py), distill (MODEL.META_ARCHITECTURE "
        "Distiller), or leave them out."
    )


def _check_network(
    network: MultiTaskNetwork,
    model: nn.Module,
    loader: TrainLoader | TaskLoader,
    key: str,
    every_head: bool,
) -> None:
    _, distillation = unwrap(model)
    labels = all(m.hard_labels for m in model.modules() if isinstance(m, Distiller))
    annotated_by = {task: kind.dataset_key for task, kind in network.annotations.items()}
    specs = () if distillation is None else distillation.specs
    layers = [layer for s in specs for layer in s.student if layer.startswith("heads.")]
    taught = {layer.split(".")[1] for layer in layers}
    for place, task, part in _parts(loader, key):
        dicts = _joined(part)
        if dicts is None:
            return
        own = annotated_by if task is None else {task: annotated_by[task]}
        found = {t for t, wanted in own.items() if labels and any(wanted in d for d in dicts)}
        taught |= found
        if found or any(spec.applies_to(task) for spec in specs):
            continue
        if task is None:
            reason, what = f"and nothing is distilled: {_NOTHING}", f" for {', '.join(own)}"
            raise UserError(_not_annotated(dicts, len(dicts), place, reason, what))
        raise UserError(
            f"{place}: none of its {len(dicts)} images is annotated for the task '{task}' (no "
            f"'{own[task]}'; the first image is {dicts[0]['file_name']}), and no path works on "
            f"them: {_NOTHING}. Name other data sets in TRAIN, or another TASK."
        )
    untaught = [f"'{t}' (no '{wanted}')" for t, wanted in annotated_by.items() if t not in taught]
    where = KEY if isinstance(loader, TaskLoader) else key
    # If no head is taught, the paths teach the backbone.
    if every_head and 0 < len(untaught) < len(annotated_by):
        raise UserError(
            f"{where}: no image is annotated for the task {', '.join(untaught)} and no path taps "
            "its head, which would never be trained. Name data sets that are annotated for it "
            "(`annotates` of a card), or drop the task from MODEL.MULTITASK.TASKS."
        )
