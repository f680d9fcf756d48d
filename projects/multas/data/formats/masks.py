"""Semantic masks: one file per image, an image or one of SBD's .mat files, of class indices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy.io import loadmat

from multas.data.formats.folder import index_images, load_images
from multas.data.issues import DatasetIssues

NO_MASK = "no mask"
_SBD_SUFFIX = ".mat"
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", _SBD_SUFFIX)


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks as 768 integers: the bits of the index, spread over R, G and
    B."""
    palette = []
    for index in range(256):
        for channel in range(3):
            value = 0
            for bit in range(8):
                value |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
            palette.append(value)
    return palette


def read_mask(file: str | Path) -> np.ndarray:
    """Read a mask as (H, W) uint8 of class indices.

    Palette images yield their indices. (Converting them to gray, as Detectron2's own mapper does,
    would yield the brightness of the palette's colours instead.) A .mat file is one of SBD's folder
    `cls`: a struct GTcls with the field Segmentation.

    Raises:
        OSError: the file is missing or no image.
        ValueError: it has colours instead of indices, or is no .mat file of that kind.
    """
    if Path(file).suffix.lower() == _SBD_SUFFIX:
        return _read_sbd(file)
    with Image.open(file) as image:
        if image.mode not in ("L", "P", "1"):
            raise ValueError(
                f"has mode {image.mode}, need one 8-bit channel (mode L or P) of class indices"
            )
        return np.asarray(image, dtype=np.uint8)


def _read_sbd(file: str | Path) -> np.ndarray:
    try:
        # Opened here: by name alone, scipy would also try the name with another ".mat" behind it.
        with open(file, "rb") as stream:
            mask = loadmat(stream)["GTcls"]["Segmentation"][0, 0]
    except OSError:
        raise
    except Exception:  # scipy has no one error for files that are not Matlab's, or broken
        raise ValueError(
            "has no GTcls.Segmentation, which the files of SBD's cls have (those of inst do not)"
        ) from None
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"GTcls.Segmentation is {mask.dtype} {mask.shape}, need (H, W) uint8")
    return mask


class MaskFolders:
    """Folders of masks, checked one by one while a data set is read.

    Args:
        folders: of the masks, named like the images; an earlier folder goes before a later one.
        num_values: valid values are 0 … num_values - 1, and `ignore_label`.
        ignore_label: value of pixels that do not count.
        suffix: what the names of the masks have between id and extension.

    Raises:
        DatasetError: a folder does not exist.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        num_values: int,
        ignore_label: int,
        suffix: str = "",
    ):
        self.place = " or ".join(str(folder) for folder in folders)
        self.num_values = num_values
        self.ignore_label = ignore_label
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
        """The mask file of an image, or None with a reported problem where there is no proper
        one."""
        if image_id not in self._files:
            issues.add(image_id, f"no mask of this id in {self.place}")
            return None
        file = self._files[image_id]
        try:
            mask = read_mask(file)
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            issues.add(file, f"not a readable mask ({error.__class__.__name__})")
            return None
        except ValueError as error:
            issues.add(file, str(error))
            return None
        height, width = mask.shape
        if (width, height) != (record["width"], record["height"]):
            issues.add(
                file,
                f"is {width}x{height}, but the image is {record['width']}x{record['height']}",
            )
            return None
        values = set(np.flatnonzero(np.bincount(mask.reshape(-1))).tolist()) - {self.ignore_label}
        beyond = sorted(value for value in values if value >= self.num_values)
        if beyond:
            issues.add(file, f"values {beyond} are beyond the {self.num_values} classes")
            return None
        self._foreground[image_id] = frozenset(values - {0})
        return file

    def foreground(self, image_id: str) -> frozenset[int]:
        """Values other than 0 and `ignore_label` in a mask that `find` accepted."""
        return self._foreground[image_id]


def load_masks(
    image_dir: str | Path,
    ids: Sequence[str] | None,
    masks: MaskFolders,
    issues: DatasetIssues,
    suffix: str = "",
    only_complete: bool = False,
) -> list[dict]:
    """Detectron2 dicts of images with a `sem_seg_file_name`.

    Args:
        image_dir: folder of the images.
        ids: which images, in this order; None for all of them, sorted.
        masks: of the images.
        issues: receives what is wrong; an image without a proper mask is left out.
        suffix: see `load_images`.
        only_complete: an image without a mask file is no fault.
    """
    records = []
    for record in load_images(image_dir, ids, issues, suffix):
        if only_complete and record["image_id"] not in masks:
            issues.leave_out(record["image_id"], NO_MASK)
            continue
        file = masks.find(record["image_id"], record, issues)
        if file is not None:
            records.append({**record, "sem_seg_file_name": file})
    return records
