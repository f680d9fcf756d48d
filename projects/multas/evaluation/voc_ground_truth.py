"""Ground truth for the VOC evaluator, from a VOC devkit or from Detectron2 dataset dicts."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from multas.util.errors import UserError
from multas.util.id_lists import read_id_list
from multas.util.voc_xml import read_voc_xml


@dataclass(frozen=True)
class GroundTruth:
    """All G objects of a data set as flat arrays.

    Attributes:
        image_index: image id -> number of the image, for annotated images.
        unannotated: ids of images without annotation; predictions there do not count.
        image: (G,) int64 number of the image.
        category: (G,) int64 contiguous class id.
        boxes: (G, 4) float64 XYXY, pixels, 1-based and inclusive as in VOC files.
        difficult: (G,) bool; a detection of a difficult object does not count.
    """

    image_index: dict[str, int]
    unannotated: frozenset[str]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray


def image_set_file(dirname: str, split: str) -> str:
    """Path of the file with the image ids of a split in a VOC devkit."""
    return os.path.join(dirname, "ImageSets", "Main", f"{split}.txt")


def ground_truth_of(dataset_name: str, class_names: Sequence[str]) -> GroundTruth:
    """The ground truth of a registered data set.

    It is read from the VOC devkit that ``dirname`` and ``split`` of the metadata name, if there is
    one, otherwise from the dataset dicts.

    Raises:
        FileNotFoundError, UserError: see :func:`read_devkit`.
    """
    meta = MetadataCatalog.get(dataset_name)
    dirname, split = meta.get("dirname"), meta.get("split")
    named = dirname is not None and split is not None
    if named and PathManager.isfile(image_set_file(dirname, split)):
        return read_devkit(dirname, split, class_names)
    return from_dataset_dicts(DatasetCatalog.get(dataset_name))


def read_devkit(dirname: str, split: str, class_names: Sequence[str]) -> GroundTruth:
    """Read the XML annotations of the images in ``ImageSets/Main/<split>.txt``.

    An image that is listed twice counts once. Objects of other classes than ``class_names`` are
    skipped, as in Detectron2's evaluator. Objects without ``difficult`` are not difficult.

    Raises:
        FileNotFoundError: the list or an annotation file does not exist.
        UserError: an annotation file is not valid XML or lacks a box.
    """
    listed = read_id_list(PathManager.get_local_path(image_set_file(dirname, split)))
    names = dict.fromkeys(image_id for _, image_id in listed)
    # One local copy of the folder is faster than many remote reads.
    folder = PathManager.get_local_path(os.path.join(dirname, "Annotations/"))
    class_ids = {name: number for number, name in enumerate(class_names)}
    image_index = {name: number for number, name in enumerate(names)}
    rows = [
        (number, *row)
        for name, number in image_index.items()
        for row in _read_objects(os.path.join(folder, f"{name}.xml"), class_ids)
    ]
    return _pack(image_index, frozenset(), rows)


def _read_objects(path: str, class_ids: dict[str, int]) -> list[tuple]:
    """(category, difficult, x1, y1, x2, y2) of each object in an XML file."""
    try:
        with PathManager.open(path, "rb") as file:
            objects = read_voc_xml(file, class_ids).objects
    except UserError as error:
        raise UserError(
            f"{path} is not a valid VOC annotation ({error}); each <object> needs a <bndbox> "
            "with xmin, ymin, xmax, ymax."
        ) from error
    for number, entry in enumerate(objects):
        if not all(map(math.isfinite, entry.box)):
            raise UserError(f"{path}: object {number} ({entry.name}) has no finite <bndbox>.")
    return [(class_ids[entry.name], entry.difficult, *entry.box) for entry in objects]


def from_dataset_dicts(dicts: Sequence[dict]) -> GroundTruth:
    """Take the ground truth from Detectron2's dataset dicts, for sets that are not VOC devkits.

    Adding 1 to x1 and y1 turns continuous coordinates into 1-based inclusive pixels. Objects with
    ``difficult`` or ``iscrowd`` are difficult. Images without the key ``annotations`` are not
    annotated.
    """
    annotated = [record for record in dicts if "annotations" in record]
    rows = []
    for number, record in enumerate(annotated):
        for item in record["annotations"]:
            box = BoxMode.convert(list(item["bbox"]), item["bbox_mode"], BoxMode.XYXY_ABS)
            neutral = bool(item.get("difficult", 0)) or bool(item.get("iscrowd", 0))
            corners = (box[0] + 1, box[1] + 1, box[2], box[3])
            rows.append((number, item["category_id"], neutral, *corners))
    index = {str(record["image_id"]): number for number, record in enumerate(annotated)}
    others = (str(record["image_id"]) for record in dicts if "annotations" not in record)
    return _pack(index, frozenset(others), rows)


def _pack(image_index: dict[str, int], unannotated: frozenset[str], rows: list) -> GroundTruth:
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 7)
    return GroundTruth(
        image_index=image_index,
        unannotated=unannotated,
        image=table[:, 0].astype(np.int64),
        category=table[:, 1].astype(np.int64),
        difficult=table[:, 2].astype(bool),
        boxes=np.ascontiguousarray(table[:, 3:]),
    )
