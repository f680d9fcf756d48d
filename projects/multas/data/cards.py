"""Data cards: a YAML file describes a data set, this module registers it with Detectron2.

Keys of a card (`datasets/README.md` shows examples):

- name: prefix of the registered names `<name>_<split>` and `<name>_<split>_unlabeled`
- format: voc | coco | masks | images
- root: folder of the data; a relative one is looked for beside the card, then in
  $DETECTRON2_DATASETS
- splits: {split name: list of ids, or for coco the annotation file; or a table, see `_SPLIT_KEYS`}
- classes: names in order; may be left out for voc (all names found, sorted) and coco (by category
  id)
- images, annotations, masks: folders below root; the defaults are those of the VOC devkit
- annotates: what voc splits hand out, of [det, seg]; default [det]
- year: voc only; 2007 scores AP by VOC2007's 11 points, 2012 (default) by the area under the curve
- ignore_label: mask value that does not count, default 255
- strictness: stop (default) on the first load of faulty data, or skip what is faulty with one
  warning
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from .checks import STRICTNESS, DatasetError, Problems
from .coco import load_coco, match_classes, read_json
from .folder import load_images, read_ids
from .masks import MaskFolder, load_masks
from .voc import find_classes, load_voc

UNLABELED = "_unlabeled"

_ANNOTATES = {"voc": ("det",), "coco": ("det",), "masks": ("seg",), "images": ()}
_SPLIT_KEYS = ["ids", "json", "images", "annotations", "masks", "annotates"]
_CARD_KEYS = ["name", "format", "root", "splits", "classes", "year", "ignore_label", "strictness"]
_CARD_KEYS += _SPLIT_KEYS[2:]


@dataclass(frozen=True)
class Split:
    """One split of a card. Paths are as written: `ids` a list file, `json` a COCO file, the others
    folders; `annotates` says which of "det" and "seg" its images are annotated for."""

    name: str
    ids: str | None
    json: str | None
    images: str
    annotations: str
    masks: str
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
        tried = [
            base / f"{split.ids}{suffix}"
            for base in (root / "ImageSets", root, self.folder)
            for suffix in (".txt", "")
        ]
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


def register_card(card: str | os.PathLike | dict) -> list[str]:
    """Register every split of a card, as `<name>_<split>` and `<name>_<split>_unlabeled`.

    Nothing is loaded before `DatasetCatalog.get`, which also makes the checks. Registering the same
    card again changes nothing.

    Args:
        card: a YAML file, or its content as a dict.

    Returns:
        The registered names.

    Raises:
        DatasetError: the card is wrong, or another data set has one of the names.
    """
    parsed = read_card(card)
    names = []
    for split in parsed.splits:
        for name, unlabeled in (
            (f"{parsed.name}_{split.name}", False),
            (f"{parsed.name}_{split.name}{UNLABELED}", True),
        ):
            _register(name, parsed, split, unlabeled)
            names.append(name)
    return names


def register_cards(cards: Sequence[str | os.PathLike | dict]) -> list[str]:
    """Register several cards, see `register_card`; returns all names."""
    return [name for card in cards for name in register_card(card)]


# Parsing.


def _parse(content: dict, source: str, folder: Path) -> Card:
    where = f"card {source}"
    _require_keys(content, _CARD_KEYS, ("name", "format", "root"), where)
    kind = content["format"]
    if kind not in _ANNOTATES:
        raise DatasetError(f"{where}: format {kind!r}, choose from {', '.join(_ANNOTATES)}")
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
    kind = card["format"]
    main_key = "json" if kind == "coco" else "ids"
    table = value if isinstance(value, dict) else {main_key: value}
    _require_keys(table, _SPLIT_KEYS, ("json",) if kind == "coco" else (), where)
    if kind == "voc" and table.get("ids") is None:
        raise DatasetError(f"{where}: needs a list of ids, like Main/train")
    annotates = table.get("annotates", card.get("annotates", _ANNOTATES[kind]))
    annotates = (annotates,) if isinstance(annotates, str) else tuple(annotates)
    allowed = ("det", "seg") if kind == "voc" else _ANNOTATES[kind]
    if not set(annotates) <= set(allowed):
        raise DatasetError(
            f"{where}: annotates {list(annotates)}, but format {kind} can give {list(allowed)}"
        )
    defaults = {
        "images": "JPEGImages" if kind == "voc" else ".",
        "annotations": "Annotations",
        "masks": "SegmentationClass",
    }
    folders = {
        key: str(table.get(key) or card.get(key) or default) for key, default in defaults.items()
    }
    if kind == "masks" and not (table.get("masks") or card.get("masks")):
        raise DatasetError(f"{where}: format masks needs `masks`, the folder of the masks")
    ids, json_file = table.get("ids"), table.get("json")
    return Split(
        name=name,
        ids=None if ids is None else str(ids),
        json=None if json_file is None else str(json_file),
        annotates=annotates,
        **folders,
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


# Registering.


def _register(name: str, card: Card, split: Split, unlabeled: bool) -> None:
    if name in DatasetCatalog.list():
        if MetadataCatalog.get(name).get("card") == _fingerprint(card):
            return
        raise DatasetError(
            f"card {card.source}: another data set {name!r} is registered already; give the card "
            "another `name`"
        )
    metadata = MetadataCatalog.get(name)
    metadata.set(
        card=_fingerprint(card),
        annotates=() if unlabeled else split.annotates,
        ignore_label=card.ignore_label,
    )
    if card.classes is not None:
        _set_classes(metadata, card, card.classes)
    _set_places(metadata, card, split, unlabeled)
    DatasetCatalog.register(name, partial(_load, name, card, split, unlabeled))


def _fingerprint(card: Card) -> str:
    return repr(replace(card, source=""))


def _set_classes(metadata, card: Card, classes: Sequence[str]) -> None:
    if card.format == "masks":
        metadata.set(stuff_classes=list(classes))
    else:
        metadata.set(thing_classes=list(classes))
        if card.format == "voc":
            metadata.set(stuff_classes=["background", *classes])


def _set_places(metadata, card: Card, split: Split, unlabeled: bool) -> None:
    """Tell the evaluators where the ground truth lies, if the data is there already.

    It may appear later (a generated set, a slow disk), so this is called again on loading.
    """
    root = next((path for path in card.root_candidates() if path.is_dir()), None)
    if root is None or metadata.get("image_root") is not None:
        return
    metadata.set(image_root=str(root / split.images))
    if unlabeled:
        return
    types = []
    if card.format == "coco":
        types.append("coco")
    elif "det" in split.annotates and split.annotations != "Annotations":
        # Detectron2's VOC evaluator looks for <dirname>/Annotations; its COCO evaluator needs none.
        types.append("coco")
    elif "det" in split.annotates:
        types.append("pascal_voc")
        file = card.find_ids(split, root)
        metadata.set(dirname=str(root), split=_main_split(file, root), year=card.year)
    if "seg" in split.annotates:
        types.append("sem_seg")
    if types:
        metadata.set(evaluator_type=types[0] if len(types) == 1 else types)


def _main_split(file: Path, root: Path) -> str:
    """What Detectron2 has to append to <root>/ImageSets/Main, without .txt, to get at a list."""
    main = root / "ImageSets" / "Main"
    path = file.with_suffix("") if file.suffix == ".txt" else file
    if path.parent == main:
        return path.name
    if main.is_dir() and (root / "ImageSets") in path.parents:
        return os.path.relpath(path, main)
    return str(path.absolute())


# Loading.


def _load(name: str, card: Card, split: Split, unlabeled: bool) -> list[dict]:
    problems = Problems(f"{name!r} (card {card.source})", card.strictness)
    root = card.find_root()
    metadata = MetadataCatalog.get(name)
    _set_places(metadata, card, split, unlabeled)
    file = card.find_ids(split, root)
    ids = None if file is None else read_ids(file, problems)
    images = root / split.images
    if unlabeled or card.format == "images":
        records = _load_unlabeled(images, ids, card, split, problems)
    elif card.format == "voc":
        classes = card.classes or _found_classes(card, root)
        _set_classes(metadata, card, classes)
        records = load_voc(
            images,
            ids,
            classes,
            problems,
            annotation_dir=root / split.annotations if "det" in split.annotates else None,
            masks=_mask_folder(card, split, root, 1 + len(classes)),
        )
    elif card.format == "masks":
        masks = _mask_folder(card, split, root, len(card.classes))
        records = load_masks(images, ids, masks, problems)
    else:
        records = _load_coco(root / split.json, images, ids, card, metadata, problems)
    problems.close()
    if not records:
        raise DatasetError(f"data set {name!r} (card {card.source}) has no images in {images}")
    return records


def _mask_folder(card: Card, split: Split, root: Path, num_values: int) -> MaskFolder | None:
    if "seg" not in split.annotates:
        return None
    return MaskFolder(root / split.masks, num_values, card.ignore_label)


def _found_classes(card: Card, root: Path) -> list[str]:
    """All splits count, so that each of them gets the same order."""
    quiet = Problems(card.name)
    names: set[str] = set()
    for split in card.splits:
        ids = read_ids(card.find_ids(split, root), quiet)
        names.update(find_classes(root / split.annotations, ids))
    return sorted(names)


def _load_unlabeled(
    images: Path, ids: Sequence[str] | None, card: Card, split: Split, problems: Problems
) -> list[dict]:
    if ids is None and card.format == "coco":
        shared = [
            other.name
            for other in card.splits
            if other.images == split.images and other.json != split.json
        ]
        if shared:
            # The whole folder would mix in their images, perhaps those of a test split.
            raise DatasetError(
                f"card {card.source}: split {split.name!r} shares the folder {images} with "
                f"{', '.join(shared)}; to use it unlabelled, name its images by a list: "
                f"{split.name}: {{json: {split.json}, ids: …}}"
            )
    records = load_images(images, ids, problems)
    if card.format == "coco":
        # COCO's file names are its image ids with leading zeros; pseudo-labels are joined by these
        # ids.
        for record in records:
            stem = Path(record["file_name"]).stem
            record["image_id"] = int(stem) if stem.isdecimal() else stem
    return records


def _load_coco(
    file: Path, images: Path, ids: Sequence[str] | None, card: Card, metadata, problems: Problems
) -> list[dict]:
    content = read_json(file)
    classes = match_classes(content["categories"], card.classes, str(file), problems)
    _set_classes(metadata, card, classes.names)
    records = load_coco(content, str(file), images, ids, classes, problems)
    # Without a file of its own the evaluator writes one from the records: needed where those are
    # fewer than, or classed differently from, what the file has.
    if classes.in_file_order and len(records) == len(content["images"]):
        metadata.set(json_file=str(file), thing_dataset_id_to_contiguous_id=classes.class_ids)
    return records
