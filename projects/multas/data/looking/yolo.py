"""Looks for YOLO: a data.yaml, or label files beside the images or in folders called labels."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from multas.data.formats.yolo import label_file
from multas.data.formats.yolo_labels import CLASS_FILES, parse_line
from multas.data.image_names import IMAGE_SUFFIXES
from multas.data.looking.inventory import (
    Inventory,
    Reading,
    join,
    read_tables,
    split_names,
    top_of,
)
from multas.data.yolo_yaml import card_of_yolo_yaml, is_yolo_yaml, yolo_names
from multas.util.errors import UserError
from multas.util.files import read_text

_TRIED = 20  # label files that are opened to know what they are
_ANY = 10**6  # a number of classes that is not known yet


def look_for_yolo(found: Inventory, file: Path | None = None) -> Reading | None:
    """The card of the YOLO files of a folder, or None if there are none.

    Args:
        found: what lies in the folder.
        file: the data.yaml that counts; without it, one that lies in the folder itself.

    Raises:
        UserError: if there are several files like data.yaml, or it contradicts itself.
    """
    file, content = _read_yaml(found, file)
    notes: list[str] = []
    names: list[str] | None = None
    if file is not None:
        try:
            card = card_of_yolo_yaml(content, file)
        except UserError as error:
            # Those of Kaggle and Colab have the paths of these computers.
            notes.append(f"the splits of {file.name} are looked for: {error}")
            names = yolo_names(content, file)
        else:
            if not (lost := _lost_image(card)):
                return _of_yaml(found, file, card, [f"{file.name} is YOLO's, with its splits"])
            notes.append(f"the splits of {file.name} are looked for: {lost} is not there")
            names = card["classes"]
    return _of_folders(found, names, notes)


def _read_yaml(found: Inventory, file: Path | None) -> tuple[Path | None, Mapping[str, Any]]:
    """The data.yaml of a folder and its content, None and {} if there is none."""
    tables = read_tables([file] if file else found.yaml_files())
    contents = {place: table for place, table in tables.items() if is_yolo_yaml(table)}
    if len(contents) > 1:
        names = ", ".join(place.name for place in contents)
        raise UserError(f"{found.root} has several files like data.yaml: {names}; name one of them")
    return next(iter(contents.items()), (None, {}))


def _lost_image(card: dict[str, Any]) -> str:
    """An image that a list of a card names, if none of its first images exist; else ""."""
    root = Path(card["root"])
    for files in card["splits"].values():
        for place in [files] if isinstance(files, str) else files:
            listed = _images_of(root, place)[:_TRIED] if (root / place).is_file() else []
            if listed and not any(map(os.path.isfile, listed)):
                return f"{os.path.relpath(listed[0], root)} of {place}"
    return ""


def _of_yaml(found: Inventory, file: Path, card: dict[str, Any], notes: list[str]) -> Reading:
    """The card of a data.yaml, without the splits that are not there."""
    root, covered = Path(card["root"]), {}
    all_images: dict[str, set[str]] = {}
    for name, files in list(card["splits"].items()):
        places = [files] if isinstance(files, str) else files
        there = [place for place in places if (root / place).exists()]
        if len(there) < len(places):
            lacking = ", ".join(place for place in places if place not in there)
            notes.append(f"split {name} of {file.name} is passed over: there is no {lacking}")
        if len(there) < len(places):
            del card["splits"][name]
            continue
        images = [image for place in places for image in _images_of(root, place)]
        if same := [other for other, own in all_images.items() if own == set(images)]:
            notes.append(f"split {name} is passed over: it has the images of {same[0]}")
            del card["splits"][name]
            continue
        all_images[name] = set(images)
        split = {"files": files}
        covered[name] = _relative(found, _annotated(split, images, name, notes))
        card["splits"][name] = split
    return Reading("YOLO", card, notes, covered)


def _relative(found: Inventory, images: Iterable[str]) -> set[str]:
    """The paths of images from the root."""
    return {Path(os.path.relpath(image, found.root)).as_posix() for image in images}


def _images_of(root: Path, place: str) -> list[str]:
    """The image files of a split of data.yaml, a folder or a list."""
    path = Path(os.path.normpath(root / place))
    if path.is_dir():
        files = (os.path.join(parent, name) for parent, _, names in os.walk(path) for name in names)
        return [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    lines = filter(None, map(str.strip, read_text(path).split("\n")))
    return [os.path.normpath(path.parent / line) for line in lines]


def _annotated(
    split: dict[str, Any], images: Iterable[str], name: str, notes: list[str]
) -> list[str]:
    """The images of a split that count as annotated, of those that are its files.

    Where most images lack a label file, they are not background but unlabelled, and the split gets
    ``only_complete``. Where all do, it is unlabelled.
    """
    images = list(images)
    labeled = [image for image in images if os.path.isfile(label_file(image))]
    lacking = len(images) - len(labeled)
    if images and not labeled:
        split["annotates"] = []
        notes.append(f"no image of {name} has a label file: split {name} is unlabelled")
        return []
    if lacking > len(labeled):
        split["only_complete"] = True
        notes.append(f"{lacking} of {len(images)} images of {name} have no label file: unlabelled")
        return labeled
    if lacking:
        notes.append(f"{lacking} of {len(images)} images of {name} have no label file: background")
    return images


def _of_folders(found: Inventory, names: list[str] | None, notes: list[str]) -> Reading | None:
    """The card of label files in folders of images, or in labels beside images."""
    labels: dict[str, list[str]] = {}  # by the top of the folder of images
    for folder, images in found.images.items():
        files = [label_file(str(found.root / folder / name)) for name in images]
        if own := [file for file in files if os.path.isfile(file)]:
            labels.setdefault(top_of(folder), []).extend(own)
    labels = {top: files for top, files in labels.items() if _are_labels(files)}
    if not labels:
        return None
    splits: dict[str, Any] = {}
    covered: dict[str, set[str]] = {}
    for top, name in split_names(labels).items():
        splits[name] = split = {"files": top}
        notes.append(f"{top} has images with YOLO's label files: split {name}")
        images = [str(found.root / image) for image in found.below(top)]
        covered[name] = _relative(found, _annotated(split, images, name, notes))
    if names is None:
        names = _class_names(found, [file for files in labels.values() for file in files], notes)
    card = {"format": "yolo", "classes": names, "splits": splits}
    return Reading("YOLO", card, notes, covered)


def _are_labels(files: list[str]) -> bool:
    """Whether text files have lines like YOLO's; most of some, as any may be faulty."""
    tried = files[:: max(1, len(files) // _TRIED)]
    good = bad = 0
    for file in tried:
        try:
            lines = [line.split() for line in read_text(file).split("\n") if line.strip()]
            for words in lines[:1]:
                parse_line(words, _ANY)
            good += bool(lines)
        except (OSError, UserError):
            bad += 1
    return good > bad


def _class_names(found: Inventory, files: list[str], notes: list[str]) -> list[str]:
    """The names in a file such as classes.txt, or else numbers up to the highest."""
    near = {os.path.dirname(file) for file in files}
    places = [
        join(folder, name)
        for suffix in (".txt", ".names", ".labels")
        for folder, listed in found.texts[suffix].items()
        for name in listed
        if (name.lower() in CLASS_FILES or suffix != ".txt")
        and (folder == "." or str(found.root / folder) in near)
    ]
    for place in sorted(places, key=lambda place: place.count("/")):
        names = list(filter(None, map(str.strip, read_text(found.root / place).split("\n"))))
        if names and len(set(names)) == len(names):
            notes.append(f"{place} names the classes")
            return names
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            notes.append(f"{place} is passed over: it has the class {twice[0]} more than once")
    numbers = {number for file in files for number in _numbers(file)}
    notes.append("nothing names the classes: write their names into classes.txt, one on each line")
    return [f"class_{number}" for number in range(1 + max(numbers, default=0))]


def _numbers(file: str) -> list[int]:
    found = []
    for words in map(str.split, read_text(file).split("\n")):
        try:
            found += [parse_line(words, _ANY)[0]] if words else []
        except UserError:  # reported when the data are loaded
            continue
    return found
