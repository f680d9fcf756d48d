#!/usr/bin/env python
"""Take pseudo-labels to CVAT, Label Studio or FiftyOne as a COCO data set, and back.

    python tools/exchange.py export --input pseudo_labels.json --output exported/
    python tools/exchange.py import --input pseudo_labels.json --coco edited.zip \
        --output reviewed.json

The images are looked up in the data set that was labelled, by the data cards of the teacher's
config; --config-file names another config that has them. See docs/pseudo_labels.md.
"""

import argparse
from dataclasses import replace

from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from multas.data.coco_export import export_coco
from multas.data.coco_import import import_coco
from multas.data.pseudo_label_files import (
    file_sha256,
    read_pseudo_labels,
    require_replaceable,
    save_pseudo_labels,
)
from multas.data.review import UNREVIEWED
from multas.engine.pseudo_labeling import labelled_images
from multas.util.command_line import HelpFormatter, argument_parser, run


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, help="one of these")
    leave = commands.add_parser("export", help="write a folder with labels.json and data/")
    back = commands.add_parser("import", help="write the pseudo-labels that a COCO file makes")
    for command in (leave, back):
        command.formatter_class = HelpFormatter
        command.add_argument("--input", required=True, help="the file of pseudo-labels")
        command.add_argument(
            "--config-file", default="", help="a config whose cards have the images"
        )
        command.add_argument(
            "--dataset", default="", help="the images, if not as they were labelled"
        )
    leave.add_argument("--output", required=True, help="the new folder")
    back.add_argument("--coco", required=True, help="what the program wrote: JSON, folder or ZIP")
    back.add_argument("--output", required=True, help="the pseudo-labels to write (JSON)")
    back.add_argument("--unreviewed", choices=UNREVIEWED, default="keep",
                      help="images that the program did not hand back")  # fmt: skip
    for command in (leave, back):
        command.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the config")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setup_logger()
    setup_logger(name="multas")
    header, annotations = read_pseudo_labels(args.input)
    if args.command == "import":
        require_replaceable(args.output)
    images = labelled_images(header, args.config_file, args.dataset, args.opts)
    if args.command == "export":
        count = export_coco(args.output, header, annotations, images)
        print(f"{args.output}: {count} images in data/, their boxes in labels.json.")
        return
    header = replace(header, reviewed=file_sha256(args.input))
    header, annotations, counts = import_coco(
        args.coco, header, annotations, images, args.unreviewed
    )
    save_pseudo_labels(args.output, header, annotations)
    print(f"{args.output}: {len(annotations)} boxes on {len(header.image_ids)} images.")
    print(tabulate(counts.items(), tablefmt="plain"))


if __name__ == "__main__":
    raise SystemExit(run(main))
