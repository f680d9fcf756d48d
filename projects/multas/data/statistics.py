"""What is trained on: the images, objects and pseudo-boxes of data sets, and what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from detectron2.data.catalog import Metadata
from rich.console import Group
from tabulate import tabulate

from multas.data.dataset_dicts import TrainingSet
from multas.data.pseudo_labels import PseudoLabels
from multas.util.annotation import BOXES, LABELS, MASKS
from multas.util.screen import columns, facts

BOX, PSEUDO, LABEL = "boxes", "pseudo-boxes", "labels"
PSEUDO_MASK = "pseudo-masks"
_WORDS = {BOXES.dataset_key: BOX, MASKS.dataset_key: "masks", LABELS.dataset_key: LABEL}
_PSEUDO = {BOXES.dataset_key: PSEUDO, MASKS.dataset_key: PSEUDO_MASK}
NOTHING = "not annotated"
_WIDTH = 6  # columns of a table of classes
_FEW = 20  # classes that a screen shows one by one


@dataclass(frozen=True)
class Statistics:
    """Numbers of a data set, as it is trained on.

    Attributes:
        name: of the data set.
        images: of all images.
        annotated: of images by what they are annotated with; "not annotated" counts the others.
        classes: of objects by their kind (boxes, pseudo-boxes, labels) and class.
        left_out: of what is not trained on, by what it is and why.
    """

    name: str
    images: int
    annotated: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]


def count(data: TrainingSet, metadata: Metadata, labels: PseudoLabels) -> Statistics:
    """The numbers of a data set, of which ``labels`` joins unannotated images."""
    own = {k: k for k in metadata.get("annotation_keys", ())}
    words = {**own, **_WORDS}
    annotated: Counter[str] = Counter()
    classes: dict[str, Counter[int]] = {BOX: Counter(), PSEUDO: Counter(), LABEL: Counter()}
    left_out: Counter[str] = Counter(metadata.get("left_out", {}))
    left_out["images without objects (DATALOADER.FILTER_EMPTY_ANNOTATIONS)"] = data.num_empty
    for record in data.dicts:
        joined = labels.join(record)
        is_pseudo = BOXES.dataset_key not in record
        has = [word for key, word in words.items() if key in record]
        has += [word for key, word in _PSEUDO.items() if key in joined and key not in record]
        annotated.update(has or [NOTHING])
        if is_pseudo:
            left_out.update(_left_out(record.get("image_id"), labels))
        for item in joined.get(BOXES.dataset_key, ()):
            if item.get("iscrowd", 0):
                left_out["crowds"] += 1
            else:
                classes[PSEUDO if is_pseudo else BOX][item["category_id"]] += 1
        if isinstance(label := record.get(LABELS.dataset_key), int):
            classes[LABEL][label] += 1
    keys = {BOX: BOXES.classes_key, PSEUDO: BOXES.classes_key, LABEL: LABELS.classes_key}
    named = {k: _named(v, metadata.get(keys[k]) or ()) for k, v in classes.items() if v}
    return Statistics(data.name, len(data.dicts), annotated, named, +left_out)


def _left_out(image_id: Any, labels: PseudoLabels) -> dict[str, int]:
    """What pseudo-labels leave out of an image that is not annotated with boxes."""
    found = {f"pseudo-boxes {why}": n for why, n in labels.dropped.get(image_id, {}).items()}
    if not labels.boxes.get(image_id, True):
        what = "not annotated" if labels.empty == "skip" else "background"
        found[f"images without a pseudo-box, which count as {what}"] = 1
    return found


def _named(numbers: Mapping[int, int], names: Sequence[str]) -> dict[str, int]:
    """The numbers by the names of classes, also of those that do not occur."""
    found = {name: numbers.get(i, 0) for i, name in enumerate(names)}
    return found | {str(i): n for i, n in sorted(numbers.items()) if i not in range(len(names))}


def describe(sets: Sequence[Statistics], title: str) -> str:
    """Tables of the images and of the objects of each class, and what was left out."""
    head, rows = _image_rows(sets)
    parts = [title, tabulate(rows, head, tablefmt="pipe")]
    if table := _class_table(sets):
        parts.append(table)
    if lines := [f"  {line}" for line in _left_out_lines(sets)]:
        parts.append("\n".join(["Left out:", *lines]))
    return "\n".join(parts)


def describe_briefly(sets: Sequence[Statistics], labels: PseudoLabels) -> Group:
    """The same for a screen, with the files of the pseudo-labels: many classes are summed up."""
    head, rows = _image_rows(sets)
    totals = _class_totals(sets)
    origins = {file: header.teacher_weights for file, header in labels.headers.items()}
    files = [f"{file} ({teacher})" if teacher else file for file, teacher in origins.items()]
    lines = {kind: _in_words(numbers) for kind, numbers in totals.items()}
    lines |= {"pseudo-labels": ", ".join(files), "left out": "; ".join(_left_out_lines(sets))}
    return Group(columns(head, [[cell or "-" for cell in row] for row in rows]), facts(lines))


def _image_rows(sets: Sequence[Statistics]) -> tuple[list[str], list[list[Any]]]:
    """The header and rows of a table of the images of each set, and of all."""
    order = dict.fromkeys(
        [*_WORDS.values(), *_PSEUDO.values(), *(k for s in sets for k in s.annotated)]
    )
    kinds = [k for k in order if k != NOTHING and any(s.annotated.get(k) for s in sets)]
    rows: list[list[Any]] = [
        [s.name, s.images, *(s.annotated.get(kind, 0) for kind in [*kinds, NOTHING])] for s in sets
    ]
    if len(rows) > 1:
        rows.append(["all", *map(sum, list(zip(*rows, strict=True))[1:])])
    return ["data set", "images", *(f"with {kind}" for kind in kinds), NOTHING], rows


def _left_out_lines(sets: Sequence[Statistics]) -> list[str]:
    return [f"{s.name}: {n} {what}" for s in sets for what, n in s.left_out.items()]


def _class_totals(sets: Sequence[Statistics]) -> dict[str, Counter[str]]:
    """The objects of each class in all sets, by their kind."""
    totals = {kind: Counter[str]() for kind in (BOX, PSEUDO, LABEL)}
    for s in sets:
        for kind, numbers in s.classes.items():
            totals[kind].update(numbers)
    return totals


def _in_words(numbers: Mapping[str, int]) -> str:
    """The number of each class, or of many classes the smallest and the largest."""
    if len(numbers) <= _FEW:
        return ", ".join(f"{name} {number}" for name, number in numbers.items())
    (most, high), *_, (least, low) = Counter(numbers).most_common()
    missing = sum(not number for number in numbers.values())
    told = f"{len(numbers)} classes, from {low} ({least}) to {high} ({most})"
    return f"{told}, {missing} without any" if missing else told


def _class_table(sets: Sequence[Statistics]) -> str:
    """The objects of each class in all sets; "" if there are none. Long tables are folded."""
    kinds = [kind for kind in (BOX, PSEUDO, LABEL) if any(kind in s.classes for s in sets)]
    if not kinds:
        return ""
    totals = _class_totals(sets)
    names = list(dict.fromkeys(name for kind in kinds for name in totals[kind]))
    rows: list[list[Any]] = [[name, *(totals[kind][name] for kind in kinds)] for name in names]
    rows.append(["all", *(totals[kind].total() for kind in kinds)])
    folds = max(_WIDTH // (1 + len(kinds)), 1)
    height = -(-len(rows) // folds)
    columns = [rows[i : i + height] for i in range(0, len(rows), height)]
    empty: list[Any] = [""] * (1 + len(kinds))
    lines = zip_longest(*columns, fillvalue=empty)
    folded = [[cell for row in line for cell in row] for line in lines]
    return tabulate(folded, ["class", *kinds] * len(columns), tablefmt="pipe")
