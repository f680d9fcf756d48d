#!/usr/bin/env python
"""Check the data of a card: what there is, all that is wrong with it, and how it looks.

    python tools/check_data.py datasets/cards/cells.yaml --output check.html
    python tools/check_data.py cells.yaml --config-file student.yaml

All splits are read to the end: faults by kind, objects of each class, sizes of images and objects,
images that are near-identical in different splits, and settings that follow from the data. The page
also has the annotations drawn, and with --config-file the first batch of that training, as the
network gets it. The exit status is 1 if there are faults, and 0 if there are none.
"""

import argparse
import tempfile
from pathlib import Path

from detectron2.utils.logger import setup_logger

from multas.data.inspection import inspect_cards
from multas.data.overlaps import find_alike, loose_images, shared_images
from multas.engine import load_config
from multas.engine.data_page import Found, batch_blocks, summary, whole_page
from multas.util.command_line import run
from multas.util.document import to_html, to_markdown
from multas.util.files import require_writable, write_text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("card", help="a data card")
    parser.add_argument("--config-file", help="a training, whose first batch is drawn as well")
    parser.add_argument("--output", type=Path, default=Path("check.html"),
                        help="the page (default: check.html)")  # fmt: skip
    parser.add_argument(
        "--fast", action="store_true", help="decode no image: not all faults are found then"
    )
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of the config")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    require_writable(args.output, "--output")
    setup_logger(name="multas")
    cards = [args.card]
    cfg = load_config(args.config_file, args.opts) if args.config_file else None
    splits = inspect_cards(cards, fast=args.fast)
    found = Found(
        splits, shared_images(splits), find_alike(splits, fast=args.fast), loose_images(splits)
    )
    with tempfile.TemporaryDirectory() as folder:
        blocks = whole_page(found, f"Data of {args.card}", Path(folder))
        if cfg is not None:
            blocks += batch_blocks(cfg, Path(folder))
        write_text(args.output, to_html(blocks, args.output.parent))
    print(to_markdown(summary(found), args.output.parent))
    print(f"All of it, with pictures: {args.output}")
    return 1 if found.num_faults else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
