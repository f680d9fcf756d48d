"""Looks for Pascal VOC: an XML file beside each image, or in a folder of its own, and lists."""

from pathlib import PurePath

from multas.data.looking.inventory import Inventory, Reading, parent
from multas.data.looking.pairs import image_folder, splits_of_pairs
from multas.util.errors import UserError
from multas.util.voc_xml import read_voc_xml


def look_for_voc(found: Inventory) -> Reading | None:
    """The card of the VOC files of a folder, or None if there are none.

    Raises:
        UserError: if there are several devkits, or the images of the XML files are nowhere.
    """
    classes: dict[str, None] = {}
    pairs: dict[str, str] = {}  # folders of XML files, and of their images
    for folder in found.texts[".xml"]:
        names = _class_names(found, folder)
        if names is None:
            continue
        beside = image_folder(found, folder, ".xml")
        if beside is None:
            place = found.root / folder
            raise UserError(
                f"{place} has VOC's XML files, but no folder has images of these names; put them "
                f"into {PurePath(folder).parent / 'JPEGImages'}"
            )
        classes |= dict.fromkeys(names)
        pairs[folder] = beside
    if not pairs:
        return None
    if not classes:
        raise UserError(f"the XML files in {found.root / next(iter(pairs))} have no object")
    devkits = sorted(parent(f) for f in pairs if PurePath(f).name == "Annotations")
    if len(devkits) > 1:
        raise UserError(
            f"there are several VOC devkits: {', '.join(devkits)}; name the folder of one, or "
            "write a card for each"
        )
    notes = [f"{f} has VOC's XML files of images in {pairs[f]}" for f in pairs]
    splits, images = splits_of_pairs(found, pairs, ".xml", classes, notes)
    return Reading(
        "VOC", {"format": "voc", "classes": sorted(classes), "splits": splits}, notes, images
    )


def _class_names(found: Inventory, folder: str) -> set[str] | None:
    """The classes of the XML files of a folder; None if none of them is VOC's."""
    names: set[str] = set()
    is_voc = False
    for name in found.texts[".xml"][folder]:
        try:
            names.update(entry.name for entry in read_voc_xml(found.root / folder / name).objects)
            is_voc = True
        except (OSError, UserError):  # reported when the data are loaded
            continue
    return names if is_voc else None
