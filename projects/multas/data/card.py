"""Data cards: a YAML file describes a data set, this module reads it.

Keys of a card (`datasets/README.md` shows examples):

- name: prefix of the registered names `<name>_<split>` and `<name>_<split>_unlabeled`
- format: voc | coco | masks | images | vedai | folders | cifar10 | cifar100
- root: folder of the data; a relative one is looked for beside the card, then in
  $DETECTRON2_DATASETS
- splits: {split name: list of ids; for coco the annotation file, for folders the folder that has
  one sub-folder per class, for cifar10 and cifar100 "train" or "test"; or a table, see
  `_SPLIT_KEYS`}
- classes: names in order; may be left out for voc and folders (all names found, sorted), coco (by
  category id) and vedai (all eleven); cifar10 and cifar100 have them in their files
- images, annotations, masks: folders below root; the defaults are those of the VOC devkit, or of
  VEDAI at 512 px
- suffix: vedai and images only; what the names of the images have between id and extension, for
  vedai _co (colour, default) or _ir (infrared)
- labels: folders only; a text file below root, on each line an image of `images` and its class,
  where images do not lie in folders by class (Tiny ImageNet's val_annotations.txt)
- annotates: what voc splits hand out, of [det, seg]; default [det]
- year: voc only; 2007 scores AP by VOC2007's 11 points, 2012 (default) by the area under the curve
- ignore_label: mask value that does not count, default 255
- strictness: stop (default) on the first load of faulty data, or skip what is faulty with one
  warning
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import yaml

from .checks import STRICTNESS, DatasetError

UNLABELED = "_unlabeled"

# Formats, and what their splits hand out unless the card says otherwise.
FORMATS: dict[str, tuple[str, ...]] = {
    "voc": ("det",),
    "coco": ("det",),
    "masks": ("seg",),
    "images": (),
    "vedai": ("det",),
    "folders": ("cls",),
    "cifar10": ("cls",),
    "cifar100": ("cls",),
}
_CIFAR_PARTS = ("train", "test")
# What the value of a split is that is no table.
_MAIN_KEYS = {"coco": "json", "folders": "images", "cifar10": "part", "cifar100": "part"}
# Keys that mean something to these formats alone.
_OWN_KEYS = {
    "suffix": ("vedai", "images"),
    "labels": ("folders",),
    "part": ("cifar10", "cifar100"),
}
# Where a format keeps its files; what it does not say is as in _PLACES.
_PLACES = {"images": ".", "annotations": "Annotations", "masks": "SegmentationClass"}
_PLACES |= dict.fromkeys(_OWN_KEYS, "")
_OWN_PLACES = {
    "voc": {"images": "JPEGImages"},
    "vedai": {"images": "Vehicules512", "annotations": "Annotations512", "suffix": "_co"},
}
_SPLIT_KEYS = ["ids", "json", "images", "annotations", "masks", *_OWN_KEYS, "annotates"]
_CARD_KEYS = ["name", "format", "root", "splits", "classes", "year", "ignore_label", "strictness"]
_CARD_KEYS += _SPLIT_KEYS[2:]


@dataclass(frozen=True)
class Split:
    """One split of a card. Paths are as written: `ids` a list file, `json` a COCO file, the others
    folders; `suffix` stands between id and extension of its images, `labels` is a file of their
    classes, `part` one of CIFAR's two; `annotates` says which of "det", "seg" and "cls" they are
    annotated for."""

    name: str
    ids: str | None
    json: str
    images: str
    annotations: str
    masks: str
    suffix: str
    labels: str
    part: str
    annotates: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A checked card; `source` is its file or "<dict>", `folder` where relative paths start."""

    name: str
    format: str
    root: str
    splits: tuple[Split, ...]
    classes: tuple[str, ...] | None
    year: int
    ignore_label: int
    strictness: str
    source: str = field(compare=False)
    folder: Path

    def find_root(self) -> Path:
        """The folder of the data.

        Raises:
            DatasetError: there is none; the message has the places that were tried.
        """
        tried = self.root_candidates()
        for path in tried:
            if path.is_dir():
                return path
        raise DatasetError(
            f"card {self.source}: root {self.root!r} is not a folder, tried "
            + " and ".join(str(path) for path in tried)
            + "; correct `root`, or set DETECTRON2_DATASETS to the folder that holds it"
        )

    def root_candidates(self) -> list[Path]:
        """Where the root may be, best first."""
        path = Path(self.root).expanduser()
        if path.is_absolute():
            return [path]
        datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
        return [Path(os.path.normpath(base / path)) for base in (self.folder, datasets)]

    def find_ids(self, split: Split, root: Path) -> Path | None:
        """The file that lists a split's images, None for a split without list.

        Raises:
            DatasetError: it does not exist.
        """
        if split.ids is None:
            return None
        folders = [root / "ImageSets", root, self.folder]
        if self.format == "vedai":
            folders.append(root / split.annotations)  # the lists of its folds lie there
        tried = [base / f"{split.ids}{suffix}" for base in folders for suffix in (".txt", "")]
        for file in tried:
            if file.is_file():
                return file
        raise DatasetError(
            f"card {self.source}: split {split.name!r}: no id list {split.ids!r}, tried "
            + ", ".join(str(file) for file in tried)
        )


def read_card(card: str | os.PathLike | dict) -> Card:
    """Read and check a card, a YAML file or its content; opens no file of the data set.

    Raises:
        DatasetError: the card is missing or has unknown, missing or contradictory keys.
    """
    if isinstance(card, dict):
        content, source, folder = card, "<dict>", Path.cwd()
    else:
        file = Path(card).expanduser()
        source, folder = str(card), file.resolve().parent
        try:
            content = yaml.safe_load(file.read_text())
        except OSError as error:
            raise DatasetError(
                f"card {file.absolute()} cannot be read ({error.strerror})"
            ) from None
        except yaml.YAMLError as error:
            raise DatasetError(f"card {file} is not YAML: {error}") from None
        if not isinstance(content, dict):
            raise DatasetError(f"card {file} is not a table of keys")
    return _parse(content, source, folder)


def _parse(content: dict, source: str, folder: Path) -> Card:
    where = f"card {source}"
    _require_keys(content, _CARD_KEYS, ("name", "format", "root"), where)
    kind = content["format"]
    if kind not in FORMATS:
        raise DatasetError(f"{where}: format {kind!r}, choose from {', '.join(FORMATS)}")
    strictness = content.get("strictness", "stop")
    if strictness not in STRICTNESS:
        raise DatasetError(
            f"{where}: strictness {strictness!r}, choose from {', '.join(STRICTNESS)}"
        )
    year = content.get("year", 2012)
    if year not in (2007, 2012):
        raise DatasetError(f"{where}: year {year!r}, choose 2007 (11-point AP) or 2012 (area AP)")
    classes = content.get("classes")
    if classes is not None:
        if not isinstance(classes, (list, tuple)):
            raise DatasetError(f"{where}: classes must be a list of names, got {classes!r}")
        if kind in _OWN_KEYS["part"]:
            raise DatasetError(f"{where}: the files of {kind} name its classes, drop `classes`")
        classes = tuple(str(name) for name in classes)
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            raise DatasetError(f"{where}: classes lists {', '.join(twice)} twice")
    elif kind == "masks":
        raise DatasetError(f"{where}: format masks needs `classes`, the names of values 0, 1, …")
    splits = content.get("splits")
    if splits is None and kind == "images":
        splits = {"all": {}}
    if not isinstance(splits, dict) or not splits:
        raise DatasetError(f"{where}: `splits` must be a table like {{train: Main/train}}")
    return Card(
        name=str(content["name"]),
        format=kind,
        root=str(content["root"]),
        splits=tuple(
            _parse_split(str(name), value, content, f"{where}: split {name!r}")
            for name, value in splits.items()
        ),
        classes=classes,
        year=year,
        ignore_label=int(content.get("ignore_label", 255)),
        strictness=strictness,
        source=source,
        folder=folder,
    )


def _parse_split(name: str, value: object, card: dict, where: str) -> Split:
    if name.endswith(UNLABELED):
        raise DatasetError(f"{where}: names ending in {UNLABELED} are made by themselves")
    kind = card["format"]
    table = value if isinstance(value, dict) else {_MAIN_KEYS.get(kind, "ids"): value}
    _require_keys(table, _SPLIT_KEYS, ("json",) if kind == "coco" else (), where)
    if kind == "voc" and table.get("ids") is None:
        raise DatasetError(f"{where}: needs a list of ids, like Main/train")
    annotates = table.get("annotates", card.get("annotates", FORMATS[kind]))
    annotates = (annotates,) if isinstance(annotates, str) else tuple(annotates)
    allowed = ("det", "seg") if kind == "voc" else FORMATS[kind]
    if not set(annotates) <= set(allowed):
        raise DatasetError(
            f"{where}: annotates {list(annotates)}, but format {kind} can give {list(allowed)}"
        )
    given = {key: value for key, value in {**card, **table}.items() if value is not None}
    places = {
        key: str(given.get(key, default))
        for key, default in {**_PLACES, **_OWN_PLACES.get(kind, {})}.items()
    }
    if kind == "masks" and not given.get("masks"):
        raise DatasetError(f"{where}: format masks needs `masks`, the folder of the masks")
    for key, kinds in _OWN_KEYS.items():
        if key in given and kind not in kinds:
            raise DatasetError(
                f"{where}: format {kind} has no use for `{key}` ({', '.join(kinds)} have), drop it"
            )
    if kind in _OWN_KEYS["part"] and given.get("part") not in _CIFAR_PARTS:
        raise DatasetError(f"{where}: format {kind} has the splits {' and '.join(_CIFAR_PARTS)}")
    ids = table.get("ids")
    return Split(
        name=name,
        ids=None if ids is None else str(ids),
        json=str(table.get("json", "")),
        annotates=annotates,
        **places,
    )


def _require_keys(table: dict, known: Sequence[str], needed: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            raise DatasetError(f"{where}: unknown key {key!r}, {hint}")
    for key in needed:
        if table.get(key) is None:
            raise DatasetError(f"{where}: key {key!r} is missing")
