"""Data cards: a YAML file describes a data set, this module reads it.

Keys of a card (``datasets/README.md`` shows examples):

- name: prefix of the registered names ``<name>_<split>`` and ``<name>_<split>_unlabeled``, which
  become names of files: letters, digits, ".", "_" and "-"
- format: a registered data format, in lower case: voc, coco, yolo, labelme, kitti, csv, masks,
  instances, images, vedai, folders, cifar10, cifar100, or one of your own
- root: folder of the data; a relative one is looked for beside the card, then in
  $DETECTRON2_DATASETS
- splits: a table of the splits; the value of each is a table of the keys of the format, or the
  value of its main key alone (mostly a list of ids)
- classes: names in order; most formats find them where the card does not name them
- only: names of the classes that are wanted, in order; others are left out and counted
- ignore_label: value of the pixels of a mask that do not count, default 255
- strictness: stop (default) on the first load of faulty data, or skip what is faulty with one
  warning
- the keys of the format, for all splits at once

The data.yaml of YOLO is a card, too, see yolo_yaml.py.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from multas.data.formats import DATA_FORMAT_REGISTRY, DataFormat
from multas.data.issues import STRICTNESS, DatasetError
from multas.data.yolo_yaml import card_of_yolo_yaml, is_yolo_yaml
from multas.util.errors import UserError
from multas.util.files import read_text
from multas.util.names import check_choice, did_you_mean, is_plain
from multas.util.yaml_files import parse_yaml

UNLABELED = "_unlabeled"

_NAME = re.compile(r"\w[\w.-]*")
_CARD_KEYS = ("name", "format", "root", "splits", "classes", "only", "ignore_label", "strictness")


@dataclass(frozen=True)
class Card:
    """A checked card; see its keys above."""

    name: str
    format: str
    root: str
    splits: tuple[DataFormat, ...]
    classes: tuple[str, ...] | None
    only: tuple[str, ...] | None
    ignore_label: int
    strictness: str
    source: str = field(repr=False, compare=False)  # the file of the card or "<dict>"
    folder: Path  # where relative paths start

    def find_root(self) -> Path:
        """The folder of the data.

        Raises:
            DatasetError: if there is none; the message has the places that were tried.
        """
        path = Path(os.path.expanduser(self.root))
        datasets = Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
        places = [Path(os.path.normpath(base / path)) for base in (self.folder, datasets)]
        tried = [path] if path.is_absolute() else places
        for folder in tried:
            if folder.is_dir():
                return folder
        raise DatasetError(
            f"card {self.source}: root {self.root!r} is not a folder, tried "
            + " and ".join(map(str, tried))
            + "; correct `root`, or set DETECTRON2_DATASETS to the folder that holds it"
        )

    def find_ids(self, split: DataFormat, root: Path) -> Path | None:
        """The file that lists a split's images, None for a split without a list.

        Raises:
            DatasetError: if it does not exist.
        """
        if split.ids is None:
            return None
        folders = [root / "ImageSets", root, self.folder]
        folders += [root / name for name in split.list_folders()]
        tried = [base / f"{split.ids}{suffix}" for base in folders for suffix in (".txt", "")]
        for file in tried:
            if file.is_file():
                return file
        places = ", ".join(map(str, tried))
        raise DatasetError(
            f"card {self.source}: split {split.name!r}: no id list {split.ids!r}, tried {places}"
        )


def read_card(card: str | os.PathLike | dict) -> Card:
    """Read and check a card, a YAML file or its content; opens no file of the data set.

    Raises:
        DatasetError: if the card is missing or has unknown, missing or contradictory keys.
    """
    if isinstance(card, dict):
        return _parse(card, "<dict>", Path.cwd())
    file = Path(os.path.expanduser(card))
    try:
        content = parse_yaml(read_text(file), file)
    except OSError as error:
        raise DatasetError(f"card {file.absolute()} cannot be read ({error.strerror})") from None
    except UserError as error:
        raise DatasetError(f"card {error}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"card {file} is not a table of keys, such as `name: cells`")
    if is_yolo_yaml(content):
        content = card_of_yolo_yaml(content, file)
    return _parse(content, str(card), file.resolve().parent)


def _parse(content: dict, source: str, folder: Path) -> Card:
    where = f"card {source}"
    content = {key: value for key, value in content.items() if value is not None}
    formats = {cls.format_name(): cls for _, cls in sorted(DATA_FORMAT_REGISTRY)}
    own_keys = {key for cls in formats.values() for key in _keys(cls)}
    _check_keys(content, {*_CARD_KEYS, *own_keys} - {"ids"}, ("name", "format", "root"), where)
    kind, strictness = content["format"], content.get("strictness", "stop")
    try:
        check_choice("format", kind, formats)
        check_choice("strictness", strictness, STRICTNESS)
        classes = _class_names("classes", formats[kind].parse_classes(content.get("classes")))
        only = _class_names("only", content.get("only"))
        name = _registered_name("name", content["name"])
        root = _convert("root", content["root"], str)
        ignore_label = _convert("ignore_label", content.get("ignore_label", 255), int)
        if not -1 <= ignore_label <= 255:
            raise UserError(f"ignore_label {ignore_label}, choose a value of a mask, 0 to 255")
    except ValueError as error:  # that of a format of the user's own, too
        raise DatasetError(f"{where}: {error}") from None
    splits = content.get("splits", formats[kind].default_splits)
    if not isinstance(splits, dict) or not splits:
        raise DatasetError(f"{where}: `splits` must be a table like {{train: Main/train}}")
    shared = {key: value for key, value in content.items() if key not in _CARD_KEYS}
    parsed = []
    for key, value in splits.items():
        table = value if isinstance(value, dict) else {formats[kind].main_key: value}
        place = f"{where}: split {key!r}"
        _check_keys(table, own_keys, (), place)
        given = shared | {key: value for key, value in table.items() if value is not None}
        parsed.append(_parse_split(formats, kind, key, given, place))
    _check_without(parsed, where)
    return Card(
        name=name,
        format=kind,
        root=root,
        splits=tuple(parsed),
        classes=classes,
        only=only,
        ignore_label=ignore_label,
        strictness=strictness,
        source=source,
        folder=folder,
    )


def _parse_split(
    formats: Mapping[str, type[DataFormat]], kind: str, key: Any, given: dict, where: str
) -> DataFormat:
    try:
        name = _registered_name("a split's name", key)
    except UserError as error:
        raise DatasetError(f"{where}: {error}") from None
    if name.endswith(UNLABELED):
        raise DatasetError(f"{where}: names ending in {UNLABELED} are made by themselves")
    cls = formats[kind]
    required = [key.name for key in fields(cls) if key.default is MISSING and key.name != "name"]
    _check_keys(given, given, required, where)
    for key in given:
        if key not in _keys(cls):
            users = ", ".join(other for other in formats if key in _keys(formats[other]))
            what = f"format {kind} has no use for `{key}` ({users} have), drop it"
            raise DatasetError(f"{where}: {what}")
    types = get_type_hints(cls)
    try:
        split = cls(name=name, **{key: _convert(key, v, types[key]) for key, v in given.items()})
    except ValueError as error:  # that of a format of the user's own, too
        raise DatasetError(f"{where}: {error}") from None
    allowed = [annotation.task for annotation in cls.can_annotate]
    if not set(split.annotates) <= set(allowed):
        what = f"annotates {list(split.annotates)}, but format {kind} can give {allowed}"
        raise DatasetError(f"{where}: {what}")
    return split


def _check_without(splits: Sequence[DataFormat], where: str) -> None:
    for split in splits:
        others = [other.name for other in splits if other is not split and other.annotates]
        for name in split.without:
            if name not in others:
                what = f"`without` names {name!r}.{did_you_mean(name, others)}"
                raise DatasetError(f"{where}: split {split.name!r}: {what}")


def _keys(cls: type[DataFormat]) -> list[str]:
    """The keys of a split."""
    return [key.name for key in fields(cls) if key.name != "name"]


def _check_keys(table: dict, known: Collection[str], needed: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise DatasetError(f"{where}: unknown key {key!r}.{did_you_mean(str(key), known)}")
    for key in needed:
        if key not in table:
            raise DatasetError(f"{where}: key {key!r} is missing")


def _convert(key: str, value: Any, kind: Any) -> Any:
    """The value of a key in the type of its field."""
    if kind is bool and not isinstance(value, bool):
        raise UserError(f"{key} {value!r}, choose true or false")
    if kind == tuple[str, ...]:
        words = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_text(key, word) for word in words)
    if kind is int and type(value) is not int:
        raise UserError(f"{key} {value!r}, need a whole number")
    if kind is float and type(value) not in (int, float):
        raise UserError(f"{key} {value!r}, need a number")
    return _text(key, value) if kind in (str, str | None) else value


def _text(key: str, value: Any) -> str:
    """A text or whole number of a card as a text; YAML makes other things of yes, 1.0 or a date."""
    if type(value) not in (str, int):
        raise UserError(
            f"{key} has {value!r}, need a text; if it is meant as one, put it in quotes"
        )
    return str(value)


def _registered_name(key: str, value: Any) -> str:
    name = _text(key, value)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{key} {name!r} must consist of letters, digits, '.', '_' and '-', and begin with a "
            "letter or digit: it becomes the name of files"
        )
    return name


def _class_names(key: str, classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if not isinstance(classes, (list, tuple)):
        raise UserError(f"{key} must be a list of names, got {classes!r}")
    if not classes:
        raise UserError(f"{key} is empty: name them, or leave out the key to have all")
    names = tuple(_text(key, name) for name in classes)
    for name in names:
        if not name.strip() or not is_plain(name):
            raise UserError(f"{key} has {name!r}, need a text of one line")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{key} lists {', '.join(twice)} twice")
    return names
