"""Looks for semantic masks: folders of images of few values, which are named like other images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import PurePath
from typing import Any, NamedTuple

from multas.data.looking.inventory import (
    Inventory,
    Reading,
    find_lists,
    inside,
    is_named_mask,
    join,
    parent,
    split_names,
)
from multas.data.looking.mask_classes import mask_classes
from multas.data.looking.mask_kinds import Kind, joint_kind, kind_of
from multas.data.looking.roles import role_of
from multas.util.errors import UserError

_TRIED = 20  # masks whose names are compared with those of images
_FEW = 4  # folders of images
_OF_INSTANCES = ("instance", "object", "panoptic")


class Pair(NamedTuple):
    """A folder of images and one of their masks."""

    images: str
    masks: str
    suffix: str  # what the names of the masks have behind those of the images
    stems: frozenset[str]  # the names without extension of the images that have a mask


class Look(NamedTuple):
    """What was found: how masks are read, and the paths of all that are masks, used or not."""

    reading: Reading | None
    masks: set[str]
    notes: Sequence[str] = ()  # why some are not used


def look_for_masks(found: Inventory, boxes: Reading | None) -> Look:
    """The card of the masks of a folder, or None if there are none.

    Args:
        found: what lies in the folder.
        boxes: how its boxes are read. Masks of the same images get splits of the same names.

    Raises:
        UserError: if several folders have masks of the same images; or these are the only
            annotations, and have more colours than classes can be.
    """
    pairs, kinds = _find_pairs(found)
    masks = {join(folder, name) for folder in kinds for name in found.images[folder]}
    notes: list[str] = []
    splits, images = (_splits_of if boxes else _own_splits)(found, pairs, notes, boxes)
    if not splits:
        return Look(None, masks, notes)
    used = {pair.masks for pair in pairs if any(s["masks"] == pair.masks for s in splits.values())}
    of = [kind for folder, kind in kinds.items() if any(inside(folder, top) for top in used)]
    try:
        keys = mask_classes(found, sorted(used), joint_kind(of), boxes, notes)
    except UserError as error:
        if boxes is None:
            raise
        return Look(None, masks, [f"passed over: {error}"])
    card = {"format": "masks", **keys, "splits": splits}
    return Look(Reading("masks", card, notes, images), masks)


def _find_pairs(found: Inventory) -> tuple[list[Pair], dict[str, Kind]]:
    """Folders of images and of their masks, and what each folder of masks has."""
    stems = {folder: found.stems(folder) for folder in found.images}
    named = [folder for folder in stems if is_named_mask(folder)]
    # Among many folders, each of a class, some may have drawings of few values.
    maybe = named or (list(stems) if len(stems) <= _FEW else [])
    matches = {
        (images, masks): _match(stems[images], stems[masks])
        for masks in maybe for images in stems
        if images != masks and not _are_apart(images, masks)
    }  # fmt: skip
    matches = {key: match for key, match in matches.items() if match[1]}
    kinds = {folder: kind_of(found, folder) for folder in {f for key in matches for f in key}}
    choices: dict[str, list[Pair]] = {}
    for (images, masks), (suffix, common) in matches.items():
        is_first = kinds[images].is_photo or (masks in named and images not in named)
        if is_first and not kinds[masks].is_photo:
            choices.setdefault(images, []).append(Pair(images, masks, suffix, common))
    folders = {pair.masks for own in choices.values() for pair in own}
    pairs = [_nearest(i, own, kinds) for i, own in choices.items() if i not in folders]
    return _merged(pairs), {folder: kinds[folder] for folder in folders}


def _are_apart(images: str, masks: str) -> bool:
    """Whether the paths of two folders tell different splits."""
    roles = role_of(images), role_of(masks)
    return all(roles) and roles[0] != roles[1]


def _match(images: set[str], masks: set[str]) -> tuple[str, frozenset[str]]:
    """What names of masks have behind those of images, and the images that have a mask.

    Less than half of both are no match.
    """
    same = images & masks
    suffix = ""
    if 2 * len(same) < min(len(images), len(masks)):
        tried = sorted(masks)[:: max(1, len(masks) // _TRIED)]
        ends = [stem[n:] for stem in tried for n in range(1, len(stem)) if stem[:n] in images]
        suffix = max(Counter(ends).items(), key=lambda item: item[1], default=("", 0))[0]
        same = {stem for stem in images if suffix and stem + suffix in masks}
    enough = 2 * len(same) >= min(len(images), len(masks))
    return suffix, frozenset(same if enough else ())


def _nearest(images: str, choices: Sequence[Pair], kinds: Mapping[str, Kind]) -> Pair:
    """The masks whose folder is nearest to that of the images.

    Those with colours, which are often the same classes for people to look at, come after others,
    and those of instances last.

    Raises:
        UserError: if several are as near.
    """

    def rank(pair: Pair) -> tuple[bool | int, ...]:
        of_instances = any(word in pair.masks.lower() for word in _OF_INSTANCES)
        parts, others = images.split("/"), pair.masks.split("/")
        ends = _number_equal(parts, others), _number_equal(parts[::-1], others[::-1])
        letters = _number_equal(images, pair.masks)  # as of train and trainannot
        plain = not of_instances, not kinds[pair.masks].has_colors
        return *plain, role_of(images) == role_of(pair.masks), *ends, letters

    best = max(map(rank, choices))
    nearest = [pair for pair in choices if rank(pair) == best]
    if len(nearest) > 1:
        names = " and ".join(pair.masks for pair in nearest)
        raise UserError(f"{names} both have masks of the images in {images}; write a card for one")
    return nearest[0]


def _number_equal(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many of the first names, or letters, are the same."""
    pairs = zip(parts, others, strict=False)
    return len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])


def _merged(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, those of images/a and masks/a joined with those of images/b and masks/b."""
    joined: dict[tuple[str, str, str], set[str]] = {}
    for pair in pairs:
        images, masks, stems = pair.images, pair.masks, set(pair.stems)
        while "/" in images and "/" in masks and images.split("/")[-1] == masks.split("/")[-1]:
            last = PurePath(images).name
            if role_of(last):
                break
            images, masks, stems = parent(images), parent(masks), {f"{last}/{s}" for s in stems}
        joined.setdefault((images, masks, pair.suffix), set()).update(stems)
    return [Pair(*key, frozenset(stems)) for key, stems in joined.items()]


def _own_splits(
    found: Inventory, pairs: Sequence[Pair], notes: list[str], _: Reading | None
) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """The splits of masks alone, and the images of each."""
    splits, images = {}, {}
    for place, name in split_names([pair.images for pair in pairs]).items():
        pair = next(pair for pair in pairs if pair.images == place)
        notes.append(f"{pair.masks} has masks of the {len(pair.stems)} images in {place}")
        stems = {_stem(path, place): path for path in found.below(place)}
        tasks = ("Main", "Segmentation")
        lists = find_lists(found, parent(place), stems, notes, (), tasks) if len(pairs) == 1 else {}
        for split, (key, ids) in (lists or {name: ("", list(stems))}).items():
            own = [image_id for image_id in ids if image_id in pair.stems]
            if own:
                splits[split] = _split(pair, key, len(own) < len(ids), split, notes)
                images[split] = {stems[image_id] for image_id in own}
    return splits, images


def _splits_of(
    found: Inventory, pairs: Sequence[Pair], notes: list[str], boxes: Reading | None
) -> tuple[dict[str, dict[str, Any]], dict[str, set[str]]]:
    """The splits of masks on the images of boxes, and the images of each."""
    assert boxes is not None
    splits, images = {}, {}
    places = {name: boxes.card["splits"][name] for name in boxes.images}
    folders = {name: str(p.get("images") or p.get("files")) for name, p in places.items()}
    for name, paths in boxes.images.items():
        place, folder = places[name], folders[name]
        for pair in (pair for pair in pairs if pair.images == folder):
            own = {path for path in paths if _stem(path, folder) in pair.stems}
            key = place.get("json") or place.get("ids", "")
            whole = paths if key else found.below(folder)
            if own and not key and list(folders.values()).count(folder) > 1:
                notes.append(
                    f"{pair.masks} is passed over for {name}: no list has the images of this split "
                    f"in {folder}; write lists of ids, and give a data card"
                )
            elif own:
                notes.append(f"{pair.masks} has masks of {len(own)} images of {name}")
                splits[name] = _split(pair, key, len(own) < len(whole), name, notes)
                images[name] = own
    return splits, images


def _split(pair: Pair, ids: str, is_partial: bool, name: str, notes: list[str]) -> dict[str, Any]:
    split: dict[str, Any] = {"images": pair.images, "masks": pair.masks}
    split |= {"ids": ids} if ids else {}
    split |= {"mask_suffix": pair.suffix} if pair.suffix else {}
    if is_partial:
        notes.append(f"not all images of {name} have a mask: those are left out")
    return split | ({"only_complete": True} if is_partial else {})


def _stem(path: str, folder: str) -> str:
    relative = PurePath(path) if folder == "." else PurePath(path).relative_to(folder)
    return relative.with_suffix("").as_posix()
