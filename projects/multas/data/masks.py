"""Semantic masks: one image per image whose pixel values are class indices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .checks import Problems
from .folder import index_images, load_images

_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


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
    would yield the brightness of the palette's colours instead.)

    Raises:
        OSError: the file is missing or no image.
        ValueError: it has colours instead of indices.
    """
    with Image.open(file) as image:
        _require_indices(image)
        return np.asarray(image, dtype=np.uint8)


class MaskFolder:
    """A folder of masks, checked one by one while a data set is read.

    Args:
        folder: the masks, named like the images.
        num_values: valid values are 0 … num_values - 1, and `ignore_label`.
        ignore_label: value of pixels that do not count.
    """

    def __init__(self, folder: str | Path, num_values: int, ignore_label: int):
        self.folder = Path(folder)
        self.num_values = num_values
        self.ignore_label = ignore_label
        self._files = index_images(folder, _MASK_SUFFIXES)
        self._foreground: dict[str, frozenset[int]] = {}

    def find(self, image_id: str, record: dict, problems: Problems) -> str | None:
        """The mask file of an image, or None with a reported problem where there is no proper
        one."""
        if image_id not in self._files:
            problems.add(image_id, f"no mask of this id in {self.folder}")
            return None
        file = self._files[image_id]
        try:
            with Image.open(file) as image:
                _require_indices(image)
                size, histogram = image.size, image.histogram()
        except ValueError as error:
            problems.add(file, str(error))
            return None
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            problems.add(file, f"not a readable mask ({error.__class__.__name__})")
            return None
        if size != (record["width"], record["height"]):
            problems.add(
                file,
                "is {}x{}, but the image is {}x{}".format(*size, record["width"], record["height"]),
            )
            return None
        values = {value for value, pixels in enumerate(histogram) if pixels} - {self.ignore_label}
        beyond = sorted(value for value in values if value >= self.num_values)
        if beyond:
            problems.add(file, f"values {beyond} are beyond the {self.num_values} classes")
            return None
        self._foreground[image_id] = frozenset(values - {0})
        return file

    def foreground(self, image_id: str) -> frozenset[int]:
        """Values other than 0 and `ignore_label` in a mask that `find` accepted."""
        return self._foreground[image_id]


def load_masks(
    image_dir: str | Path, ids: Sequence[str] | None, masks: MaskFolder, problems: Problems
) -> list[dict]:
    """Detectron2 dicts of images with a `sem_seg_file_name`; those without a proper mask are left
    out."""
    records = []
    for record in load_images(image_dir, ids, problems):
        file = masks.find(record["image_id"], record, problems)
        if file is not None:
            records.append({**record, "sem_seg_file_name": file})
    return records


def _require_indices(image: Image.Image) -> None:
    if image.mode not in ("L", "P", "1"):
        raise ValueError(
            f"has mode {image.mode}, need one 8-bit channel (mode L or P) of class indices"
        )
