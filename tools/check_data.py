#!/usr/bin/env python
"""Check data: what there is, all that is wrong with it, and how it looks.

    python tools/check_data.py datasets/cards/cells.yaml --output check.html
    python tools/check_data.py folder/of/images/and/labels
    python tools/check_data.py cells.yaml --config-file student.yaml

All splits are read to the end: faults by kind, objects of each class, sizes of images and objects,
images that are near-identical in different splits, and settings that follow from the data. The page
also has the annotations drawn, and with --config-file the first batch of that training, as the
network gets it. The exit status is 1 if there are faults, and 0 if there are none.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from multas.data.inspection import inspect_cards
from multas.data.looking.find import find_cards
from multas.data.overlaps import find_alike, loose_images, shared_images
from multas.data.yolo_yaml import is_yolo_yaml
from multas.engine import load_config
from multas.engine.data_page import Found, summary, whole_page
from multas.engine.data_pictures import batch_blocks
from multas.util.command_line import argument_parser, run
from multas.util.document import to_html, to_markdown
from multas.util.files import require_writable, write_text
from multas.util.yaml_files import read_yaml


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("card", help="a data card, or a folder or file of data as others have them")
    parser.add_argument("--config-file", help="a training, whose first batch is drawn as well")
    parser.add_argument("--output", type=Path, default=Path("check.html"),
                        help="the page")  # fmt: skip
    parser.add_argument(
        "--fast", action="store_true", help="decode no image: not all faults are found then"
    )
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of the config")
    return parser.parse_args()


def cards_of(place: str) -> tuple[Sequence[str | dict], Sequence[str]]:
    """A card as it is; or what is found by looking, and why it is read so."""
    if Path(place).suffix.lower() in (".yaml", ".yml"):
        content = read_yaml(place)
        if not isinstance(content, dict) or not is_yolo_yaml(content):
            return [place], []
    return find_cards(place)


def main() -> int:
    args = parse_args()
    require_writable(args.output, "--output")
    setup_logger(name="multas")
    cards, notes = cards_of(args.card)
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
    text = to_markdown(summary(found), args.output.parent)
    print("\n".join([*notes, "", text] if notes else [text]))
    print(f"All of it, with pictures: {args.output}")
    return 1 if found.num_faults else 0


if __name__ == "__main__":
    raise SystemExit(run(main))
