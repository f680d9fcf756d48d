"""Pascal VOC format: one XML file per image, 1-based inclusive boxes, palette masks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multas.data.formats.annotation_files import find_classes
from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    box_annotation,
    remark_copies,
)
from multas.data.formats.mask_files import read_mask
from multas.data.formats.masks import NO_MASK, MaskFolders
from multas.data.issues import DatasetIssues, or_rather, unread
from multas.util.annotation import BOXES, MASKS
from multas.util.errors import UserError
from multas.util.voc_xml import read_voc_xml

_NO_BOXES = "no boxes"


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Voc(DataFormat):
    """Images with boxes, masks or both, in a VOC devkit or other folders.

    As in Detectron2's own VOC loader, 1 is taken from xmin and ymin, and ``difficult`` objects are
    kept; each annotation also has the integers "difficult" and "truncated". In masks class ``i``
    has the value ``i + 1``. ``masks`` are folders: the first that has a mask of an image counts.

    No file is opened for what ``annotates`` does not name. What an image lacks of the others is
    reported, and so is an image whose boxes are all faulty, which must not pass for background;
    images that have at least one annotation are kept. With ``only_complete``, incomplete images
    are left out and not reported, also those whose mask shows objects but whose file has none.
    ``year`` 2007 scores AP by VOC2007's 11 points, 2012 by the area under the curve.
    """

    can_annotate = (BOXES, MASKS)

    images: str = "JPEGImages"
    annotations: str = "Annotations"
    masks: tuple[str, ...] = ("SegmentationClass",)
    only_complete: bool = False
    year: int = 2012
    annotates: tuple[str, ...] = (BOXES.task,)

    def __post_init__(self) -> None:
        if self.year not in (2007, 2012):
            raise UserError(f"year {self.year}, choose 2007 (11-point AP) or 2012 (area AP)")

    def load(self, source: Source) -> Loaded:
        classes = source.classes or find_classes(source, _folder_of, ".xml", _names_in)
        class_ids = {name: i for i, name in enumerate(classes)}
        folder = source.root / self.annotations if BOXES.task in self.annotates else None
        has_masks = MASKS.task in self.annotates
        names = ("background", *classes)
        masks = MaskFolders(self.masks, source, names) if has_masks else None
        wanted = [kind.dataset_key for kind in self.can_annotate if kind.task in self.annotates]
        enough, issues = all if self.only_complete else any, source.issues
        records = []
        for record in self.load_unlabeled(source)[0]:
            image_id = record["image_id"]
            file = folder and folder / f"{image_id}.xml"
            if self.only_complete and (lacking := _lacking(image_id, file, masks)):
                issues.leave_out(image_id, lacking)
                continue
            if file and (boxes := _read_boxes(file, record, class_ids, source)) is not None:
                record["annotations"] = boxes
            if masks and (mask := masks.find(image_id, record, issues)) is not None:
                record["sem_seg_file_name"] = mask
            if self.only_complete and masks and _is_boxless(record, masks):
                issues.leave_out(image_id, _NO_BOXES)
            elif enough(key in record for key in wanted):
                records.append(record)
        if masks:
            masks.remark_empty(issues)
        if masks and folder:
            _compare_class_order(records, masks, classes, issues)
        return records, self.class_metadata(classes)

    def class_metadata(self, classes: Sequence[str]) -> dict[str, Any]:
        return {"thing_classes": list(classes), "stuff_classes": ["background", *classes]}

    def evaluation_metadata(self, root: Path, id_file: Path | None) -> dict[str, Any]:
        types: list[str] = []
        found: dict[str, Any] = {"evaluator_type": types}
        if BOXES.task in self.annotates and self.annotations != "Annotations":
            # Detectron2's VOC evaluator looks for <dirname>/Annotations; the COCO one needs none.
            types.append("coco")
        elif BOXES.task in self.annotates:
            types.append("pascal_voc")
            found["year"] = self.year
            if id_file is not None and not self.only_complete:
                # Otherwise the list has images that are left out, so the files cannot be the truth.
                found |= {"dirname": str(root), "split": _main_split(id_file, root)}
        if MASKS.task in self.annotates:
            types.append(MASKS.evaluator)
            found["read_sem_seg"] = read_mask
        return found


def _main_split(file: Path, root: Path) -> str:
    """What Detectron2 has to append to <root>/ImageSets/Main, without .txt, to get at a list."""
    main = root / "ImageSets" / "Main"
    path = file.with_suffix("") if file.suffix == ".txt" else file
    if path.parent == main:
        return path.name
    if main.is_dir() and (root / "ImageSets") in path.parents:
        return os.path.relpath(path, main)
    return str(path.absolute())


def _folder_of(split: DataFormat, root: Path) -> Path | None:
    assert isinstance(split, Voc)
    return root / split.annotations


def _names_in(file: Path) -> set[str]:
    return {entry.name for entry in read_voc_xml(file).objects}


def _lacking(image_id: str, file: Path | None, masks: MaskFolders | None) -> str | None:
    if file is not None and not file.is_file():
        return _NO_BOXES
    return NO_MASK if masks is not None and image_id not in masks else None


def _is_boxless(record: dict, masks: MaskFolders) -> bool:
    """Whether the mask of an image shows objects, but its annotation file has none."""
    boxless = record.get("annotations") == [] and "sem_seg_file_name" in record
    return boxless and bool(masks.foreground(record["image_id"]))


def _read_boxes(
    file: Path, record: dict, class_ids: dict[str, int], source: Source
) -> list[dict] | None:
    issues = source.issues
    try:
        annotation = read_voc_xml(file)
    except (OSError, UserError) as error:
        issues.add(str(file), unread(error))
        return None
    size = (record["width"], record["height"])
    if annotation.size is not None and annotation.size != size:
        what = "says {}x{}, but the image is {}x{}"
        issues.add(str(file), what.format(*annotation.size, *size))
        return None
    annotations, faulty = [], False
    for number, entry in enumerate(annotation.objects):
        where = f"{file}: object {number} ({entry.name})"
        if source.leaves_out(entry.name):
            continue
        if entry.name not in class_ids:
            issues.add(where, f"class not among the card's{or_rather(entry.name, class_ids)}")
        elif fault := box_fault(entry.box, size):
            issues.add(where, fault)
            faulty = True
        else:
            xmin, ymin, xmax, ymax = entry.box
            box = [xmin - 1.0, ymin - 1.0, xmax, ymax]
            label = class_ids[entry.name]
            annotations.append(box_annotation(label, box, entry.difficult, entry.truncated))
    remark_copies(annotations, str(file), issues)
    # An image whose objects are there but have no usable box must not pass for background.
    return None if faulty and not annotations else annotations


def box_fault(box: tuple[float, float, float, float], size: tuple[int, int]) -> str | None:
    """What is wrong with a 1-based inclusive box in an image of (width, height), or None.

    A box with xmin = xmax counts as one without area, although by the letter of the format it
    holds one column of pixels: in practice it is a slip of the annotator.
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
    keys = {BOXES.dataset_key, MASKS.dataset_key}
    both = [record for record in records if keys <= record.keys()]
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
