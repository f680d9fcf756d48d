"""A miniature of Cityscapes, fine annotations.

The format: README.md of cityscapesScripts
(leftImg8bit/<split>/<city>/<city>_<seq>_<frame>_ leftImg8bit.png, gtFine/… with _gtFine_color,
_instanceIds, _labelIds and _polygons.json), its helpers/labels.py (numbers, train ids, 255 where a
label has none, "license plate" of number -1), helpers/annotation.py (imgHeight, imgWidth, objects
with label, polygon and, where removed, deleted), preparation/json2labelImg.py (later polygons
cover earlier ones), json2instanceImg.py (16-bit PNG, 1000 · number + count, and the bare number
for groups, whose labels end in "group") and createTrainIdLabelImgs.py (_labelTrainIds.png, which
the archives lack). Images have 2048 x 1024 pixels.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image

from reproduction.miniatures.pictures import Picture, draw, save, write

SIZE = (2048, 1024)
PARTS = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313",
              "zurich_000121_000019"],
    "val": ["frankfurt_000000_000294", "munster_000173_000019"],
}  # fmt: skip
# Labels without a train id, by their numbers (helpers/labels.py).
IGNORED = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
}
THINGS = [entry for entry in CITYSCAPES_CATEGORIES if entry["isthing"]]
STUFF = [entry for entry in CITYSCAPES_CATEGORIES if not entry["isthing"]]
IDS = {entry["name"]: entry["id"] for entry in CITYSCAPES_CATEGORIES} | IGNORED


def make_cityscapes(root: Path) -> None:
    """Make cityscapes in the folder ``root``."""
    number = 0
    for part, names in PARTS.items():
        for name in names:
            city = name.partition("_")[0]
            picture = draw(number, SIZE, len(THINGS))
            folders = [
                root / "cityscapes" / kind / part / city for kind in ("leftImg8bit", "gtFine")
            ]
            save(folders[0] / f"{name}_leftImg8bit.png", picture.image, compress_level=1)
            _make_labels(folders[1], f"{name}_gtFine", _polygons(picture))
            number += 1


def _polygons(picture: Picture) -> list[dict]:
    """The objects of a file, from back to front."""
    width, height = SIZE
    objects = [_rectangle("out of roi", 0, 0, width, height)]
    for i, entry in enumerate(STUFF):  # bands that cover all but the border
        left = 5 + i * (width - 10) // len(STUFF)
        right = 5 + (i + 1) * (width - 10) // len(STUFF)
        objects.append(_rectangle(entry["name"], left, 5, right, height - 5))
    for i, thing in enumerate(picture.things):
        label = THINGS[thing.label]["name"] + ("group" if i == 3 else "")
        for part in thing.polygons:
            objects.append({"label": label, "polygon": part.tolist()})
    objects.append({**_rectangle("car", 30, 30, 90, 90), "deleted": 1})
    objects.append(_rectangle("license plate", 500, 500, 540, 512))
    objects.append(_rectangle("ego vehicle", 0, height - 60, width, height))
    return objects


def _rectangle(label: str, x0: int, y0: int, x1: int, y1: int) -> dict:
    return {"label": label, "polygon": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}


@dataclass
class _Maps:
    """Label maps, painted polygon after polygon."""

    ids: np.ndarray = field(default_factory=lambda: np.zeros(SIZE[::-1], np.uint8))
    instances: np.ndarray = field(default_factory=lambda: np.zeros(SIZE[::-1], np.int32))
    counts: dict[str, int] = field(default_factory=dict)

    def paint(self, label: str, polygon: list) -> None:
        if label not in IDS and not label.endswith("group"):
            return  # "license plate" has a number below 0, which is not drawn
        name = label.removesuffix("group")
        value, outline = IDS[name], [np.array(polygon, np.int32)]
        cv2.fillPoly(self.ids, outline, value)
        if name in {entry["name"] for entry in THINGS} and name == label:
            count = self.counts[name] = self.counts.get(name, -1) + 1
            cv2.fillPoly(self.instances, outline, 1000 * value + count)
        else:
            cv2.fillPoly(self.instances, outline, value)


def _make_labels(folder: Path, name: str, objects: list[dict]) -> None:
    maps = _Maps()
    for entry in objects:
        if "deleted" not in entry:
            maps.paint(entry["label"], entry["polygon"])
    train_ids, colours = np.full(256, 255, np.uint8), np.zeros((256, 3), np.uint8)
    for entry in CITYSCAPES_CATEGORIES:
        train_ids[entry["id"]], colours[entry["id"]] = entry["trainId"], entry["color"]
    save(folder / f"{name}_labelIds.png", maps.ids)
    save(folder / f"{name}_labelTrainIds.png", train_ids[maps.ids])
    save(folder / f"{name}_color.png", colours[maps.ids])
    save(folder / f"{name}_instanceIds.png", Image.fromarray(maps.instances.astype(np.uint16)))
    content = {"imgHeight": SIZE[1], "imgWidth": SIZE[0], "objects": objects}
    write(folder / f"{name}_polygons.json", json.dumps(content, indent=4))
