"""Split lists for limited-data experiments: nested, complementary, class-balanced, seeded.

The lists have the names and relations of those used with VOC in the paper "Self-training and
multi-task learning for limited data" (Lê and Pham, ICCVW 2023), section 4.1: Eighth lies within
Quarter and Quarter within Half, and Half2, 3Quarter, 7Eighth are their exact complements. For its
section 4.4 each image belongs to one task alone.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from multas.data.formats.mask_files import MASK_VALUES, read_mask
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.errors import UserError
from multas.util.files import write_text

NAMES = {
    Fraction(1, 2): ("Half", "Half2"),
    Fraction(1, 4): ("Quarter", "3Quarter"),
    Fraction(1, 8): ("Eighth", "7Eighth"),
}
FRACTIONS = tuple(NAMES)

Counts = Mapping[str, Mapping[str, int]]


def make_splits(
    counts: Counts, fractions: Sequence[float | Fraction] = FRACTIONS, seed: int = 0
) -> dict[str, list[str]]:
    """Divide images into nested parts and their complements.

    Each part starts as a random draw from the next larger part. Swaps then bring the classes'
    shares (of objects, and of images that show the class) nearer to the fraction.

    Args:
        counts: for each image id, how many objects of each class the image shows; ``{}`` for an
            image without objects. Their order does not matter.
        fractions: shares of all images, each in (0, 1); a smaller part lies within a larger one.
        seed: seed of the random draw.

    Returns:
        Lists of sorted ids by name: for each fraction a part and its complement, named by
        :func:`split_names`, with sizes rounded half up.

    Raises:
        UserError: if a fraction lies outside (0, 1), comes twice, or gives a part without images.
    """
    shares = sorted({_as_fraction(fraction) for fraction in fractions}, reverse=True)
    if len(shares) != len(fractions) or not all(0 < share < 1 for share in shares):
        raise UserError(f"fractions must differ and lie between 0 and 1, got {list(fractions)}")
    ids, features, rng = sorted(counts), _features(counts), np.random.default_rng(seed)
    inside = np.arange(len(ids))
    splits: dict[str, list[str]] = {}
    for share in shares:
        size = part_size(share, len(ids))
        if not 0 < size < len(ids):
            raise UserError(f"{share} of {len(ids)} images is {size}: no such split can be made")
        inside = _balanced_part(features, inside, size, float(share), rng)
        part, rest = split_names(share)
        splits[part] = [ids[i] for i in inside]
        splits[rest] = sorted(counts.keys() - set(splits[part]))
    return splits


def make_partial_splits(
    counts: Counts, tasks: Sequence[str], nested: Sequence[int] = (2,), seed: int = 0
) -> dict[str, list[str]]:
    """Divide images among tasks, for training sets whose images are annotated for one task each.

    Parts are drawn and improved as in :func:`make_splits`.

    Args:
        counts, seed: see :func:`make_splits`.
        tasks: names of the lists, which share no image and are of one size (or one image more).
        nested: 2 also gives half of each list, 4 a quarter, which lies within the half.

    Returns:
        Lists of sorted ids: ``det`` for the task "det", ``det2`` for the half of it.

    Raises:
        UserError: if two lists have one name, or a part is not a fraction or has no image.
    """
    names = [f"{task}{part}" for task in tasks for part in ("", *nested)]
    if not tasks or len(set(names)) != len(names) or not all(part >= 2 for part in nested):
        raise UserError(
            f"tasks must have names of their own and nested parts be 2 or more, got {list(tasks)} "
            f"and {list(nested)}"
        )
    ids, features, rng = sorted(counts), _features(counts), np.random.default_rng(seed)
    rest = np.arange(len(ids))
    splits: dict[str, list[str]] = {}
    for number, task in enumerate(tasks):
        count = len(rest) // (len(tasks) - number)
        inside = _balanced_part(features, rest, count, 1 / len(tasks), rng)
        rest = np.setdiff1d(rest, inside)
        splits[task] = [ids[i] for i in inside]
        for part in sorted(nested):
            size = (2 * count + part) // (2 * part)
            inside = _balanced_part(features, inside, size, 1 / (part * len(tasks)), rng)
            splits[f"{task}{part}"] = [ids[i] for i in inside]
    if empty := [name for name, members in splits.items() if not members]:
        raise UserError(f"{len(ids)} images are too few: {', '.join(empty)} would have none")
    return splits


def part_size(share: Fraction, count: int) -> int:
    """The size of a part of ``count`` images, rounded half up."""
    return int(count * share + Fraction(1, 2))


def split_names(fraction: float | Fraction) -> tuple[str, str]:
    """Names of a part and its complement, like Half and Half2, or 10pct and 90pct."""
    share = _as_fraction(fraction)
    percent = f"{float(100 * share):g}pct", f"{float(100 * (1 - share)):g}pct"
    return NAMES.get(share, percent)


def write_splits(
    splits: Mapping[str, Sequence[str]], folder: str | Path, part: str = "trainval"
) -> None:
    """Write ``<folder>/<name>/<part>.txt`` for each list, one id per line."""
    for name, ids in splits.items():
        file = Path(folder, name, f"{part}.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, "".join(f"{image_id}\n" for image_id in ids))


def class_counts(
    records: Sequence[dict], class_names: Sequence[str], image_root: str | Path | None = None
) -> dict[str, dict[str, int]]:
    """Objects per class of each image of a data set; in classification, the image is the object.

    Images are known by ``image_id`` if that is text (VOC), else by the file name below
    ``image_root`` without extension: COCO numbers its images, but cards list them by name.

    Raises:
        UserError: if two images have the same id, or an image is not annotated.
    """
    counts: dict[str, dict[str, int]] = {}
    for record in records:
        is_label = LABELS.dataset_key in record
        image_id = _new_id(record, image_root, counts, LABELS if is_label else BOXES)
        objects = [{"category_id": record["label"]}] if is_label else record["annotations"]
        counts[image_id] = Counter(class_names[entry["category_id"]] for entry in objects)
    return counts


def mask_counts(
    records: Sequence[dict],
    class_names: Sequence[str],
    image_root: str | Path | None = None,
    ignore_label: int = 255,
) -> dict[str, dict[str, int]]:
    """The same as :func:`class_counts` for masks: 1 for each class that an image shows.

    Raises:
        UserError: if two images have the same id, an image has no mask, or a mask has a value
            beyond the classes.
    """
    counts: dict[str, dict[str, int]] = {}
    for record in records:
        image_id = _new_id(record, image_root, counts, MASKS)
        file = record["sem_seg_file_name"]
        values = np.setdiff1d(read_mask(file, record.get(MASK_VALUES)), ignore_label).tolist()
        if values and values[-1] >= len(class_names):
            raise UserError(
                f"{file}: value {values[-1]} is beyond the {len(class_names)} classes and not the "
                f"ignore label {ignore_label}"
            )
        counts[image_id] = {class_names[value]: 1 for value in values}
    return counts


def _new_id(
    record: dict, image_root: str | Path | None, known: Counts, annotation: Annotation
) -> str:
    image_id = record.get("image_id")
    file = Path(record["file_name"])
    if not isinstance(image_id, str) or (file.suffix and image_id == file.name):
        # Detectron2 has no ids for Cityscapes' masks, and names of files for its objects.
        file = file.with_suffix("")
        image_id = file.name if image_root is None else file.relative_to(image_root).as_posix()
    if image_id in known:
        raise UserError(f"image id {image_id} occurs twice, lists of ids would be ambiguous")
    if annotation.dataset_key not in record:
        raise UserError(f"image {image_id} is not annotated: its classes cannot be balanced")
    return image_id


def _as_fraction(value: float | Fraction) -> Fraction:
    return Fraction(value).limit_denominator(10_000)


def _features(counts: Counts) -> np.ndarray:
    """(images, 2 x classes + 1) float64, images sorted by id, where each column sums to 1.

    They are an image's share of the objects of each class, of the images that show the class, and
    of the images that show none.
    """
    names = sorted({name for own in counts.values() for name in own})
    rows = [[counts[image_id].get(name, 0) for name in names] for image_id in sorted(counts)]
    objects = np.array(rows, np.float64).reshape(len(counts), len(names))
    empty = ~objects.any(axis=1, keepdims=True)
    columns = np.concatenate([objects, objects > 0, empty], axis=1)
    return columns / np.maximum(columns.sum(axis=0), 1)


def _balanced_part(
    features: np.ndarray, pool: np.ndarray, size: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Sorted indices (size,) of ``pool`` whose features sum to about ``share`` in every column."""
    order = rng.permutation(pool)
    rows = features[order]
    table, squares = csr_array(rows), np.einsum("ij,ij->i", rows, rows)
    chosen, others = np.arange(size), np.arange(size, len(pool))  # numbers of rows
    if not len(others):
        return np.sort(order)
    error = rows[:size].sum(axis=0) - share * (features.sum(axis=0) > 0)
    best = float(error @ error)
    # Two sweeps of at most 2,000 swaps suffice: later ones gain less than one object of any class.
    for position in rng.permutation(np.tile(np.arange(size), 2))[:2000]:
        leaving = rows[chosen[position]]
        shift = error - leaving
        # |row + shift|² without |shift|². Those within its rounding of the least are computed
        # exactly, for the first of the least.
        costs = (squares + table @ (2 * shift))[others]
        slack = 1e-12 * float(squares.max() + shift @ shift)
        near = np.flatnonzero(costs <= costs.min() + slack)
        sums = rows[others[near]] - leaving + error
        exact = np.einsum("ij,ij->i", sums, sums)
        first = int(np.argmin(exact))
        if exact[first] < best * (1 - 1e-9) - 1e-18:
            best, error, swap = float(exact[first]), sums[first], near[first]
            chosen[position], others[swap] = others[swap], chosen[position]
    return np.sort(order[chosen])
