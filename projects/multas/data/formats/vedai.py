"""VEDAI (Razakarivony and Jurie 2016): vehicles in aerial images, oriented boxes in text files.

There is one file per image, and one (annotation512.txt or annotation1024.txt) with the objects of
all images, whose columns have another order. An image's own file counts where there is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from detectron2.structures import BoxMode

from multas.data.formats.folder import load_images
from multas.data.issues import DatasetError, DatasetIssues

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


@dataclass(frozen=True)
class VedaiObject:
    """One object; `box` is (xmin, ymin, xmax, ymax) of its four corners in pixels, `contained`
    whether the image shows all of it. If not, corners lie outside of the image."""

    name: str
    box: tuple[float, float, float, float]
    contained: bool


def parse_object(words: Sequence[str]) -> VedaiObject:
    """Read a line of an image's own file: xc yc orientation class contained occluded x1 x2 x3 x4
    y1 y2 y3 y4.

    Raises:
        ValueError: these are not 14 finite numbers, or the class number is none of VEDAI's.
    """
    if len(words) != 14:
        raise ValueError(f"has {len(words)} numbers instead of 14")
    values = [float(word) for word in words]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("not all numbers are finite")
    if values[3] not in CLASSES:
        known = ", ".join(map(str, CLASSES))
        raise ValueError(f"unknown class number {values[3]:g}, VEDAI has {known}")
    xs, ys = values[6:10], values[10:]
    box = (min(xs), min(ys), max(xs), max(ys))
    return VedaiObject(CLASSES[int(values[3])], box, contained=values[4] != 0)


def visible_box(entry: VedaiObject, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an object's box inside an image of (width, height).

    Raises:
        ValueError: it has no area.
    """
    xmin, ymin, xmax, ymax = entry.box
    box = (max(xmin, 0.0), max(ymin, 0.0), min(xmax, float(size[0])), min(ymax, float(size[1])))
    if not (box[2] > box[0] and box[3] > box[1]):
        corners = ",".join(f"{value:g}" for value in entry.box)
        raise ValueError(
            f"{entry.name}, box {corners} has no area in the image of {size[0]}x{size[1]}"
        )
    return box


def read_lines(file: str | Path) -> list[list[str]]:
    """The words of each line that has any.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: it is no text.
    """
    return [line.split() for line in Path(file).read_text().splitlines() if line.strip()]


def read_whole_file(file: str | Path) -> dict[str, list[list[str]]]:
    """The lines on each image in the file on all of them (id xc yc orientation x1 … x4 y1 … y4
    class contained occluded), in the order that `parse_object` expects.

    Raises:
        DatasetError: it is missing or unreadable.
    """
    objects: dict[str, list[list[str]]] = {}
    try:
        lines = read_lines(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file}: not a readable VEDAI annotation file ({error})") from None
    for image_id, *words in lines:
        objects.setdefault(image_id, []).append([*words[:3], *words[11:], *words[3:11]])
    return objects


def select_classes(wanted: Sequence[str] | None, card: str) -> tuple[str, ...]:
    """The classes that a card names, in its order; all of VEDAI's where it names none.

    Raises:
        DatasetError: VEDAI lacks one.
    """
    known = tuple(CLASSES.values())
    for name in wanted or ():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise DatasetError(f"card {card}: VEDAI has no class {name!r}, {hint}")
    return known if wanted is None else tuple(wanted)


def load_vedai(
    image_dir: str | Path,
    ids: Sequence[str] | None,
    class_names: Sequence[str],
    issues: DatasetIssues,
    annotation_dir: str | Path,
    suffix: str,
) -> list[dict]:
    """Detectron2 dicts of VEDAI images; one without objects has `annotations: []`.

    Boxes enclose the four corners and end at the border of the image. Each annotation also has the
    integers "difficult", always 0, and "truncated".

    Args:
        image_dir: folder of the images.
        ids: which images, in this order; None for all of them, sorted.
        class_names: category `i` is `class_names[i]`; objects of other classes are left out.
        issues: receives what is wrong, see `load_voc`.
        annotation_dir: folder of the text files.
        suffix: of the images' names, "_co" or "_ir".
    """
    class_ids = {name: i for i, name in enumerate(class_names)}
    folder = Path(annotation_dir)
    whole_file = next(iter(sorted(folder.glob("annotation*.txt"))), None)
    whole = read_whole_file(whole_file) if whole_file else {}
    records = []
    for record in load_images(image_dir, ids, issues, suffix):
        image_id = record["image_id"]
        own_file = folder / f"{image_id}.txt"
        if image_id in whole and not own_file.is_file():
            where, lines = f"{whole_file}: image {image_id}", whole[image_id]
        else:
            try:
                where, lines = str(own_file), read_lines(own_file)
            except (OSError, ValueError):
                issues.add(str(own_file), "missing or unreadable")
                continue
        annotations = _convert(lines, record, class_ids, where, issues)
        if annotations is not None:
            records.append({**record, "annotations": annotations})
    return records


def _convert(
    lines: Sequence[Sequence[str]],
    record: dict,
    class_ids: dict[str, int],
    where: str,
    issues: DatasetIssues,
) -> list[dict] | None:
    annotations, faulty = [], False
    for number, words in enumerate(lines):
        try:
            entry = parse_object(words)
            box = visible_box(entry, (record["width"], record["height"]))
        except ValueError as error:
            issues.add(where, f"object {number}: {error}")
            faulty = True
            continue
        if entry.name in class_ids:
            annotations.append(
                {
                    "category_id": class_ids[entry.name],
                    "bbox": list(box),
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "difficult": 0,
                    "truncated": int(not entry.contained),
                }
            )
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations
