"""Image classification: one folder per class (ImageNet), or a list of labels (Tiny ImageNet).

Each dict has "label", the index of the image's class. Images are not opened here: ImageNet has more
than a million.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from multas.data.csv_files import label_rows, read_csv
from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.image_files import index_images, select_images
from multas.data.image_names import ImageNames
from multas.data.issues import DatasetError, DatasetIssues, or_rather
from multas.util.annotation import LABELS
from multas.util.errors import UserError
from multas.util.files import read_text


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Folders(DataFormat):
    """Images below ``<images>/<class>`` at any depth, or of the file ``labels``.

    The ids are paths below ``images`` without extension, which images of class folders have where
    others differ from them by it alone. ``labels`` lies below the root. On each line a text file
    has an image of ``images``, its class, and what else there may be; where these are separated by
    tabs, names may have spaces. A CSV file has a column of images and one of classes, which are
    named by ``image_column`` and ``class_column`` where their own names are unusual, or a column
    for each class with a 1 for the images that belong to it. With ``part``, only those of its rows
    count that have it in ``split_column``, or in a column called split.
    """

    main_key = "images"
    can_annotate = (LABELS,)

    labels: str = ""
    image_column: str = ""
    class_column: str = ""
    part: str = ""
    split_column: str = ""
    annotates: tuple[str, ...] = (LABELS.task,)

    def load(self, source: Source) -> Loaded:
        classes = source.classes or _find_classes(source)
        folder, issues = source.root / self.images, source.issues
        if self.labels:
            records = _read_labels(folder, classes, issues, source.root / self.labels, self)
        else:
            records = _read_class_folders(folder, classes, source)
        return select_records(records, folder, source, classes), self.class_metadata(classes)

    def load_unlabeled(self, source: Source) -> Loaded:
        if self.annotates and not self.labels:
            return without_labels(self.load(source))  # the labels are the names of the folders
        if not _is_csv(self.labels) or source.ids is not None:
            return super().load_unlabeled(source)
        # Files of several splits often tell about one folder: only the images of this one count.
        folder = source.root / self.images
        found = index_images(folder, issues=source.issues)
        rows = _label_rows(source.root / self.labels, self)
        ids = ImageNames(found).find_all(image for _, image, _ in rows)
        return select_images(found, list(ids.values()), folder, source.issues), {}


def select_records(
    records: list[dict], place: Path, source: Source, classes: Sequence[str]
) -> list[dict]:
    """The records of the ids of a source, in their order, and of the classes that are wanted.

    Ids without a record are reported.
    """
    if source.ids is not None:
        known = {record["image_id"]: record for record in records}
        for image_id in source.ids:
            if image_id not in known:
                source.issues.add(image_id, f"no image of this id in {place}")
        records = [known[image_id] for image_id in source.ids if image_id in known]
    return [r for r in records if not source.leaves_out(classes[r["label"]], "images")]


def without_labels(loaded: Loaded) -> Loaded:
    """What was loaded, without the label of each image."""
    records, metadata = loaded
    return [{k: v for k, v in record.items() if k != "label"} for record in records], metadata


def _find_classes(source: Source) -> list[str]:
    """Names of the class folders of all splits, and of the classes in CSV files, sorted.

    So each split gets the same order.
    """
    own = [split for split in source.splits if isinstance(split, Folders) and split.annotates]
    folders = [source.root / split.images for split in own if not split.labels]
    below = [path for folder in folders for path in folder.glob("*/")]
    found = {path.name for path in below if path.is_dir() and not path.name.startswith(".")}
    for split in own:
        if _is_csv(split.labels):
            rows = _label_rows(source.root / split.labels, split)
            found |= {name for _, _, name in rows if name}
    if not found:
        places = ", ".join(map(str, folders)) or "any split"
        raise DatasetError(
            f"{source.where}: no class folders in {places}; correct the folders of the splits, or "
            "name the `classes`"
        )
    return sorted(found)


def _read_class_folders(image_dir: Path, class_names: Sequence[str], source: Source) -> list[dict]:
    """Records of the images in class folders; folders of other classes are passed over."""
    issues, empty = source.issues, "a class has no image"
    elsewhere = {source.root / split.images for split in source.splits if split.annotates}
    for name in class_names:
        if name in (".", "..") or Path(name).name != name:
            raise DatasetError(f"class {name!r} is no name of a folder in {image_dir}")
    numbers = {n: i for i, n in enumerate(class_names) if (image_dir / n).is_dir()}
    for name in class_names:
        if name not in numbers and any((folder / name).is_dir() for folder in elsewhere):
            issues.remark(str(image_dir / name), empty)  # as in a small split
        elif name not in numbers:
            issues.add(str(image_dir / name), "no such folder, so this class has no image")
    if not numbers:
        return []
    samples = make_dataset(image_dir, numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    for name in numbers.keys() - {class_names[label] for _, label in samples}:
        issues.remark(str(image_dir / name), empty)
    samples = _without_copies(samples, issues)
    start = len(os.path.join(image_dir, ""))
    ids = _ids([file[start:] for file, _ in samples])
    return [_record(file, own, label) for own, (file, label) in zip(ids, samples, strict=True)]


def _ids(paths: Sequence[str]) -> list[str]:
    """Paths without extension; a.jpg and a.png of one folder keep it, to be told apart."""
    stems = [os.path.splitext(path)[0] for path in paths]
    times = Counter(stems)
    return [p if times[stem] > 1 else stem for p, stem in zip(paths, stems, strict=True)]


def _without_copies(samples: list[tuple[str, int]], issues: DatasetIssues) -> list[tuple[str, int]]:
    """The files without those of folders that are met again through a link, which is reported."""
    first: dict[str, str] = {}
    again = set()
    for folder in dict.fromkeys(os.path.dirname(file) for file, _ in samples):
        other = first.setdefault(os.path.realpath(folder), folder)
        if other != folder:
            issues.add(folder, f"is {other} again, through a link; remove the link")
            again.add(folder)
    return [(file, label) for file, label in samples if os.path.dirname(file) not in again]


def _read_labels(
    image_dir: Path, class_names: Sequence[str], issues: DatasetIssues, labels: Path, split: Folders
) -> list[dict]:
    """Records of the images that a file lists; unknown classes and images are reported."""
    rows = _label_rows(labels, split)
    numbers = {name: number for number, name in enumerate(class_names)}
    found = index_images(image_dir)
    ids = ImageNames(found).find_all(image for _, image, _ in rows)
    records: dict[str, dict] = {}
    for line, file, name in rows:
        image_id, where = ids.get(file), f"{labels}: line {line}"
        if not name and _is_csv(labels.name):
            issues.remark(str(labels), "images without a class are passed over")
        elif name not in numbers:
            rather = or_rather(name, numbers)
            issues.add(where, f"unknown class {name!r} of {file}{rather}")
        elif image_id is None:
            issues.add(where, f"no image {file} in {image_dir}")
        elif image_id in records:
            issues.add(where, f"{file} is listed twice")
        else:
            records[image_id] = _record(found[image_id], image_id, numbers[name])
    return list(records.values())


def _is_csv(labels: str) -> bool:
    return labels.lower().endswith(".csv")


def _label_rows(labels: Path, split: Folders) -> list[tuple[int, str, str]]:
    """The line, image and class of each row of a list of labels.

    Raises:
        DatasetError: It cannot be read.
    """
    try:
        if _is_csv(labels.name):
            file = read_csv(labels).part(split.part, split.split_column)
            return label_rows(file, split.image_column, split.class_column)
        if split.part:
            raise UserError("`part` is that of a CSV file; drop it")
        lines = read_text(labels).split("\n")
    except (OSError, UserError) as error:
        raise DatasetError(f"{labels}: not a readable list of labels ({error})") from None
    rows = []
    for line, text in enumerate(lines, start=1):
        if text.strip():
            image, name, *_ = [*map(str.strip, text.split("\t" if "\t" in text else None)), ""]
            rows.append((line, image, name))
    return rows


def _record(file: str, image_id: str, label: int) -> dict:
    return {"file_name": file, "image_id": image_id, "label": label}
