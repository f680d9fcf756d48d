#!/usr/bin/env python
"""Write a teacher's detections on unlabelled images as pseudo-labels, and apply a review of them.

    python tools/pseudo_label.py --config-file TEACHER.yaml --weights TEACHER.pth \
        --dataset mydata_unlabeled --output pseudo_labels.json --score-thresh 0.5 --review
    python tools/pseudo_label.py --input pseudo_labels.json --apply-review decisions.json \
        --output reviewed.json

Name the file in DATASETS.PSEUDO_LABELS.FILES of the student's config. A teacher that segments
writes masks with --masks FOLDER, for DATASETS.PSEUDO_LABELS.MASKS. With --report-against (a data
set that has the withheld ground truth), precision and recall are printed as well. Nothing else
reads that data set. --flip and --scales 0.8 1 1.2 label each image by an ensemble of its views
(data distillation), at the price of as many forward passes.

--review writes review.html beside the file (with --input: one that is there already), a page to
look through the boxes, with the masks of --masks below them; it hands out the decisions for
--apply-review. See docs/pseudo_labels.md.
"""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from tabulate import tabulate
from torch import nn

from multas.config.limits import Limit, at_least, check_limit, each, from_to
from multas.data import build_test_loader
from multas.data.dataset_dicts import require_registered
from multas.data.pseudo_label_files import (
    Header,
    file_sha256,
    read_pseudo_labels,
    require_replaceable,
    save_pseudo_labels,
)
from multas.data.pseudo_mask_files import (
    MaskHeader,
    check_mask_folder,
    read_pseudo_masks,
    writing_masks,
)
from multas.data.review import UNREVIEWED, apply_review, read_review
from multas.data.review_page import write_review_page
from multas.deploy.exported_model import ExportedModel
from multas.engine import load_config
from multas.engine.checks.classes import check_classes
from multas.engine.checks.images import checked_images
from multas.engine.ensemble import FlipScaleEnsemble
from multas.engine.inference import load_model
from multas.engine.pseudo_label_quality import (
    check_truth,
    count_objects,
    judge,
    mask_quality,
    quality,
    quality_table,
)
from multas.engine.pseudo_labeling import check_ids, label_images, labelled_images
from multas.engine.run_log import on_screen
from multas.modeling.weight_files import check_is_file
from multas.util.annotation import BOXES, MASKS, Annotation
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.files import require_writable

_SCALE = Limit("greater than 0, up to 10", lambda x: 0 < x <= 10)
_PAGE = "review.html"


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--config-file", help="the config of the teacher, or a row")
    add("--weights", help="its trained weights")
    add("--dataset", help="the registered images to label")
    add("--output", help="the file to write (JSON)")
    add("--masks", help="the folder for the masks of a teacher that segments")
    add("--score-thresh", type=float, default=0.5, help="the lowest score kept")
    add("--mask-thresh", type=float, default=0.9, help="the lowest probability of a pixel kept")
    add("--topk", type=int, default=0, help="the most boxes per image, 0 = all")
    add("--flip", action="store_true", help="detect on mirrored images, too")
    add("--scales", type=float, nargs="+", default=[1.0], help="factors of the image size")
    add("--report-against", default="", help="the data set with the ground truth")
    add("--review", action="store_true", help=f"write {_PAGE}, to look through the boxes")
    add("--review-images", type=int, default=1000, help="the most images on it, 0 = all")
    add("--input", help="pseudo-labels that are there, for --review or --apply-review")
    add("--apply-review", metavar="FILE", help="the decisions that the page hands out")
    add("--unreviewed", choices=UNREVIEWED, default="keep", help="what nobody has looked at")
    add("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    args = parser.parse_args()
    if missing := [name for name, value in needed(args).items() if value in (None, False)]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def needed(args: argparse.Namespace) -> dict[str, str | bool | None]:
    """The arguments that must be given, and what was."""
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items()}
    if args.apply_review:
        return {name: given[name] for name in ("--input", "--output")}
    if args.input:
        return {"--review or --apply-review": given["--review"]}
    names = ["--config-file", "--weights", "--dataset", *(["--output"] if args.review else [])]
    either = args.masks if args.output is None else args.output
    return {name: given[name] for name in names} | {"--output (boxes) or --masks": either}


def check_arguments(args: argparse.Namespace) -> None:
    """Find what is wrong with the arguments before there is anything to lose."""
    check_limit("--score-thresh", args.score_thresh, from_to(0, 1))
    check_limit("--mask-thresh", args.mask_thresh, from_to(0, 1))
    check_limit("--topk", args.topk, at_least(0))
    check_limit("--scales", args.scales, each(_SCALE))
    check_limit("--review-images", args.review_images, at_least(0))
    if args.output is not None:
        require_replaceable(args.output)
    if args.masks:
        check_mask_folder(args.masks, "--masks")
    if args.review:
        require_writable(page_of(args), "--review")
    if not args.input:
        check_is_file(args.weights, "--weights")


def page_of(args: argparse.Namespace) -> Path:
    return Path(args.input or args.output).with_name(_PAGE)


def class_names(
    datasets: Sequence[str], kind: Annotation = BOXES, default: Sequence[str] = ()
) -> list[str]:
    """The class names of the first data set that has them, which may be one of the teacher's."""
    for name in filter(None, datasets):
        names = MetadataCatalog.get(name).get(kind.classes_key, None)
        if names:
            return list(names)
    if default:
        return list(default)
    raise UserError(
        "No class names: neither the images nor DATASETS.TRAIN and TEST of the teacher's config "
        "have them. Give `classes` in a card and name the card in DATASETS.CARDS."
    )


def main() -> None:
    args = parse_args()
    check_arguments(args)
    with on_screen():
        setup_logger()
    if args.apply_review:
        apply(args)
    elif args.input:
        header, annotations = read_pseudo_labels(args.input)
        images = labelled_images(header, args.config_file or "", args.dataset or "", args.opts)
        write_page(args, header, annotations, images, read_truth(args, images, [BOXES]))
    else:
        cfg = load_config(args.config_file, args.opts)
        sets = [args.dataset, *filter(None, [args.report_against])]
        require_registered(sets, "the command line")
        with checked_images(cfg, [args.dataset]):
            label(args, cfg)


def read_truth(
    args: argparse.Namespace, images: Sequence[Mapping], kinds: Sequence[Annotation]
) -> dict[Annotation, list[dict]]:
    """The withheld ground truth, by kind, as far as it is asked for and the data set has it."""
    if not args.report_against:
        return {}
    require_registered([args.report_against], "--report-against")
    truth = DatasetCatalog.get(args.report_against)
    there = [kind for kind in kinds if any(kind.dataset_key in sample for sample in truth)]
    for kind in there or kinds[:1]:
        check_truth(images, truth, args.report_against, kind)
    return dict.fromkeys(there, truth)


def load_teacher(args: argparse.Namespace, cfg: CfgNode, known: Sequence[str]) -> nn.Module:
    """The model, or the ensemble of its views; ``known`` names data sets with its classes."""
    model = load_model(cfg, args.weights)
    check_classes(model, known)
    if args.scales != [1.0] and isinstance(model, ExportedModel):
        raise UserError(
            f"--scales: {args.weights} resizes images to a size of its own, so that all scales "
            "would look the same. Leave --scales out; --flip works."
        )
    if not args.flip and args.scales == [1.0]:
        return model
    topk = cfg.TEST.DETECTIONS_PER_IMAGE
    return FlipScaleEnsemble(model, args.scales, flip=args.flip, topk=topk)


def label(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Write the files, and print how good they are if the ground truth is known."""
    # The classes of a card that does not list them are only known when it is loaded.
    images = DatasetCatalog.get(args.dataset)
    check_ids(images, args.dataset)
    kinds = ([BOXES] if args.output else []) + ([MASKS] if args.masks else [])
    truth = read_truth(args, images, kinds)
    known = [args.dataset, args.report_against, *cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    model = load_teacher(args, cfg, [name for name in known if name])
    own = {kind: cfg.MODEL.CLASSES[kind.task.upper()] for kind in kinds}
    classes = {kind: class_names(known, kind, own[kind]) for kind in kinds}
    origin = {
        "dataset": args.dataset,
        "teacher_config": args.config_file,
        "teacher_weights": args.weights,
        "teacher_sha256": file_sha256(args.weights),
    }
    with ExitStack() as stack:
        writer = None
        if args.masks:
            ignored = cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE
            masks = MaskHeader(
                classes=classes[MASKS],
                prob_thresh=args.mask_thresh,
                ignore_label=ignored,
                **origin,
            )
            ids = [sample["image_id"] for sample in images]
            writer = stack.enter_context(writing_masks(args.masks, masks, ids))
        annotations, image_ids = label_images(
            model,
            build_test_loader(cfg, args.dataset),
            score_thresh=args.score_thresh,
            topk=args.topk,
            find_boxes=bool(args.output),
            take_scores=writer,
        )
    if args.output:
        header = Header(
            classes=classes[BOXES],
            image_ids=image_ids,
            score_thresh=args.score_thresh,
            topk=args.topk,
            **origin,
        )
        save_pseudo_labels(args.output, header, annotations)
        empty = len(set(image_ids) - {a["image_id"] for a in annotations})
        count = f"{len(annotations)} boxes, {empty} of {len(image_ids)} images have none"
        print(f"{args.output}: {count}.")
    if BOXES in truth:
        rows = quality(annotations, truth[BOXES], len(classes[BOXES]))
        print(quality_table(classes[BOXES], rows, "boxes", "objects"))
    if writer is not None:
        print(f"{args.masks}: {writer.summary()}")
    if MASKS in truth:
        _, files = read_pseudo_masks(args.masks)
        table = mask_quality(files, truth[MASKS], len(classes[MASKS]), ignored)
        print(quality_table(classes[MASKS], table, "pixels"))
    if args.review:
        write_page(args, header, annotations, images, truth)


def write_page(
    args: argparse.Namespace,
    header: Header,
    annotations: Sequence[Mapping],
    images: Sequence[Mapping],
    truth: Mapping[Annotation, list[dict]],
) -> None:
    known = truth.get(BOXES)
    count = write_review_page(
        page_of(args),
        args.input or args.output,
        header,
        annotations,
        images,
        verdicts=judge(annotations, known) if known else None,
        objects=count_objects(known, len(header.classes)) if known else None,
        most=args.review_images,
        masks=args.masks or "",
    )
    print(f"{page_of(args)}: {count} images, the most doubtful first; open it in a browser.")


def apply(args: argparse.Namespace) -> None:
    """Write the pseudo-labels that a review makes of others."""
    review, header, annotations = read_review(args.apply_review, args.input)
    header, annotations, counts = apply_review(header, annotations, review, args.unreviewed)
    save_pseudo_labels(args.output, header, annotations)
    print(f"{args.output}: {len(annotations)} boxes on {len(header.image_ids)} images.")
    print(tabulate(counts.items(), tablefmt="plain"))


if __name__ == "__main__":
    raise SystemExit(run(main))
