"""Images that splits have in common, or that look alike in different ones, and those of none."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from multas.data.image_files import index_images
from multas.data.inspection import Split
from multas.data.near_images import find_twins
from multas.data.same_images import find_copies


@dataclass(frozen=True)
class Alike:
    """Two images that look alike, in different splits.

    Attributes:
        images: their dicts.
        splits: of each of them the splits that the other is not in.
        same: whether they are one picture, and not two of one view with other objects.
    """

    images: tuple[dict, dict]
    splits: tuple[tuple[str, ...], tuple[str, ...]]
    same: bool


def shared_images(splits: Sequence[Split]) -> dict[tuple[str, str], int]:
    """The number of images that two splits have in common, where there are some.

    The names of splits are in the order of the alphabet.
    """
    files = {split.name: {image["file_name"] for image in split.images} for split in splits}
    pairs = {(a, b): len(files[a] & files[b]) for a, b in combinations(sorted(files), 2)}
    return {pair: number for pair, number in pairs.items() if number}


def find_alike(splits: Sequence[Split], *, fast: bool = False) -> list[Alike]:
    """Images of different splits that look alike, for each image and splits at most one.

    Args:
        splits: that are compared.
        fast: whether only copies, byte by byte, are looked for, and no image is decoded.
    """
    images: dict[str, dict] = {}
    places: dict[str, tuple[str, ...]] = {}
    for split in splits:
        for image in split.images:
            file = image["file_name"]
            images.setdefault(file, image)
            places[file] = (*places.get(file, ()), split.name)
    found: dict[tuple[str, str], bool] = {}
    for copies in find_copies(file for file, image in images.items() if "pixels" not in image):
        for number, second in enumerate(copies):
            first = next((f for f in copies[:number] if places[f] != places[second]), None)
            if first is not None:
                found[first, second] = True
    if not fast and len(set(places.values())) > 1:
        files = list(images)
        groups = {place: number for number, place in enumerate(dict.fromkeys(places.values()))}
        numbers = [groups[places[file]] for file in files]
        for twin in find_twins([images[file] for file in files], numbers):
            found.setdefault((files[twin.second], files[twin.first]), twin.same)
    pairs = []
    for (first, second), same in found.items():
        own, theirs = set(places[first]), set(places[second])
        if own - theirs and theirs - own:
            apart = tuple(sorted(own - theirs)), tuple(sorted(theirs - own))
            pairs.append(Alike((images[first], images[second]), apart, same))
    return pairs


def count_alike(pairs: Sequence[Alike], *, same: bool) -> Counter[tuple[str, str]]:
    """The number of pairs between two splits, whose names are in the order of the alphabet."""
    found: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        if pair.same == same:
            found.update((min(names), max(names)) for names in product(*pair.splits))
    return found


def loose_images(splits: Sequence[Split]) -> dict[str, int]:
    """The number of images in the folders of splits that belong to none of them, where there are.

    A root that is itself the folder of images may have masks and other things, and is passed over.
    """
    known: set[str] = set()
    folders: dict[str, None] = {}
    for split in splits:
        known.update(image["file_name"] for image in split.images)
        if split.root and os.path.normpath(split.folder) != ".":
            folders[os.path.join(split.root, split.folder)] = None
    found = {}
    for folder in folders:
        if os.path.isdir(folder):
            found[folder] = sum(file not in known for file in index_images(folder).values())
    return {folder: number for folder, number in found.items() if number}
