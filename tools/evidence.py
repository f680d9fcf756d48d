#!/usr/bin/env python
"""Show on real data, over several seeds, what something brings: the tables of docs/evidence.md.

    python tools/evidence.py few_labels --data /data --pretrained nano.pth teacher.pth --jobs 2
    python tools/evidence.py few_labels

A study is a file of evidence/, such as few_labels.yaml: data sets, shares of labels, seeds, and the
rows that are trained on each of them. With --data, which is the folder of the data sets, trainings
that have no result yet are run (the same command goes on where it was stopped), and their numbers
are kept in evidence/few_labels.json. Then, and without --data, docs/evidence.md is written anew
from these files, and from evidence/small.json of tools/reproduce.py --scale small. A result does
not know the code that gave it: after you change the recipe, delete the results and folders that it
concerns.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from multas.util.command_line import argument_parser, run
from multas.util.errors import UserError
from reproduction.execution import duration
from reproduction.runners import THREADS, usable_cores
from studies.cell import run_cell
from studies.page import PAGE, section, write_page
from studies.results import gather, is_complete, read_results
from studies.study import FOLDER, REPOSITORY, Cell, Study, names, read_study


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("study", help=f"{', '.join(names())}, or a .yaml file of your own")
    parser.add_argument("--data", type=Path, help="the folder of the data sets; trains")
    parser.add_argument(
        "--pretrained", nargs="+", default=[], metavar="WEIGHTS",
        help="what the student, and the teacher, starts from: hub, a file, or none (hub)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=REPOSITORY / "output" / "evidence",
                        help="the folder of the trainings")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, help="how many cells at a time")
    parser.add_argument("--cell", help="only this one, such as bccd-1of10-seed1")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError("--jobs is 1 or more.")
    if args.cell and not args.data:
        raise UserError("--cell trains, and needs the folder of the data sets: --data FOLDER.")
    return args


def main() -> int:
    args = parse_args()
    study = read_study(args.study)
    failed = 0
    if args.data and args.cell:
        # One of the processes of a call without --cell, or a job of a cluster.
        known = {cell.name: cell for cell in study.cells()}
        if args.cell not in known:
            raise UserError(f"--cell {args.cell}: choose from {', '.join(known)}.")
        run_cell(study, known[args.cell], args.data, args.output / study.name / args.cell,
                 args.pretrained)  # fmt: skip
        return 0
    if args.data:
        failed = train(study, args)
    if study.file.parent == FOLDER:
        write_page()
        print(PAGE, flush=True)
    else:
        print("\n\n".join(section(study, read_results(study))), flush=True)
    return 1 if failed else 0


def train(study: Study, args: argparse.Namespace) -> int:
    """Run the cells that have no result, several at a time; returns how many failed."""
    folder = args.output / study.name
    todo = [cell for cell in study.cells() if not is_complete(study, cell)]
    print(f"{len(study.cells())} cells, {len(study.cells()) - len(todo)} of them finished before.")
    since, failed = time.monotonic(), 0
    running: set[subprocess.Popen] = set()
    with ThreadPoolExecutor(args.jobs) as pool, _stopped_with(running, pool):
        jobs = [pool.submit(_run, cell, folder / cell.name, args, running) for cell in todo]
        for done, (cell, job) in enumerate(zip(todo, jobs, strict=True), 1):
            status = job.result()
            failed += status != 0
            gather(study, folder)
            left = (time.monotonic() - since) / done * (len(todo) - done)
            end = f"about {duration(left)} left" if not status else "failed"
            print(f"[{done}/{len(todo)}] {cell.name}: {folder / cell.name}/console.txt, {end}",
                  flush=True)  # fmt: skip
    return failed


@contextmanager
def _stopped_with(running: set[subprocess.Popen], pool: ThreadPoolExecutor) -> Iterator[None]:
    """After an exception nothing more starts, and what runs ends with a checkpoint."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
        raise


def _run(cell: Cell, folder: Path, args: argparse.Namespace, running: set[subprocess.Popen]) -> int:
    """The rows of a cell in a process of its own; returns its exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [args.study, "--data", str(args.data.absolute()), "--cell", cell.name,
             "--output", str(args.output.absolute())]  # fmt: skip
    if args.pretrained:
        words += ["--pretrained", *args.pretrained]
    threads = str(max(1, usable_cores() // args.jobs))
    with open(folder / "console.txt", "a") as console:
        command = [sys.executable, str(Path(__file__).resolve()), *words]
        process = subprocess.Popen(
            command, stdout=console, stderr=subprocess.STDOUT, env=os.environ | {THREADS: threads}
        )
        running.add(process)
        try:
            return process.wait()
        finally:
            running.discard(process)


if __name__ == "__main__":
    raise SystemExit(run(main))
