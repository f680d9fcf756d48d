"""The classes of masks, from a file that names them, from the boxes, or from the values alone."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from multas.data.formats.mask_files import read_mask
from multas.data.json_files import read_json
from multas.data.looking.inventory import Inventory, Reading, join
from multas.data.looking.mask_colors import BACKGROUND, UNKNOWN, color_classes, places_near
from multas.data.looking.mask_kinds import Kind
from multas.util.errors import UserError
from multas.util.files import read_text

ANY_NUMBER = 1  # the threshold of masks that number objects
_READ = 2000  # masks of which the values are taken
_FILES = ("classes.txt", "labelmap.txt", "class_names.txt", "label_names.txt", "labels.txt")
_TABLES = ("categories.json", "classes.json", "labels.json", "_classes.csv")


def mask_classes(
    found: Inventory,
    folders: Sequence[str],
    kind: Kind,
    boxes: Reading | None,
    notes: list[str],
) -> dict[str, Any]:
    """The keys of a card that name the values of the masks in some folders.

    255 does not count. 0 is the background, or does not count if it is called so. Values with gaps
    are closed up by ``only``.

    Raises:
        UserError: The masks have more colours than classes can be, or nothing names these and there
            are boxes, beside which they may be anything.
    """
    if kind.has_colors:
        return color_classes(found, folders, notes, must_be_named=boxes is not None)
    values = {0, 1} if kind.is_gray else _values(found, folders)
    names = _named(found, folders, values, notes)
    classes = list(boxes.card["classes"]) if boxes else []
    if not names and classes and values - {255} <= set(range(len(classes) + 1)):
        names = dict(enumerate([BACKGROUND, *classes]))
        notes.append("the values of the masks are the numbers of the classes of the boxes, from 1")
    one = classes[0] if len(classes) == 1 else "object"
    if kind.is_gray:
        both = [names.get(0, BACKGROUND), names.get(1, one)]
        notes.append(f"the masks are black and white: {' and '.join(both)}")
        return {"classes": both, "threshold": 128}
    # Objects are numbered from 1, and what is none has 0.
    if kind.numbers_objects and 0 in values and max(values - {255}) > 1 and not names:
        notes.append(f"the masks number the objects of each image: all are the class {one}")
        return {"classes": [BACKGROUND, one], "threshold": ANY_NUMBER}
    counted = values - {255}
    if not names:
        shown = ", ".join(map(str, sorted(counted)))
        notes.append(f"nothing names the values of the masks, {shown}: write classes.txt")
        names = {0: BACKGROUND, 1: one} if counted <= {0, 1} else {0: BACKGROUND}
    names |= {value: f"class_{value}" for value in sorted(counted - names.keys())}
    names = dict(sorted(names.items()))
    keys: dict[str, Any] = {"classes": names}
    if names.get(0, "").lower() in UNKNOWN:
        keys["ignore_label"] = 0
        notes.append(f"value 0 of the masks, {names[0]}, does not count")
    if len(names) == max(names) + 1:
        keys["classes"] = list(names.values())
    else:
        keys["only"] = [name for value, name in names.items() if value]
    return keys


def _values(found: Inventory, folders: Sequence[str]) -> set[int]:
    """The values of masks, of some where there are very many."""
    masks = [mask for folder in dict.fromkeys(folders) for mask in found.below(folder)]
    values = np.zeros(256, bool)
    for mask in masks[:: max(1, len(masks) // _READ)]:
        try:
            values |= np.bincount(read_mask(found.root / mask).reshape(-1), minlength=256) > 0
        except UserError:  # reported when the data are loaded
            continue
    return set(np.flatnonzero(values).tolist())


def _named(
    found: Inventory, folders: Sequence[str], values: set[int], notes: list[str]
) -> dict[int, str]:
    """The names in a file beside the masks or above them; {} if there is none that fits."""
    for folder in places_near(folders):
        for name in (*_TABLES, *_FILES):
            suffix = name[name.rindex(".") :]
            if name not in found.texts[suffix].get(folder, ()):
                continue
            place = join(folder, name)
            read = {".json": _read_table, ".csv": _read_csv}.get(suffix, _read_names)
            try:
                names = read(found.root / place)
            except (OSError, UserError):
                names = {}
            # Where 0 goes without saying.
            is_short = 0 in names and max(values - {255}, default=0) == len(names)
            if is_short and names[0].lower() != BACKGROUND:
                names = {0: BACKGROUND} | {v + 1: n for v, n in names.items()}
            if names and len(set(names.values())) == len(names) and values - {255} <= set(names):
                notes.append(f"{place} names the values of the masks")
                return names
            notes.append(f"{place} is passed over: it does not name the values of the masks")
    return {}


def _read_names(file: Path) -> dict[int, str]:
    """The names of a text file, one on each line; CVAT's have colours behind a colon."""
    lines = (line.split("#")[0].split(":")[0].strip() for line in read_text(file).split("\n"))
    return dict(enumerate(filter(None, lines)))


def _read_csv(file: Path) -> dict[int, str]:
    """The names of Roboflow's table of values and names."""
    rows = [row for row in csv.reader(read_text(file).splitlines()) if len(row) == 2]
    return {int(v): name.strip() for v, name in rows if v.strip().isdecimal() and int(v) < 256}


def _read_table(file: Path) -> dict[int, str]:
    """The names of a JSON file: a list, a table {"0": name}, or entries with "value" or "id"."""
    content = read_json(file)
    if isinstance(content, dict):
        content = content.get("categories", content)
    if isinstance(content, dict):
        content = [{"value": key, "name": name} for key, name in content.items()]
    names: dict[int, str] = {}
    for number, entry in enumerate(content if isinstance(content, list) else ()):
        entry = entry if isinstance(entry, dict) else {"value": number, "name": entry}
        value, name = str(entry.get("value", entry.get("id", number))), entry.get("name")
        if isinstance(name, str) and value.isdecimal() and int(value) < 256:
            names[int(value)] = name
    return names
