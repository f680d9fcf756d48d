#!/usr/bin/env python
"""Draw a trained model's predictions on images, as PNG.

    python tools/visualize.py --config-file configs/quickstart/supervised.yaml \
        --weights output/quickstart/distilled/student.pth --output out/ image.jpg folder/ ...
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import Visualizer
from tqdm import tqdm

from multas.data.image_files import read_image
from multas.engine import load_config
from multas.modeling.weight_files import check_is_file, read_weights
from multas.util.command_line import run
from multas.util.errors import UserError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, help="the config of the model, or a row")
    parser.add_argument("--weights", required=True, help="its trained weights")
    parser.add_argument("--output", required=True, help="the folder for the pictures")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="the lowest score drawn")
    parser.add_argument("--scale", type=float, default=1.0, help="the enlargement of the pictures")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of the config")
    parser.add_argument("inputs", nargs="+", help="images, or folders of images")
    return parser.parse_args()


def find_images(inputs: Sequence[str]) -> Iterator[Path]:
    """The files that are given, and the images of the folders.

    Raises:
        UserError: An input does not exist.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES)
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{name}: no such image or folder.")


def name_pictures(images: Iterable[Path]) -> dict[str, Path]:
    """Each image once, by the file name of its picture.

    Raises:
        UserError: There is no image, or two would be written to one file.
    """
    named: dict[str, Path] = {}
    for path in images:
        other = named.setdefault(f"{path.stem}.png", path)
        if other.resolve() != path.resolve():
            raise UserError(f"{other} and {path} have one name; draw them into different folders.")
    if not named:
        raise UserError("There is no image in what was given.")
    return named


def main() -> None:
    args = parse_args()
    setup_logger()
    cfg = load_config(args.config_file, args.opts)
    check_is_file(args.weights, "--weights")
    read_weights(args.weights)  # Detectron2 would run what a damaged or foreign one holds
    cfg.MODEL.WEIGHTS = args.weights
    predict = DefaultPredictor(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused")
    output = Path(args.output)
    images = name_pictures(find_images(args.inputs))
    output.mkdir(parents=True, exist_ok=True)
    for name, path in tqdm(images.items(), unit="image"):
        image = read_image(str(path), "BGR")
        results = predict(image)
        drawing = Visualizer(image[:, :, ::-1], metadata, scale=args.scale)
        if "sem_seg" in results:
            drawing.draw_sem_seg(results["sem_seg"].argmax(0).cpu())
        if "instances" in results:
            found = results["instances"].to("cpu")
            drawing.draw_instance_predictions(found[found.scores >= args.score_thresh])
        drawing.output.save(str(output / name))


if __name__ == "__main__":
    raise SystemExit(run(main))
