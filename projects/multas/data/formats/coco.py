"""COCO detection format: one JSON file with images, annotations and categories."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from multas.data.formats.folder import image_record
from multas.data.issues import DatasetError, DatasetIssues

# COCO's own boxes are rounded to 1/100 pixel and may overshoot by as much; a whole pixel is no
# slip.
_OVERSHOOT = 1.0


@dataclass(frozen=True)
class CocoClasses:
    """Classes of a data set: `class_ids` maps the file's category ids to indices into `names`.

    `in_file_order` is false where the card orders or selects the classes differently from the file.
    Detectron2's COCO evaluator names results by the file's order, so the file must then not serve
    as its ground truth.
    """

    names: tuple[str, ...]
    class_ids: dict[int, int]
    in_file_order: bool


def read_json(file: str | Path) -> dict:
    """Read a COCO annotation file.

    Raises:
        DatasetError: it is missing, no JSON, or lacks one of the three tables.
    """
    try:
        content = json.loads(Path(file).read_text())
        missing = {"images", "annotations", "categories"} - content.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise DatasetError(f"{file}: not a readable COCO annotation file ({error})") from None
    if missing:
        raise DatasetError(f"{file}: lacks the table(s) {', '.join(sorted(missing))}")
    return content


def match_classes(
    categories: Sequence[dict], wanted: Sequence[str] | None, file: str, issues: DatasetIssues
) -> CocoClasses:
    """Find the order of the classes: the card's `wanted`, else that of the file's category ids."""
    ids = {
        entry["name"]: entry["id"] for entry in sorted(categories, key=lambda entry: entry["id"])
    }
    if wanted is None:
        wanted = tuple(ids)
    for name in wanted:
        if name not in ids:
            near = get_close_matches(name, ids, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            issues.add(file, f"has no category {name!r}{hint}")
    for name in ids:
        if name not in wanted:
            issues.add(file, f"category {name!r} is not among the card's classes")
    in_file = [name for name in ids if name in wanted]
    in_card = [name for name in wanted if name in ids]
    if in_file != in_card:
        first = next(pair for pair in zip(in_card, in_file, strict=True) if pair[0] != pair[1])
        issues.add(
            file, f"class order: the card has {first[0]!r} where the category ids have {first[1]!r}"
        )
    class_ids = {ids[name]: index for index, name in enumerate(wanted) if name in ids}
    return CocoClasses(tuple(wanted), class_ids, list(wanted) == list(ids))


def load_coco(
    content: dict,
    file: str,
    image_dir: str | Path,
    ids: Sequence[str] | None,
    classes: CocoClasses,
    issues: DatasetIssues,
) -> list[dict]:
    """Detectron2 dicts of the images of a COCO file; one without objects has `annotations: []`.

    Args:
        content: of the annotation `file`.
        file: its path, for messages.
        image_dir: folder to which the file's `file_name`s are relative.
        ids: file names without extension, which images in which order; None for all, by image id.
        classes: from `match_classes`; objects of other categories are left out.
        issues: receives what is wrong, see `load_voc`.
    """
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    entries = {entry["id"]: entry for entry in content["images"]}
    objects: dict[int, list[dict]] = {image_id: [] for image_id in entries}
    for annotation in content["annotations"]:
        if annotation["image_id"] in objects:
            objects[annotation["image_id"]].append(annotation)
        else:
            issues.add(
                file, f"annotation {annotation['id']}: there is no image {annotation['image_id']}"
            )
    records = []
    for entry in _select(content["images"], ids, file, issues):
        path = Path(image_dir) / entry["file_name"]
        record = image_record(entry["id"], str(path), issues)
        if record is None:
            continue
        size = (record["width"], record["height"])
        if size != (entry["width"], entry["height"]):
            issues.add(
                f"{file}: {entry['file_name']}",
                "listed as {}x{}, but the image is {}x{}".format(
                    entry["width"], entry["height"], *size
                ),
            )
            continue
        annotations, faulty = [], False
        for annotation in objects[entry["id"]]:
            category = annotation["category_id"]
            where = f"{file}: {entry['file_name']}: annotation {annotation['id']}"
            if category not in names:
                issues.add(where, f"unknown category id {category}")
            elif category in classes.class_ids:
                fault = _annotation_fault(annotation, size)
                if fault:
                    issues.add(f"{where} ({names[category]})", fault)
                    faulty = True
                else:
                    annotations.append(_convert(annotation, classes.class_ids[category]))
        # An image whose objects are there but have no usable box must not pass for background.
        if annotations or not faulty:
            records.append({**record, "annotations": annotations})
    return records


def _select(
    images: Sequence[dict], ids: Sequence[str] | None, file: str, issues: DatasetIssues
) -> list[dict]:
    """The wanted image entries, each image once."""
    by_id: dict[int, dict] = {}
    by_stem: dict[str, dict] = {}
    for entry in images:
        stem = Path(entry["file_name"]).with_suffix("").as_posix()
        if entry["id"] in by_id or stem in by_stem:
            issues.add(file, f"image {entry['id']} ({entry['file_name']}) is listed twice")
        else:
            by_id[entry["id"]] = by_stem[stem] = entry
    if ids is None:
        return [by_id[key] for key in sorted(by_id)]
    for image_id in ids:
        if image_id not in by_stem:
            issues.add(file, f"has no image {image_id}")
    return [by_stem[image_id] for image_id in ids if image_id in by_stem]


def _annotation_fault(annotation: dict, size: tuple[int, int]) -> str | None:
    x, y, width, height = annotation["bbox"]
    text = f"box x {x:g}, y {y:g}, w {width:g}, h {height:g}"
    if not (width > 0 and height > 0):
        return f"{text} has no area"
    beyond = max(-x, -y, x + width - size[0], y + height - size[1])
    if beyond > _OVERSHOOT:
        return f"{text} leaves the image of {size[0]}x{size[1]}"
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation and not _valid_polygons(segmentation):
        return "segmentation has no polygon of three or more corners"
    return None


def _valid_polygons(segmentation: list) -> list:
    return [polygon for polygon in segmentation if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _convert(annotation: dict, category_id: int) -> dict:
    converted = {
        "category_id": category_id,
        "bbox": [float(value) for value in annotation["bbox"]],
        "bbox_mode": BoxMode.XYWH_ABS,
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = _valid_polygons(segmentation)
    elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *segmentation["size"])
    if segmentation:
        converted["segmentation"] = segmentation
    return converted
