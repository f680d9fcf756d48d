"""The stages of a job: teacher, pseudo-labels, supervised and distilled student, files, report."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from multas.data.card import UNLABELED
from multas.data.pseudo_label_files import file_sha256, read_pseudo_labels
from multas.data.task_batches import training_sets
from multas.engine import load_config
from multas.engine.report import (
    contact_sheet,
    final_values,
    last_values,
    plot_paths,
    training_seconds,
)
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.signals import not_orphaned

REPOSITORY = Path(__file__).resolve().parent.parent.parent
STAGES = ("teacher", "supervised", "distilled")
# The figures of each task, as the table has them; the first one says that a stage was evaluated.
FIGURES = {
    "bbox": ("AP", "AP50", "AP75"),
    "sem_seg": ("mIoU", "pACC"),
    "classification": ("top1_error",),
}


@dataclass(frozen=True)
class Job:
    """Three trainings and what is made of them, in one folder.

    Attributes:
        configs: the folder with teacher.yaml, supervised.yaml and distilled.yaml.
        output: the folder of the results.
        opts: KEY VALUE pairs for all stages.
        teacher: config and weights of a teacher that is there already; None = it is trained.
        formats: what the distilled student is exported to; none = it is not.
    """

    configs: Path
    output: Path
    opts: Sequence[str] = ()
    teacher: tuple[str, str] | None = None
    formats: Sequence[str] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """The trainings, in order."""
        return STAGES[1:] if self.teacher else STAGES

    @property
    def pseudo_labels(self) -> Path:
        return self.output / "pseudo_labels.json"

    def config_file(self, stage: str) -> str:
        return str(self.configs / f"{stage}.yaml")

    def folder(self, stage: str) -> str:
        return str(self.output / stage)

    def weights(self, stage: str) -> str:
        return os.path.join(self.folder(stage), "student.pth")

    def teacher_files(self) -> tuple[str, str]:
        """The teacher's config and weights."""
        return self.teacher or (self.config_file("teacher"), self.weights("teacher"))

    def stage_opts(self, stage: str) -> list[str]:
        opts = [*self.opts, "OUTPUT_DIR", self.folder(stage)]
        if stage == "distilled":
            opts += ["MODEL.DISTILLATION.TEACHER.WEIGHTS", self.teacher_files()[1]]
            if self._has_pseudo_labels:
                opts += ["DATASETS.PSEUDO_LABELS.FILES", f"['{self.pseudo_labels}']"]
        return opts

    @property
    def _has_pseudo_labels(self) -> bool:
        cfg = load_config(self.config_file("distilled"), list(self.opts))
        return bool(cfg.DATASETS.PSEUDO_LABELS.FILES)

    def config(self, stage: str) -> CfgNode:
        return load_config(self.config_file(stage), self.stage_opts(stage))

    def run(self) -> None:
        """All stages. What is finished is skipped, and what was interrupted is resumed."""
        if not self.teacher:
            self.train("teacher")
        if self._has_pseudo_labels:
            self.label()
        self.train("supervised")
        self.train("distilled")
        self.export()
        self.report()

    def train(self, stage: str) -> None:
        evaluated = bool(_figures(final_values(self.folder(stage))))
        if os.path.isfile(self.weights(stage)) and evaluated:
            print(f"[{stage}] already finished: {self.weights(stage)}", flush=True)
            return
        print(f"[{stage}] {self.data_of(stage)}: training", flush=True)
        call("train_net.py", "--resume", "--config-file", self.config_file(stage),
             *self.stage_opts(stage))  # fmt: skip

    def data_of(self, stage: str) -> str:
        """What a stage learns from, in words."""
        names = training_sets(self.config(stage))
        unlabeled = [name for name in names if name.endswith(UNLABELED)]
        labeled = "annotated images"
        if not unlabeled:
            return labeled
        return f"{labeled} + " + (
            "pseudo-labelled images" if self._has_pseudo_labels else "images without annotation"
        )

    def label(self) -> None:
        file, weights = self.teacher_files()
        if self.pseudo_labels.is_file() and (
            read_pseudo_labels(str(self.pseudo_labels))[0].teacher_sha256 == file_sha256(weights)
        ):
            print(f"[pseudo-labels] already written: {self.pseudo_labels}", flush=True)
            return
        cfg = self.config("distilled")
        (unlabeled,) = [n for n in training_sets(cfg) if n.endswith(UNLABELED)]
        call("tools/pseudo_label.py", "--config-file", file, "--weights", weights,
             "--dataset", unlabeled, "--output", str(self.pseudo_labels),
             "--score-thresh", str(cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH),
             *self.opts)  # fmt: skip

    def export(self) -> None:
        """Write the distilled student for other runtimes; what fails is told and costs no more."""
        file = Path(self.weights("distilled"))
        if not self.formats or file.with_name("export.json").is_file():
            return
        cfg = self.config("distilled")
        labeled = [n for n in training_sets(cfg) if not n.endswith(UNLABELED)]
        print(f"[export] {', '.join(self.formats)}, and in 8 bits", flush=True)
        status = called(
            "tools/export.py", "--config-file", str(file.with_name("config.yaml")),
            "--weights", str(file), "--format", *self.formats, "--int8", "--calibrate", labeled[0],
            "--evaluate", cfg.DATASETS.TEST[0],
        )  # fmt: skip
        if status:
            print("[export] not all files were written, see above", flush=True)

    def report(self) -> None:
        """Write report.md with its pictures, and print its table."""
        rows = []
        names = _names([last_values(self.folder(stage)) for stage in self.stages])
        for stage in self.stages:
            values = last_values(self.folder(stage))
            size = sum(p.numel() for p in build_model(self.config(stage)).parameters()) / 1e6
            rows.append(
                [stage, self.data_of(stage), *(values.get(name) for name in names), size,
                 training_seconds(self.folder(stage))]
            )  # fmt: skip
        header = [
            "model",
            "data it saw",
            *(n.split("/")[1] for n in names),
            "parameters (M)",
            "seconds",
        ]
        formats = ("", "", *(".2f" for _ in names), ".2f", ".0f")
        table = tabulate(rows, header, tablefmt="github", floatfmt=formats)
        plot_paths(self.folder("distilled"), str(self.output / "path_weights.png"))
        models = {n: (self.config(n), self.weights(n)) for n in ("supervised", "distilled")}
        test = self.config("distilled").DATASETS.TEST[0]
        # Focal losses keep scores low, so that a box with 0.3 is a good one here.
        contact_sheet(models, test, str(self.output / "predictions.png"), score_thresh=0.3)
        report = self.output / "report.md"
        write_text(
            report,
            f"# Distilled and supervised students on {test}\n\n{table}\n\n"
            "![path weights, raw and weighted path losses](path_weights.png)\n\n"
            "![ground truth and predictions](predictions.png)\n",
        )
        print(f"\n{table}\n\n{report}", flush=True)


def claim(output: Path, settings: Mapping[str, Any]) -> None:
    """Make sure that a folder has no models of a job with other settings.

    Raises:
        UserError: It has, and the message names both settings; or its stamp is damaged.
    """
    stamp, mine = output / "job.json", json.loads(json.dumps(settings))
    try:
        theirs = json.loads(stamp.read_text()) if stamp.is_file() else mine
    except ValueError as error:
        raise UserError(
            f"{stamp} is damaged ({error}): the settings of the models in {output} are unknown. If "
            f"they are {mine}, delete that file; if not, choose another --output."
        ) from error
    if theirs != mine:
        raise UserError(
            f"{output} holds a job with other settings:\n  {theirs}\nnot\n  {mine}\n"
            "Choose another --output, or delete that folder."
        )
    output.mkdir(parents=True, exist_ok=True)
    write_text(stamp, json.dumps(mine))


def _figures(values: Mapping[str, float]) -> dict[str, float]:
    """The figures of all tasks that were measured."""
    names = [f"{task}/{figure}" for task, figures in FIGURES.items() for figure in figures]
    return {name: values[name] for name in names if name in values}


def _names(measured: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for values in measured for name in _figures(values)))


def called(script: str, *args: str) -> int:
    """Run a script of this repository and return its exit status."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(REPOSITORY / script), *args]
    with subprocess.Popen(command, env=environment) as process, not_orphaned(process):
        status = process.wait()
    return status if status >= 0 else 128 - status


def call(script: str, *args: str) -> None:
    """Run a script of this repository. If it fails, this process ends with its exit status."""
    if status := called(script, *args):
        raise SystemExit(status)
