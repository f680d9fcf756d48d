"""Image classification: one folder per class (ImageNet, Tiny ImageNet), CIFAR-10 and CIFAR-100.

torchvision.datasets reads them. Each dict has "label", the index of the image's class. Images are
not opened here: ImageNet has more than a million.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from multas.data.card import Card
from multas.data.formats.folder import index_images
from multas.data.issues import DatasetError, DatasetIssues

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def find_label_classes(card: Card, root: Path) -> list[str]:
    """Names of the class folders of all splits, sorted, so that each split gets the same order.

    Raises:
        DatasetError: there are none.
    """
    folders = [root / split.images for split in card.splits if not split.labels]
    found = {path.name for folder in folders for path in folder.glob("*/")}
    if not found:
        places = ", ".join(map(str, folders)) or "any split"
        raise DatasetError(
            f"card {card.source}: no class folders in {places}; correct the folders of the splits, "
            "or name the `classes`"
        )
    return sorted(found)


def load_class_folders(
    image_dir: Path, ids: Sequence[str] | None, class_names: Sequence[str], issues: DatasetIssues
) -> list[dict]:
    """Detectron2 dicts of the images below `<image_dir>/<class>`, at any depth.

    Args:
        image_dir: folder of the class folders; those of other classes are passed over.
        ids: paths below it without extension, in this order; None for all images, sorted.
        class_names: label `i` is `class_names[i]`.
        issues: receives classes without folder and ids without image.
    """
    numbers = {}
    for number, name in enumerate(class_names):
        if (image_dir / name).is_dir():
            numbers[name] = number
        else:
            issues.add(str(image_dir / name), "no such folder, so this class has no image")
    if not numbers:
        return []
    samples = make_dataset(image_dir, numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    start = len(os.path.join(image_dir, ""))
    records = [
        {"file_name": file, "image_id": os.path.splitext(file[start:])[0], "label": label}
        for file, label in samples
    ]
    return _select(records, ids, image_dir, issues)


def load_labels(
    image_dir: Path,
    ids: Sequence[str] | None,
    class_names: Sequence[str],
    issues: DatasetIssues,
    labels: Path,
) -> list[dict]:
    """Detectron2 dicts of images whose classes a text file lists.

    Args:
        image_dir: folder of the images.
        ids, class_names: see `load_class_folders`.
        issues: receives unknown classes, and lines or ids without image.
        labels: on each line an image file of the folder, its class, and what else there may be.

    Raises:
        DatasetError: the text file is missing or unreadable.
    """
    try:
        lines = [line.split() for line in labels.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{labels}: not a readable list of labels ({error})") from None
    numbers = {name: number for number, name in enumerate(class_names)}
    found = index_images(image_dir)
    records = []
    for count, words in enumerate(lines, start=1):
        image_id = os.path.splitext(words[0])[0]
        if len(words) < 2 or words[1] not in numbers:
            name = words[1] if len(words) > 1 else ""
            issues.add(str(labels), f"line {count}: unknown class {name!r} of {words[0]}")
        elif image_id not in found:
            issues.add(str(labels), f"line {count}: no image {words[0]} in {image_dir}")
        else:
            label = numbers[words[1]]
            records.append({"file_name": found[image_id], "image_id": image_id, "label": label})
    return _select(records, ids, image_dir, issues)


def load_cifar(
    kind: str, folder: Path, part: str, ids: Sequence[str] | None, issues: DatasetIssues
) -> tuple[list[dict], list[str]]:
    """Detectron2 dicts of CIFAR, and its classes.

    The images are parts of a few large files: dicts carry "pixels", (32, 32, 3) uint8 RGB, which
    the mapper takes in place of "file_name", here a mere name. Nothing is downloaded.

    Args:
        kind: "cifar10" or "cifar100".
        folder: what the archive unpacks to.
        part: "train" or "test".
        ids: like "train/00007", in this order; None for all images.
        issues: receives ids without image.

    Raises:
        DatasetError: files are missing or damaged.
    """
    dataset = CIFAR[kind]
    cure = f"unpack {dataset.url} so that its folder {dataset.base_folder} is `root`"
    if folder.name != dataset.base_folder:
        raise DatasetError(f"{folder} is not named {dataset.base_folder}: {cure}")
    try:
        content = dataset(folder.parent, train=part == "train", download=False)
    except RuntimeError:
        raise DatasetError(f"{folder} lacks files of {kind}, or they are damaged: {cure}") from None
    records = []
    for number, (pixels, label) in enumerate(zip(content.data, content.targets, strict=True)):
        image_id = f"{part}/{number:05d}"
        records.append(
            {
                "file_name": str(folder / image_id),
                "image_id": image_id,
                "pixels": pixels,
                "height": pixels.shape[0],
                "width": pixels.shape[1],
                "label": int(label),
            }
        )
    return _select(records, ids, folder, issues), list(content.classes)


def _select(
    records: list[dict], ids: Sequence[str] | None, where: Path, issues: DatasetIssues
) -> list[dict]:
    if ids is None:
        return records
    known = {record["image_id"]: record for record in records}
    for image_id in ids:
        if image_id not in known:
            issues.add(image_id, f"no image of this id in {where}")
    return [known[image_id] for image_id in ids if image_id in known]
