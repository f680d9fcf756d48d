"""Make, complete or check the embedded data set (see multas/data/toy.py).

python tools/make_dataset.py            # makes or repairs datasets/toy
python tools/make_dataset.py --check    # only says what is missing or damaged
"""

import argparse
import time
from pathlib import Path

from multas.data.toy import check_toy, make_toy

ROOT = Path(__file__).resolve().parent.parent / "datasets" / "toy"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the embedded data set.")
    parser.add_argument("--root", type=Path, default=ROOT, help="its folder (default datasets/toy)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=480, help="images to learn from")
    parser.add_argument("--val", type=int, default=100, help="images to choose on")
    parser.add_argument("--test", type=int, default=200, help="images to report on")
    parser.add_argument("--check", action="store_true", help="make nothing, exit 1 if incomplete")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.check:
        damaged = check_toy(args.root)
        print("\n".join(damaged) or f"{args.root} is complete")
        return 1 if damaged else 0
    start = time.perf_counter()
    make_toy(args.root, args.seed, train=args.train, val=args.val, test=args.test)
    print(f"{args.root}: ready after {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
