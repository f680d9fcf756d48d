"""Images in a folder and lists of their ids: the part of every format that needs no annotation."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from multas.data.issues import DatasetError, DatasetIssues

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_EXIF_ORIENTATION = 0x0112


def read_ids(file: str | Path, issues: DatasetIssues) -> list[str]:
    """Ids of a list file, the first word of each line (VOC's class lists have a second); an id that
    comes again is reported and left out."""
    seen: dict[str, int] = {}
    for number, line in enumerate(Path(file).read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if words[0] in seen:
            issues.add(
                str(file), f"line {number}: {words[0]} is listed twice (line {seen[words[0]]})"
            )
        else:
            seen[words[0]] = number
    return list(seen)


def index_images(folder: str | Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Image files below a folder by id: the path in the folder without its extension, `/` between
    folders.

    Raises:
        DatasetError: the folder does not exist.
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


def image_size(file: str | Path) -> tuple[int, int]:
    """(width, height) in pixels as Detectron2 will read the image, from the header alone.

    Raises:
        OSError: the file is missing, unreadable or no image.
    """
    with Image.open(file) as image:
        width, height = image.size
        # Detectron2 turns photographs upright when it reads them.
        if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:
            width, height = height, width
    return width, height


def image_record(image_id: str | int, file: str, issues: DatasetIssues) -> dict | None:
    """The dict of an image without annotations (file_name, image_id, height, width), or None with a
    reported problem where the file cannot be read."""
    try:
        width, height = image_size(file)
    except (UnidentifiedImageError, OSError) as error:
        issues.add(file, f"not a readable image ({error.__class__.__name__})")
        return None
    return {"file_name": file, "image_id": image_id, "height": height, "width": width}


def load_images(
    image_dir: str | Path, ids: Sequence[str] | None, issues: DatasetIssues, suffix: str = ""
) -> list[dict]:
    """Detectron2 dicts of unlabelled images; no other file is opened.

    Args:
        image_dir: folder of the images, searched with its sub-folders.
        ids: which images, in this order; None for all of them, sorted.
        issues: receives missing and unreadable images, which are left out.
        suffix: what the file names have between id and extension; others do not count.
    """
    found = index_images(image_dir).items()
    files = {stem.removesuffix(suffix): file for stem, file in found if stem.endswith(suffix)}
    records = []
    for image_id in sorted(files) if ids is None else ids:
        if image_id not in files:
            issues.add(image_id, f"no image of this id in {image_dir}")
            continue
        record = image_record(image_id, files[image_id], issues)
        if record is not None:
            records.append(record)
    return records
