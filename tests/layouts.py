"""Folders of data as tools and users leave them, for tests of what is found by looking."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image

from image_files import HEIGHT, WIDTH
from multas.data import register_card

PHOTO = object()
BOX = "0 0.5 0.5 0.5 0.5\n"
CSV_HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
CSV_SIZE = f"{WIDTH},{HEIGHT}"
CSV_ROWS = (
    f"a.png,{CSV_SIZE},dog,2,3,20,13\na.png,{CSV_SIZE},cat,0,0,9,9\nb.png,{CSV_SIZE},cat,1,1,5,6\n"
)
RNG = np.random.default_rng(0)


def voc(*names):
    part = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{part}</object>" for name in names)
    return f"<annotation>{objects}</annotation>"


def coco(files, categories=("cat", "dog"), **more):
    images = [
        {"id": i, "file_name": f, "width": WIDTH, "height": HEIGHT} for i, f in enumerate(files)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 9, 8], "area": 72, "iscrowd": 0}
        for i in range(len(files))
    ]
    table = [{"id": i, "name": name} for i, name in enumerate(categories, start=1)]
    return {"images": images, "annotations": boxes, "categories": table, **more}


def shape(kind, *points, label="cat", **keys):
    """A shape as LabelMe writes it."""
    points = [list(point) for point in points]
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, **keys}


def labelme(*shapes, **keys):
    """The content of a file of LabelMe."""
    head = {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imageData": None}
    return {**head, "imageHeight": HEIGHT, "imageWidth": WIDTH, **keys}


RECTANGLE = shape("rectangle", (2, 3), (20, 13))


def mask(*values):
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[5 : 5 + len(values), 3:9] = np.array(values)[:, None]
    return pixels


def photos(pattern, *names):
    return {pattern.format(name): PHOTO for name in names}


def texts(pattern, *names):
    return {pattern.format(name): BOX for name in names}


def lay_out(folder: Path, files: dict[str, Any]) -> Path:
    """Make a folder: photographs, masks (arrays), JSON, YAML, texts."""
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is PHOTO:
            pixels = RNG.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(file)
        elif isinstance(content, np.ndarray):
            Image.fromarray(content).save(file)
        elif isinstance(content, str):
            file.write_text(content)
        else:
            dump = json.dumps if path.endswith(".json") else yaml.safe_dump
            file.write_text(dump(content))
    return folder


def sizes(card):
    """The number of images of each split of a card, and of annotated ones among them."""
    register_card(card)
    found = {}
    for split in card["splits"]:
        records = DatasetCatalog.get(f"{card['name']}_{split}")
        keys = ("annotations", "sem_seg_file_name", "label")
        found[split] = (len(records), sum(any(k in r for k in keys) for r in records))
    return found
