"""Make, complete or check an embedded data set (see multas/data/toy).

python tools/make_dataset.py             # makes or repairs datasets/toy
python tools/make_dataset.py --source    # makes datasets/toy_source, of other scenes and colours
python tools/make_dataset.py --classes   # makes datasets/toy_classes for classification
python tools/make_dataset.py --check     # only says what is missing or damaged
"""

import argparse
import time
from pathlib import Path

from multas.config.limits import at_least, check_limit
from multas.data import check_toy, make_toy, make_toy_classes, make_toy_source
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError

DATASETS = Path(__file__).resolve().parent.parent / "datasets"


MAKERS = {"toy": make_toy, "toy_source": make_toy_source, "toy_classes": make_toy_classes}
MAX_SCENES = 999_999  # their names have six digits


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--root", type=Path, help="the folder; without it datasets/toy, toy_source or toy_classes"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--source", action="store_true", help="the set to start from, for toy")
    kinds.add_argument("--classes", action="store_true", help="single objects in class folders")
    parser.add_argument("--seed", type=int, help="the seed of the scenes (0; of --source: 1)")
    parser.add_argument("--train", type=int,
                        help="the number of training scenes (480; of --source: 1920)")  # fmt: skip
    parser.add_argument("--val", type=int, default=100, help="the number of validation scenes")
    parser.add_argument("--test", type=int, default=200, help="the number of test scenes")
    parser.add_argument("--check", action="store_true", help="only check, exit 1 if incomplete")
    args = parser.parse_args(argv)
    seed, train = (1, 1920) if args.source else (0, 480)
    args.seed = seed if args.seed is None else args.seed
    args.train = train if args.train is None else args.train
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    # The smallest list of the devkit has an eighth of a half of the training scenes.
    limits = {
        "train": at_least(1 if args.classes else 16),
        "val": at_least(1),
        "test": at_least(1),
        "seed": at_least(0),
    }
    for name, limit in limits.items():
        check_limit(f"--{name}", getattr(args, name), limit)
    if (scenes := args.train + args.val + args.test) > MAX_SCENES:
        raise UserError(f"--train, --val and --test sum to {scenes}; make at most {MAX_SCENES}.")
    name = "toy_source" if args.source else "toy_classes" if args.classes else "toy"
    root = args.root or DATASETS / name
    if args.check:
        damaged = check_toy(root)
        print("\n".join(damaged) or f"{root} is complete")
        return 1 if damaged else 0
    start = time.perf_counter()
    MAKERS[name](root, args.seed, train=args.train, val=args.val, test=args.test)
    print(f"{root}: ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main))
