"""The trainings of one cell of a study, one after the other, and what they gave."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from multas.data.looking.find import find_cards
from multas.engine import load_config
from multas.engine.comparison.runs import read_runs
from multas.engine.report import final_values, training_seconds
from multas.evaluation.build import max_detections
from multas.evaluation.resampling import image_counts, read_evaluation, resampled_ap
from multas.util.errors import UserError
from multas.util.files import write_text
from own_data.cards import by_task
from own_data.choice import figures_on_val, is_as_good
from own_data.data import prepare
from own_data.job import Job
from own_data.networks import pretrained_weights
from own_data.recipe import write_configs
from own_data.scripts import call
from own_data.task_data import TaskData
from reproduction.runs import digest, merged
from studies.neighbour import train_yolo
from studies.study import CHOICE, NEIGHBOUR, Cell, RowSpec, Study

# What a result has of the evaluation, by the name of the metric.
FIGURES = ("AP", "AP50", "AP75")
RESULT = "result.json"  # in the folder of a row


def run_cell(study: Study, cell: Cell, data: Path, output: Path, pretrained: Sequence[str]) -> None:
    """Train and evaluate the rows of a cell; what is finished is not done again.

    Args:
        data: the folder with all data sets.
        output: receives configs, a folder for each row, and in it result.json.
        pretrained: weights of student and teacher, as in tools/distill.py.

    Raises:
        UserError: The data or weights cannot be had.
    """
    job = Job(output / "configs", output, flip=True)
    tasks = _prepared(study, cell, data, output)
    write_configs(
        tasks, job.configs, output, size=study.size, seed=cell.seed, iterations=study.iterations,
        pretrained=pretrained_weights(study.size, pretrained),
    )  # fmt: skip
    judged = tasks[0].val if study.split == "val" else tasks[0].test
    if not judged:
        raise UserError(f"{data / cell.data} has no split {study.split}.")
    for name, row in study.rows_of(cell).items():
        folder = folder_of(output, name)
        if row.config == CHOICE:
            result = _chosen(output, row.choose_from, tasks[0].test)
        elif row.config == NEIGHBOUR:
            result = _neighbour(study, row, job, folder, tasks[0], judged)
        else:
            opts = _opts(study, row, job, folder, judged)
            result = _trained(row, job, folder, opts, judged)
        if row.config != CHOICE:
            length = study.length_of(row)
            result |= {"images": len(tasks[0].annotated), "iterations": length}
        named = {"data": cell.data, "labels": str(cell.labels), "seed": cell.seed, "row": name}
        folder.mkdir(exist_ok=True)
        write_text(folder / RESULT, json.dumps(named | result) + "\n")


def _trained(
    row: RowSpec, job: Job, folder: Path, opts: Sequence[str], judged: str
) -> dict[str, Any]:
    """Train a row, unless it is finished, and measure it."""
    if row.config == "distilled":
        job.label()
    config = job.config_file(row.config)
    if not (folder / "student.pth").is_file() or not final_values(str(folder)):
        call("train_net.py", "--resume", "--config-file", config, *opts)
    values, cfg = final_values(str(folder)), load_config(str(folder / "config.yaml"))
    figures = {name: values[f"bbox/{name}"] for name in FIGURES}
    measured = _measured(cfg, folder, judged, figures, training_seconds(str(folder)))
    return {"config": digest(merged(config, opts)), **measured}


def _neighbour(
    study: Study, row: RowSpec, job: Job, folder: Path, task: TaskData, judged: str
) -> dict[str, Any]:
    """Train another library's network, unless it is finished, and measure it as ours."""
    if (folder / RESULT).is_file():
        return json.loads((folder / RESULT).read_text())
    opts = _opts(study, RowSpec("supervised"), job, folder, judged)
    cfg = load_config(job.config_file("supervised"), opts)
    since = time.monotonic()
    figures = train_yolo(task, cfg, folder, judged, row.opts)
    return _measured(cfg, folder, judged, figures, time.monotonic() - since)


def _chosen(output: Path, rows: Sequence[str], test: str) -> dict[str, Any]:
    """The result of that of two rows that is better on the validation set beside ``test``."""
    folders = [folder_of(output, row) for row in rows]
    first, second = read_runs(folders)
    better = int(is_as_good(figures_on_val(first, second, [test])))
    result = json.loads((folders[better] / RESULT).read_text())
    own = {k: v for k, v in result.items() if k not in ("data", "labels", "seed", "row", "seconds")}
    return own | {"chosen": rows[better]}


def folder_of(output: Path, row: str) -> Path:
    """The folder of a row in that of its cell."""
    return output / "".join(c if c.isalnum() else "_" for c in row).strip("_")


def _prepared(study: Study, cell: Cell, data: Path, output: Path) -> list[TaskData]:
    cards, _ = find_cards(data / cell.data)
    known = {task: card for content in cards for task, card in by_task(content).items()}
    if missing := [task for task in study.tasks if task not in known]:
        raise UserError(f"{data / cell.data} is not annotated for {', '.join(missing)}.")
    kept = [{"strictness": "skip", **known[task]} for task in study.tasks]
    return prepare(kept, output / "data", cell.labels, cell.seed)


def _opts(study: Study, row: RowSpec, job: Job, folder: Path, judged: str) -> list[str]:
    own = [str(word) for pair in {**study.opts, **row.opts}.items() for word in pair]
    return [
        *job.stage_opts(row.config),
        *own,
        "DATASETS.TEST",
        repr([judged]),
        "OUTPUT_DIR",
        str(folder),
    ]


def _measured(
    cfg: CfgNode, folder: Path, test: str, figures: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """The figures of a finished training, its time, and its AP on resampled test images."""
    evaluated = read_evaluation(folder / "inference" / test, test, max_detections(cfg))
    resampled = resampled_ap(evaluated, image_counts(len(evaluated.params.imgIds)))
    return {
        # Detectron2 calls the AP without any detection NaN.
        **{name: round(float(np.nan_to_num(figures[name])), 3) for name in FIGURES},
        "seconds": round(seconds),
        "resampled": resampled.round(2).tolist(),
    }
