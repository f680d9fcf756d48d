"""What formats with an annotation file for each image have in common."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from multas.data.formats.base import DataFormat, Loaded, Source

# Where the files of a split lie, below a root; None for a split without files.
FolderOf = Callable[[DataFormat, Path], Path | None]
# Reads the file of a record, with the numbers of the classes. It reports faults, and gives None if
# there are objects but all are faulty.
Read = Callable[[Path, dict, Mapping[str, int], Source], list[dict] | None]


def load_with_files(
    split: DataFormat,
    source: Source,
    folder: Path,
    suffix: str,
    classes: Sequence[str],
    read: Read,
    why: str,
) -> Loaded:
    """The images of a split with the annotations of their files.

    Args:
        split: whose images are annotated.
        source: of the split; its issues count what is left out.
        folder: of the files, which are named by the ids of the images.
        suffix: of the files, such as ".json".
        classes: names, in order.
        read: see above.
        why: the reason for which images without a file are left out; "" = they are not, and
            ``read`` reports the fault.
    """
    class_ids = {name: i for i, name in enumerate(classes)}
    records = []
    for record in split.load_unlabeled(source)[0]:
        file = folder / f"{record['image_id']}{suffix}"
        if why and not file.is_file():
            source.issues.leave_out(record["image_id"], why)
        elif (own := read(file, record, class_ids, source)) is not None:
            records.append({**record, "annotations": own})
    return records, split.class_metadata(classes)


def find_classes(
    source: Source,
    folder_of: FolderOf,
    suffix: str,
    names_in: Callable[[Path], set[str]],
) -> list[str]:
    """Sorted classes of the objects of all splits; files that cannot be read do not count.

    Args:
        source: of which the splits are read.
        folder_of: see above.
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
