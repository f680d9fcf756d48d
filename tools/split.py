"""Make and check split lists.

    python tools/split.py make --card datasets/cards/bccd.yaml --split trainval --out DIR
    python tools/split.py make --split voc_2007_trainval --out DIR --fractions 1/10 1/5
    python tools/split.py partial --card my.yaml --split train --tasks det seg --out DIR
    python tools/split.py check datasets/VOC2007 datasets/VOC2012

`make` writes lists such as DIR/Half/trainval.txt, which are nested, complementary and balanced by
class (see multas/data/splits/make.py). `partial` divides the images among tasks: DIR/det/train.txt
and DIR/seg/train.txt have no image in common, and det2 and seg2 are half of each. `check` prints
sizes and overlaps, and exits with 1 if it finds an issue.
"""

import argparse
from collections import Counter
from fractions import Fraction
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.card import read_card
from multas.data.cards import register_card
from multas.data.dataset_dicts import require_registered
from multas.data.splits.check import check_splits, read_lists
from multas.data.splits.make import (
    FRACTIONS,
    class_counts,
    make_partial_splits,
    make_splits,
    mask_counts,
    write_splits,
)
from multas.util.annotation import BOXES, LABELS, MASKS
from multas.util.command_line import HelpFormatter, argument_parser, run
from multas.util.errors import UserError
from multas.util.id_lists import read_id_list
from multas.util.names import did_you_mean


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, help="one of these")
    make = commands.add_parser(
        "make", help="divide a data set into nested fractions", formatter_class=HelpFormatter
    )
    add_source(make, part="trainval")
    make.add_argument("--fractions", type=fraction, nargs="+", default=list(FRACTIONS),
                      help="the shares of the data set, such as 1/10 1/5")  # fmt: skip
    make.set_defaults(run=make_fractions)
    partial = commands.add_parser(
        "partial", help="divide a data set among tasks", formatter_class=HelpFormatter
    )
    add_source(partial, part="train")
    partial.add_argument(
        "--tasks", nargs="+", type=list_name, default=["det", "seg"], help="names of the lists"
    )
    partial.add_argument("--nested", type=int, nargs="*", default=[2],
                         help="2 also writes half of each list, as det2")  # fmt: skip
    partial.set_defaults(run=make_partial)
    check = commands.add_parser(
        "check", help="print sizes, overlaps, repetitions and leaks", formatter_class=HelpFormatter
    )
    check.add_argument("folders", type=Path, nargs="+", help="folders with ImageSets or lists")
    check.add_argument("--test", nargs="*", default=[], help="more test lists, such as MXEdet/val")
    check.set_defaults(run=check_lists)
    return parser.parse_args(argv)


def fraction(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text} has the denominator 0") from None


def seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def list_name(text: str) -> str:
    if not text or Path(text).name != text or text == "..":
        raise argparse.ArgumentTypeError(f"'{text}' is no name of a file or folder")
    return text


def add_source(parser: argparse.ArgumentParser, part: str) -> None:
    """Arguments that say what is divided, and where the lists go."""
    parser.add_argument("--card", help="the data card; without it --split is a registered name")
    parser.add_argument("--split", required=True, help="the split of the card to divide")
    parser.add_argument("--out", type=Path, required=True, help="the folder for <name>/<part>.txt")
    parser.add_argument("--seed", type=seed, default=0, help="the seed of the random order")
    parser.add_argument(
        "--part", type=list_name, default=part, help="the file name of the lists, without .txt"
    )
    parser.add_argument("--force", action="store_true", help="overwrite lists that differ")


def make_fractions(args: argparse.Namespace) -> int:
    counts = load_counts(args)
    write(make_splits(counts, args.fractions, args.seed), counts, args)
    return 0


def make_partial(args: argparse.Namespace) -> int:
    counts = load_counts(args)
    write(make_partial_splits(counts, args.tasks, args.nested, args.seed), counts, args)
    return 0


def load_counts(args: argparse.Namespace) -> dict[str, dict[str, int]]:
    """The classes of every image of the split, by its boxes or, where it has none, its masks."""
    name = args.split
    if args.card:
        register_card(args.card)
        card = read_card(args.card)
        splits = [split.name for split in card.splits]
        if name not in splits:
            raise UserError(f"--split {name}: {args.card} has none.{did_you_mean(name, splits)}")
        name = f"{card.name}_{name}"
    else:
        require_registered([name], "--split")
    records = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    # Detectron2 has another name of the folder for Cityscapes.
    root = metadata.get("image_root") or metadata.get("image_dir")
    keys = {key for record in records for key in record}
    if BOXES.dataset_key not in keys and MASKS.dataset_key in keys:
        names = metadata.get(MASKS.classes_key)
        return mask_counts(records, names, root, metadata.get("ignore_label", 255))
    kind = LABELS if LABELS.dataset_key in keys else BOXES
    return class_counts(records, metadata.get(kind.classes_key, ()), root)


def write(splits: dict[str, list[str]], counts: dict, args: argparse.Namespace) -> None:
    if not args.force:
        refuse_overwriting(splits, args.out, args.part)
    write_splits(splits, args.out, args.part)
    print_shares({"all": sorted(counts), **splits}, counts)


def refuse_overwriting(splits: dict[str, list[str]], out: Path, part: str) -> None:
    """Make sure that the lists of an experiment do not change after it has run."""
    for name, ids in splits.items():
        file = out / name / f"{part}.txt"
        if file.exists() and [image_id for _, image_id in read_id_list(file)] != ids:
            raise UserError(f"{file} exists with other ids: choose another --out, or add --force")


def print_shares(splits: dict[str, list[str]], counts: dict[str, dict[str, int]]) -> None:
    """Print, for each list, the images and the objects of each class, with their share of all."""
    totals: Counter[str] = Counter()
    for own in counts.values():
        totals.update(own)
    rows = {"images": [len(ids) for ids in splits.values()]}
    parts: list[Counter[str]] = [Counter() for _ in splits]
    for part, ids in zip(parts, splits.values(), strict=True):
        for image_id in ids:
            part.update(counts[image_id])
    rows |= {name: [part[name] for part in parts] for name in sorted(totals)}
    width = max(map(len, rows))
    print(" " * width + "".join(f"{name:>16s}" for name in splits))
    for name, numbers in rows.items():
        whole = totals.get(name, len(counts))
        cells = [f"{number:8d} {100 * number / whole:5.1f} %" for number in numbers]
        print(f"{name:{width}s}" + "".join(cells))


def check_lists(args: argparse.Namespace) -> int:
    report = check_splits(
        {path.resolve().name: read_lists(path) for path in args.folders}, args.test
    )
    print(report)
    return 1 if report.issues else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    raise SystemExit(run(main))
