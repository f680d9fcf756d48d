"""Looks for semantic masks that lie beside their images: a.jpg and a_mask.png in one folder."""

import os
from collections import Counter
from typing import Any

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    inside,
    is_named_mask,
    join,
    split_names,
)
from multas.data.looking.mask_classes import mask_classes
from multas.data.looking.mask_kinds import joint_kind, kind_of


def look_for_masks_beside(found: Inventory) -> tuple[Reading | None, set[str]]:
    """The card of masks beside images, as Roboflow writes them, or None if there are none.

    Returns:
        The reading, and the paths of all images that are masks.

    Raises:
        UserError: if the masks have more colours than classes can be.
    """
    suffix = _suffix(found)
    if not suffix:
        return None, set()
    masks = {f: [n for n in own if _stem(n).endswith(suffix)] for f, own in found.images.items()}
    masks = {folder: names for folder, names in masks.items() if names}
    if any(inside(a, b) for a in masks for b in masks if a != b):
        return None, set()  # the reader of a folder also reads those below it
    alone = Inventory(found.root, masks, found.texts)
    kind = joint_kind(kind_of(alone, folder) for folder in masks)
    if kind.is_photo:
        return None, set()
    splits: dict[str, dict[str, Any]] = {}
    images, notes = {}, []
    for folder, name in split_names(masks).items():
        stems = {_stem(mask).removesuffix(suffix) for mask in masks[folder]}
        photos = [n for n in found.images[folder] if not _stem(n).endswith(suffix)]
        own = {join(folder, photo) for photo in photos if _stem(photo) in stems}
        splits[name] = {"images": folder, "masks": folder, "mask_suffix": suffix}
        notes.append(f"{folder} has masks, *{suffix}, of {len(own)} images: split {name}")
        if len(own) < len(photos):
            splits[name]["only_complete"] = True
            notes.append(f"{len(photos) - len(own)} images of {name} have no mask: left out")
        images[name] = own
    keys = mask_classes(alone, sorted(masks), kind, None, notes)
    card = {"format": "masks", **keys, "splits": splits}
    paths = {join(folder, name) for folder, names in masks.items() for name in names}
    return Reading("masks", card, notes, images), paths


def _suffix(found: Inventory) -> str:
    """What most names of masks have behind those of images, such as _mask; "" if there are none."""
    ends: Counter[str] = Counter()
    for folder in found.images:
        stems = found.stems(folder)
        pairs = (stem.rpartition(mark) for stem in stems for mark in "_-. ")
        ends.update(mark + end for stem, mark, end in pairs if stem in stems)
    named = {end: count for end, count in ends.items() if is_named_mask(end)}
    best = max(named, key=lambda end: named[end], default="")
    # A third of the photographs have one at least; otherwise it is a word in the names of a few.
    return best if 4 * named.get(best, 0) >= sum(map(len, found.images.values())) else ""


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]
