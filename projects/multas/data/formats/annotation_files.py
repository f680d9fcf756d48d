"""What formats with an annotation file for each image have in common."""

from collections.abc import Callable, Iterable
from pathlib import Path

from multas.data.formats.base import DataFormat, Source


def annotate(
    source: Source,
    records: Iterable[dict],
    folder: Path,
    suffix: str,
    read: Callable[[Path, dict], list[dict] | None],
    why: str,
) -> list[dict]:
    """The records of images with the annotations of their files.

    Args:
        source: whose issues count what is left out.
        records: of images without annotations.
        folder: of the files, which are named by the ids of the images.
        suffix: of the files, such as ".json".
        read: reads the file of a record; None if all that is in it has faults, which it reports.
        why: the reason for which images without a file are left out; "" = they are not, and
            ``read`` reports the fault.
    """
    found = []
    for record in records:
        file = folder / f"{record['image_id']}{suffix}"
        if why and not file.is_file():
            source.issues.leave_out(record["image_id"], why)
        elif (own := read(file, record)) is not None:
            found.append({**record, "annotations": own})
    return found


def find_classes(
    source: Source,
    folder_of: Callable[[DataFormat, Path], Path | None],
    suffix: str,
    names_in: Callable[[Path], set[str]],
) -> list[str]:
    """Sorted classes of the objects of all splits; files that cannot be read do not count.

    Args:
        source: of which the splits are read.
        folder_of: the folder of the files of a split, below a root; None for one without files.
        suffix: of the files.
        names_in: the classes of a file; it may raise OSError and ValueError.
    """
    names: set[str] = set()
    for split in source.splits:
        if (folder := folder_of(split, source.root)) is None:
            continue
        ids = source.ids_of(split)
        listed = None if ids is None else [folder / f"{image_id}{suffix}" for image_id in ids]
        for file in folder.rglob(f"*{suffix}") if listed is None else listed:
            try:
                names |= names_in(file)
            except (OSError, ValueError):
                continue
    return sorted(names)
