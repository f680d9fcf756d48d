"""Looks for images without files of annotations: folders named by classes, and plain images."""

import os
from collections.abc import Collection

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    join,
    split_names,
    top_of,
)
from multas.data.looking.roles import role_of

_PLAIN = ("images", "image", "img", "imgs", "jpegimages", "photos", "pictures", "data")
_OTHERS = ("mask", "masks", "label", "labels", "annotation", "annotations", "ann", "gt")


def look_for_class_folders(found: Inventory) -> Reading | None:
    """The card of folders named by classes, or None: train/<class>/…, or <class>/… alone."""
    tops: dict[str, dict[str, None]] = {}  # the folders of classes, and the classes
    for folder in found.images:
        parts = folder.split("/")
        if parts[-1].lower() in (*_PLAIN, *_OTHERS):
            return None  # such as <image>/images and <image>/masks
        told = [i for i, part in enumerate(parts) if role_of(part)]
        depth = told[-1] + 1 if told else 0
        if len(parts) <= depth or folder == ".":
            if role_of(folder) != "unlabeled":
                return None  # images that lie in no folder of a class
            continue
        top = "/".join(parts[:depth]) or "."
        tops.setdefault(top, {})[parts[depth]] = None
    classes = sorted({name for own in tops.values() for name in own})
    if len(classes) < 2:
        return None
    splits, images, notes = {}, {}, []
    for top, name in split_names(tops).items():
        if role_of(top) == "unlabeled":
            continue
        splits[name] = {"images": top}
        images[name] = {path for c in tops[top] for path in found.below(join(top, c))}
        notes.append(f"{top} has a folder for each of {len(tops[top])} classes: split {name}")
    card = {"format": "folders", "classes": classes, "splits": splits}
    return Reading("class folders", card, notes, images)


def add_unlabeled(found: Inventory, reading: Reading, masks: Collection[str]) -> list[str]:
    """Give a card the split ``unlabeled`` of the images that none of its splits annotates.

    They lie in a folder called so, or among those that are annotated. Other folders are passed
    over, as nobody says what they are for.

    Args:
        found: what lies in the folder.
        reading: whose card is changed, unless it has unlabelled images already.
        masks: images that are masks.

    Returns:
        Notes for those who wonder.
    """
    splits = reading.card["splits"]
    if reading.card.get("root", str(found.root)) != str(found.root):
        return []  # the data of a data.yaml that lie elsewhere
    annotated = set().union(*reading.images.values())
    if any(split.get("annotates") == [] for split in splits.values()):
        return []
    rest = {f: {join(f, name) for name in names} for f, names in found.images.items()}
    rest = {f: left for f, own in rest.items() if (left := own - annotated - set(masks))}
    named: dict[str, set[str]] = {}  # by the folder that is called so, which may have others in it
    for folder, left in rest.items():
        if role_of(folder) == "unlabeled":
            named.setdefault(top_of(folder), set()).update(left)
    among = {f: left for f, left in rest.items() if set(found.below(f)) & annotated}
    # The reader of a folder also reads those below it.
    usable = {
        f: left for f, left in (named or among).items() if not set(found.below(f)) & set(masks)
    }
    best = max(usable, key=lambda folder: len(usable[folder]), default=None)
    notes = []
    if best is not None:
        key = "files" if reading.card["format"] == "yolo" else "images"
        own = splits["unlabeled"] = {key: best, "annotates": []}
        below = set(found.below(best))
        if without := [name for name, images in reading.images.items() if images & below]:
            own["without"] = without
        notes.append(f"{len(below - annotated)} images in {best} are unlabelled: split unlabeled")
    for folder, left in rest.items():
        if best is None or not left <= below:
            notes.append(
                f"{folder} has {len(left)} images without annotations, which are passed over: call "
                "the folder unlabeled to have them learned from"
            )
    return notes


def look_for_images(found: Inventory) -> Reading | None:
    """The card of images without any annotation.

    None if there are no images, or other files, such as a text beside each, might annotate them.
    """
    stems = {stem for folder in found.images for stem in found.stems(folder)}
    others = [
        stem
        for suffix in (".json", ".xml", ".txt")
        for folder in found.texts[suffix]
        for name in found.stems(folder, suffix)
        for stem in (name, os.path.splitext(name)[0])
    ]
    parts = {part.lower() for folder in found.images for part in folder.split("/")}
    if not found.images or not parts.isdisjoint(_OTHERS) or not stems.isdisjoint(others):
        return None
    folder = next(iter(found.images)) if len(found.images) == 1 else "."
    notes = [f"{folder} has {len(found.below(folder))} images, and nothing annotates them"]
    card = {"format": "images", "splits": {"unlabeled": {"images": folder}}}
    return Reading("images", card, notes, {})
