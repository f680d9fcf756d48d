"""Pascal VOC format: one XML file per image, 1-based inclusive boxes, palette masks."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from detectron2.structures import BoxMode

from multas.data.formats.folder import load_images
from multas.data.formats.masks import NO_MASK, MaskFolders
from multas.data.issues import DatasetIssues

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("difficult", "truncated")
_NO_BOXES = "no boxes"


@dataclass(frozen=True)
class VocObject:
    """One object of an XML file; `box` is (xmin, ymin, xmax, ymax) as written: 1-based,
    inclusive."""

    name: str
    box: tuple[float, float, float, float]
    difficult: int
    truncated: int


@dataclass(frozen=True)
class VocAnnotation:
    """`size` is (width, height) in pixels, None where the file does not say."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_xml(file: str | Path) -> VocAnnotation:
    """Read one annotation file.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: it is no XML, or an object lacks its name or box.
    """
    try:
        root = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"not an XML file ({error})") from None
    objects = []
    for number, node in enumerate(root.iter("object")):
        name = (node.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"object {number} has no name")
        # A missing element reads as "", which is no number either.
        xmin, ymin, xmax, ymax = (node.findtext(f"bndbox/{key}") or "" for key in _CORNERS)
        try:
            box = (float(xmin), float(ymin), float(xmax), float(ymax))
            difficult, truncated = (int(node.findtext(key) or 0) for key in _FLAGS)
        except ValueError:
            raise ValueError(f"object {number} has no complete box") from None
        objects.append(VocObject(name, box, difficult, truncated))
    try:
        size = (int(root.findtext("size/width") or ""), int(root.findtext("size/height") or ""))
    except ValueError:
        size = None
    return VocAnnotation(size, tuple(objects))


def find_classes(annotation_dir: str | Path, ids: Sequence[str]) -> list[str]:
    """Sorted names of all classes in the annotations of `ids`; files that cannot be read do not
    count."""
    names: set[str] = set()
    for image_id in ids:
        try:
            annotation = read_xml(Path(annotation_dir) / f"{image_id}.xml")
        except (OSError, ValueError):
            continue
        names.update(entry.name for entry in annotation.objects)
    return sorted(names)


def load_voc(
    image_dir: str | Path,
    ids: Sequence[str] | None,
    class_names: Sequence[str],
    issues: DatasetIssues,
    annotation_dir: str | Path | None,
    masks: MaskFolders | None,
    only_complete: bool = False,
) -> list[dict]:
    """Detectron2 dicts of VOC images.

    As Detectron2's own VOC loader does, 1 is taken from xmin and ymin and `difficult` objects are
    kept; each annotation also has the integers "difficult" and "truncated".

    Args:
        image_dir: folder of the images.
        ids: which images, in this order; None for all of them, sorted.
        class_names: category `i` is `class_names[i]`; in masks it has the value `i + 1`.
        issues: receives what is wrong. Without a stop, a faulty object is left out; so is an
            image that lacks its file or every annotation asked for, or that would seem empty only
            because all its boxes were faulty.
        annotation_dir: folder of the XML files, or None: no box is asked for and none of them is
            opened.
        masks: folders of the segmentation masks, or None: none is asked for.
        only_complete: an image that lacks a file of what is asked for is left out and no fault; so
            is one whose mask shows objects but whose file has none.
    """
    class_ids = {name: i for i, name in enumerate(class_names)}
    wanted = {"annotations": annotation_dir is not None, "sem_seg_file_name": masks is not None}
    enough = all if only_complete else any
    records = []
    for record in load_images(image_dir, ids, issues):
        image_id = record["image_id"]
        file = None if annotation_dir is None else Path(annotation_dir) / f"{image_id}.xml"
        lacking = _lacking(image_id, file, masks) if only_complete else None
        if lacking:
            issues.leave_out(image_id, lacking)
            continue
        if file is not None:
            annotations = _read_annotations(file, record, class_ids, issues)
            if annotations is not None:
                record["annotations"] = annotations
        if masks is not None:
            mask = masks.find(image_id, record, issues)
            if mask is not None:
                record["sem_seg_file_name"] = mask
        if only_complete and masks is not None and _is_boxless(record, masks):
            issues.leave_out(image_id, _NO_BOXES)
        elif enough(key in record for key, asked in wanted.items() if asked):
            records.append(record)
    if masks is not None and annotation_dir is not None:
        _compare_class_order(records, masks, class_names, issues)
    return records


def _lacking(image_id: str, file: Path | None, masks: MaskFolders | None) -> str | None:
    if file is not None and not file.is_file():
        return _NO_BOXES
    if masks is not None and image_id not in masks:
        return NO_MASK
    return None


def _is_boxless(record: dict, masks: MaskFolders) -> bool:
    if record.get("annotations") != [] or "sem_seg_file_name" not in record:
        return False
    return bool(masks.foreground(record["image_id"]))


def _read_annotations(
    file: Path, record: dict, class_ids: dict[str, int], issues: DatasetIssues
) -> list[dict] | None:
    try:
        annotation = read_xml(file)
    except (OSError, ValueError) as error:
        what = "missing or unreadable" if isinstance(error, OSError) else str(error)
        issues.add(str(file), what)
        return None
    size = (record["width"], record["height"])
    if annotation.size is not None and annotation.size != size:
        issues.add(
            str(file),
            "says {}x{}, but the image is {}x{}".format(*annotation.size, *size),
        )
        return None
    annotations, faulty = [], 0
    for number, entry in enumerate(annotation.objects):
        where = f"object {number} ({entry.name})"
        if entry.name not in class_ids:
            near = get_close_matches(entry.name, class_ids, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            issues.add(str(file), f"{where}: class not among the card's{hint}")
            continue
        fault = box_fault(entry.box, size)
        if fault:
            issues.add(str(file), f"{where}: {fault}")
            faulty += 1
            continue
        xmin, ymin, xmax, ymax = entry.box
        annotations.append(
            {
                "category_id": class_ids[entry.name],
                "bbox": [xmin - 1.0, ymin - 1.0, xmax, ymax],
                "bbox_mode": BoxMode.XYXY_ABS,
                "difficult": entry.difficult,
                "truncated": entry.truncated,
            }
        )
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations


def box_fault(box: tuple[float, float, float, float], size: tuple[int, int]) -> str | None:
    """What is wrong with a 1-based inclusive box in an image of (width, height), or None.

    A box with xmin = xmax counts as one without area, although by the letter of the format it holds
    one
    column of pixels: in practice it is a slip of the annotator.
    """
    xmin, ymin, xmax, ymax = box
    text = "box " + ",".join(f"{value:g}" for value in box)
    if not (xmax > xmin and ymax > ymin):
        return f"{text} has no area"
    if xmin < 1 or ymin < 1 or xmax > size[0] or ymax > size[1]:
        return f"{text} leaves the image of {size[0]}x{size[1]}"
    return None


def _compare_class_order(
    records: Sequence[dict], masks: MaskFolders, class_names: Sequence[str], issues: DatasetIssues
) -> None:
    """Report a wrong class order: most masks show classes of which the XML has no object."""
    both = [record for record in records if {"annotations", "sem_seg_file_name"} <= record.keys()]
    differing = []
    for record in both:
        boxed = {entry["category_id"] + 1 for entry in record["annotations"]}
        if masks.foreground(record["image_id"]) - boxed:
            differing.append(record["image_id"])
    if len(differing) * 2 > len(both):
        issues.add(
            masks.place,
            f"{len(differing)} of {len(both)} masks show classes without a box (first "
            f"{differing[0]}): are the card's classes in the order of the mask values? "
            + ", ".join(class_names),
        )
