"""Pseudo-masks as translucent pictures over the images on the page of a review."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from multas.data.chosen_classes import BACKGROUNDS
from multas.data.class_colours import class_colour
from multas.data.formats.mask_files import read_mask
from multas.data.pseudo_label_files import Header
from multas.data.pseudo_mask_files import read_pseudo_masks
from multas.util.errors import UserError

_ALPHA = "66"  # 40 %
_UNCERTAIN = "not certain", "#80808066"


@dataclass(frozen=True)
class MaskPictures:
    """The masks of a folder, as they are shown.

    Attributes:
        files: the mask of each image by its id; "" where no pixel is certain.
        colours: name and colour, #rrggbbaa, of each value that is shown; background is not.
    """

    files: Mapping[Any, str]
    colours: Mapping[int, tuple[str, str]]

    def of(self, image_id: Any, size: tuple[int, int], side: int) -> tuple[bytes, list[int]] | None:
        """The picture of an image's mask, a PNG, and the values that it shows.

        Args:
            image_id: of the image.
            size: of the image, (width, height).
            side: the longer side of the picture, at most.

        Returns:
            None where there is nothing to show.

        Raises:
            UserError: The mask cannot be read, or has another size.
        """
        if not (file := self.files.get(image_id)):
            return None
        mask = read_mask(file)
        if mask.shape[::-1] != size:
            sizes = "{}x{}, but its image is {}x{}".format(*mask.shape[::-1], *size)
            raise UserError(f"{file} is {sizes}. Label the images again.")
        small = Image.fromarray(mask)
        small.thumbnail((side, side), Image.Resampling.NEAREST)
        stream = io.BytesIO()
        Image.fromarray(self._paint(np.asarray(small))).save(stream, "PNG", optimize=True)
        return stream.getvalue(), [v for v in np.unique(mask).tolist() if v in self.colours]

    def _paint(self, mask: np.ndarray) -> np.ndarray:
        """(h, w, 4) uint8 of a mask (h, w): translucent, with opaque outlines."""
        palette = np.zeros((256, 4), np.uint8)
        for value, (_, colour) in self.colours.items():
            palette[value] = list(bytes.fromhex(colour.removeprefix("#")))
        painted = palette[mask]
        edge = np.zeros(mask.shape, bool)
        edge[1:] |= mask[1:] != mask[:-1]
        edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        painted[edge & (painted[..., 3] > 0), 3] = 255
        return painted


def mask_pictures(folder: str, labels: Header) -> MaskPictures:
    """The masks of a folder; a class that boxes have, too, is shown in the colour of these.

    Args:
        folder: of pseudo-masks; "" = none.
        labels: the header of the file of boxes.

    Raises:
        FileNotFoundError: There is no such folder.
        UserError: It is no folder of pseudo-masks, or none of these images.
    """
    if not folder:
        return MaskPictures({}, {})
    header, files = read_pseudo_masks(folder)
    if files.keys().isdisjoint(labels.image_ids):
        raise UserError(
            f"{folder} has masks of '{header.dataset}', but none of an image of '{labels.dataset}' "
            "that has boxes. Name the folder that was written with them."
        )
    shown = {v: name for v, name in enumerate(header.classes) if name.lower() not in BACKGROUNDS}
    numbers = {name: k for k, name in enumerate(dict.fromkeys([*labels.classes, *shown.values()]))}
    colours = {v: (name, class_colour(numbers[name]) + _ALPHA) for v, name in shown.items()}
    return MaskPictures(files, colours | {header.ignore_label: _UNCERTAIN})
