"""The files of masks: images of class indices or colours, in black and white, and SBD's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from multas.data.image_files import unreadable
from multas.util.errors import UserError
from multas.util.files import refuse_pipe

MASK_VALUES = "sem_seg_values"  # key of a dataset dict: the MaskValues of its mask
SBD_SUFFIX = ".mat"
_TOLD = 3  # colours in a message


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks as 768 integers: the bits of the index, spread over RGB."""
    index, channels = np.arange(256)[:, None], np.arange(3)
    bits = [((index >> (3 * bit + channels)) & 1) << (7 - bit) for bit in range(8)]
    return np.sum(bits, axis=0).reshape(-1).tolist()


@dataclass(frozen=True)
class MaskValues:
    """What the values of masks stand for, where they are not the numbers of the classes.

    Called with a file, it reads the mask, as an evaluator's ``read_sem_seg``.

    Attributes:
        table: 256 numbers; ``table[v]`` is that of the class for the value v of a file.
        is_gray: whether the values of a file are the brightness of its pixels, whatever its format.
        colors: those that are the values 0, 1, … of a file, as 0xRRGGBB; () = it has no colours.
    """

    table: bytes
    is_gray: bool = False
    colors: tuple[int, ...] = ()

    def __call__(self, file: str | Path) -> np.ndarray:
        return read_mask(file, self)

    def then(self, table: bytes) -> "MaskValues":
        """These values, of which others take the place: ``table[v]`` that of the class v."""
        return replace(self, table=bytes(table[value] for value in self.table))


def read_mask(file: str | Path, values: MaskValues | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8 of class indices.

    Palette images yield their indices. (Converting them to gray, as Detectron2's own mapper does,
    would yield the brightness of the palette's colours instead.) Of 16 or 32 bits, all values must
    be below 256. A .mat file must be one of SBD's folder ``cls``: a struct GTcls with the field
    Segmentation.

    Raises:
        UserError: if the file is missing or damaged, has colours that ``values`` do not know, or is
            another kind of .mat file.
    """
    try:
        return read_indices(file, values)
    except UserError as error:
        raise UserError(f"{file}: {error}; mend or remove the file.") from error


def read_indices(file: str | Path, values: MaskValues | None = None) -> np.ndarray:
    """The same with errors that do not name the file."""
    if values and values.colors:
        mask = _opened(file, partial(_open_colors, colors=values.colors))
    else:
        mask = _opened(file, _open_gray if values and values.is_gray else _open_indices)
    return np.frombuffer(values.table, np.uint8)[mask] if values else mask


def read_numbers(file: str | Path) -> np.ndarray:
    """The values of a mask of one channel, (H, W) integers: uint8 if it has 8 bits or less.

    Raises:
        UserError: As for :func:`read_mask`, without the name of the file; values may be of any
            size.
    """
    return _opened(file, _open_numbers)


def _opened(file: str | Path, reads: Callable[[str | Path], np.ndarray]) -> np.ndarray:
    """What a function reads of a mask; errors do not name the file."""
    try:
        refuse_pipe(file)
        return reads(file)
    except UserError:
        raise
    except Exception as error:  # Pillow has many for damaged files
        raise UserError(unreadable(error, "mask")) from error


def _open_gray(file: str | Path) -> np.ndarray:
    """The brightness of an image, (H, W) uint8; of 16 bits, whatever is beyond 255 is 255."""
    with Image.open(file) as image:
        if image.mode == "I" or image.mode.startswith("I;16"):
            return np.asarray(image).clip(0, 255).astype(np.uint8)
        return np.asarray(image.convert("L"))


def read_colors(file: str | Path) -> np.ndarray:
    """The colours of an image, (H, W) int32 as 0xRRGGBB; transparency does not count.

    Raises:
        UserError: if it is a JPEG file. What Pillow raises for damaged files is passed on.
    """
    with Image.open(file) as image:
        if image.format == "JPEG":
            raise UserError("is a JPEG file, which does not keep colours; save it as PNG")
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]


def color_name(color: int) -> str:
    """#rrggbb."""
    return f"#{color:06x}"


def _open_colors(file: str | Path, colors: Sequence[int]) -> np.ndarray:
    """The number of each pixel's colour among ``colors``, (H, W) uint8."""
    pixels = read_colors(file)
    order = np.argsort(colors)
    known = np.asarray(colors, np.int32)[order]
    places = np.searchsorted(known, pixels).clip(max=len(known) - 1)
    if (wrong := known[places] != pixels).any():
        others = np.unique(pixels[wrong])
        shown = ", ".join(map(color_name, others[:_TOLD].tolist()))
        more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
        raise UserError(
            f"{wrong.sum()} pixels have {shown}{more}, the colour of no class in `colors`"
        )
    return order.astype(np.uint8)[places]


def _open_indices(file: str | Path) -> np.ndarray:
    if Path(file).suffix.lower() == SBD_SUFFIX:
        return _read_sbd(file)
    values = _open_numbers(file)
    if values.dtype.itemsize > 1 and not 0 <= values.min() <= values.max() <= 255:
        span = f"{values.min()} … {values.max()}"
        raise UserError(f"has values {span}, but class indices are 0 … 255")
    return values.astype(np.uint8)


def _open_numbers(file: str | Path) -> np.ndarray:
    with Image.open(file) as image:
        if image.format == "JPEG":
            raise UserError("is a JPEG file, which does not keep numbers; save it as PNG")
        if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
            raise UserError(
                f"has mode {image.mode}, need one channel (mode L or P) of class indices, or of "
                "the numbers of objects; for a colour of each class, name them: `colors`"
            )
        values = np.asarray(image)
    return values.astype(np.uint8) if values.dtype == bool else values


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
