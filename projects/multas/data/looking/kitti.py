"""Looks for KITTI's label files: texts in a folder beside that of the images."""

from collections import Counter
from pathlib import Path

from multas.data.formats.kitti import SCORED, class_names, columns_of
from multas.data.looking.inventory import Inventory, Reading
from multas.data.looking.pairs import image_folder, splits_of_pairs
from multas.util.errors import UserError

_TRIED = 20  # label files that are opened to know what they are


def look_for_kitti(found: Inventory) -> Reading | None:
    """The card of the label files of a folder, or None if there are none.

    Files with scores, which a network has written, count only if there are no others.

    Raises:
        UserError: if the files have no object.
    """
    pairs: dict[str, str] = {}  # folders of label files, and of their images
    scored: set[str] = set()
    for folder, names in found.texts[".txt"].items():
        tried = [found.root / folder / name for name in names[:: len(names) // _TRIED + 1]]
        columns = Counter(filter(None, map(_columns, tried)))
        if columns and (images := image_folder(found, folder, ".txt")) is not None:
            pairs[folder] = images
            scored |= {folder} if columns.most_common(1)[0][0] == SCORED else set()
    notes = []
    if scored < pairs.keys():
        notes = [f"{folder} is passed over: its objects have scores" for folder in scored]
        pairs = {folder: images for folder, images in pairs.items() if folder not in scored}
    if not pairs:
        return None
    classes: set[str] = set()
    for folder, images in pairs.items():
        notes.append(f"{folder} has KITTI's label files of images in {images}")
        for name in found.texts[".txt"][folder]:
            classes |= _class_names(found.root / folder / name)
    if not classes:
        place = found.root / next(iter(pairs))
        raise UserError(f"the label files in {place} have no object but DontCare; add some")
    splits, covered = splits_of_pairs(found, pairs, ".txt", classes, notes)
    for split in splits.values():
        if "annotations" in split:
            split["labels"] = split.pop("annotations")
    card = {"format": "kitti", "classes": sorted(classes), "splits": splits}
    return Reading("KITTI", card, notes, covered)


def _columns(file: Path) -> int:
    try:
        return columns_of(file)
    except (OSError, UserError):  # reported when the data are loaded
        return 0


def _class_names(file: Path) -> set[str]:
    try:
        return class_names(file)
    except (OSError, UserError):  # likewise
        return set()
