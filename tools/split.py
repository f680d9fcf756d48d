"""Make and check split lists.

    python tools/split.py make --card datasets/cards/bccd.yaml --split trainval --out DIR
    python tools/split.py make --split voc_2007_trainval --out DIR --fractions 1/10 1/5
    python tools/split.py check datasets/VOC2007 datasets/VOC2012

`make` writes DIR/Half/trainval.txt and so on: nested, complementary, class-balanced (see
multas/data/splits.py). `check` prints sizes and overlaps and exits with 1 if it finds a problem.
"""

import argparse
from collections import Counter
from fractions import Fraction
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from multas.data.card import read_card
from multas.data.cards import register_card
from multas.data.split_check import check_splits, read_lists
from multas.data.splits import FRACTIONS, class_counts, make_splits, write_splits


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make and check split lists.")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="divide a data set into nested fractions")
    make.add_argument("--card", help="data card; without it --split is a registered name")
    make.add_argument("--split", required=True, help="what to divide: a split of the card")
    make.add_argument("--out", type=Path, required=True, help="folder for <name>/<part>.txt")
    make.add_argument("--fractions", type=Fraction, nargs="+", default=list(FRACTIONS))
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--part", default="trainval", help="file name of the lists, without .txt")
    make.add_argument("--force", action="store_true", help="overwrite lists that differ")
    check = commands.add_parser("check", help="sizes, overlaps, nesting, repetitions, leaks")
    check.add_argument("folders", type=Path, nargs="+", help="with ImageSets or the lists in it")
    check.add_argument("--test", nargs="*", default=[], help="further scored lists: MXEdet/val")
    return parser.parse_args(argv)


def make(args: argparse.Namespace) -> int:
    name = args.split
    if args.card:
        register_card(args.card)
        name = f"{read_card(args.card).name}_{args.split}"
    records = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    counts = class_counts(records, metadata.thing_classes, metadata.get("image_root"))
    splits = make_splits(counts, args.fractions, args.seed)
    if not args.force:
        refuse_overwriting(splits, args.out, args.part)
    write_splits(splits, args.out, args.part)
    print_shares({"all": sorted(counts), **splits}, counts)
    return 0


def refuse_overwriting(splits: dict[str, list[str]], out: Path, part: str) -> None:
    """Lists of an experiment that ran already must not change under it."""
    for name, ids in splits.items():
        file = out / name / f"{part}.txt"
        if file.exists() and file.read_text().split() != ids:
            raise SystemExit(f"{file} exists with other ids: choose another --out, or add --force")


def print_shares(splits: dict[str, list[str]], counts: dict[str, dict[str, int]]) -> None:
    """One row per list: images, and objects of each class with their share of all."""
    totals: Counter[str] = Counter()
    for own in counts.values():
        totals.update(own)
    print(f"{'list':10s} {'images':>7s}  " + "  ".join(f"{name:>14s}" for name in sorted(totals)))
    for name, ids in splits.items():
        part: Counter[str] = Counter()
        for image_id in ids:
            part.update(counts[image_id])
        cells = [f"{part[c]:6d} {100 * part[c] / totals[c]:5.1f} %" for c in sorted(totals)]
        print(f"{name:10s} {len(ids):7d}  " + "  ".join(cells))


def check(args: argparse.Namespace) -> int:
    report = check_splits(
        {path.resolve().name: read_lists(path) for path in args.folders}, args.test
    )
    print(report)
    return 1 if report.problems else 0


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return make(args) if args.command == "make" else check(args)


if __name__ == "__main__":
    raise SystemExit(main())
