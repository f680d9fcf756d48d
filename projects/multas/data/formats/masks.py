"""Semantic masks: one file per image, an image or one of SBD's .mat files, of class indices."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import loadmat

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.image_files import index_images, load_images, unreadable
from multas.data.issues import DatasetError, DatasetIssues
from multas.util.annotation import MASKS
from multas.util.errors import UserError
from multas.util.files import refuse_pipe

NO_MASK = "no mask"
# Key of a dataset dict: the 256 values (bytes) that replace those of its mask, see read_mask.
MASK_VALUES = "sem_seg_values"
_SBD_SUFFIX = ".mat"
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", _SBD_SUFFIX)


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Masks(DataFormat):
    """Images with a mask each, whose values are indices into the classes of the card.

    ``masks`` are folders: the first that has a mask of an image counts. ``suffix`` and
    ``mask_suffix`` stand between id and extension of the images and of the masks. With
    ``only_complete``, an image without a mask is left out and not a fault.
    """

    can_annotate = (MASKS,)

    masks: tuple[str, ...] = ()
    suffix: str = ""
    mask_suffix: str = ""
    only_complete: bool = False
    annotates: tuple[str, ...] = (MASKS.task,)

    def __post_init__(self) -> None:
        if not self.masks and self.annotates:
            raise UserError("format masks needs `masks`, the folder of the masks")

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        """A list, or a table of pixel values and names that may leave out values."""
        if classes is None:
            raise UserError("format masks needs `classes`, the names of values 0, 1, …")
        return _fill_gaps(classes) if isinstance(classes, dict) else classes

    def load(self, source: Source) -> Loaded:
        masks = MaskFolders(self.masks, source, source.classes or (), self.mask_suffix)
        records = []
        for record in self.load_unlabeled(source)[0]:
            image_id = record["image_id"]
            if self.only_complete and image_id not in masks:
                source.issues.leave_out(image_id, NO_MASK)
            elif (file := masks.find(image_id, record, source.issues)) is not None:
                records.append({**record, "sem_seg_file_name": file})
        masks.remark_empty(source.issues)
        return records, {}

    def load_unlabeled(self, source: Source) -> Loaded:
        return load_images(source.root / self.images, source.ids, source.issues, self.suffix), {}

    def evaluation_metadata(self, root: Path, id_file: Path | None) -> dict[str, Any]:
        return {**super().evaluation_metadata(root, id_file), "read_sem_seg": read_mask}


def _fill_gaps(classes: dict) -> list:
    """Names of all values: the network has an output for those without a name, too."""
    wrong = [v for v in classes if type(v) is not int or not 0 <= v <= 255]
    if wrong or not classes:
        raise UserError(
            f"classes must be a list of names or a table of pixel values 0 … 255 and names, got "
            f"{wrong or classes!r}"
        )
    return [classes.get(value, f"value {value}") for value in range(max(classes) + 1)]


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks as 768 integers: the bits of the index, spread over RGB."""
    index, channels = np.arange(256)[:, None], np.arange(3)
    bits = [((index >> (3 * bit + channels)) & 1) << (7 - bit) for bit in range(8)]
    return np.sum(bits, axis=0).reshape(-1).tolist()


def read_mask(file: str | Path, values: bytes | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8 of class indices; ``values[v]``, if given, stands for v.

    Palette images yield their indices. (Converting them to gray, as Detectron2's own mapper does,
    would yield the brightness of the palette's colours instead.) Of 16 or 32 bits, all values must
    be below 256. A .mat file must be one of SBD's folder ``cls``: a struct GTcls with the field
    Segmentation.

    Raises:
        UserError: if the file is missing or damaged, has colours instead of indices, or is another
            kind of .mat file.
    """
    try:
        mask = _read_indices(file)
    except UserError as error:
        raise UserError(f"{file}: {error}; mend or remove the file.") from error
    return mask if values is None else np.frombuffer(values, np.uint8)[mask]


def _read_indices(file: str | Path) -> np.ndarray:
    """The same with errors that do not name the file."""
    try:
        return _open_indices(file)
    except UserError:
        raise
    except Exception as error:  # Pillow has many for damaged files
        raise UserError(unreadable(error, "mask")) from error


def _open_indices(file: str | Path) -> np.ndarray:
    refuse_pipe(file)
    if Path(file).suffix.lower() == _SBD_SUFFIX:
        return _read_sbd(file)
    with Image.open(file) as image:
        if image.format == "JPEG":
            raise UserError("is a JPEG file, which does not keep class indices; save it as PNG")
        if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
            raise UserError(
                f"has mode {image.mode}, need one 8-bit channel (mode L or P) of class indices"
            )
        values = np.asarray(image)
    if values.dtype.itemsize > 1 and not 0 <= values.min() <= values.max() <= 255:
        span = f"{values.min()} … {values.max()}"
        raise UserError(f"has values {span}, but class indices are 0 … 255")
    return values.astype(np.uint8)


def _read_sbd(file: str | Path) -> np.ndarray:
    try:
        # Opened here: by name alone, scipy would also try the name with another ".mat" behind it.
        with open(file, "rb") as stream:
            mask = loadmat(stream)["GTcls"]["Segmentation"][0, 0]
    except OSError:
        raise
    except Exception:  # scipy has many errors for files that are not Matlab's, or broken
        raise UserError(
            "has no GTcls.Segmentation, which the files of SBD's cls have (those of inst do not)"
        ) from None
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise UserError(f"GTcls.Segmentation is {mask.dtype} {mask.shape}, need (H, W) uint8")
    return mask


class MaskFolders:
    """The mask folders of a split; each mask is checked while the data set is read.

    Args:
        names: folders below the root of ``source``, whose files are named like the images; an
            earlier folder goes before a later one.
        classes: the names of the valid values 0, 1, …; the ignore label of ``source`` is one, too.
        suffix: what the names of the masks have between id and extension.

    Raises:
        DatasetError: if a folder does not exist.
    """

    def __init__(
        self, names: Sequence[str], source: Source, classes: Sequence[str], suffix: str = ""
    ):
        # By name alone: where root is a link, "../SBD" lies beside the link, not its target.
        folders = [Path(os.path.normpath(source.root / name)) for name in names]
        for folder in folders:
            if not folder.is_dir():
                cure = "put the masks there, or correct `masks`"
                raise DatasetError(f"{source.where}: no mask folder {folder}; {cure}")
        self.place = " or ".join(map(str, folders))
        self._source = source
        self._classes = classes
        self.ignore_label = source.ignore_label
        self._files = {
            stem.removesuffix(suffix): file
            for folder in reversed(folders)
            for stem, file in index_images(folder, _MASK_SUFFIXES).items()
            if stem.endswith(suffix)
        }
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
            self._foreground[image_id] = self._check(_read_indices(file), record)
        except UserError as error:
            issues.add(file, str(error))
            return None
        return file

    def _check(self, mask: np.ndarray, record: dict) -> frozenset[int]:
        """The foreground values, of classes that are wanted, of a mask that fits its image."""
        size, own = (record["width"], record["height"]), mask.shape[::-1]
        if own != size:
            raise UserError("is {}x{}, but the image is {}x{}".format(*own, *size))
        values = set(np.flatnonzero(np.bincount(mask.reshape(-1))).tolist()) - {self.ignore_label}
        beyond = sorted(value for value in values if value >= len(self._classes))
        if beyond:
            raise UserError(f"values {beyond} are beyond the {len(self._classes)} classes")
        if not values:
            raise UserError(f"every pixel has the ignore label {self.ignore_label}")
        leaves_out, names = self._source.leaves_out, self._classes
        return frozenset(v for v in values - {0} if not leaves_out(names[v], "areas in masks"))

    def remark_empty(self, issues: DatasetIssues) -> None:
        """Note that no mask shows anything, as where objects have the value of the ignore label."""
        if self._foreground and self._source.only is None and not any(self._foreground.values()):
            what = f"no mask has another value than 0 and the ignore label {self.ignore_label}"
            issues.remark(self.place, what)

    def foreground(self, image_id: str) -> frozenset[int]:
        """Values of a mask that :meth:`find` accepted: not 0, ``ignore_label``, or left out."""
        return self._foreground[image_id]
