"""Semantic masks: one file per image, an image or one of SBD's .mat files, of class indices."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.formats.mask_files import (
    MASK_VALUES,
    SBD_SUFFIX,
    MaskValues,
    read_indices,
    read_mask,
)
from multas.data.image_files import index_images, load_images
from multas.data.image_names import IMAGE_SUFFIXES
from multas.data.issues import DatasetError, DatasetIssues
from multas.util.annotation import MASKS
from multas.util.errors import UserError

NO_MASK = "no mask"
_COLOR = re.compile("#?[0-9a-fA-F]{6}")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", SBD_SUFFIX)


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Masks(DataFormat):
    """Images with a mask each, whose values are indices into the classes of the card.

    ``masks`` are folders: the first that has a mask of an image counts. ``suffix`` and
    ``mask_suffix`` stand between id and extension of the images and of the masks, which may lie in
    the same folder. With ``only_complete``, an image without a mask is left out and not a fault.

    With ``threshold``, masks are black and white: of two classes, the second is where a pixel is at
    least so bright, 1 to 255. Files may then have colours or be JPEG. With ``colors``, masks have
    colours: the first is that of the first class, as #rrggbb, and so on.
    """

    can_annotate = (MASKS,)

    masks: tuple[str, ...] = ()
    suffix: str = ""
    mask_suffix: str = ""
    threshold: int = 0
    colors: tuple[str, ...] = ()
    only_complete: bool = False
    annotates: tuple[str, ...] = (MASKS.task,)

    def __post_init__(self) -> None:
        if not self.masks and self.annotates:
            raise UserError("format masks needs `masks`, the folder of the masks")
        if not 0 <= self.threshold <= 255:
            raise UserError(f"threshold {self.threshold}, choose a brightness from 1 to 255")
        if self.threshold and self.colors:
            raise UserError("masks have `threshold`, in black and white, or `colors`, not both")
        if wrong := [color for color in self.colors if not _COLOR.fullmatch(color)]:
            raise UserError(f"colors {wrong[0]!r}, write it as '#ff8000', in quotes")
        if len(set(_numbers(self.colors))) < len(self.colors):
            raise UserError("colors has a colour twice; each class has one of its own")

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        """A list, or a table of pixel values and names that may leave out values."""
        if classes is None:
            raise UserError("format masks needs `classes`, the names of values 0, 1, …")
        return _fill_gaps(classes) if isinstance(classes, dict) else classes

    def mask_values(self) -> MaskValues | None:
        if self.colors:
            return MaskValues(bytes(range(256)), colors=_numbers(self.colors))
        if not self.threshold:
            return None
        return MaskValues(bytes(value >= self.threshold for value in range(256)), is_gray=True)

    def load(self, source: Source) -> Loaded:
        classes, values = source.classes or (), self.mask_values()
        if self.colors and len(classes) != len(self.colors):
            raise DatasetError(
                f"{source.where}: `colors` has {len(self.colors)} colours, but `classes` has "
                f"{len(classes)} names; give each class one colour"
            )
        if self.threshold and len(classes) != 2:
            raise DatasetError(
                f"{source.where}: with `threshold` there are two classes, the dark and the bright "
                f"one, but `classes` has {len(classes)}"
            )
        masks = MaskFolders(self.masks, source, classes, self.mask_suffix, values)
        joined = {MASK_VALUES: values} if values else {}
        records = []
        for record in self.load_unlabeled(source)[0]:
            image_id = record["image_id"]
            if self.only_complete and image_id not in masks:
                source.issues.leave_out(image_id, NO_MASK)
            elif (file := masks.find(image_id, record, source.issues)) is not None:
                records.append({**record, "sem_seg_file_name": file, **joined})
        masks.remark_empty(source.issues)
        return records, {}

    def load_unlabeled(self, source: Source) -> Loaded:
        records = load_images(source.root / self.images, source.ids, source.issues, self.suffix)
        if self.images in self.masks:
            records = without_masks(records, self.mask_suffix)
        return records, {}

    def evaluation_metadata(self, root: Path, id_file: Path | None) -> dict[str, Any]:
        found = super().evaluation_metadata(root, id_file)
        return {**found, "read_sem_seg": self.mask_values() or read_mask}


def without_masks(records: list[dict], mask_suffix: str) -> list[dict]:
    """The images among those of a folder that also has their masks."""
    return [r for r in records if not mask_suffix or not r["image_id"].endswith(mask_suffix)]


def _fill_gaps(classes: dict) -> list:
    """Names of all values: the network has an output for those without a name, too."""
    wrong = [v for v in classes if type(v) is not int or not 0 <= v <= 255]
    if wrong or not classes:
        raise UserError(
            f"classes must be a list of names or a table of pixel values 0 … 255 and names, got "
            f"{wrong or classes!r}"
        )
    return [classes.get(value, f"value {value}") for value in range(max(classes) + 1)]


def _numbers(colors: Sequence[str]) -> tuple[int, ...]:
    """Colours as 0xRRGGBB, of #rrggbb."""
    return tuple(int(color.removeprefix("#"), 16) for color in colors)


def check_mask(
    mask: np.ndarray, record: Mapping, num_values: int, ignore_label: int
) -> frozenset[int]:
    """The values of a mask, (H, W) integers, that fits the image of a dataset dict.

    Raises:
        UserError: It has another size than the image, a value beyond 0 … num_values - 1, or nothing
            but ``ignore_label``.
    """
    own = mask.shape[::-1]
    size = (record.get("width", own[0]), record.get("height", own[1]))
    if own != size:
        raise UserError("is {}x{}, but the image is {}x{}".format(*own, *size))
    values = set(np.flatnonzero(np.bincount(mask.reshape(-1))).tolist()) - {ignore_label}
    beyond = sorted(value for value in values if value >= num_values)
    if beyond:
        raise UserError(f"values {beyond} are beyond the {num_values} classes")
    if not values:
        raise UserError(f"every pixel has the ignore label {ignore_label}")
    return frozenset(values)


def index_masks(
    names: Sequence[str], source: Source, suffix: str, suffixes: Sequence[str]
) -> tuple[str, dict[str, str]]:
    """The mask files in some folders below the root of ``source``, by the ids of their images.

    Args:
        names: of the folders; an earlier one goes before a later one.
        source: of the split.
        suffix: what the names of the masks have between id and extension.
        suffixes: the extensions that count.

    Returns:
        The folders, for messages, and the files.

    Raises:
        DatasetError: if a folder does not exist.
    """
    # By name alone: where root is a link, "../SBD" lies beside the link, not its target.
    folders = [Path(os.path.normpath(source.root / name)) for name in names]
    for folder in folders:
        if not folder.is_dir():
            cure = "put the masks there, or correct `masks`"
            raise DatasetError(f"{source.where}: no mask folder {folder}; {cure}")
    files = {
        stem.removesuffix(suffix): file
        for folder in reversed(folders)
        for stem, file in index_images(folder, suffixes).items()
        if stem.endswith(suffix)
    }
    return " or ".join(map(str, folders)), files


class MaskFolders:
    """The mask folders of a split; each mask is checked while the data set is read.

    Args:
        names: folders below the root of ``source``, whose files are named like the images; an
            earlier folder goes before a later one.
        classes: the names of the valid values 0, 1, …; the ignore label of ``source`` is one, too.
        suffix: what the names of the masks have between id and extension.
        values: what stands in the masks, if not class indices.

    Raises:
        DatasetError: if a folder does not exist.
    """

    def __init__(
        self,
        names: Sequence[str],
        source: Source,
        classes: Sequence[str],
        suffix: str = "",
        values: MaskValues | None = None,
    ):
        suffixes = IMAGE_SUFFIXES if values and values.is_gray else MASK_SUFFIXES
        self.place, self._files = index_masks(names, source, suffix, suffixes)
        self._source = source
        self._values = values
        self._classes = classes
        self.ignore_label = source.ignore_label
        self._foreground: dict[str, frozenset[int]] = {}

    def __contains__(self, image_id: str) -> bool:
        """Whether an image has a mask file, proper or not."""
        return image_id in self._files

    def find(self, image_id: str, record: dict, issues: DatasetIssues) -> str | None:
        """The mask file of an image; if there is no proper one, this is reported."""
        if image_id not in self._files:
            issues.add(image_id, f"no mask of this id in {self.place}")
            return None
        file = self._files[image_id]
        try:
            mask = read_indices(file, self._values)
            values = check_mask(mask, record, len(self._classes), self.ignore_label)
            self._foreground[image_id] = frozenset(filter(self._wanted, values))
        except UserError as error:
            issues.add(file, str(error))
            return None
        return file

    def _wanted(self, value: int) -> bool:
        """Whether a value is of a foreground class that is not left out."""
        what = "areas in masks, now background,"
        return value != 0 and not self._source.leaves_out(self._classes[value], what)

    def remark_empty(self, issues: DatasetIssues) -> None:
        """Note that no mask shows anything, as where objects have the value of the ignore label."""
        if self._foreground and self._source.only is None and not any(self._foreground.values()):
            what = f"no mask has another value than 0 and the ignore label {self.ignore_label}"
            issues.remark(self.place, what)

    def foreground(self, image_id: str) -> frozenset[int]:
        """Values of a mask that :meth:`find` accepted: not 0, ``ignore_label``, or left out."""
        return self._foreground[image_id]
