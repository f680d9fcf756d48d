#!/usr/bin/env python
"""Write a teacher's detections on unlabelled images as a file of pseudo-labels.

    python tools/pseudo_label.py --config-file TEACHER.yaml --weights TEACHER.pth \
        --dataset mydata_unlabeled --output pseudo_labels.json --score-thresh 0.5

Name the file in DATASETS.PSEUDO_LABELS.FILES of the student's config. With --report-against (a data
set that has the withheld ground truth), precision and recall are printed as well. Nothing else
reads that data set. --flip and --scales 0.8 1 1.2 label each image by an ensemble of its views
(data distillation), at the price of as many forward passes.
"""

import argparse
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from multas.config.limits import Limit, at_least, check_limit, each, from_to
from multas.data import build_test_loader
from multas.data.dataset_dicts import require_registered
from multas.data.pseudo_label_files import (
    Header,
    file_sha256,
    read_pseudo_labels,
    save_pseudo_labels,
)
from multas.deploy.exported_model import ExportedModel
from multas.engine import load_config
from multas.engine.checks.classes import check_classes
from multas.engine.checks.images import checked_images
from multas.engine.ensemble import FlipScaleEnsemble
from multas.engine.inference import load_model
from multas.engine.pseudo_labeling import check_ids, check_truth, label_images, quality
from multas.modeling.weight_files import check_is_file
from multas.util.command_line import run
from multas.util.errors import UserError
from multas.util.files import require_writable

_SCALE = Limit("greater than 0, up to 10", lambda x: 0 < x <= 10)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", required=True, help="the config of the teacher, or a row")
    parser.add_argument("--weights", required=True, help="its trained weights")
    parser.add_argument("--dataset", required=True, help="the registered images to label")
    parser.add_argument("--output", required=True, help="the file to write (JSON)")
    parser.add_argument("--score-thresh", type=float, default=0.5, help="the lowest score kept")
    parser.add_argument("--topk", type=int, default=0, help="the most boxes per image, 0 = all")
    parser.add_argument("--flip", action="store_true", help="detect on mirrored images, too")
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0], help="factors of the image size"
    )
    parser.add_argument("--report-against", default="", help="the data set with the ground truth")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    return parser.parse_args()


def class_names(datasets: Sequence[str]) -> list[str]:
    """The class names of the first data set that has them, which may be one of the teacher's."""
    for name in filter(None, datasets):
        names = MetadataCatalog.get(name).get("thing_classes", None)
        if names:
            return list(names)
    raise UserError(
        "No class names: neither the images nor DATASETS.TRAIN and TEST of the teacher's config "
        "have them. Give `classes` in a card and name the card in DATASETS.CARDS."
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Find what is wrong with the arguments before there is anything to lose."""
    check_limit("--score-thresh", args.score_thresh, from_to(0, 1))
    check_limit("--topk", args.topk, at_least(0))
    check_limit("--scales", args.scales, each(_SCALE))
    require_writable(args.output, "--output")
    _check_replaceable(args.output)
    check_is_file(args.weights, "--weights")


def _check_replaceable(output: str) -> None:
    """Make sure that only pseudo-labels are written over, not weights, configs or annotations."""
    if not os.path.isfile(output) or not os.path.getsize(output):
        return
    try:
        read_pseudo_labels(output)
    except UserError:
        raise UserError(
            f"--output '{output}' is there and no file of pseudo-labels; it would be lost. Name "
            "another file, or delete it."
        ) from None


def main() -> None:
    args = parse_args()
    check_arguments(args)
    setup_logger()
    setup_logger(name="multas")
    cfg = load_config(args.config_file, args.opts)
    require_registered([args.dataset, *filter(None, [args.report_against])], "the command line")
    with checked_images(cfg, [args.dataset]):
        label(args, cfg)


def label(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Write the file, and print how good it is if the ground truth is known."""
    # The classes of a card that does not list them are only known when it is loaded.
    images = DatasetCatalog.get(args.dataset)
    check_ids(images, args.dataset)
    truth = DatasetCatalog.get(args.report_against) if args.report_against else []
    if args.report_against:
        check_truth(images, truth, args.report_against)
    model = load_model(cfg, args.weights)
    known = [args.dataset, args.report_against, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    check_classes(model, [name for name in known if name])
    classes = class_names(known)
    if args.scales != [1.0] and isinstance(model, ExportedModel):
        raise UserError(
            f"--scales: {args.weights} resizes images to a size of its own, so that all scales "
            "would look the same. Leave --scales out; --flip works."
        )
    if args.flip or args.scales != [1.0]:
        model = FlipScaleEnsemble(
            model, args.scales, flip=args.flip, topk=cfg.TEST.DETECTIONS_PER_IMAGE
        )
    loader = build_test_loader(cfg, args.dataset)
    annotations, image_ids = label_images(
        model, loader, score_thresh=args.score_thresh, topk=args.topk
    )
    header = Header(
        dataset=args.dataset,
        classes=classes,
        image_ids=image_ids,
        score_thresh=args.score_thresh,
        topk=args.topk,
        teacher_config=args.config_file,
        teacher_weights=args.weights,
        teacher_sha256=file_sha256(args.weights),
    )
    save_pseudo_labels(args.output, header, annotations)
    empty = len(set(image_ids) - {a["image_id"] for a in annotations})
    print(f"{args.output}: {len(annotations)} boxes, {empty} of {len(image_ids)} images have none.")
    if args.report_against:
        rows = quality(annotations, truth, len(classes))
        table = [[name, *row] for name, row in zip([*classes, "all"], rows, strict=True)]
        print(tabulate(table, ["class", "precision", "recall", "boxes", "objects"], floatfmt=".3f"))


if __name__ == "__main__":
    raise SystemExit(run(main))
