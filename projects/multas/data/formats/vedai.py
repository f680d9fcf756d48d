"""VEDAI (Razakarivony and Jurie 2016): vehicles in aerial images, oriented boxes in text files.

There is one file per image, and one (annotation512.txt or annotation1024.txt) with the objects of
all images, whose columns have another order. An image's own file counts where there is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    box_annotation,
    remark_copies,
)
from multas.data.image_files import load_images
from multas.data.issues import DatasetError, unread
from multas.util.annotation import BOXES
from multas.util.errors import UserError
from multas.util.files import read_text
from multas.util.names import did_you_mean

CLASSES = {
    1: "car",
    2: "truck",
    4: "tractor",
    5: "camping car",
    7: "motorcycle",
    8: "bus",
    9: "van",
    10: "other",
    11: "pickup",
    23: "boat",
    31: "plane",
}


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Vedai(DataFormat):
    """Images whose names end with ``suffix`` ("_co" colour, "_ir" infrared), and their boxes.

    Boxes enclose the four corners and end at the border of the image; an image without objects has
    ``annotations: []``. Each annotation also has the integers "difficult", always 0, and
    "truncated". Objects of classes that the card does not name are left out.
    """

    can_annotate = (BOXES,)

    images: str = "Vehicules512"
    annotations: str = "Annotations512"
    suffix: str = "_co"
    annotates: tuple[str, ...] = (BOXES.task,)

    def list_folders(self) -> tuple[str, ...]:
        return (self.annotations,)  # the lists of VEDAI's folds lie there

    def load(self, source: Source) -> Loaded:
        names = _select_classes(source)
        class_ids = {name: i for i, name in enumerate(names)}
        folder = source.root / self.annotations
        whole_file = next(iter(sorted(folder.glob("annotation*.txt"))), None)
        whole = read_whole_file(whole_file) if whole_file else {}
        records = []
        for record in self.load_unlabeled(source)[0]:
            image_id = record["image_id"]
            own_file = folder / f"{image_id}.txt"
            if image_id in whole and not own_file.is_file():
                where, lines = f"{whole_file}: image {image_id}", whole[image_id]
            else:
                try:
                    where, lines = str(own_file), _read_lines(own_file)
                except (OSError, UserError) as error:
                    source.issues.add(str(own_file), unread(error))
                    continue
            annotations = _convert(lines, record, class_ids, where, source)
            if annotations is not None:
                records.append({**record, "annotations": annotations})
        return records, self.class_metadata(names)

    def load_unlabeled(self, source: Source) -> Loaded:
        return load_images(source.root / self.images, source.ids, source.issues, self.suffix), {}

    def evaluation_metadata(self, root: Path, id_file: Path | None) -> dict[str, Any]:
        return {"evaluator_type": ["pascal_voc"]}  # without devkit it takes what is loaded


def _select_classes(source: Source) -> tuple[str, ...]:
    """The classes that the card names, in its order; all of VEDAI's if it names none."""
    known = tuple(CLASSES.values())
    for name in source.classes or ():
        if name not in known:
            what = f"VEDAI has no class {name!r}.{did_you_mean(name, known)}"
            raise DatasetError(f"{source.where}: {what}")
    return known if source.classes is None else source.classes


class VedaiObject(NamedTuple):
    """One object."""

    name: str  # of its class
    box: tuple[float, float, float, float]  # (xmin, ymin, xmax, ymax) of its corners, in pixels
    contained: bool  # whether the image shows all of it; if not, corners lie outside


def parse_object(words: Sequence[str]) -> VedaiObject:
    """Read the words xc yc orientation class contained occluded x1 … x4 y1 … y4 of an object.

    Raises:
        UserError: if these are not 14 finite numbers, or the class number is none of VEDAI's.
    """
    if len(words) != 14:
        raise UserError(f"has {len(words)} numbers instead of 14")
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise UserError(str(error)) from None
    if not all(math.isfinite(value) for value in values):
        raise UserError("not all numbers are finite")
    if values[3] not in CLASSES:
        raise UserError(f"unknown class number {values[3]:g}, VEDAI has {sorted(CLASSES)}")
    xs, ys = values[6:10], values[10:]
    box = (min(xs), min(ys), max(xs), max(ys))
    return VedaiObject(CLASSES[int(values[3])], box, contained=values[4] != 0)


def _visible_box(entry: VedaiObject, size: tuple[int, int]) -> list[float]:
    """The part of an object's box inside an image of (width, height), if it has an area."""
    xmin, ymin, xmax, ymax = box = np.clip(entry.box, 0, [*size, *size]).tolist()
    if not (xmax > xmin and ymax > ymin):
        corners = ",".join(f"{value:g}" for value in entry.box)
        raise UserError(
            f"{entry.name}, box {corners} has no area in the image of {size[0]}x{size[1]}"
        )
    return box


def _read_lines(file: Path) -> list[list[str]]:
    """The words of each line that is not empty."""
    return [words for line in read_text(file).split("\n") if (words := line.split())]


def read_whole_file(file: Path) -> dict[str, list[list[str]]]:
    """Read the file with the objects of all images.

    Its lines are: id xc yc orientation x1 … x4 y1 … y4 class contained occluded.

    Returns:
        The lines of each image by its id, their words in the order of :func:`parse_object`.

    Raises:
        DatasetError: if the file is missing or unreadable.
    """
    objects: dict[str, list[list[str]]] = {}
    try:
        lines = _read_lines(file)
    except (OSError, UserError) as error:
        raise DatasetError(f"{file}: not a readable VEDAI annotation file ({error})") from None
    for image_id, *words in lines:
        objects.setdefault(image_id, []).append([*words[:3], *words[11:], *words[3:11]])
    return objects


def _convert(
    lines: Sequence[Sequence[str]],
    record: dict,
    class_ids: dict[str, int],
    where: str,
    source: Source,
) -> list[dict] | None:
    annotations, faulty = [], False
    for number, words in enumerate(lines):
        try:
            entry = parse_object(words)
            if source.leaves_out(entry.name):
                continue
            box = _visible_box(entry, (record["width"], record["height"]))
        except UserError as error:
            source.issues.add(where, f"object {number}: {error}")
            faulty = True
            continue
        if entry.name in class_ids:
            label, truncated = class_ids[entry.name], int(not entry.contained)
            annotations.append(box_annotation(label, box, 0, truncated))
    remark_copies(annotations, where, source.issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations
