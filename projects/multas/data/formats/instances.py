"""Instance masks: one file per image, whose values number its objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from multas.data.formats.base import (
    DATA_FORMAT_REGISTRY,
    DataFormat,
    Loaded,
    Source,
    box_annotation,
)
from multas.data.formats.mask_files import read_numbers
from multas.data.formats.masks import MASK_SUFFIXES, NO_MASK, index_masks, without_masks
from multas.data.image_files import load_images
from multas.util.annotation import BOXES
from multas.util.errors import UserError


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Instances(DataFormat):
    """Images with a mask each, whose values number the objects of the image; 0 is none.

    All objects are of one class, and their boxes enclose their pixels. Numbers may have gaps. In
    masks of 8 bits, the ignore label of the card is no object. The other keys are those of the
    format masks; a mask of zeros says that its image has no object.
    """

    can_annotate = (BOXES,)

    masks: tuple[str, ...] = ()
    suffix: str = ""
    mask_suffix: str = ""
    only_complete: bool = False
    annotates: tuple[str, ...] = (BOXES.task,)

    def __post_init__(self) -> None:
        if not self.masks and self.annotates:
            raise UserError("format instances needs `masks`, the folder of the masks")

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        """A list of one name."""
        if not isinstance(classes, list) or len(classes) != 1:
            raise UserError("format instances needs `classes`, a list of the name of its one class")
        return classes

    def load(self, source: Source) -> Loaded:
        place, files = index_masks(self.masks, source, self.mask_suffix, MASK_SUFFIXES)
        issues, records = source.issues, []
        for record in self.load_unlabeled(source)[0]:
            image_id = record["image_id"]
            if image_id not in files:
                if self.only_complete:
                    issues.leave_out(image_id, NO_MASK)
                else:
                    issues.add(image_id, f"no mask of this id in {place}")
                continue
            try:
                boxes = read_boxes(files[image_id], record, source.ignore_label)
            except UserError as error:
                issues.add(files[image_id], str(error))
                continue
            own = [box_annotation(0, box, 0, 0) for box in boxes]
            records.append({**record, "annotations": own})
        return records, self.class_metadata(source.classes or ())

    def load_unlabeled(self, source: Source) -> Loaded:
        records = load_images(source.root / self.images, source.ids, source.issues, self.suffix)
        if self.images in self.masks:
            records = without_masks(records, self.mask_suffix)
        return records, {}


def read_boxes(file: str | Path, record: dict, ignore_label: int) -> Sequence[list[float]]:
    """The boxes of the objects that a mask numbers, in the order of their numbers.

    Args:
        file: the mask.
        record: "width" and "height" of its image.
        ignore_label: value that is no object in a mask of 8 bits.

    Returns:
        For each object x0, y0, x1, y1 in pixels, around all of its pixels.

    Raises:
        UserError: The file cannot be read, has colours, or another size than the image.
    """
    mask = read_numbers(file)
    size = (record["width"], record["height"])
    if mask.shape[::-1] != size:
        raise UserError("is {}x{}, but the image is {}x{}".format(*mask.shape[::-1], *size))
    if mask.dtype == np.uint8:
        mask = np.where(mask == ignore_label, 0, mask)
    numbers, dense = np.unique(np.append(mask, 0), return_inverse=True)
    if numbers[0] < 0:
        raise UserError(f"has the value {numbers[0]}, but objects are numbered from 1")
    places = ndimage.find_objects(dense[:-1].reshape(mask.shape))
    return [[float(v) for v in (x.start, y.start, x.stop, y.stop)] for y, x in places]
