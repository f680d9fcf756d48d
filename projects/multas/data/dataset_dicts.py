"""The dataset dicts of registered data sets."""

from collections.abc import Sequence
from typing import NamedTuple

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from multas.util.annotation import BOXES, STANDARD
from multas.util.errors import UserError
from multas.util.names import nearest


def require_registered(names: Sequence[str], key: str) -> None:
    """Make sure that the names in the config key ``key`` are registered data sets.

    Raises:
        UserError: if one is not registered; the message has similar names.
    """
    known = set(DatasetCatalog.list())
    for name in names:
        if name not in known:
            near = {n for n in known if n.split("_")[0] == name.split("_")[0]}
            near.update(filter(None, [nearest(name, known)]))
            raise UserError(
                f"{key} names '{name}', which is not registered. "
                + (f"Like it there are: {', '.join(sorted(near))}. " if near else "")
                + "Own data is registered by a card in DATASETS.CARDS."
            )


class TrainingSet(NamedTuple):
    """A data set that is trained on."""

    name: str
    dicts: list[dict]
    num_empty: int  # of images that were dropped because they have no object


def load_training_sets(
    names: Sequence[str], filter_empty: bool, key: str = "DATASETS.TRAIN"
) -> list[TrainingSet]:
    """The data sets that the config key ``key`` names.

    With ``filter_empty`` (DATALOADER.FILTER_EMPTY_ANNOTATIONS), images that are annotated with
    boxes alone and have none are dropped. Images that are not annotated, or annotated with
    something else as well, always stay.

    Raises:
        UserError: if no image is left, or if the data sets disagree on their classes.
    """
    require_registered(names, key)
    # Before the classes are compared: loading finds those that a card does not list.
    loaded = [(MetadataCatalog.get(name), DatasetCatalog.get(name)) for name in names]
    _check_classes([data for data, _ in loaded], key)
    sets = []
    for data, records in loaded:
        own = data.get("annotation_keys", ())
        kept = [r for r in records if not (filter_empty and _is_empty(r, own))]
        sets.append(TrainingSet(data.name, kept, len(records) - len(kept)))
    if not any(data.dicts for data in sets):
        raise UserError(f"{key} {tuple(names)} has no image to train on.")
    return sets


def load_training_dicts(
    names: Sequence[str], filter_empty: bool, key: str = "DATASETS.TRAIN"
) -> list[dict]:
    """The dataset dicts of :func:`load_training_sets`, one after the other."""
    return [d for data in load_training_sets(names, filter_empty, key) for d in data.dicts]


def _check_classes(metadata: Sequence[Metadata], key: str) -> None:
    """Make sure that all data sets with boxes have the same classes of them."""
    declared = [
        (data.name, list(classes))
        for data in metadata
        if (classes := data.get(BOXES.classes_key))
        and BOXES.task in (data.get("annotates") or (BOXES.task,))
    ]
    for name, own in declared[1:]:
        first, theirs = declared[0]
        if own != theirs:
            raise UserError(
                f"{key}: '{name}' has the classes {own}, '{first}' has {theirs}; they must agree."
            )


def _is_empty(record: dict, own_keys: Sequence[str]) -> bool:
    """Whether an image is annotated as empty, and not annotated with anything but boxes."""
    known = {*own_keys, *(kind.dataset_key for kind in STANDARD)}
    if known & record.keys() != {BOXES.dataset_key}:
        return False
    return all(a.get("iscrowd", 0) for a in record[BOXES.dataset_key])
