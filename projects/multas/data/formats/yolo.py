"""YOLO's format (Darknet, Ultralytics): a text file for each image, with an object on each line.

What a line has, stands in yolo_labels.py.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.formats.yolo_labels import CLASS_FILES, listed_names, read_labels
from multas.data.image_files import index_images, select_images
from multas.data.image_names import IMAGE_SUFFIXES
from multas.data.issues import DatasetError, DatasetIssues, unread
from multas.util.annotation import BOXES
from multas.util.errors import UserError
from multas.util.files import read_text

_NO_LABELS = "no label file"
LABEL_FOLDERS = {"images": "labels", "Images": "Labels"}  # by the folders of their images


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Yolo(DataFormat):
    """The images of folders and lists, with the label files that Ultralytics finds for them.

    ``files`` are folders, which are searched with their sub-folders, or text files that list
    images; both lie below ``images``, which lies below the root. Ids are paths below ``images``
    without extension. The label file of .../images/a/1.jpg is .../labels/a/1.txt (the last folder
    called images counts, or Images, with Labels); without such a folder it lies beside the image.
    ``labels`` names another folder below the root, with the paths of the ids.

    An image without a label file has no object, as everywhere with YOLO; with ``only_complete`` it
    is left out. ``extra_columns`` are passed over behind each box: key points, or a confidence.
    """

    main_key = "files"
    can_annotate = (BOXES,)

    files: tuple[str, ...] = (".",)
    labels: str = ""
    extra_columns: int = 0
    only_complete: bool = False
    annotates: tuple[str, ...] = (BOXES.task,)

    @classmethod
    def parse_classes(cls, classes: Any) -> Any:
        """A list, or a table of the numbers 0, 1, … and their names."""
        if classes is None:
            raise UserError("format yolo needs `classes`, the names of the numbers 0, 1, …")
        return listed_names(classes)

    def load(self, source: Source) -> Loaded:
        classes, issues = source.classes or (), source.issues
        folder = source.root / self.images
        records, expected = [], set()
        for record in self.load_unlabeled(source)[0]:
            file = self._label_file(record, folder, source.root)
            expected.add(file)
            if not os.path.isfile(file):
                if self.only_complete:
                    issues.leave_out(record["image_id"], _NO_LABELS)
                    continue
                own: list[dict] | None = []
            else:
                own = read_labels(file, record, classes, self.extra_columns, source)
            if own is not None:
                records.append({**record, "annotations": own})
        if source.ids is None and all((folder / name).is_dir() for name in self.files):
            _remark_lonely(expected, {str(record["file_name"]) for record in records}, issues)
        if expected and not any(map(os.path.isfile, expected)):
            first = Path(min(expected))
            usual = Path(_folder_called_labels(str(first.parent)), first.name)
            raise DatasetError(
                f"{source.where}: no image has a label file, such as "
                f"{first if self.labels else usual}; put them there, or name their folder by "
                f"`labels`, or use the images as {self.name}_unlabeled"
            )
        return records, self.class_metadata(classes)

    def load_unlabeled(self, source: Source) -> Loaded:
        base = source.root / self.images
        files: dict[str, str] = {}
        for name in self.files:
            for file in _image_files(Path(os.path.normpath(base / name)), source):
                files.setdefault(_image_id(file, base), file)
        place = ", ".join(str(base / name) for name in self.files)
        return select_images(files, source.ids, place, source.issues), {}

    def _label_file(self, record: dict, folder: Path, root: Path) -> str:
        if self.labels:
            return str(root / self.labels / f"{record['image_id']}.txt")
        return label_file(record["file_name"])


def label_file(image: str) -> str:
    """Where the labels of an image lie: images becomes labels in its path, as with Ultralytics."""
    folder, name = os.path.split(image)
    return os.path.join(_label_folder(folder), f"{os.path.splitext(name)[0]}.txt")


def _label_folder(folder: str) -> str:
    labels = _folder_called_labels(folder)
    return labels if os.path.isdir(labels) else folder


def _folder_called_labels(folder: str) -> str:
    parts = Path(folder).parts
    last = max((i for i, part in enumerate(parts) if part in LABEL_FOLDERS), default=len(parts))
    called = [LABEL_FOLDERS[part] for part in parts[last : last + 1]]
    return str(Path(*parts[:last], *called, *parts[last + 1 :]))


def _image_id(file: str, base: Path) -> str:
    """The path below ``base`` without extension; of a file elsewhere, the whole path."""
    path = Path(os.path.splitext(file)[0])
    return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()


def _image_files(place: Path, source: Source) -> Iterable[str]:
    """The image files of a folder or of a list."""
    if place.is_dir():
        return index_images(place, issues=source.issues).values()
    if place.suffix.lower() != ".txt" or not place.is_file():
        raise DatasetError(
            f"{source.where}: {place} is neither a folder of images nor a list of them (.txt); "
            "correct `root` or the split"
        )
    return _read_list(place, source)


def _read_list(place: Path, source: Source) -> Iterable[str]:
    """The files of a list: paths from the list's folder, or from the root."""
    try:
        lines = [line.strip() for line in read_text(place).split("\n")]
    except (OSError, UserError) as error:
        raise DatasetError(f"{place}: {unread(error)}") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{place}: line {number}"
        tried = [os.path.normpath(base / line) for base in (place.parent, source.root)]
        file = next(filter(os.path.isfile, tried), None)
        if not line:
            continue
        if file is None:
            source.issues.add(where, f"there is no image {' or '.join(dict.fromkeys(tried))}")
        elif not file.lower().endswith(IMAGE_SUFFIXES):
            source.issues.add(where, f"{line} is no image ({', '.join(IMAGE_SUFFIXES)})")
        elif (first := found.setdefault(file, number)) != number:
            source.issues.add(where, f"{line} is listed twice (line {first})")
    return list(found)


def _remark_lonely(expected: set[str], images: set[str], issues: DatasetIssues) -> None:
    """Note label files of which there is no image, in folders that have nothing but labels."""
    folders = {os.path.dirname(file) for file in expected} - {os.path.dirname(i) for i in images}
    for folder in sorted(filter(os.path.isdir, folders)):
        for name in sorted(os.listdir(folder)):
            file = os.path.join(folder, name)
            if name.endswith(".txt") and name not in CLASS_FILES and file not in expected:
                issues.remark(file, "label files without an image are passed over")
