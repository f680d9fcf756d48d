"""What Detectron2's metadata says of a card's split: classes, and what evaluators need to know."""

import os
from collections.abc import Sequence
from pathlib import Path

from multas.data.card import Card
from multas.data.card_split import FORMATS, Split
from multas.data.formats.masks import read_mask
from multas.data.issues import DatasetError


def set_classes(metadata, card: Card, classes: Sequence[str]) -> None:
    """Name the classes below the key that the format's annotations are of."""
    if card.format == "masks":
        metadata.set(stuff_classes=list(classes))
    elif "cls" in FORMATS[card.format]:
        metadata.set(label_classes=list(classes))
    else:
        metadata.set(thing_classes=list(classes))
        if card.format == "voc":
            metadata.set(stuff_classes=["background", *classes])


def set_places(metadata, card: Card, split: Split, unlabeled: bool) -> None:
    """Tell the evaluators where the ground truth lies, if the data is there already.

    It may appear later (a generated set, lists yet to be made), so this is called again on loading.
    """
    if metadata.get("image_root") is not None:
        return
    try:
        root = card.find_root()
        file = card.find_ids(split, root)
    except DatasetError:
        return
    metadata.set(image_root=str(root / split.images))
    if unlabeled:
        return
    types = []
    if card.format == "coco":
        types.append("coco")
    elif card.format == "vedai":
        types.append("pascal_voc")  # without a devkit it takes the loaded annotations
    elif "det" in split.annotates and split.annotations != "Annotations":
        # Detectron2's VOC evaluator looks for <dirname>/Annotations; its COCO evaluator needs none.
        types.append("coco")
    elif "det" in split.annotates and split.only_complete:
        types.append("pascal_voc")  # the list also has images that are left out
        metadata.set(year=card.year)
    elif "det" in split.annotates and file is not None:
        types.append("pascal_voc")
        metadata.set(dirname=str(root), split=_main_split(file, root), year=card.year)
    if "seg" in split.annotates:
        types.append("sem_seg")
        metadata.set(read_sem_seg=read_mask)
    if "cls" in split.annotates:
        types.append("classification")
    if types:
        metadata.set(evaluator_type=types[0] if len(types) == 1 else types)


def _main_split(file: Path, root: Path) -> str:
    """What Detectron2 has to append to <root>/ImageSets/Main, without .txt, to get at a list."""
    main = root / "ImageSets" / "Main"
    path = file.with_suffix("") if file.suffix == ".txt" else file
    if path.parent == main:
        return path.name
    if main.is_dir() and (root / "ImageSets") in path.parents:
        return os.path.relpath(path, main)
    return str(path.absolute())
