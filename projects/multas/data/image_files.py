"""Images: reading one, finding those of a folder, and what a format knows without annotations."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import NoReturn

import cv2
import numpy as np
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager
from PIL import Image, UnidentifiedImageError

from multas.data.csv_files import image_names, read_csv
from multas.data.image_names import IMAGE_SUFFIXES, without_suffix
from multas.data.issues import DatasetError, DatasetIssues
from multas.data.json_files import read_coco_ids
from multas.util.files import refuse_pipe
from multas.util.id_lists import read_id_list
from multas.util.names import is_plain

# Pillow converts them to RGB, 16-bit colours by their high byte.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
# Other kinds, which are passed over, but not in silence.
_OTHER_SUFFIXES = (".avif", ".dcm", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".ppm", ".svg")
_MAX_RATIO = 1000  # of the sides of an image; scaled, the short one would vanish
_PAGED = {"GIF", "PNG", "TIFF", "WEBP"}  # a photograph's second picture (MPO) is a preview
_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC = 0x0112, 256, 257, 258, 262  # of EXIF and TIFF


def read_image(file: str, image_format: str, least_side: int = 0) -> np.ndarray:
    """Read an image like Detectron2's function of this name, but 16-bit gray images right.

    Of 16 bits the high byte counts, as Pillow and OpenCV do it with 16-bit colours: 0 … 65535
    becomes 0 … 255. (Detectron2 makes everything above 255 white.) Of several pages, the first is
    read. Images are turned upright as their EXIF data say, TIFF files once and not twice.

    Args:
        file: its path.
        image_format: see INPUT.FORMAT.
        least_side: if not 0, JPEG files are decoded at a part of their size, whose shorter side has
            at least so many pixels, which takes a fraction of the time.

    Returns:
        (H, W, C) uint8; float for YUV-BT.601.

    Raises:
        DatasetError: if the file is missing or damaged, or the range of its values is unknown.
    """
    try:
        with PathManager.open(file, "rb") as stream, Image.open(stream) as image:
            if fault := mode_fault(image):
                raise DatasetError(f"{file}: {fault}.")
            if least_side:
                image.draft(None, (least_side, least_side))
            image.load()  # which turns TIFF files; what other files say, holds until later
            upright = utils._apply_exif_orientation(_high_bytes(image))
            return as_array(upright, image_format)
    except DatasetError:
        raise
    except Exception as error:  # Pillow has many for damaged files
        raise DatasetError(f"{file}: {unreadable(error)}; mend or remove the file.") from error


def as_array(image: Image.Image, image_format: str) -> np.ndarray:
    """What Detectron2's convert_PIL_to_numpy gives, (H, W, C), but BGR in the order of memory.

    Theirs is a view of RGB from behind, which takes 50 times as long to copy, as resizing does.
    """
    if image_format != "BGR":
        return utils.convert_PIL_to_numpy(image, image_format)
    return cv2.cvtColor(utils.convert_PIL_to_numpy(image, "RGB"), cv2.COLOR_RGB2BGR)


def unreadable(error: Exception, what: str = "image") -> str:
    """What an error of opening or decoding an image says, in few words and without the file."""
    why = f"{error.__class__.__name__}: {error}"
    if isinstance(error, UnidentifiedImageError):
        why = "unknown format"  # its message has the file and no reason
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return f"not a readable {what} ({why})"


def _is_16_bit(image: Image.Image) -> bool:
    """Whether an image is gray with 16 bits; older releases of Pillow give such PNGs the mode I."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def mode_fault(image: Image.Image) -> str | None:
    """Why the pixels of an opened image cannot become 8-bit RGB, or None; known by the header."""
    if image.format == "EPS":  # Pillow would have Ghostscript run it
        return "is a PostScript program; save it as PNG"
    if image.mode in _MODES or _is_16_bit(image):
        return None
    if image.mode in ("I", "F"):
        cure = "save it with 8 or 16 bits per channel"
        return f"has 32-bit values (mode {image.mode}), whose range is unknown; {cure}"
    return f"has mode {image.mode}, which is not converted to RGB; save it as RGB"


def _high_bytes(image: Image.Image) -> Image.Image:
    """A loaded 16-bit gray image with 8 bits; any other as it is."""
    if not _is_16_bit(image):
        return image
    tags = getattr(image, "tag_v2", {})  # of TIFF, which has images of 12 bits, too
    bits = tags.get(_BITS, (16,))[0]
    values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    shallow = Image.fromarray(255 - values if tags.get(_PHOTOMETRIC) == 0 else values)
    if orientation := image.getexif().get(_ORIENTATION):
        shallow.getexif()[_ORIENTATION] = orientation
    return shallow


def remark_dark(files: Sequence[str], issues: DatasetIssues) -> None:
    """Note 16-bit images of which hardly anything is left in 8 bits; looks at the first few.

    Cameras of 10 or 12 bits write such files.
    """
    for file in files[:20]:
        with Image.open(file) as image:
            if _is_16_bit(image) and np.asarray(_high_bytes(image)).max() < 16:
                what = "16-bit images with values below 4096 look black; scale them to 65535"
                issues.remark(file, what)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) with which :func:`read_image` will read an opened image."""
    width, height = image.size
    if tags := getattr(image, "tag_v2", None):  # some releases of Pillow turn it already
        width, height = tags[_WIDTH], tags[_HEIGHT]
    try:
        turned = 5 <= image.getexif().get(_ORIENTATION, 1) <= 8
    except Exception:  # Detectron2 does without EXIF data that are damaged, too
        turned = False
    return (height, width) if turned else (width, height)


def read_ids(file: str | Path, issues: DatasetIssues) -> list[str]:
    """Read a list of ids. An id that is listed again is reported and left out.

    A list may be a COCO file or a CSV file; its ids are the names of the images without extension,
    of which a CSV file may have several rows for one.
    """
    if Path(file).suffix.lower() == ".csv":
        return list(dict.fromkeys(map(without_suffix, image_names(read_csv(Path(file))))))
    is_json = Path(file).suffix.lower() == ".json"
    unit = "image" if is_json else "line"
    seen: dict[str, int] = {}
    for number, image_id in read_coco_ids(file) if is_json else read_id_list(file):
        first = seen.setdefault(image_id, number)
        if first != number:
            issues.add(str(file), f"{unit} {number}: {image_id} is listed twice ({unit} {first})")
    return list(seen)


def index_images(
    folder: str | Path,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    issues: DatasetIssues | None = None,
) -> dict[str, str]:
    """Find the image files below a folder.

    Returns:
        The files by id, which is the path below the folder without extension, with "/" between
        folders. Of two files with one id the first counts, and ``issues`` gets a remark.

    Raises:
        DatasetError: if the folder does not exist.
        OSError: if a folder is unreadable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"folder {folder} does not exist")
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        for file in (os.path.join(parent, name) for name in folders):
            if issues is not None and os.path.islink(file):
                issues.remark(file, "links to folders are not followed")
        relative = Path(parent).relative_to(folder)
        for name in sorted(names):
            if name.startswith("._"):  # what macOS writes beside a file on other disks
                continue
            stem, suffix = os.path.splitext(name)
            if issues is not None and suffix.lower() in _OTHER_SUFFIXES:
                what = f"files are passed over that are not {', '.join(suffixes)}"
                issues.remark(os.path.join(parent, name), what)
            if suffix.lower() in suffixes:
                file = os.path.join(parent, name)
                first = found.setdefault((relative / stem).as_posix(), file)
                if issues is not None and first != file:
                    issues.remark(f"{first} and {name}", "of files with one id the first counts")
    return found


def _raise(error: OSError) -> NoReturn:
    raise error


def image_record(image_id: str | int, file: str, issues: DatasetIssues) -> dict | None:
    """The dict of an image without annotations: file_name, image_id, height, width.

    The size is that with which :func:`read_image` will read the image, in pixels, from the header
    alone. If the file cannot be read, this is reported, and there is no dict.
    """
    if not is_plain(file):
        issues.add(ascii(file), "has a name with characters that no list can hold; rename it")
        return None
    try:
        refuse_pipe(file)
        with Image.open(file) as image:
            width, height = _upright_size(image)
            fault = mode_fault(image)
            if max(width, height) > _MAX_RATIO * min(width, height):
                fault = f"is {width}x{height}, of which nothing is left when it is scaled; crop it"
            if image.format in _PAGED and getattr(image, "is_animated", False):
                issues.remark(file, "of images with several pages the first is read")
    except Exception as error:  # Pillow has many for damaged files
        issues.add(file, unreadable(error))
        return None
    if fault:
        issues.add(file, fault)
        return None
    return {"file_name": file, "image_id": image_id, "height": height, "width": width}


def load_images(
    image_dir: str | Path, ids: Sequence[str] | None, issues: DatasetIssues, suffix: str = ""
) -> list[dict]:
    """The dicts of unlabelled images; no other file is opened.

    Args:
        image_dir: folder of the images, which is searched with its sub-folders.
        ids: which images, in this order; None for all of them, sorted.
        issues: receives missing and unreadable images, which are left out.
        suffix: what the file names have between id and extension; other files do not count, and
            ids may have it, too, as in lists that were made from the names of the files.
    """
    found = index_images(image_dir, issues=issues).items()
    files = {stem.removesuffix(suffix): file for stem, file in found if stem.endswith(suffix)}
    return select_images(files, ids, image_dir, issues, suffix)


def select_images(
    files: Mapping[str, str],
    ids: Sequence[str] | None,
    place: str | Path,
    issues: DatasetIssues,
    suffix: str = "",
) -> list[dict]:
    """The dicts of those of the image ``files``, by id, that ``ids`` name; see above.

    ``place`` is where the files were found, for messages.
    """
    wanted = sorted(files) if ids is None else [name.removesuffix(suffix) for name in ids]
    records = []
    for image_id in wanted:
        if image_id not in files:
            stem = os.path.splitext(image_id)[0].removesuffix(suffix)
            name = PureWindowsPath(stem).name  # behind "/" or "\\"
            cure = f"; ids have no folder, write {name}" if name in files else ""
            cure = f"; ids have no extension, write {stem}" if stem in files else cure
            issues.add(image_id, f"no image of this id in {place}{cure}")
        elif (record := image_record(image_id, files[image_id], issues)) is not None:
            records.append(record)
    return records
