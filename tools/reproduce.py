#!/usr/bin/env python
"""Run the rows of tables of either paper, and report them beside the paper's numbers.

    python tools/reproduce.py A1                       # embedded data, CPU, minutes per row
    python tools/reproduce.py A1 A2 B2 --seeds 3       # what they share is trained once
    python tools/reproduce.py A1 --data mycard.yaml    # the same rows on your own data
    python tools/reproduce.py B5 --scale full --dry-run --images-per-second 40
    python tools/reproduce.py all --seeds 3 --jobs 2 SOLVER.IMS_PER_BATCH 4
    python tools/reproduce.py all --scale full --rehearse --jobs 2   # every row, three iterations

A and B are "Self-training and multi-task learning for limited data" (Lê and Pham, ICCVW 2023) and
"Adaptive distillation" (Chennupati et al., BMVC 2021). --scale full uses the paper's data and
schedule, and tells what is missing before anything starts.

A training that several rows need (a teacher, a supervised student) runs once, in a folder of
output/reproduce/runs that is named by a hash of its config, data, seed and teacher. The same
command continues where it was stopped, and a row that fails does not stop the others. The reports
(report.md, report.html) are in output/reproduce/<table>-<scale>, or in a folder of their own with
--data or KEY VALUE. The hash does not depend on the code: after you change it, delete the runs
that it concerns.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path

import matplotlib.pyplot as plt

from multas.config.tables import SCALES, Table
from multas.data import DatasetError
from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from multas.util.screen import Screen
from reproduction.data_check import make_embedded, missing
from reproduction.execution import States, execute, states_of
from reproduction.hours import describe_all, describe_work
from reproduction.kept import keep, read_kept
from reproduction.progress import Watch
from reproduction.rehearsal import WEIGHTS, Rehearsal, changes_for, prepare
from reproduction.rehearsal_report import write_rehearsal
from reproduction.report import Setting, write_report
from reproduction.results import read_result
from reproduction.rows import Row, choose, rows_of
from reproduction.run import Run
from reproduction.runners import REPOSITORY, Cluster, Local, Runner
from reproduction.runs import Planner, in_order
from reproduction.tables import read_tables

# The keys that this script sets itself, and the arguments for them.
_OWN_KEYS = {"OUTPUT_DIR": "--output", "SEED": "--seeds", "DATASETS.CARDS": "--data"}

Plan = list[tuple[Row, tuple[Run, ...]]]


def parse_args(tables: Sequence[str] = (), argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with the names of ``tables`` (or all) apart from the KEY VALUE pairs."""
    tables = tables or list(read_tables())
    parser = argument_parser(__doc__)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="TABLE",
        help=f"{', '.join(tables)} (A, B: the paper, F: a figure), or all, and after the tables "
        "KEY VALUE ... for every run",
    )
    parser.add_argument("--scale", choices=SCALES, default="tiny",
                        help="tiny: the embedded data; small: the same, from a source set "
                        "and for longer; full: those of the paper")  # fmt: skip
    parser.add_argument("--data", default="", help="a data card to run the rows on")
    parser.add_argument("--rows", default="", help="some rows, e.g. teacher,half/self_trained*")
    parser.add_argument("--seeds", type=int, default=1, help="the number of seeds: 1, 2, …")
    parser.add_argument(
        "--jobs",
        type=int,
        help="the number of trainings at a time: on this machine they share its cores and GPUs "
        "(default: 1), with --submit they are jobs (default: all that can start)",
    )
    parser.add_argument("--submit", choices=["slurm", "local"], help="run them as submitit's jobs")
    parser.add_argument("--submit-option", action="append", default=[], metavar="KEY=VALUE",
                        help="an option of submitit, such as slurm_partition=gpu")  # fmt: skip
    parser.add_argument("--gpus", type=int, default=1,
                        help="the GPUs of each training, of which it takes as many as can share "
                        "its batches equally")  # fmt: skip
    parser.add_argument("--output", help="the folder of runs and reports (default: "
                        "output/reproduce, or output/rehearsal with --rehearse)")  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="FILE",
                        help="keeps the results of finished trainings in a file, and does not "
                        "train again what it has there")  # fmt: skip
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="with --scale full: three iterations of each row on drawn images in the layouts of "
        "the real data, or on the real data in the folder --data",
    )
    parser.add_argument("--dry-run", action="store_true", help="only print the command lines")
    parser.add_argument("--images-per-second", type=float, metavar="NUMBER",
                        help="with --dry-run: print how long it takes if so many images pass "
                        "through the network in a second (docs/clusters.md)")  # fmt: skip
    args = parser.parse_intermixed_args(argv)
    args.tables = list(takewhile(lambda word: word in (*tables, "all"), args.words))
    args.opts = args.words[len(args.tables) :]
    if not args.tables:
        parser.error(f"{args.words[0]} is no table; choose from {', '.join(tables)}, all")
    if len(args.opts) % 2:
        parser.error(f"{' '.join(args.opts)}: neither tables nor pairs of KEY VALUE")
    for key in args.opts[::2]:
        if key in _OWN_KEYS:
            parser.error(f"{key} is set by {_OWN_KEYS[key]}")
    if args.rehearse and (args.scale != "full" or args.submit or args.gpus > 1 or args.results):
        parser.error("--rehearse needs --scale full, and has no --submit, --gpus and --results")
    default = "rehearsal" if args.rehearse else "reproduce"
    args.output = args.output or REPOSITORY / "output" / default
    if min(args.seeds, args.gpus, 1 if args.jobs is None else args.jobs) < 1:
        parser.error("--seeds, --jobs and --gpus are 1 or more")
    if args.images_per_second is not None and not (args.dry_run and args.images_per_second > 0):
        parser.error("--images-per-second is above 0, and for --dry-run")
    return args


def make_plans(
    tables: Mapping[str, Table], args: argparse.Namespace, planner: Planner
) -> dict[str, Plan]:
    """The rows of the tables on the command line, and their runs.

    With --data, rows that do not suit the card are left out unless --rows names them, and so are
    tables that do not suit it with "all".

    Raises:
        UserError: --rows fits no row, or the user's card does not suit one.
    """
    everything = "all" in args.tables
    rows = {
        name: rows_of(tables[name], args.scale, own_data=Path(args.data).stem)
        for name in (tables if everything else dict.fromkeys(args.tables))
    }
    wanted = chosen([row for members in rows.values() for row in members], args.rows)
    plans: dict[str, Plan] = {}
    for name, members in rows.items():
        try:
            plans[name] = _plan_rows(members, wanted, planner, args.seeds)
        except DatasetError as error:
            if not everything:
                raise UserError(f"{name}{', --data' * bool(args.data)}: {error}") from error
            print(f"{name}: {error} Passed over.", file=sys.stderr)
    return plans


def _plan_rows(rows: Sequence[Row], wanted: Sequence[Row], planner: Planner, seeds: int) -> Plan:
    plan: Plan = []
    for row in rows:
        try:
            runs = tuple(planner.plan(row.address, seed) for seed in range(1, seeds + 1))
        except DatasetError:
            if row in wanted:
                raise
        else:
            plan.append((row, runs))
    return plan


def chosen(rows: Sequence[Row], names: str) -> list[Row]:
    """The rows with these names, or all.

    Raises:
        UserError: A name fits no row.
    """
    try:
        return choose(rows, list(filter(None, names.split(","))))
    except ValueError as error:
        raise UserError(str(error)) from error


def runs_of(plans: Mapping[str, Plan], names: str = "") -> list[Run]:
    """The runs of the rows with these names, or of all, each after those that it needs."""
    pairs = [pair for plan in plans.values() for pair in plan]
    wanted = chosen([row for row, _ in pairs], names)
    return in_order(run for row, runs in pairs if row in wanted for run in runs)


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def report_on(table: Table, plan: Plan, states: States, args: argparse.Namespace) -> None:
    results = [read_result(row, runs, states) for row, runs in plan]
    own = f"{args.data} {args.opts}" if args.data or args.opts else ""
    parts = [table.name, args.scale, Path(args.data).stem, own and short_hash(own)]
    name = "-".join(filter(None, parts))
    note = ["--rehearse (a few iterations, so that no number says anything)"] * args.rehearse
    setting = Setting(args.scale, args.seeds, args.data, (*note, *args.opts))
    print(write_report(table, results, states, setting, Path(args.output) / name), flush=True)


def _dry_lines(runs: Sequence[Run], states: States, images_per_second: float | None) -> list[str]:
    """The command lines of runs, with comments: their hours, and what is missing."""
    lines, left = [], [run for run in runs if not states[run.digest].is_good]
    for training in runs:
        if images_per_second and training in left:
            lines.append(f"# {describe_work(training, images_per_second)}")
        lines.append(("" if training in left else "# finished: ") + training.command_line)
    if images_per_second:
        lines.append(f"# {describe_all(left, images_per_second)}")
    return [*lines, *(f"# missing: {fault}".replace("\n", "\n# ") for fault in missing(runs))]


def make_planner(args: argparse.Namespace) -> Planner:
    """What turns rows into trainings; for a rehearsal, their data and start weights are made."""
    runs = args.output / "runs"
    if not args.rehearse:
        results = read_kept(args.results) if args.results else {}
        return Planner(runs, args.opts, args.data, args.gpus, results)
    prepare(args.real, args.output)
    changes = partial(changes_for, weights=args.output / WEIGHTS)
    return Planner(runs, args.opts, changes_for=changes)


def make_runner(args: argparse.Namespace, plans: Mapping[str, Plan]) -> Runner:
    """What runs the trainings."""
    if args.rehearse:
        needed = {need.digest for run in runs_of(plans) for need in run.needs}
        return Rehearsal(args.jobs, needed if "all" in args.tables else None)
    if args.submit:
        return Cluster(args.submit, args.output / "jobs", args.submit_option)
    return Local(args.jobs, args.gpus)


def main(argv: Sequence[str] | None = None) -> int:
    start = Path.cwd()
    os.chdir(REPOSITORY)  # the paths in configs start there
    tables = read_tables()
    args = parse_args(list(tables), argv)
    plt.switch_backend("Agg")
    args.data = os.path.abspath(start / args.data) if args.data else ""
    output = start / args.output
    args.output = output.relative_to(REPOSITORY) if output.is_relative_to(REPOSITORY) else output
    args.results = args.results and start / args.results
    args.real, args.data = (args.data, "") if args.rehearse else ("", args.data)
    plans = make_plans(tables, args, make_planner(args))
    runs, todo = runs_of(plans), runs_of(plans, args.rows)
    states = states_of(runs, todo)
    if args.dry_run:
        print("\n".join(_dry_lines(todo, states, args.images_per_second)))
        return 0
    args.jobs = args.jobs or (max(1, len(todo)) if args.submit else 1)
    runner = make_runner(args, plans)
    make_embedded(todo)
    # In a rehearsal, each row tells what it lacks, and the others go on.
    if not args.rehearse and (lines := missing(todo)):
        raise UserError("\n".join(["Nothing was started; this is missing:", *lines]))
    screen = Screen(sys.stdout)
    try:
        execute(todo, runner, args.jobs, states, screen.say, Watch(screen))
    finally:
        if args.results:
            keep(args.results, runs)
        for name, plan in plans.items():
            report_on(tables[name], plan, states, args)
        if args.rehearse:
            print(write_rehearsal(plans, todo, states, args.real, args.output), flush=True)
    return 0 if all(states[run.digest].is_good for run in todo) else 1


if __name__ == "__main__":
    raise SystemExit(run(main))
