"""A miniature of VEDAI, Vehicle Detection in Aerial Imagery.

- Razakarivony and Jurie, Vehicle Detection in Aerial Imagery: A small target detection benchmark,
  Table 4, on annotation512.txt: "This file contains, for each target and from left to right (one
  target per line), the image ID, the coordinates of the center in the image, the orientation of the
  vehicle, the 4 coordinates of the 4 corners, the class name, a flag stating if the target is
  entirely contained in the image, a flag stating if the vehicle is occluded."
- The development kit was not at hand. Those who convert the files agree on the columns of an
  image's own file (x and y of the center, orientation, class, contained, occluded, four x, four y),
  on the numbers of the classes, and on fold01.txt and fold01test.txt to fold10test.txt beside them.
  A copy of one (mr8bit/vedai, annotations/00000000.txt, of the larger images) reads "580.697942
  1009.223279 3.012318 2 1 0 554 605 607 558 1004 996 1016 1021": orientations are radians.
- Vehicules512 has <id>_co.png (colour) and <id>_ir.png (infrared). Ids have gaps. A converter
  counts four images whose own files have lines of five numbers: center, class and flags, without
  orientation and corners.

Classes of the card are eight of the eleven. Not checked against a document: how annotation512.txt
writes the classes (here 001), and whether it has the corners of those four images.
"""

import math
from collections import Counter
from pathlib import Path

import cv2

from multas.data.formats.vedai import CLASSES
from multas.data.splits.make import make_splits
from reproduction.miniatures.pictures import draw, save, write_lines

SIZE = (512, 512)
LEARNED = [f"{number:08d}" for number in range(0, 24, 2)]
TESTED = [f"{number:08d}" for number in range(1, 9, 2)]
WITHOUT_CORNERS = LEARNED[3]


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
            start = [f"{x:.6f}", f"{y:.6f}", f"{math.radians(degrees):.6f}"]
            flags = [str(int(not thing.truncated)), str(int(thing.difficult))]
            kind = numbers[thing.label]
            words = [*start, f"{kind}", *flags, *outline]
            if image_id == WITHOUT_CORNERS:
                words = [*start[:2], f"{kind}", *flags]
            lines.append(" ".join(words))
            whole.append(" ".join([image_id, *start, *outline, f"{kind:03d}", *flags]))
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
