"""What has to be there before anything starts: data sets, and weights that no run of ours makes."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from multas.data import Card, DatasetError, make_toy, make_toy_classes, read_card
from multas.data.card_split import UNLABELED, Split

from .runs import Run, merged

EMBEDDED = {
    "datasets/cards/toy.yaml": (make_toy, "datasets/toy"),
    "datasets/cards/toy_classes.yaml": (make_toy_classes, "datasets/toy_classes"),
}
# Of Detectron2's own data sets: what their metadata calls files and folders of the data.
_PLACES = ("json_file", "image_root", "sem_seg_root", "image_dir", "gt_dir", "dirname")
_LOADERS = {"cityscapes": ("cityscapesscripts", "shapely")}


def make_embedded(runs: Iterable[Run]) -> None:
    """Make the embedded data sets that these runs use, as far as they are not there."""
    configs = [merged(run.config_file, run.opts) for run in runs]
    for card in dict.fromkeys(card for cfg in configs for card in cfg.DATASETS.CARDS):
        if card in EMBEDDED:
            make, root = EMBEDDED[card]
            make(root)


def missing(runs: Iterable[Run]) -> list[str]:
    """What runs need and is not there, and where it belongs; one line each."""
    lines: list[str] = []
    for run in runs:
        cfg = merged(run.config_file, run.opts)
        # The embedded sets are made when the runs start.
        cards = [read_card(card) for card in cfg.DATASETS.CARDS if card not in EMBEDDED]
        early = [cfg.SOLVER.EARLY_STOPPING.DATASET] if cfg.SOLVER.EARLY_STOPPING.ENABLED else []
        tasks = [name for batch in cfg.DATASETS.TASK_BATCHES for name in batch["TRAIN"]]
        for name in filter(None, [*cfg.DATASETS.TRAIN, *tasks, *cfg.DATASETS.TEST, *early]):
            lines += _missing_data(name.removesuffix(UNLABELED), cards)
        lines += _missing_weights(cfg, made={str(need.weights) for need in run.needs})
    return list(dict.fromkeys(lines))


def _missing_data(name: str, cards: list[Card]) -> list[str]:
    for card in cards:
        for split in card.splits:
            if name == f"{card.name}_{split.name}":
                return _missing_split(card, split)
    found = MetadataCatalog.get(name).as_dict()
    places = [found[key] for key in _PLACES if found.get(key) and not os.path.exists(found[key])]
    packages = [p for prefix, needed in _LOADERS.items() if name.startswith(prefix) for p in needed]
    lines = []
    if places:
        lines.append(
            f"{name}: no {' and no '.join(places)}. They belong in the folder that "
            "DETECTRON2_DATASETS names (default: datasets); Detectron2 documents their layout."
        )
    if not all(find_spec(package) for package in packages):
        lines.append(f"{name}: its annotations need pip install {' '.join(packages)}.")
    return lines


def _missing_split(card: Card, split: Split) -> list[str]:
    try:
        root = card.find_root()
        card.find_ids(split, root)
    except DatasetError as error:
        return [f"{error} (datasets/README.md shows how the data lies)."]
    places = [split.images, *([split.json] if card.format == "coco" else [])]
    return [
        f"card {card.source}: split '{split.name}': {root / place} is not there "
        "(datasets/README.md shows how the data lies)."
        for place in places
        if not (root / place).exists()
    ]


def _missing_weights(cfg: CfgNode, made: set[str]) -> list[str]:
    keys = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if cfg.MODEL.META_ARCHITECTURE == "Distiller":
        keys["MODEL.DISTILLATION.TEACHER.WEIGHTS"] = cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS
    return [
        f"{path}: no such file ({key}). Convert torchvision's weights once: "
        f"python tools/convert_weights.py {Path(path).name} {path}"
        for key, path in keys.items()
        if path and path not in made and "://" not in path and not Path(path).is_file()
    ]
