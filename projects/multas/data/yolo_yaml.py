"""The data.yaml of YOLO (Ultralytics, Roboflow) as a data card of format yolo.

It has `names` of the classes (a list, or a table of all numbers), `path` of the data, and `train`,
`val`, `test`: each a folder, a text file that lists images, or a list of these.
"""

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from multas.data.formats.yolo_labels import listed_names
from multas.data.issues import DatasetError
from multas.util.errors import UserError

_SPLITS = ("train", "val", "test")


def is_yolo_yaml(content: Mapping) -> bool:
    """Whether the content of a YAML file is that of a data.yaml and no card's."""
    return not {"format", "root"} & content.keys() and (
        "names" in content or ("nc" in content and any(key in content for key in _SPLITS))
    )


def card_of_yolo_yaml(content: Mapping, file: Path) -> dict[str, Any]:
    """The content of a card with the splits of a data.yaml, whose root is absolute.

    It is named by its folder, or by itself where it is not called data.yaml. As with Ultralytics,
    `path` may start at the file or in the folder of all data sets ($DETECTRON2_DATASETS), and
    Roboflow's ``../train/images`` stands for ``train/images``. Where `path` is that of another
    computer, the data may lie beside the file.

    Raises:
        DatasetError: if a key is missing or wrong, or there is no folder with these splits.
    """
    where = f"YOLO's {file}"
    given = {key: content[key] for key in _SPLITS if content.get(key)}
    splits = {key: value if isinstance(value, list) else [value] for key, value in given.items()}
    if not splits:
        raise DatasetError(f"{where}: has no `train`, `val` or `test`, the folders of the images")
    for key, values in splits.items():
        if wrong := [value for value in values if not isinstance(value, str)]:
            raise DatasetError(f"{where}: `{key}` has {wrong[0]!r}, need the path of a folder")
    root = _find_root(content.get("path") or ".", splits, file, where)
    card: dict[str, Any] = {
        "name": plain_name(file.resolve().parent.name if file.stem == "data" else file.stem),
        "format": "yolo",
        "root": str(root),
        "classes": yolo_names(content, file),
        "splits": {
            key: _one_or_all([_below(root, value) for value in values])
            for key, values in splits.items()
        },
    }
    if extra := _key_point_columns(content.get("kpt_shape"), where):
        card["extra_columns"] = extra
    return card


def plain_name(text: str) -> str:
    """A name for a card that is like a text, such as the name of a folder."""
    plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip("._-")
    return plain or "data"


def _find_root(path: Any, splits: Mapping[str, list[str]], file: Path, where: str) -> Path:
    if not isinstance(path, str):
        raise DatasetError(f"{where}: `path` is {path!r}, need a text")
    datasets = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    path, folder = os.path.expanduser(path), file.resolve().parent
    tried = [Path(os.path.normpath(base / path)) for base in (folder, datasets.absolute())]
    tried = list(dict.fromkeys([*tried, folder]))
    wanted = [value for values in splits.values() for value in values]
    found = [sum(map(os.path.exists, (root / _below(root, v) for v in wanted))) for root in tried]
    if not max(found):
        raise DatasetError(
            f"{where}: there is no {wanted[0]} in {' or '.join(map(str, tried))}; correct `path`, "
            "the folder that `train`, `val` and `test` start from"
        )
    return tried[found.index(max(found))]


def _below(root: Path, value: str) -> str:
    """The path of a split from the root."""
    if not os.path.exists(root / value) and value.startswith("../"):
        value = value.removeprefix("../")
    return value


def _one_or_all(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def yolo_names(content: Mapping, file: Path) -> list:
    """The names of the classes in a data.yaml, in order.

    Raises:
        DatasetError: if they are missing, or not as many as it says.
    """
    where = f"YOLO's {file}"
    names, count = content.get("names"), content.get("nc")
    try:
        names = listed_names(names)
    except UserError as error:
        raise DatasetError(f"{where}: names: {error}") from None
    if names is None and type(count) is int and count > 0:
        return [f"class_{number}" for number in range(count)]  # as Ultralytics calls them
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{where}: `names` is {names!r}, need the names of the classes")
    if type(count) is int and count != len(names):
        raise DatasetError(f"{where}: nc is {count}, but there are {len(names)} `names`")
    return names


def _key_point_columns(shape: Any, where: str) -> int:
    """How many columns key points take behind each box; `kpt_shape` is (points, 2 or 3)."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise DatasetError(f"{where}: kpt_shape is {shape!r}, need two whole numbers")
    return prod(shape)
