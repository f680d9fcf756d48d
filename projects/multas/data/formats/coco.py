"""COCO detection format: one JSON file with images, annotations and categories."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    remark_copies,
)
from multas.data.formats.coco_file import (
    Tables,
    read_coco_file,
    segmentation_fault,
    valid_polygons,
)
from multas.data.image_files import image_record
from multas.data.issues import DatasetError, DatasetIssues, or_rather
from multas.data.json_files import is_number
from multas.util.annotation import BOXES
from multas.util.errors import UserError
from multas.util.sizes import are_fractions

# COCO's own boxes are rounded to 1/100 pixel and may leave the image by as much. What leaves it by
# more than a whole pixel is an error.
_OVERSHOOT = 1.0
_LEAST_SIDE = 0.01  # of a box, in pixels
_MAX_AREA = 1e10  # that of pycocotools


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Coco(DataFormat):
    """The images of the annotation file ``json``; one without objects has ``annotations: []``.

    The file's ``file_name`` s are relative to ``images``. The ids of a list are file names without
    extension; without a list the images come in the order of their ids.
    """

    main_key = "json"
    can_annotate = (BOXES,)

    json: str = ""
    annotates: tuple[str, ...] = (BOXES.task,)

    def __post_init__(self) -> None:
        if self.annotates and not self.json:
            raise UserError("key 'json' is missing")

    def load(self, source: Source) -> Loaded:
        file, issues = str(source.root / self.json), source.issues
        content, faulty_images, has_group = read_coco_file(file, issues)
        if are_fractions(entry["bbox"] for entry in content["annotations"]):
            raise DatasetError(
                f"{file}: all boxes lie in the first pixel, as fractions of the image's size do; "
                "`bbox` must be x, y, width and height in pixels"
            )
        in_file = sorted(content["categories"], key=lambda entry: entry["id"])
        names = {entry["id"]: entry["name"] for entry in in_file}
        classes, class_ids = _match_classes(names, source, file)
        objects = _objects_by_image(content, file, issues)
        records = []
        for entry in _select(content["images"], source.ids, file, issues):
            where = f"{file}: {entry['file_name']}"
            image = str(source.root / self.images / entry["file_name"])
            record = image_record(entry["id"], image, issues)
            if record is None:
                continue
            listed, size = (entry["width"], entry["height"]), (record["width"], record["height"])
            if listed != size:
                what = "listed as {}x{}, but the image is {}x{}"
                issues.add(where, what.format(*listed, *size))
                continue
            own = _convert_all(objects[entry["id"]], names, class_ids, size, where, source)
            # An image whose objects are there but have no usable box must not pass for background.
            if own or (own is not None and entry["id"] not in faulty_images):
                remark_copies(own, where, issues)
                records.append({**record, "annotations": own})
        metadata = self.class_metadata(classes)
        # Detectron2's evaluator names results by the order of the file. Where that is another one,
        # or records or categories are fewer, or pycocotools would miss a key, it must write a file
        # from the records.
        is_whole = not issues.faults and len(records) == len(content["images"])
        is_whole = is_whole and not has_group and _can_be_evaluated(content)
        if is_whole and list(classes) == list(names.values()):
            metadata["json_file"] = file
            metadata["thing_dataset_id_to_contiguous_id"] = class_ids
        return records, metadata

    def load_unlabeled(self, source: Source) -> Loaded:
        if source.ids is None:
            self._refuse_shared_folder(source)
        records, metadata = super().load_unlabeled(source)
        for record in records:
            # The file names of COCO are its ids with leading zeros; pseudo-labels go by ids.
            stem = Path(record["file_name"]).stem
            record["image_id"] = int(stem) if stem.isdecimal() else stem
        return records, metadata

    def _refuse_shared_folder(self, source: Source) -> None:
        """The whole folder would mix in the images of other splits, perhaps of a test split."""
        shared = [
            other.name
            for other in source.splits
            if isinstance(other, Coco) and other.images == self.images
            if other.json not in ("", self.json) and other.name not in self.without
        ]
        if shared:
            others, cure = ", ".join(shared), f"leave theirs out: `without: [{', '.join(shared)}]`"
            if self.json:
                list_of = f"{self.name}: {{json: {self.json}, ids: …}}"
                cure = f"to use it unlabelled, name its images by a list: {list_of}"
            place = source.root / self.images
            raise DatasetError(f"{source.where} shares the folder {place} with {others}; {cure}")


def _match_classes(
    names: Mapping[int, str], source: Source, file: str
) -> tuple[Sequence[str], dict[int, int]]:
    """Names of the classes, in the order of the card or else of the file's category ids.

    Returns also the index of each category id of the file among them.
    """
    ids = {name: number for number, name in names.items()}
    wanted = tuple(ids) if source.classes is None else source.classes
    if source.only is None:
        _compare_classes(tuple(ids), wanted, file, source.issues)
    return wanted, {ids[name]: index for index, name in enumerate(wanted) if name in ids}


def _compare_classes(
    in_file: Sequence[str], wanted: Sequence[str], file: str, issues: DatasetIssues
) -> None:
    """Report where the classes of a file, in the order of their ids, are not those of the card."""
    for name in wanted:
        if name not in in_file:
            issues.add(file, f"has no category {name!r}{or_rather(name, in_file)}")
    for name in in_file:
        if name not in wanted:
            issues.add(file, f"category {name!r} is not among the card's classes")
    theirs = [name for name in in_file if name in wanted]
    ours = [name for name in wanted if name in in_file]
    for our, their in [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]][:1]:
        what = f"the card has {our!r} where the category ids have {their!r}"
        issues.add(file, f"class order: {what}")


def _can_be_evaluated(content: Tables) -> bool:
    """Whether the annotations have what pycocotools needs beside what is needed here."""
    entries = content["annotations"]
    # What is outside of all ranges of areas would not count at all.
    return all("iscrowd" in e and is_number(e.get("area")) for e in entries) and all(
        0 <= e["area"] <= _MAX_AREA for e in entries
    )


def _objects_by_image(content: Tables, file: str, issues: DatasetIssues) -> dict[int, list[dict]]:
    objects: dict[int, list[dict]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        if image_id in objects:
            objects[image_id].append(annotation)
        else:
            where = f"annotation {annotation['id']}"
            issues.add(file, f"{where}: there is no image {image_id!r}")
    return objects


def _select(
    images: Sequence[dict], ids: Sequence[str] | None, file: str, issues: DatasetIssues
) -> list[dict]:
    """The wanted image entries, each image once."""
    by_id: dict[int, dict] = {}
    by_stem: dict[str, dict] = {}
    for entry in images:
        stem = os.path.splitext(Path(entry["file_name"]).as_posix())[0]
        same = by_id.get(entry["id"]) or by_stem.get(stem)
        if same is not None:
            image, other = f"image {entry['id']} ({entry['file_name']})", same["file_name"]
            is_copy = same["id"] == entry["id"] or other == entry["file_name"]
            rename = f"has the id of {other}, as ids have no extension; rename it"
            issues.add(file, f"{image} {'is listed twice' if is_copy else rename}")
        else:
            by_id[entry["id"]] = by_stem[stem] = entry
    if ids is None:
        return [by_id[key] for key in sorted(by_id)]
    for image_id in ids:
        if image_id not in by_stem:
            issues.add(file, f"has no image {image_id}")
    return [by_stem[image_id] for image_id in ids if image_id in by_stem]


def _convert_all(
    objects: Sequence[dict],
    names: Mapping[int, str],
    class_ids: Mapping[int, int],
    size: tuple[int, int],
    where: str,
    source: Source,
) -> list[dict] | None:
    """Detectron2's annotations of an image, or None if there are objects but all are faulty."""
    annotations, faulty = [], False
    for annotation in objects:
        category = annotation["category_id"]
        place = f"{where}: annotation {annotation['id']}"
        if category not in names:
            source.issues.add(place, f"unknown category id {category!r}")
            faulty = True
        elif not source.leaves_out(names[category]) and category in class_ids:
            if fault := _annotation_fault(annotation, size):
                source.issues.add(f"{place} ({names[category]})", fault)
                faulty = True
            else:
                annotations.append(_convert(annotation, class_ids[category]))
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations


def _annotation_fault(annotation: dict, size: tuple[int, int]) -> str | None:
    fault = box_fault(annotation["bbox"], size)
    return fault or segmentation_fault(annotation.get("segmentation"), size)


def box_fault(box: Sequence[float], size: tuple[int, int]) -> str | None:
    """What is wrong with a box x, y, width, height in an image of (width, height), or None."""
    x, y, width, height = box
    text = f"box x {x:g}, y {y:g}, w {width:g}, h {height:g}"
    if min(width, height) < _LEAST_SIDE:
        return f"{text} has no area"
    if max(-x, -y, x + width - size[0], y + height - size[1]) > _OVERSHOOT:
        return f"{text} leaves the image of {size[0]}x{size[1]}"
    return None


def _convert(annotation: dict, category_id: int) -> dict:
    converted = {
        "category_id": category_id,
        "bbox": [float(value) for value in annotation["bbox"]],
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = valid_polygons(segmentation)
    elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    if segmentation:
        converted["segmentation"] = segmentation
    return converted
