#!/usr/bin/env python
"""Draw a trained model's predictions on images, as PNG.

    python tools/visualize.py --config-file configs/quickstart/supervised.yaml \
        --weights output/quickstart/distilled/student.pth --output out/ image.jpg folder/ ...

Boxes, masks and the class of a classifier are drawn with the names that the data sets of
DATASETS.TEST or, failing that, DATASETS.TRAIN have for them.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import VisImage, Visualizer
from tqdm import tqdm

from multas.config.limits import check_limit, from_to
from multas.data.image_checks import image_fault
from multas.data.image_files import IMAGE_SUFFIXES, read_image
from multas.data.mapper import MultasMapper
from multas.engine import load_config
from multas.engine.checks.classes import check_classes
from multas.engine.inference import load_model
from multas.util.annotation import BOXES, LABELS, MASKS, STANDARD, Annotation
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import require_writable

logger = logging.getLogger("multas.visualize")


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--config-file", required=True, help="the config of the model, or a row")
    parser.add_argument("--weights", required=True, help="its trained weights")
    parser.add_argument("--output", required=True, type=Path, help="the folder for the pictures")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="the lowest score drawn")
    parser.add_argument("--scale", type=float, default=1.0, help="the enlargement of the pictures")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of the config")
    parser.add_argument("inputs", nargs="+", help="images, or folders of images")
    args = parser.parse_args()
    check_limit("--score-thresh", args.score_thresh, from_to(0, 1))
    check_limit("--scale", args.scale, from_to(0.01, 20))
    return args


def find_images(inputs: Sequence[str]) -> Iterator[Path]:
    """The files that are given, and the images of the folders.

    Raises:
        UserError: An input does not exist, is no image that can be read, or has none.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise UserError(f"There is no image in {name} ({', '.join(IMAGE_SUFFIXES)}).")
        elif path.is_file():
            found = [path]
        else:
            raise UserError(f"{name}: no such image or folder.")
        for file in found:
            if fault := image_fault(str(file)):
                raise UserError(f"{file}: {fault}; mend it, or leave it out.")
            yield file


def name_pictures(images: Iterable[Path], output: Path) -> dict[Path, Path]:
    """The image of each picture that is to be written, each image once.

    Raises:
        UserError: Two would be written to one file, or a picture over an image.
    """
    named: dict[Path, Path] = {}
    for path in images:
        picture = output / f"{path.stem}.png"
        other = named.setdefault(picture, path)
        if other.resolve() != path.resolve():
            raise UserError(f"{other} and {path} have one name; draw them into different folders.")
        if picture.resolve() == path.resolve():
            raise UserError(f"{path} would be overwritten; give --output another folder.")
    return named


def legend(names: Sequence[str]) -> Metadata:
    """The names and colours of the classes: of each kind from the first data set that has it."""
    entries: dict[str, Any] = {}
    for kind in STANDARD:
        entries |= next(filter(None, (_classes_of(name, kind) for name in names)), {})
    return Metadata(name="legend", **entries)


def _classes_of(name: str, kind: Annotation) -> dict[str, Any]:
    """The classes of a data set that is annotated for a task, as entries of the metadata."""
    data = MetadataCatalog.get(name)
    if kind.task not in data.get("annotates", (kind.task,)):
        return {}
    if not data.get(kind.classes_key) and data.get("annotates"):
        # The classes of a card that does not list them are only known when it is loaded.
        try:
            DatasetCatalog.get(name)
        except (UserError, OSError) as error:
            logger.warning(f"The classes are drawn as numbers, since their names are lost: {error}")
    colours = kind.classes_key.replace("_classes", "_colors")
    keys = [key for key in (kind.classes_key, colours) if data.get(key)]
    return {key: list(data.get(key)) for key in keys} if kind.classes_key in keys else {}


def draw(image: np.ndarray, results: Mapping[str, Any], args: Any, names: Metadata) -> VisImage:
    """A picture of what a model has found in an image (H, W, 3), RGB."""
    drawing = Visualizer(image, names, scale=args.scale)
    if MASKS.input_key in results:
        scores = results[MASKS.input_key]
        if not names.get(MASKS.classes_key):
            names.stuff_classes = [str(k) for k in range(len(scores))]
        drawing.draw_sem_seg(scores.argmax(0).cpu())
    if BOXES.input_key in results:
        found = results[BOXES.input_key].to("cpu")
        drawing.draw_instance_predictions(found[found.scores >= args.score_thresh])
    if "scores" in results:
        score, k = results["scores"].max(0)
        known = names.get(LABELS.classes_key)
        title = f"{known[k] if known else int(k)} {float(score):.0%}"
        drawing.draw_text(title, (2, 2), horizontal_alignment="left")
    return drawing.output


def main() -> None:
    args = parse_args()
    setup_logger()
    setup_logger(name="multas")
    images = name_pictures(find_images(args.inputs), args.output)
    for picture in images:
        require_writable(picture, "--output")
    cfg = load_config(args.config_file, args.opts)
    model = load_model(cfg, args.weights)
    sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    names = legend(sets)
    check_classes(model, sets)
    mapper = MultasMapper(cfg, is_train=False)
    args.output.mkdir(parents=True, exist_ok=True)
    for picture, path in tqdm(images.items(), unit="image"):
        with torch.no_grad():
            results = model([mapper({"file_name": str(path)})])[0]
        draw(read_image(str(path), "RGB"), results, args, names).save(str(picture))


if __name__ == "__main__":
    raise SystemExit(run(main))
