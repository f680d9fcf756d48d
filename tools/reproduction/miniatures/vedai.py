"""A miniature of VEDAI, Vehicle Detection in Aerial Imagery.

The format: Razakarivony and Jurie, 2016, and the files of the archive: Vehicules512 has
<id>_co.png (colour) and <id>_ir.png (infrared); Annotations512 has one file per image,
annotation512.txt with the objects of all images in another order of columns, and the lists of ten
folds, fold01.txt and fold01test.txt to fold10test.txt. Numbers of classes have gaps; classes of
the card are eight of the eleven. A few lines lack their corners.
"""

from collections import Counter
from pathlib import Path

import cv2

from multas.data.formats.vedai import CLASSES
from multas.data.splits.make import make_splits
from reproduction.miniatures.pictures import draw, save, write_lines

SIZE = (512, 512)
LEARNED = [f"{number:08d}" for number in range(0, 24, 2)]
TESTED = [f"{number:08d}" for number in range(1, 9, 2)]


def make_vedai(root: Path) -> None:
    """Make VEDAI in the folder ``root``."""
    devkit, numbers = root / "VEDAI", list(CLASSES)
    own, whole = devkit / "Annotations512", []
    counts: dict[str, Counter[str]] = {}
    for number, image_id in enumerate([*LEARNED, *TESTED]):
        picture = draw(number, SIZE, len(numbers))
        save(devkit / "Vehicules512" / f"{image_id}_co.png", picture.image, compress_level=1)
        infrared = cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY)
        save(devkit / "Vehicules512" / f"{image_id}_ir.png", infrared, compress_level=1)
        lines = []
        counts[image_id] = Counter(CLASSES[numbers[thing.label]] for thing in picture.things)
        for thing in picture.things:
            (x, y), (w, h), degrees = cv2.minAreaRect(max(thing.polygons, key=len))
            corners = cv2.boxPoints(((x, y), (w, h), degrees))
            outline = [f"{value:.0f}" for column in corners.T for value in column]
            start = [f"{x:.6f}", f"{y:.6f}", f"{degrees:.6f}"]
            flags = [str(int(not thing.truncated)), str(int(thing.difficult))]
            kind = numbers[thing.label]
            lines.append(" ".join([*start, f"{kind}", *flags, *outline]))
            whole.append(" ".join([image_id, *start, *outline, f"{kind:03d}", *flags]))
        if number == 3:
            lines.append("12.5 14.5 0.1 1 1 0")  # without corners
        write_lines(own / f"{image_id}.txt", lines)
    write_lines(own / "annotation512.txt", whole)
    for fold in range(1, 11):
        write_lines(own / f"fold{fold:02d}.txt", LEARNED)
        write_lines(own / f"fold{fold:02d}test.txt", TESTED)
    _make_halves(devkit / "ImageSets", {image_id: counts[image_id] for image_id in LEARNED})


def _make_halves(folder: Path, counts: dict[str, Counter[str]]) -> None:
    """The lists that tools/split.py makes of fold 1."""
    for name, ids in make_splits(counts, [1 / 2]).items():
        write_lines(folder / name / "trainval.txt", ids)
