"""Image classification: one folder per class (ImageNet), or a list of labels (Tiny ImageNet).

Each dict has "label", the index of the image's class. Images are not opened here: ImageNet has more
than a million.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from multas.data.formats.base import DATA_FORMAT_REGISTRY, DataFormat, Loaded, Source
from multas.data.image_files import index_images
from multas.data.issues import DatasetError, DatasetIssues, or_rather
from multas.util.annotation import LABELS
from multas.util.errors import UserError
from multas.util.files import read_text


@DATA_FORMAT_REGISTRY.register()
@dataclass(frozen=True, kw_only=True)
class Folders(DataFormat):
    """Images below ``<images>/<class>`` at any depth, or of the text file ``labels``.

    The ids are paths below ``images`` without extension. ``labels`` lies below the root; on each
    line it has an image file of ``images``, its class, and what else there may be. Where these are
    separated by tabs, names may have spaces.
    """

    main_key = "images"
    can_annotate = (LABELS,)

    labels: str = ""
    annotates: tuple[str, ...] = (LABELS.task,)

    def load(self, source: Source) -> Loaded:
        classes = source.classes or _find_classes(source)
        folder, issues = source.root / self.images, source.issues
        if self.labels:
            records = _read_labels(folder, classes, issues, source.root / self.labels)
        else:
            records = _read_class_folders(folder, classes, source)
        return select_records(records, folder, source, classes), self.class_metadata(classes)

    def load_unlabeled(self, source: Source) -> Loaded:
        if self.labels or not self.annotates:
            return super().load_unlabeled(source)
        return without_labels(self.load(source))  # the labels are the names of the folders


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
    """Names of the class folders of all splits, sorted, so that each split gets the same order."""
    own = [split for split in source.splits if isinstance(split, Folders) and not split.labels]
    folders = [source.root / split.images for split in own if split.annotates]
    below = [path for folder in folders for path in folder.glob("*/")]
    found = {path.name for path in below if path.is_dir() and not path.name.startswith(".")}
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
    return [_record(file, os.path.splitext(file[start:])[0], label) for file, label in samples]


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
    image_dir: Path, class_names: Sequence[str], issues: DatasetIssues, labels: Path
) -> list[dict]:
    """Records of the images that a text file lists; unknown classes and images are reported."""
    try:
        lines = read_text(labels).split("\n")
    except (OSError, UserError) as error:
        raise DatasetError(f"{labels}: not a readable list of labels ({error})") from None
    numbers = {name: number for number, name in enumerate(class_names)}
    found = index_images(image_dir)
    records: dict[str, dict] = {}
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        file, name, *_ = [*map(str.strip, line.split("\t" if "\t" in line else None)), ""]
        image_id, where = os.path.splitext(file)[0], f"{labels}: line {count}"
        if name not in numbers:
            rather = or_rather(name, numbers)
            issues.add(where, f"unknown class {name!r} of {file}{rather}")
        elif image_id not in found:
            issues.add(where, f"no image {file} in {image_dir}")
        elif image_id in records:
            issues.add(where, f"{file} is listed twice")
        else:
            records[image_id] = _record(found[image_id], image_id, numbers[name])
    return list(records.values())


def _record(file: str, image_id: str, label: int) -> dict:
    return {"file_name": file, "image_id": image_id, "label": label}
