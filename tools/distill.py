#!/usr/bin/env python
"""From a folder of images and few labels to a small model that runs, in one command.

    python tools/distill.py /data/cells
    python tools/distill.py cells.yaml --minutes 60 --size small --output output/cells_small

DATA is a data card, or a folder with images and boxes (VOC, COCO, YOLO, LabelMe, KITTI, CSV),
masks, or a folder for each class. The command finds out which, and what a config needs: the size of
the input, anchors, mean and deviation of pixels. It trains a teacher, lets it label the images that
have no labels, trains a small student without and with the teacher, and writes the better one for
ONNX Runtime and OpenVINO, also in 8 bits. All that it found is in OUTPUT/configs, to be read and
changed; OUTPUT/report.html shows what came out. The same command goes on where it was stopped.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from multas.config.limits import above, check_limit
from multas.data.dataset_dicts import TrainingSet
from multas.data.looking.find import find_cards
from multas.data.pseudo_labels import PseudoLabels
from multas.data.statistics import count, describe
from multas.engine import load_config
from multas.engine.run_log import on_screen
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.screen import shown_from
from own_data.budget import (
    PROBED,
    SAMPLES,
    START,
    Pace,
    fitted_iterations,
    fitted_size,
    images_apart,
    seconds_of_rest,
)
from own_data.cards import by_task
from own_data.data import prepare
from own_data.job import Job, teacher_opts
from own_data.networks import TEACHERS, pretrained_weights
from own_data.paths import fitting_paths
from own_data.recipe import write_configs
from own_data.stamp import claim, held, refuse_other, removed_if_refused
from own_data.task_data import TaskData


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("data", type=Path, help="a folder, card, data.yaml of YOLO or CSV file")
    parser.add_argument("--output", type=Path, help="the folder of the results (output/NAME)")
    parser.add_argument("--tasks", nargs="+", default=[], help="of det, seg, cls (all that it has)")
    parser.add_argument("--classes", nargs="+", default=[], help="only these (all)")
    parser.add_argument("--size", choices=list(TEACHERS), default="nano", help="of the student")
    parser.add_argument("--minutes", type=float, default=20, help="how long all may take")
    parser.add_argument(
        "--labels", type=share, default=Fraction(1),
        help="the share of labels that is used, such as 1/4 or 0.1; for experiments",
    )  # fmt: skip
    parser.add_argument(
        "--teacher", nargs=2, metavar=("CONFIG", "WEIGHTS"), help="a teacher that you have"
    )
    parser.add_argument(
        "--pretrained", nargs="+", default=[], metavar="WEIGHTS",
        help="what the student, and the teacher, starts from: hub, a file, or none (hub)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--dry-run", action="store_true", help="show the plan, and train nothing")
    parser.add_argument("--opts", nargs="*", default=[], help="KEY VALUE ... of all configs")
    args = parser.parse_args()
    check_limit("--minutes", args.minutes, above(0))
    if not 0 < args.labels <= 1:
        raise UserError(f"--labels {args.labels}: give a share above 0 and up to 1, such as 1/4.")
    if len(args.pretrained) > 2:
        raise UserError("--pretrained: give the weights of the student, and those of the teacher.")
    return args


def share(text: str) -> Fraction:
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise argparse.ArgumentTypeError(f"{text} has the denominator 0") from None


def main() -> None:
    began = time.perf_counter() - time.process_time()  # imports take many seconds
    args = parse_args()
    with on_screen():
        setup_logger()
    cards = cards_of(args)
    output = args.output or Path("output", cards[0]["name"])
    settings = {
        "data": str(args.data.absolute()), "tasks": args.tasks, "classes": args.classes,
        "size": args.size, "minutes": args.minutes, "labels": str(args.labels),
        "teacher": args.teacher, "pretrained": args.pretrained, "seed": args.seed,
        "opts": args.opts,
    }  # fmt: skip
    refuse_other(output, settings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if args.dry_run else output
        job = Job(
            folder / "configs", output, args.opts, args.teacher, ("onnx", "openvino"), flip=True
        )
        with held(folder):
            with removed_if_refused(folder):
                data = prepare(cards, folder / "data", args.labels, args.seed)
                show(data)
                if not Path(job.config_file("distilled")).is_file():
                    plan(job, data, args, began)
            if not args.dry_run:
                claim(output, settings)
                job.run()


def cards_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The cards of the data, of the tasks and classes that are asked for.

    Raises:
        UserError: There is no such task.
    """
    cards, notes = find_cards(args.data)
    print("\n".join(notes) + "\n", flush=True)
    known = {task: card for content in cards for task, card in by_task(content).items()}
    if unknown := [task for task in args.tasks if task not in known]:
        raise UserError(
            f"--tasks {' '.join(unknown)}: {args.data} is annotated for {', '.join(known)} alone."
        )
    kept = [card for task, card in known.items() if not args.tasks or task in args.tasks]
    # A few faults are told and left out: a stranger's data always have some.
    told = [{"strictness": "skip", **card} for card in kept]
    return [{**card, "only": args.classes} for card in told] if args.classes else told


def show(data: list[TaskData]) -> None:
    """Print what there is to learn from and to test on."""
    counted = [
        count(TrainingSet(name, records, 0), MetadataCatalog.get(name), PseudoLabels())
        for task in data
        for name, records in task.records.items()
    ]
    print(f"{describe(counted, 'Data:')}\n", flush=True)


def plan(job: Job, data: list[TaskData], args: argparse.Namespace, began: float) -> None:
    """Write the configs of a job that takes as many minutes as are given.

    ``began`` is when that was, by time.perf_counter: until now it took about as long as it will
    take each training to begin.
    """
    start = max(START, time.perf_counter() - began)
    pretrained = pretrained_weights(args.size, args.pretrained)
    write = partial(
        write_configs, data, size=args.size, seed=args.seed, pretrained=pretrained,
        teacher=args.teacher,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch)

        def config(stage: str, teacher: str) -> CfgNode:
            opts = ["DATASETS.PSEUDO_LABELS.FILES", "()"]
            if stage == "distilled" and not args.teacher:
                opts += ["MODEL.DISTILLATION.TEACHER.WEIGHTS", teacher, *teacher_opts(args.opts)]
            return load_config(str(trial / f"{stage}.yaml"), [*args.opts, *opts])

        paths = None
        if args.teacher:
            paths = fitting_paths(
                data,
                lambda paths: write(trial, trial, iterations=1, paths=paths),
                partial(config, "distilled", ""),
            )

        def write_trial(most: int) -> int:
            write(trial, trial, iterations=PROBED, paths=paths, most=most)
            return config("supervised", "").INPUT.MIN_SIZE_TEST

        print("Measuring how long an iteration takes ...", flush=True)
        stages = {stage: partial(config, stage) for stage in job.stages}
        samples = data[0].records[data[0].test][:SAMPLES]
        with shown_from(logging.ERROR):  # the trainings give the same warnings
            iterations, paces, most = fitted_size(
                partial(
                    fitted_iterations, args.minutes, stages, images_apart(data, job), samples,
                    start=start, spent=lambda: time.perf_counter() - began,
                ),
                write_trial, print,
            )  # fmt: skip
    write(job.configs, job.output, iterations=iterations, paths=paths, most=most)
    over = time.perf_counter() - began + start * len(paces)
    show_plan(job, data, paces, iterations, args.minutes, over)
    if not args.dry_run:
        print(f"Configs: {job.configs}\n", flush=True)


def show_plan(
    job: Job,
    data: list[TaskData],
    paces: Mapping[str, Pace],
    iterations: int,
    minutes: float,
    over: float,
) -> None:
    """Print how long each part of a job takes, and whether it is more than was given.

    ``over`` are the seconds until now and until all trainings begin.
    """
    rest = seconds_of_rest(paces, images_apart(data, job)) / 60
    needed = {stage: pace.iteration * iterations / 60 for stage, pace in paces.items()}
    rows = [
        [stage, job.data_of(stage), iterations, f"{paces[stage].iteration:.3f}", f"{own:.1f}"]
        for stage, own in needed.items()
    ]
    rows.append(["", "evaluation, files and report", "", "", f"{rest:.1f}"])
    rows.append(["", "until now, and until trainings begin", "", "", f"{over / 60:.1f}"])
    header = ["training", "learns from", "iterations", "seconds each", "minutes"]
    print(tabulate(rows, header, tablefmt="github", disable_numparse=True) + "\n", flush=True)
    total = sum(needed.values()) + over / 60 + rest
    if total > minutes + 0.5:
        tested = sum(len(task.records[task.test]) for task in data)
        print(
            f"All takes about {total:.0f} minutes, although trainings take no more than half of "
            f"{minutes:g}: there are {tested} images to test on.\n", flush=True
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run(main))
