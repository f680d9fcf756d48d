"""Checks before anything starts: data sets, and weights that no run makes."""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from multas.data.image_checks import TRAIN_IDS, TRAIN_IDS_CURE
from reproduction.data_sets import EMBEDDED, fault_of, names_of, names_on_cards
from reproduction.run import Run
from reproduction.runs import merged

_LAYOUT = "datasets/README.md shows how the data lies"
# What tools/convert_weights.py makes.
_CONVERTED = "output/weights"
# Of Detectron2's own data sets: what their metadata calls files and folders of the data.
_PLACES = ("json_file", "image_root", "sem_seg_root", "image_dir", "gt_dir", "dirname")
_LABEL_IDS = "_gtFine_labelIds.png"
# Packages that a loader needs: polygons of Cityscapes become boxes; its label maps need none.
_LOADERS = {"cityscapes_fine_instance_seg": ("cityscapesscripts", "shapely")}


def make_embedded(runs: Iterable[Run]) -> None:
    """Make the embedded data sets that these runs use and that are not there yet."""
    configs = [merged(run.config_file, run.opts) for run in runs]
    for card in dict.fromkeys(card for cfg in configs for card in cfg.DATASETS.CARDS):
        if card in EMBEDDED:
            make, root = EMBEDDED[card]
            make(root)


def missing(runs: Iterable[Run]) -> list[str]:
    """One line for everything that runs need and that is missing or faulty: where it belongs."""
    lines: list[str] = []
    for run in runs:
        cfg = merged(run.config_file, run.opts)
        on_cards = names_on_cards(cfg)
        for name in names_of(cfg):
            if name not in on_cards:
                lines += _missing_data(name)
            elif fault := fault_of(name):
                lines.append(f"{fault} ({_LAYOUT})")
        lines += _missing_weights(cfg, made={str(need.weights) for need in run.needs})
    return list(dict.fromkeys(lines))


def _missing_data(name: str) -> list[str]:
    """The lines on a data set of Detectron2; the embedded sets, which are made, have none."""
    found = MetadataCatalog.get(name).as_dict()
    places = [found[key] for key in _PLACES if found.get(key) and not os.path.exists(found[key])]
    packages = [p for prefix, needed in _LOADERS.items() if name.startswith(prefix) for p in needed]
    lines = []
    if places:
        lines.append(
            f"{name}: no {' and no '.join(places)}. They belong in the folder that "
            "DETECTRON2_DATASETS names (default: datasets); Detectron2 documents their layout."
        )
    elif label_maps := _missing_label_maps(name, found.get("gt_dir", "")):
        lines.append(f"{name}: {label_maps}")
    if not all(find_spec(package) for package in packages):
        lines.append(f"{name}: its annotations need pip install {' '.join(packages)}.")
    return lines


def _missing_label_maps(name: str, folder: str) -> str:
    """What to do where label maps of Cityscapes, which its archives lack, were not made yet."""
    if not name.startswith("cityscapes_fine_sem_seg"):
        return ""
    ids = {file.name for file in Path(folder).glob(f"*/*{_LABEL_IDS}")}
    made = {file.name for file in Path(folder).glob(f"*/*{TRAIN_IDS}")}
    lacking = [n for n in ids if n.replace(_LABEL_IDS, TRAIN_IDS) not in made]
    if not lacking:
        return ""
    return f"no {len(lacking)} of the files *{TRAIN_IDS} in {folder}. {TRAIN_IDS_CURE}"


def _missing_weights(cfg: CfgNode, made: set[str]) -> list[str]:
    keys = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if cfg.MODEL.META_ARCHITECTURE == "Distiller":
        keys["MODEL.DISTILLATION.TEACHER.WEIGHTS"] = cfg.MODEL.DISTILLATION.TEACHER.WEIGHTS
    lines = []
    for key, path in keys.items():
        if not path or path in made or "://" in path or Path(path).is_file():
            continue
        line = f"{path}: no such file ({key})."
        if Path(path).parent == Path(_CONVERTED):
            line += (
                " Convert torchvision's weights once: "
                f"python tools/convert_weights.py {Path(path).name} {path}"
            )
        lines.append(line)
    return lines
