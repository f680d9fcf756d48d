"""A row on another data set: the splits and classes of a user's card replace its own."""

import re
from collections.abc import Sequence
from functools import cache

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data import DatasetError, read_card, register_card
from multas.data.card import UNLABELED
from multas.data.suggestions import STRIDES
from multas.util.annotation import STANDARD
from own_data.settings import settings_of

# Which classes a head counts; the segmentation heads have one for the background, too.
_HEADS = {
    "thing_classes": ("DENSE_HEAD", "GFL_HEAD", "RETINANET", "ROI_HEADS"),
    "stuff_classes": ("SEM_SEG_HEAD", "SEMANTIC_FPN_HEAD"),
    "label_classes": ("LINEAR_HEAD",),
}
_ONE_OF_SEVERAL = re.compile(r"^(both|seg)_(?=train$|val$|test$)")


def opts_on_card(card: str, cfg: CfgNode) -> list[str]:
    """KEY VALUE pairs that put a row on the data of a card.

    Splits keep their names: a row of voc2007_half and voc2012_half is trained on mine_half, one
    of coco_2017_train on mine_train.

    Args:
        card: the file of the card.
        cfg: the config of the row.

    Raises:
        DatasetError: the card lacks a split or a kind of annotation, or cannot be loaded.
    """
    _require_tasks(card, cfg)
    opts = ["DATASETS.CARDS", repr([card])]
    tasks = [
        {**batch, "TRAIN": _on_card(card, batch["TRAIN"], cfg.DATASETS.CARDS)}
        for batch in cfg.DATASETS.TASK_BATCHES
    ]
    opts += ["DATASETS.TASK_BATCHES", repr(tasks)] if tasks else []
    for key, names in (("TRAIN", cfg.DATASETS.TRAIN), ("TEST", cfg.DATASETS.TEST)):
        opts += [f"DATASETS.{key}", repr(_on_card(card, names, cfg.DATASETS.CARDS))]
    early = cfg.SOLVER.EARLY_STOPPING.DATASET
    if early:
        own = read_card(card)
        # The paper selects on its test set; a card that has another one need not.
        if any(split.name == "val" for split in own.splits):
            chosen = [f"{own.name}_val"]
        else:
            chosen = _on_card(card, [early], cfg.DATASETS.CARDS)
        opts += ["SOLVER.EARLY_STOPPING.DATASET", *chosen]
    return opts + _class_opts(card) + _settings(card, cfg)


def _settings(card: str, cfg: CfgNode) -> list[str]:
    """KEY VALUE pairs that follow from the data, for rows that are fitted to the embedded set.

    Rows that start from weights, or stretch images to the size of a paper, keep what these need.
    """
    if cfg.MODEL.WEIGHTS or cfg.INPUT.SQUARE_SIZE:
        return []
    named = [name for batch in cfg.DATASETS.TASK_BATCHES for name in batch["TRAIN"]]
    name = _on_card(card, named or cfg.DATASETS.TRAIN, cfg.DATASETS.CARDS)[0]
    try:
        records = DatasetCatalog.get(name.removesuffix(UNLABELED))
    except DatasetError:
        return []  # which the check of the data tells, for all splits at once
    kinds = [kind for kind in STANDARD if any(kind.dataset_key in r for r in records)]
    strides = tuple(STRIDES[0] * 2**i for i in range(len(cfg.MODEL.ANCHOR_GENERATOR.SIZES)))
    settings = settings_of(records, kinds[0], strides, cfg.INPUT.FORMAT)
    return [word for key, found in settings.items() for word in (key, repr(found.value))]


def _on_card(card: str, names: Sequence[str], cards: Sequence[str]) -> list[str]:
    own = read_card(card)
    known = {split.name for split in own.splits}
    found = []
    for name in names:
        labeled = name.removesuffix(UNLABELED)
        split = _split_of(labeled, cards)
        # Cards for one task, or with no more than train and test, have shorter names for these.
        choices = [split, _ONE_OF_SEVERAL.sub("", split), split.replace("trainval", "train")]
        split = next((choice for choice in choices if choice in known), split)
        if split not in known:
            raise DatasetError(
                f"card {card}: no split '{split}', which stands for {name} of the recipes; its "
                f"splits are {', '.join(sorted(known))}. Name it in `splits` (half, quarter, … are "
                "made by tools/split.py make)."
            )
        found.append(f"{own.name}_{split}{name.removeprefix(labeled)}")
    return list(dict.fromkeys(found))


def _require_tasks(card: str, cfg: CfgNode) -> None:
    network = cfg.MODEL.DISTILLATION.STUDENT
    if cfg.MODEL.META_ARCHITECTURE != "Distiller":
        network = cfg.MODEL.META_ARCHITECTURE
    tasks = cfg.MODEL.MULTITASK.TASKS if network == "MultiTaskNetwork" else []
    annotated = {task for split in read_card(card).splits for task in split.annotates}
    if lacking := [task for task in tasks if task not in annotated]:
        raise DatasetError(
            f"card {card}: its splits are annotated for {', '.join(sorted(annotated)) or 'nothing'}"
            f", but the recipe trains {', '.join(lacking)}. Choose a table of that task, or see "
            "`annotates` and `format` in datasets/README.md."
        )


def _split_of(name: str, cards: Sequence[str]) -> str:
    for card in cards:
        parsed = read_card(card)
        for split in parsed.splits:
            if name == f"{parsed.name}_{split.name}":
                return split.name
    return name.rpartition("_")[2]  # a data set of Detectron2, like coco_2017_train


@cache
def _class_opts(card: str) -> list[str]:
    name = register_card(card)[0]
    DatasetCatalog.get(name)  # finds the classes that a card does not list
    metadata = MetadataCatalog.get(name)
    counts = {kind: len(metadata.get(kind, None) or ()) for kind in _HEADS}
    return [
        word
        for kind, heads in _HEADS.items()
        if counts[kind]
        for head in heads
        for word in (f"MODEL.{head}.NUM_CLASSES", str(counts[kind]))
    ]
