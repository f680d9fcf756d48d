"""A miniature of Cityscapes, fine annotations.

What cityscapesScripts (mcordts/cityscapesScripts) says:

- README.md: "{root}/{type}{video}/{split}/{city}/{city}_{seq:0>6}_{frame:0>6}_{type}{ext}", of the
  types gtFine and leftImg8bit; "Annotations are encoded using `json` files containing the
  individual polygons. Additionally, we provide `png` images, where pixel values encode labels."
- helpers/labels.py, with the numbers, train ids and colours: "An ID of -1 means that this label
  does not have an ID and thus is ignored when creating ground truth images (e.g. license plate)."
  The train id of what has no class is 255.
- helpers/annotation.py reads imgWidth, imgHeight and objects, each with label and polygon, perhaps
  with deleted, user and date. preparation/json2labelImg.py: "If the object is deleted, skip it";
  it paints one object after the other, ids in 8 bits and colours as RGBA.
- preparation/json2instanceImg.py: "The integer part of a division by 1000 of each ID provides the
  class ID, as described in labels.py. The remainder is the instance ID." "A group of cars, where
  our annotators could not identify the individual instances anymore, is assigned to the ID 26."
  Labels of groups end in "group". Pillow writes such images as PNG files of 16 bits.
- preparation/createTrainIdLabelImgs.py: "The Cityscapes downloads already include such images" as
  color, labelIds and instanceIds; "With this tool, you can generate option d) *labelTrainIds.png".

Not checked against a document: that images have 2048 x 1024 pixels, and whether the published files
have any deleted objects.
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
    train_ids, colours = np.full(256, 255, np.uint8), np.zeros((256, 4), np.uint8)
    colours[:, 3] = 255  # opaque
    for entry in CITYSCAPES_CATEGORIES:
        train_ids[entry["id"]], colours[entry["id"], :3] = entry["trainId"], entry["color"]
    save(folder / f"{name}_labelIds.png", maps.ids)
    save(folder / f"{name}_labelTrainIds.png", train_ids[maps.ids])
    save(folder / f"{name}_color.png", colours[maps.ids])
    save(folder / f"{name}_instanceIds.png", Image.fromarray(maps.instances.astype(np.uint16)))
    content = {"imgHeight": SIZE[1], "imgWidth": SIZE[0], "objects": objects}
    write(folder / f"{name}_polygons.json", json.dumps(content, indent=4))
