"""Data cards: a YAML file describes a data set, this module reads it.

Keys of a card (`datasets/README.md` shows examples):

- name: prefix of the registered names `<name>_<split>` and `<name>_<split>_unlabeled`
- format: voc | coco | masks | images | vedai | folders | cifar10 | cifar100
- root: folder of the data; a relative one is looked for beside the card, then in
  $DETECTRON2_DATASETS
- splits: {split name: list of ids; for coco the annotation file, for folders the folder that has
  one sub-folder per class, for cifar10 and cifar100 "train" or "test"; or a table, see
  card_split.py}
- classes: names in order; may be left out for voc and folders (all names found, sorted), coco (by
  category id) and vedai (all eleven); cifar10 and cifar100 have them in their files; for masks also
  a table {pixel value: name}
- images, annotations, masks: folders below root; the defaults are those of the VOC devkit, or of
  VEDAI at 512 px; masks may be a list of folders, the first that has a mask counts
- suffix: vedai, images and masks only; what the names of the images have between id and extension,
  for vedai _co (colour, default) or _ir (infrared)
- mask_suffix: masks only; the same for the names of the masks
- labels: folders only; a text file below root, on each line an image of `images` and its class,
  where images do not lie in folders by class (Tiny ImageNet's val_annotations.txt)
- annotates: what voc splits hand out, of [det, seg]; default [det]
- only_complete: voc and masks only; true: images that lack one of these are left out, with one
  warning, where they would be a fault (default)
- year: voc only; 2007 scores AP by VOC2007's 11 points, 2012 (default) by the area under the curve
- ignore_label: mask value that does not count, default 255
- strictness: stop (default) on the first load of faulty data, or skip what is faulty with one
  warning
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from multas.data.card_split import FORMATS, OWN_KEYS, SHARED_KEYS, Split, parse_split, require_keys
from multas.data.issues import STRICTNESS, DatasetError

_CARD_KEYS = ["name", "format", "root", "splits", "classes", "year", "ignore_label", "strictness"]
_CARD_KEYS += SHARED_KEYS


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
    require_keys(content, _CARD_KEYS, ("name", "format", "root"), where)
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
    classes = _parse_classes(content.get("classes"), kind, where)
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
            parse_split(str(name), value, content, f"{where}: split {name!r}")
            for name, value in splits.items()
        ),
        classes=classes,
        year=year,
        ignore_label=int(content.get("ignore_label", 255)),
        strictness=strictness,
        source=source,
        folder=folder,
    )


def _parse_classes(classes: object, kind: str, where: str) -> tuple[str, ...] | None:
    if classes is None:
        if kind == "masks":
            raise DatasetError(
                f"{where}: format masks needs `classes`, the names of values 0, 1, …"
            )
        return None
    if isinstance(classes, dict) and kind == "masks":
        classes = _fill_gaps(classes, where)
    if not isinstance(classes, (list, tuple)):
        raise DatasetError(f"{where}: classes must be a list of names, got {classes!r}")
    if kind in OWN_KEYS["part"]:
        raise DatasetError(f"{where}: the files of {kind} name its classes, drop `classes`")
    names = tuple(str(name) for name in classes)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{where}: classes lists {', '.join(twice)} twice")
    return names


def _fill_gaps(classes: dict, where: str) -> list[str]:
    """The network has an output for every value, so those without a name need a class, too."""
    wrong = [value for value in classes if not isinstance(value, int) or not 0 <= value <= 255]
    if wrong or not classes:
        raise DatasetError(
            f"{where}: classes must be a list of names or a table of pixel values 0 … 255 and "
            f"names, got {wrong or classes!r}"
        )
    return [str(classes.get(value, f"value {value}")) for value in range(max(classes) + 1)]
