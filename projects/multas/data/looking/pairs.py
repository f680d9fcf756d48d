"""Pairs folders of annotation files, one file for each image, with the folders of their images."""

from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from multas.data.looking.inventory import (
    Inventory,
    find_lists,
    is_named_mask,
    join,
    parent,
    split_names,
)
from multas.data.looking.roles import role_of


def image_folder(found: Inventory, folder: str, suffix: str) -> str | None:
    """The folder with most images that are named like the files of a folder; None without any.

    Args:
        found: what lies in the folder that is looked at.
        folder: that of the annotation files.
        suffix: of the annotation files, such as ".xml".
    """
    stems = found.stems(folder, suffix)

    def rank(images: str) -> tuple[int, bool, bool, bool, bool]:
        beside = images == folder, not is_named_mask(images), parent(images) == parent(folder)
        return len(stems & found.stems(images)), *beside, role_of(images) == role_of(folder)

    best = max(found.images, key=rank, default=None)
    return best if best is not None and rank(best)[0] else None


def splits_of_pairs(
    found: Inventory,
    pairs: Mapping[str, str],
    suffix: str,
    classes: Collection[str],
    notes: list[str],
) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """The splits of a card: those of lists, or one for each folder of annotation files.

    Args:
        found: what lies in the folder.
        pairs: the folders of annotation files, and of their images.
        suffix: of the annotation files, such as ".xml".
        classes: the names of the classes; lists of one class do not count.
        notes: receives the reasons.

    Returns:
        The keys of each split, and the images that each annotates, as paths from the root.
    """
    kind = suffix.lstrip(".").upper()
    splits: dict[str, dict[str, Any]] = {}
    images: dict[str, set[str]] = {}
    for folder, name in split_names(pairs).items():
        own = {"images": pairs[folder], "annotations": folder}
        labeled = found.stems(folder, suffix)
        paths = {PurePath(n).stem: join(pairs[folder], n) for n in found.images[pairs[folder]]}
        lists = (
            find_lists(found, parent(folder), set(paths), notes, classes) if len(pairs) == 1 else {}
        )
        for split in [s for s in lists if _is_of_others(found, pairs[folder], s, lists[s][1])]:
            key, _ = lists.pop(split)
            notes.append(f"list {key} is passed over: it is of the images of another folder")
        for split, (key, ids) in (lists or {name: ("", list(paths))}).items():
            annotated = {paths[i] for i in ids if i in labeled and i in paths}
            splits[split] = own | ({"ids": key} if key else {})
            if key:
                notes.append(f"list {key} has {len(ids)} images: split {split}")
            if not annotated:
                splits[split] = {"ids": key, "images": pairs[folder], "annotates": []}
                notes.append(f"the images of {split} have no {kind} files: it is unlabelled")
                continue
            images[split] = annotated
            if lacking := [i for i in ids if i not in labeled]:
                splits[split]["only_complete"] = True
                notes.append(f"{len(lacking)} of {len(ids)} images of {split} have no {kind} file")
    return splits, images


def _is_of_others(found: Inventory, images: str, split: str, ids: Collection[str]) -> bool:
    """Whether a list is of a folder that has its role, and not of ``images``, which has another.

    So is ImageSets/test.txt of KITTI, whose images have the numbers of training/image_2, too.
    """
    own, role = role_of(images), role_of(split)
    if not (own and role) or own == role:
        return False
    others = [found.stems(folder) for folder in found.images if role_of(folder) == role]
    return any(2 * len(stems.intersection(ids)) > len(ids) for stems in others)
