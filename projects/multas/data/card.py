"""Data cards: a YAML file describes a data set, this module reads it.

Keys of a card (``datasets/README.md`` shows examples):

- name: prefix of the registered names ``<name>_<split>`` and ``<name>_<split>_unlabeled``
- format: a registered data format, in lower case: voc, coco, masks, images, vedai, folders,
  cifar10, cifar100, or one of your own
- root: folder of the data; a relative one is looked for beside the card, then in
  $DETECTRON2_DATASETS
- splits: a table of the splits; the value of each is a table of the keys of the format, or the
  value of its main key alone (mostly a list of ids)
- classes: names in order; most formats find them where the card does not name them
- ignore_label: value of the pixels of a mask that do not count, default 255
- strictness: stop (default) on the first load of faulty data, or skip what is faulty with one
  warning
- the keys of the format, for all splits at once
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from multas.data.formats import DATA_FORMAT_REGISTRY, DataFormat
from multas.data.issues import STRICTNESS, DatasetError
from multas.util.errors import UserError
from multas.util.names import check_choice, did_you_mean

UNLABELED = "_unlabeled"

_CARD_KEYS = ("name", "format", "root", "splits", "classes", "ignore_label", "strictness")


@dataclass(frozen=True)
class Card:
    """A checked card; see its keys above."""

    name: str
    format: str
    root: str
    splits: tuple[DataFormat, ...]
    classes: tuple[str, ...] | None
    ignore_label: int
    strictness: str
    source: str = field(repr=False)  # the file of the card or "<dict>"
    folder: Path  # where relative paths start

    def find_root(self) -> Path:
        """The folder of the data.

        Raises:
            DatasetError: if there is none; the message has the places that were tried.
        """
        path = Path(self.root).expanduser()
        datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
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
    file = Path(card).expanduser()
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise DatasetError(f"card {file.absolute()} cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        raise DatasetError(f"card {file} is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"card {file} is not a table of keys")
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
        classes = _class_names(formats[kind].parse_classes(content.get("classes")))
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from None
    splits = content.get("splits", formats[kind].default_splits)
    if not isinstance(splits, dict) or not splits:
        raise DatasetError(f"{where}: `splits` must be a table like {{train: Main/train}}")
    shared = {key: value for key, value in content.items() if key not in _CARD_KEYS}
    parsed = []
    for name, value in splits.items():
        table = value if isinstance(value, dict) else {formats[kind].main_key: value}
        place = f"{where}: split {name!r}"
        _check_keys(table, own_keys, (), place)
        given = shared | {key: value for key, value in table.items() if value is not None}
        parsed.append(_parse_split(formats, kind, str(name), given, place))
    return Card(
        name=str(content["name"]),
        format=kind,
        root=str(content["root"]),
        splits=tuple(parsed),
        classes=classes,
        ignore_label=int(content.get("ignore_label", 255)),
        strictness=strictness,
        source=source,
        folder=folder,
    )


def _parse_split(
    formats: Mapping[str, type[DataFormat]], kind: str, name: str, given: dict, where: str
) -> DataFormat:
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
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from None
    allowed = [annotation.task for annotation in cls.can_annotate]
    if not set(split.annotates) <= set(allowed):
        what = f"annotates {list(split.annotates)}, but format {kind} can give {allowed}"
        raise DatasetError(f"{where}: {what}")
    return split


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
        return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)
    if kind in (int, float):
        return kind(value)
    return str(value) if kind in (str, str | None) else value


def _class_names(classes: Any) -> tuple[str, ...] | None:
    if classes is None:
        return None
    if not isinstance(classes, (list, tuple)):
        raise UserError(f"classes must be a list of names, got {classes!r}")
    names = tuple(map(str, classes))
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"classes lists {', '.join(twice)} twice")
    return names
