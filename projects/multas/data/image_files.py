"""Images in a folder and lists of their ids: the part of every format that needs no annotation."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from multas.data.issues import DatasetError, DatasetIssues

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_EXIF_ORIENTATION = 0x0112


def read_ids(file: str | Path, issues: DatasetIssues) -> list[str]:
    """Read a list of ids, the first word of each line (VOC's lists by class have a second word).

    An id that is listed again is reported and left out.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
        for word in line.split()[:1]:
            first = seen.setdefault(word, number)
            if first != number:
                issues.add(str(file), f"line {number}: {word} is listed twice (line {first})")
    return list(seen)


def index_images(folder: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Find the image files below a folder.

    Returns:
        The files by id, which is the path below the folder without extension, with "/" between
        folders.

    Raises:
        DatasetError: if the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"folder {folder} does not exist")
    found: dict[str, str] = {}
    for parent, folders, names in os.walk(folder):
        folders.sort()
        relative = Path(parent).relative_to(folder)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in suffixes:
                found.setdefault((relative / stem).as_posix(), os.path.join(parent, name))
    return found


def image_record(image_id: str | int, file: str, issues: DatasetIssues) -> dict | None:
    """The dict of an image without annotations: file_name, image_id, height, width.

    The size is that with which Detectron2 will read the image, in pixels, from the header alone.
    If the file cannot be read, this is reported, and there is no dict.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Detectron2 turns photographs upright when it reads them.
            if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
                width, height = height, width
    except OSError as error:  # Pillow raises one for what is not an image, too
        issues.add(file, f"not a readable image ({error.__class__.__name__})")
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
    found = index_images(image_dir).items()
    files = {stem.removesuffix(suffix): file for stem, file in found if stem.endswith(suffix)}
    wanted = sorted(files) if ids is None else [name.removesuffix(suffix) for name in ids]
    records = []
    for image_id in wanted:
        if image_id not in files:
            issues.add(image_id, f"no image of this id in {image_dir}")
        elif (record := image_record(image_id, files[image_id], issues)) is not None:
            records.append(record)
    return records
