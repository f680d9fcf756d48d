#!/usr/bin/env python
"""Compare finished runs on one page: figures, curves, confusions, and images that differ most.

    python tools/report.py output/supervised output/distilled --output report.html

A run is the OUTPUT_DIR of a training. The first is the baseline, unless --baseline says another.
The page holds its pictures and needs no network. Predictions are computed once and kept in the
folders of the runs, so that a second report takes seconds. Relative paths in configs are those of
the working directory, as in training.
"""

import argparse
import logging
import shlex
from pathlib import Path

from detectron2.utils.logger import setup_logger

from multas.engine.comparison import write_report
from multas.util.command_line import argument_parser, run
from multas.util.files import require_writable


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folders of the runs")
    parser.add_argument("--output", default="report.html", help="the page")
    parser.add_argument("--baseline", default="", help="the run that others are compared with")
    parser.add_argument(
        "--datasets", nargs="+", default=[], help="where to judge; that of the baseline's config"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    setup_logger(name="multas").setLevel(logging.WARNING)
    require_writable(args.output, "--output")
    page = write_report(args.runs, args.output, baseline=args.baseline, datasets=args.datasets)
    print(f"Wrote {shlex.quote(str(Path(page)))}")


if __name__ == "__main__":
    raise SystemExit(run(main))
