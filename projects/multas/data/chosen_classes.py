"""The key ``only`` of a data card: a data set with some of its classes.

Objects and labelled images of other classes are left out and counted. In masks, other classes
become background: who looks for cars alone has roads for background, not for pixels of unknown
class. Where value 0 of the masks is another class, the background is a new one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multas.data.formats.mask_files import MASK_VALUES, MaskValues
from multas.data.issues import DatasetError, DatasetIssues
from multas.util.annotation import BOXES, LABELS, MASKS, STANDARD
from multas.util.names import did_you_mean

BACKGROUNDS = ("background", "_background_", "bg", "nothing", "void", "unlabeled", "unlabelled")
# What tells Detectron2's COCO evaluator to read the whole file.
_WHOLE_FILE = ("json_file", "thing_dataset_id_to_contiguous_id")


def choose_names(
    names: Mapping[str, Any], only: Sequence[str], ignore_label: int, where: str
) -> dict[str, Any]:
    """The metadata of a data set with the classes ``only``, in this order.

    Args:
        names: metadata with the names of all classes ("thing_classes", "stuff_classes" …), and
            what reads their masks, if these are MaskValues.
        only: the names of those that are wanted.
        ignore_label: value of the pixels of a mask that do not count; it stays as it is.
        where: names the card and the split, for messages.

    Raises:
        DatasetError: if there is no such class.
    """
    kinds = [kind for kind in STANDARD if names.get(kind.classes_key)]
    known = list(dict.fromkeys(name for kind in kinds for name in names[kind.classes_key]))
    for name in only if kinds else ():
        if name not in known:
            raise DatasetError(f"{where}: `only` names {name!r}.{did_you_mean(name, known)}")
    replaced = (*_WHOLE_FILE, "read_sem_seg")
    chosen = {key: value for key, value in names.items() if key not in replaced}
    for kind in kinds:
        if kind is MASKS:
            classes, table = _mask_classes(names[kind.classes_key], only, ignore_label)
            before = names.get("read_sem_seg")
            after = before.then(table) if isinstance(before, MaskValues) else MaskValues(table)
            chosen |= {kind.classes_key: classes, "read_sem_seg": after}
        else:
            chosen[kind.classes_key] = [n for n in only if n in names[kind.classes_key]]
    return chosen


def _mask_classes(
    names: Sequence[str], only: Sequence[str], ignore_label: int
) -> tuple[list[str], bytes]:
    """The names of the new values of masks, and the new value of each of the 256 old ones."""
    keeps_first = ignore_label != 0 and names[0].lower() in BACKGROUNDS
    background = names[0] if keeps_first else BACKGROUNDS[0]
    classes: list[str] = []
    for name in [background, *(n for n in only if n in names and n != background)]:
        if len(classes) == ignore_label:  # no class may have this value
            is_named = ignore_label < len(names) and names[ignore_label] not in only
            classes.append(names[ignore_label] if is_named else f"value {ignore_label}")
        classes.append(name)
    numbers = {name: number for number, name in enumerate(classes) if number != ignore_label}
    values = np.full(256, numbers[background], np.uint8)
    for value, name in enumerate(names):
        values[value] = numbers.get(name, numbers[background])
    if ignore_label >= 0:
        values[ignore_label] = ignore_label
    return classes, values.tobytes()


def choose_records(
    records: Sequence[dict], before: Mapping[str, Any], after: Mapping[str, Any],
    issues: DatasetIssues,
) -> list[dict]:  # fmt: skip
    """The dataset dicts of a data set, with the classes of :func:`choose_names`.

    Args:
        records: the dicts, whose classes are numbered by the metadata ``before``.
        before, after: what :func:`choose_names` got and gave.
        issues: counts what is left out.
    """
    names = {kind: before.get(kind.classes_key) or () for kind in (BOXES, LABELS)}
    numbers = {
        kind: {name: number for number, name in enumerate(after.get(kind.classes_key) or ())}
        for kind in names
    }
    chosen = []
    for record in records:
        new = dict(record)
        if LABELS.dataset_key in record and names[LABELS]:
            name = names[LABELS][record[LABELS.dataset_key]]
            if name not in numbers[LABELS]:
                issues.pass_over(name, "images")
                continue
            new[LABELS.dataset_key] = numbers[LABELS][name]
        if BOXES.dataset_key in record and names[BOXES]:
            new[BOXES.dataset_key] = kept = []
            for entry in record[BOXES.dataset_key]:
                name = names[BOXES][entry["category_id"]]
                if name in numbers[BOXES]:
                    kept.append({**entry, "category_id": numbers[BOXES][name]})
                else:
                    issues.pass_over(name, "objects")
        if MASKS.dataset_key in record:
            new[MASK_VALUES] = after["read_sem_seg"]
        chosen.append(new)
    return chosen
