#!/usr/bin/env python
"""Draw a trained model's predictions on images, as PNG.

    python tools/visualize.py --config-file configs/quickstart/supervised.yaml \
        --weights output/quickstart/distilled/student.pth --output out/ image.jpg folder/ ...

Boxes, masks and the class of a classifier are drawn with the names that the data sets of
DATASETS.TEST or, failing that, DATASETS.TRAIN have for them.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from multas.config.limits import check_limit, from_to
from multas.data.class_colours import legend
from multas.data.drawing import draw_results
from multas.data.image_checks import image_fault
from multas.data.image_files import read_image
from multas.data.image_names import IMAGE_SUFFIXES
from multas.data.mapper import MultasMapper
from multas.engine import load_config
from multas.engine.checks.classes import check_classes
from multas.engine.inference import load_model
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import require_writable


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
        image = read_image(str(path), "RGB")
        draw_results(image, results, names, args.scale, args.score_thresh).save(str(picture))


if __name__ == "__main__":
    raise SystemExit(run(main))
