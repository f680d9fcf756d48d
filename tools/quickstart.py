#!/usr/bin/env python
"""Compare a distilled student with a supervised one on the embedded data set.

    python tools/quickstart.py
    python tools/quickstart.py --seed 2 --output output/quickstart2 SOLVER.MAX_ITER 3000

It makes the data set, trains a teacher on the labelled half, and lets it label the other half. It
trains the student on the labelled half alone, and once more by distillation on everything. It
evaluates all three, writes the distilled student for ONNX Runtime and OpenVINO, and a report with
pictures. Another run of the same command continues: finished stages are skipped, and interrupted
ones are resumed. tools/distill.py does the same on your own data.
"""

import argparse
import os
from pathlib import Path

from detectron2.utils.logger import setup_logger

from multas.data import make_toy
from multas.util.command_line import argument_parser, run
from own_data.job import Job
from own_data.scripts import REPOSITORY
from own_data.stamp import claim, held, refuse_other


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the seed of all stages")
    parser.add_argument("--output", default="output/quickstart", help="the folder of the results")
    parser.add_argument("--configs", default="configs/quickstart", help="the folder of the configs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... for all stages")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.chdir(REPOSITORY)
    setup_logger()
    opts = ["SEED", str(args.seed), *args.opts]
    job = Job(Path(args.configs), Path(args.output), opts, formats=("onnx", "openvino"))
    for stage in job.stages:
        job.config(stage)  # or a mistake in --seed or a key would stay in the stamp
    settings = {"configs": args.configs, "opts": opts}
    refuse_other(job.output, settings)
    with held(job.output):
        claim(job.output, settings)
        if args.configs == "configs/quickstart":
            print("[data] making the embedded data set: datasets/toy", flush=True)
            make_toy("datasets/toy")
        job.run()


if __name__ == "__main__":
    raise SystemExit(run(main))
