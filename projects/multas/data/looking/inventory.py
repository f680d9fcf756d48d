"""What lies in a folder, as those who look for data sets need it."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multas.data.formats.yolo import LABEL_FOLDERS
from multas.data.image_names import IMAGE_SUFFIXES, without_suffix
from multas.data.looking.roles import role_of
from multas.util.errors import UserError
from multas.util.files import read_text
from multas.util.id_lists import read_id_list
from multas.util.yaml_files import parse_yaml

_TEXTS = (".json", ".xml", ".txt", ".csv", ".names", ".labels", ".yaml", ".yml", ".gif")
_VOC_TASKS = {"Main", "Segmentation", "Layout", "Action", "Person"}
_OF_MASKS = re.compile(
    r"mask|label(?!l?ed)|annot(?!ated)|segm|semantic|trimap|\bann\b|(\b|_)(gt|seg\b)"
)
_NO_DATA = ("__MACOSX", "__pycache__", "node_modules")


@dataclass(frozen=True)
class Inventory:
    """The files of a folder and of all folders below it, hidden ones left out.

    Folders are paths from ``root`` with "/", "." for the root itself; files are their names. Links
    to folders are not followed.
    """

    root: Path
    images: Mapping[str, Sequence[str]]  # image files of each folder, sorted
    texts: Mapping[str, Mapping[str, Sequence[str]]]  # of each suffix: the files of each folder

    def stems(self, folder: str, suffix: str = "") -> set[str]:
        """The names without extension of the images of a folder, or of files with a suffix."""
        files = self.texts.get(suffix, {}) if suffix else self.images
        return {os.path.splitext(name)[0] for name in files.get(folder, ())}

    def yaml_files(self) -> list[Path]:
        """The YAML files of the root itself."""
        files = [self.texts[suffix].get(".", ()) for suffix in (".yaml", ".yml")]
        return [self.root / name for names in files for name in names]

    def below(self, folder: str) -> list[str]:
        """The paths, from the root, of all images in a folder and below it."""
        return [join(f, name) for f in self.images if inside(f, folder) for name in self.images[f]]


@dataclass(frozen=True)
class Reading:
    """One way to read a folder: a card, why so, and the images that its splits annotate."""

    what: str  # "VOC", "COCO" …
    card: dict[str, Any]
    notes: Sequence[str]
    images: dict[str, set[str]] = field(repr=False)  # by split, as paths from the root


def take_inventory(root: Path) -> Inventory:
    """Look through a folder; only names are read.

    Raises:
        UserError: if the folder, or one below it, cannot be read.
    """
    images: dict[str, Sequence[str]] = {}
    texts: dict[str, dict[str, list[str]]] = {suffix: {} for suffix in _TEXTS}

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})")

    for parent, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in _NO_DATA)
        folder = Path(parent).relative_to(root).as_posix()
        by_suffix = defaultdict(list)
        for name in sorted(names):
            if not name.startswith("."):
                by_suffix[os.path.splitext(name)[1].lower()].append(name)
        own = sorted(name for suffix in IMAGE_SUFFIXES for name in by_suffix[suffix])
        if own:
            images[folder] = own
        for suffix in _TEXTS:
            if by_suffix[suffix]:
                texts[suffix][folder] = by_suffix[suffix]
    return Inventory(root, images, texts)


def read_tables(files: Iterable[Path]) -> dict[Path, dict]:
    """The content of YAML files that are tables of keys; others do not count."""
    tables = {}
    for file in files:
        try:
            content = parse_yaml(read_text(file), file)
        except (OSError, UserError):
            continue
        if isinstance(content, dict):
            tables[file] = content
    return tables


def join(folder: str, name: str) -> str:
    """A path below a folder, where "." is the root."""
    return name if folder == "." else f"{folder}/{name}"


def parent(folder: str) -> str:
    """The folder above one; that above the root is the root."""
    return folder.rpartition("/")[0] or "."


def inside(folder: str, top: str) -> bool:
    """Whether a folder is another, or below it."""
    return top == "." or f"{folder}/".startswith(f"{top}/")


def is_named_mask(folder: str) -> bool:
    """Whether a folder is called as those of masks are."""
    return _OF_MASKS.search(folder.lower()) is not None


def annotation_stems(found: Inventory) -> set[str]:
    """The names, without extensions, of files that would annotate images of the same names."""
    names = {
        os.path.splitext(name)[0]
        for suffix in (".json", ".xml", ".txt")
        for own in found.texts[suffix].values()
        for name in own
    }
    return names | {os.path.splitext(name)[0] for name in names}  # a.txt, and a.jpg.json


def top_of(folder: str) -> str:
    """The highest part of a path that tells a role, such as train/images of train/images/day1.

    A folder called images stays in it. Without a role, it is the path up to a folder called images,
    or the whole path.
    """
    parts = folder.split("/")
    marks = [i for i, part in enumerate(parts) if role_of(part) or part in LABEL_FOLDERS]
    return "/".join(parts[: marks[-1] + 1]) if marks else folder


def split_names(places: Iterable[str]) -> dict[str, str]:
    """A name of a split for each of some folders or files, by the role that its path tells.

    It is train, val, test or unlabeled where one place alone has this role, "all" for a single
    place without a role, and made of the path elsewhere.
    """
    places = list(places)
    told = {place: role_of(place) for place in places}
    names = {}
    for place, role in told.items():
        if role and list(told.values()).count(role) == 1:
            names[place] = role
        elif not role and len(places) == 1:
            names[place] = "all"
        else:
            names[place] = _plain(place) or "all"
    return names


def find_lists(
    found: Inventory,
    base: str,
    known: Collection[str],
    notes: list[str],
    classes: Collection[str] = (),
    tasks: Collection[str] = ("Main",),
) -> dict[str, tuple[str, list[str]]]:
    """The lists of images in ImageSets, in the root and in ``base``.

    Args:
        found: what lies in the folder.
        base: the folder that has ImageSets.
        known: the ids of the images that may be listed; what lists others is no list.
        notes: receives the files of ImageSets that are none.
        classes: lists of one class, VOC's aeroplane_train, do not count.
        tasks: of the lists of VOC's tasks, those that count.

    Returns:
        For each split, how a card names its list, and its ids.
    """
    lists: dict[str, tuple[str, list[str]]] = {}
    for place, names in found.texts[".txt"].items():
        parts = place.split("/")
        last = parts[-1] if "ImageSets" in parts else ""
        if (place not in (".", base) and not last) or last in _VOC_TASKS - set(tasks):
            continue
        for name in names:
            stem = os.path.splitext(name)[0]
            ids = _read_ids(found.root / place / name)
            if "_" in stem and stem.rpartition("_")[0] in classes:
                continue
            if (here := sum(i in known for i in ids)) * 2 > len(ids):
                key = os.path.splitext(join(place, name))[0].removeprefix("ImageSets/")
                lists[_name_of_list(last, stem, lists)] = (key, ids)
            elif last:
                of = f"of its {len(ids)} lines, {here} name images that are here"
                if any(without_suffix(i) in known for i in ids if i not in known):
                    of += "; ids have no extension"
                notes.append(f"list {join(place, name)} is passed over: {of}")
    return lists


def _read_ids(file: Path) -> list[str]:
    """The ids of a list, none if the file is no list."""
    try:
        return [image_id for _, image_id in read_id_list(file)]
    except (OSError, UserError):
        return []


def _name_of_list(folder: str, stem: str, known: Collection[str]) -> str:
    """Main/train: train; Half/trainval: half; Half/val: half_val."""
    name = stem
    if folder and folder not in ("ImageSets", *_VOC_TASKS):
        name = folder.lower() if stem in ("train", "trainval") else f"{folder.lower()}_{stem}"
    plain = _plain(name)
    return plain if plain and plain not in known else f"list_{len(known)}_{plain}"


def _plain(text: str) -> str:
    """A text as a name of a split."""
    plain = "".join(c if c.isalnum() or c in "_-" else "_" for c in text).strip("_-")
    return f"{plain}_images" if plain.endswith("_unlabeled") else plain
