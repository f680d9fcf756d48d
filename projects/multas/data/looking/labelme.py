"""Looks for LabelMe: a JSON file beside each image, or in a folder of its own."""

from multas.data.formats.labelme_shapes import is_labelme, object_names
from multas.data.json_files import read_json
from multas.data.looking.inventory import Inventory, Reading
from multas.data.looking.pairs import image_folder, splits_of_pairs
from multas.util.errors import UserError


def look_for_labelme(found: Inventory) -> Reading | None:
    """The card of the LabelMe files of a folder, or None if there are none.

    Raises:
        UserError: if the images of the files are nowhere, or the files have no object.
    """
    classes: set[str] = set()
    pairs: dict[str, str] = {}  # folders of JSON files, and of their images
    for folder in found.texts[".json"]:
        names = _class_names(found, folder)
        if names is None:
            continue
        images = image_folder(found, folder, ".json")
        if images is None:
            raise UserError(
                f"{found.root / folder} has LabelMe's JSON files, but no folder has images of "
                "these names; put them beside the files"
            )
        classes |= names
        pairs[folder] = images
    if not pairs:
        return None
    if not classes:
        place = found.root / next(iter(pairs))
        raise UserError(
            f"the JSON files in {place} have no object; draw some in LabelMe: rectangles, polygons"
        )
    notes = [f"{f} has LabelMe's JSON files of images in {pairs[f]}" for f in pairs]
    splits, covered = splits_of_pairs(found, pairs, ".json", classes, notes)
    if all(folder == images for folder, images in pairs.items()):
        for split in splits.values():
            split.pop("annotations", None)  # which are beside the images where no key names them
    card = {"format": "labelme", "classes": sorted(classes), "splits": splits}
    return Reading("LabelMe", card, notes, covered)


def _class_names(found: Inventory, folder: str) -> set[str] | None:
    """The classes of the JSON files of a folder; None if none of them is LabelMe's."""
    names: set[str] = set()
    is_any = False
    for name in found.texts[".json"][folder]:
        try:
            content = read_json(found.root / folder / name)
        except (OSError, UserError):  # reported when the data are loaded
            continue
        if is_labelme(content):
            names |= object_names(content)
            is_any = True
    return names if is_any else None
