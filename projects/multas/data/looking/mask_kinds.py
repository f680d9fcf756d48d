"""What the images of a folder are: photographs, masks of numbers or colours, or black and white."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from multas.data.image_files import mode_fault
from multas.data.looking.inventory import Inventory, is_named_mask

_TRIED = 8  # images of a folder that are opened
_MOST_VALUES = 64  # of a mask; a photograph has more
_DARK, _BRIGHT = 32, 223  # JPEG and resizing blur black and white by about this


class Kind(NamedTuple):
    """What the images of a folder are, by some of them."""

    is_photo: bool = False
    is_gray: bool = False  # black and white, whatever the format of the file
    has_colors: bool = False  # a colour for each class
    numbers_objects: bool = False  # values are the numbers of an image's objects, 1, 2, …


PHOTO = Kind(is_photo=True)


def kind_of(found: Inventory, folder: str) -> Kind:
    """What most images of a folder are; masks without an object do not count."""
    names = found.images[folder]
    kinds = []
    for name in names[:: max(1, len(names) // _TRIED)][:_TRIED]:
        try:
            with Image.open(found.root / folder / name) as image:
                if mode_fault(image) is None:
                    kinds.append(_kind_of_image(image, is_named_mask(folder)))
        except Exception:  # Pillow has many for damaged files, which are reported by the loading
            continue
    return joint_kind(kinds)


def joint_kind(kinds: Iterable[Kind | None]) -> Kind:
    """The kind of most masks, of which None show nothing. If all show nothing: plain masks."""
    known = [kind for kind in kinds if kind is not None]
    best = max(known, key=known.count, default=Kind())
    # One image that shows the third of the classes alone is no numbering.
    numbers = bool(known) and all(kind.numbers_objects for kind in known)
    return best._replace(numbers_objects=numbers)


def _kind_of_image(image: Image.Image, is_named: bool) -> Kind | None:
    is_lossy = image.format == "JPEG"
    if is_lossy and not is_named:
        return PHOTO
    is_wide = image.mode == "I" or image.mode.startswith("I;16")
    if not is_lossy and (image.mode in ("L", "P", "1") or is_wide):
        pixels = np.asarray(image).astype(np.int64)
        values = np.flatnonzero(np.bincount(pixels.reshape(-1)))
        is_numbered = is_named and values[-1] < len(values)  # 0, 1, 2, … without a gap
        if len(values) <= _MOST_VALUES or is_numbered:
            if not values.any():
                return None
            if image.mode == "1" or values.tolist() in ([0, 255], [255], [0, 65535]):
                return Kind(is_gray=True)
            return Kind(numbers_objects=_numbers_objects(pixels))
    red, green, blue = (np.asarray(channel, np.int16) for channel in image.convert("RGB").split())
    is_colorless = max(np.abs(red - green).max(), np.abs(red - blue).max()) <= 16 * is_lossy
    if is_named and is_colorless and np.mean((red <= _DARK) | (red >= _BRIGHT)) > 0.9:
        return Kind(is_gray=True) if (red >= _BRIGHT).any() else None
    if not is_lossy and image.convert("RGB").getcolors(_MOST_VALUES) is not None:
        return Kind(has_colors=True)
    return PHOTO


def _numbers_objects(pixels: np.ndarray) -> bool:
    """Whether the values are 1, 2, … without a gap, each of one connected area."""
    values = np.unique(pixels[pixels > 0])
    if values[-1] != len(values):
        return False
    places = enumerate(ndimage.find_objects(pixels), start=1)
    areas = [ndimage.label(pixels[at] == value, np.ones((3, 3)))[1] for value, at in places]
    return max(areas) == 1
