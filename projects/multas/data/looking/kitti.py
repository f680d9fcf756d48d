"""Looks for KITTI's label files: texts in a folder beside that of the images."""

from pathlib import Path

from multas.data.formats.kitti import class_names, is_kitti
from multas.data.looking.inventory import Inventory, Reading
from multas.data.looking.pairs import image_folder, splits_of_pairs
from multas.util.errors import UserError

_TRIED = 20  # label files that are opened to know what they are


def look_for_kitti(found: Inventory) -> Reading | None:
    """The card of the label files of a folder, or None if there are none.

    Raises:
        UserError: if the images of the files are nowhere.
    """
    pairs: dict[str, str] = {}  # folders of label files, and of their images
    classes: set[str] = set()
    for folder, names in found.texts[".txt"].items():
        files = [found.root / folder / name for name in names]
        if not any(map(_is_kitti, files[:: len(files) // _TRIED + 1])):
            continue
        images = image_folder(found, folder, ".txt")
        if images is None:
            raise UserError(
                f"{found.root / folder} has KITTI's label files, but no folder has images of these "
                "names; put them beside this folder"
            )
        classes |= set().union(*map(_class_names, files))
        pairs[folder] = images
    if not pairs:
        return None
    notes = [f"{folder} has KITTI's label files of images in {pairs[folder]}" for folder in pairs]
    splits, covered = splits_of_pairs(found, pairs, ".txt", classes, notes)
    for split in splits.values():
        if "annotations" in split:
            split["labels"] = split.pop("annotations")
    card = {"format": "kitti", "classes": sorted(classes), "splits": splits}
    return Reading("KITTI", card, notes, covered)


def _is_kitti(file: Path) -> bool:
    try:
        return is_kitti(file)
    except (OSError, UserError):  # reported when the data are loaded
        return False


def _class_names(file: Path) -> set[str]:
    try:
        return class_names(file)
    except (OSError, UserError):  # likewise
        return set()
