"""A miniature of COCO 2017.

- "Data format" at cocodataset.org: "The segmentation format depends on whether the instance
  represents a single object (iscrowd=0 in which case polygons are used) or a collection of objects
  (iscrowd=1 in which case RLE is used). Note that a single object (iscrowd=0) may require multiple
  polygons, for example if occluded." "an enclosing bounding box is provided for each object (box
  coordinates are measured from the top left image corner and are 0-indexed)", as
  "[x,y,width,height]". It also has the keys of images and categories that are written here.
- PythonAPI/pycocotools/mask.py of cocodataset/cocoapi: "given M=[0 0 1 1 1 0 1] the RLE counts
  would be [2 3 1 1], or for M=[1 1 1 1 1 1 0] the counts would be [0 6 1] (note that the odd counts
  are always the numbers of zeros)", of masks "in column-major order"; "Polygon stored as
  [[x1 y1 x2 y2...],[x1 y1 ...],...]".
- The numbers of the 80 categories, of 1 to 90, are those of Detectron2's builtin_meta.py. Logs of
  trainings on train2017 have "Removed 1021 images with no usable annotations": these show nothing.
- The object without height is one of image 200365 of train2017, as others quote it from the file.

Not checked against a document: that names have twelve digits, as in all copies of the files, and
that some images are grey.
"""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from reproduction.miniatures.pictures import Picture, draw, save, write

PARTS = {"train2017": [9, 25, 30, 34, 36, 42, 49, 61], "val2017": [139, 285, 632]}
SIZES = ((640, 480), (640, 427), (480, 640), (500, 375))


def make_coco(root: Path) -> None:
    """Make coco in the folder ``root``."""
    categories = [
        {"supercategory": "thing", "id": entry["id"], "name": entry["name"]}
        for entry in COCO_CATEGORIES
        if entry["isthing"]
    ]
    start = 0
    for part, ids in PARTS.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, image_id in enumerate(ids, start=start):
            size, name = SIZES[number % len(SIZES)], f"{image_id:012d}.jpg"
            picture = draw(number, size, len(categories))
            gray = number == 2
            pixels = cv2.cvtColor(picture.image, cv2.COLOR_RGB2GRAY) if gray else picture.image
            save(root / "coco" / part / name, pixels, quality=90)
            images.append(
                {
                    "license": 3,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{part}/{name}",
                    "height": size[1],
                    "width": size[0],
                    "date_captured": "2013-11-14 11:18:45",
                    "flickr_url": f"http://farm9.staticflickr.com/{image_id}_z.jpg",
                    "id": image_id,
                }
            )
            if number != 1:  # which shows nothing
                annotations += _annotations(picture, image_id, categories, 100 * number)
            if number in (3, len(PARTS["train2017"])):
                annotations.append(_flat(image_id, categories[0]["id"], 100 * number + 50))
        start += len(ids)
        content = {
            "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
            "licenses": [
                {"url": "", "id": 3, "name": "Attribution-NonCommercial-NoDerivs License"}
            ],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        write(root / "coco" / "annotations" / f"instances_{part}.json", json.dumps(content))


def _annotations(
    picture: Picture, image_id: int, categories: list[dict[str, Any]], first_id: int
) -> list[dict[str, Any]]:
    found = []
    for number, thing in enumerate(picture.things):
        x0, y0, x1, y1 = thing.box
        crowd = number == 2
        polygons = [part.ravel().astype(float).tolist() for part in thing.polygons]
        found.append(
            {
                "segmentation": _run_lengths(thing.pixels) if crowd else polygons,
                "area": float(np.count_nonzero(thing.pixels)),
                "iscrowd": int(crowd),
                "image_id": image_id,
                "bbox": [float(value) for value in (x0, y0, x1 - x0, y1 - y0)],
                "category_id": categories[thing.label]["id"],
                "id": first_id + number + 1,
            }
        )
    return found


def _flat(image_id: int, category_id: int, annotation_id: int) -> dict[str, Any]:
    """An object without height."""
    return {
        "segmentation": [[296.65, 388.33, 296.65, 388.33, 297.68, 388.33, 297.68, 388.33]],
        "area": 0.0,
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": [296.65, 388.33, 1.03, 0.0],
        "category_id": category_id,
        "id": annotation_id,
    }


def _run_lengths(pixels: np.ndarray) -> dict[str, Any]:
    """The lengths of runs of 0, 1, 0, … of the columns one after the other."""
    flat = pixels.ravel(order="F").tolist()
    runs = [(value, len(list(run))) for value, run in groupby(flat)]
    counts = [length for _, length in runs]
    return {"counts": counts if not runs[0][0] else [0, *counts], "size": list(pixels.shape)}
