#!/usr/bin/env python
"""Compare a distilled student with a supervised one on the embedded data set.

    python tools/quickstart.py [--seed 1] [--output FOLDER] [--configs configs/quickstart]

It makes the data set, trains a teacher on the labelled half, and lets it label the other half. It
trains the student on the labelled half alone, and once more by distillation on everything. It
evaluates all three, and writes report.md with pictures. Another run of the same command continues:
finished stages are skipped, and interrupted ones are resumed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from multas.data import make_toy
from multas.data.pseudo_label_files import file_sha256, read_pseudo_labels
from multas.engine import load_config
from multas.engine.report import (
    contact_sheet,
    final_values,
    last_values,
    plot_paths,
    training_seconds,
)
from multas.util.command_line import run
from multas.util.errors import UserError
from multas.util.files import write_text
from multas.util.signals import not_orphaned

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = {
    "teacher": "labelled half",
    "supervised": "labelled half",
    "distilled": "labelled half + pseudo-labelled half",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="the seed of all stages")
    parser.add_argument("--output", default="output/quickstart", help="the folder of the results")
    parser.add_argument("--configs", default="configs/quickstart", help="the folder of the configs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... for all stages")
    return parser.parse_args()


class Quickstart:
    """The stages of one seed in one output folder."""

    def __init__(self, configs: str, output: str, seed: int, opts: Sequence[str]) -> None:
        self.configs = configs
        self.output = output
        self.opts = ["SEED", str(seed), *opts]
        self.pseudo_labels = os.path.join(output, "pseudo_labels.json")

    def claim(self) -> None:
        """Make sure that the folder has no models of a job with other settings.

        Raises:
            UserError: A config or key is wrong.
            UserError: It has, and the message names both settings; or its stamp is damaged.
        """
        stamp, mine = Path(self.output, "job.json"), {"configs": self.configs, "opts": self.opts}
        try:
            theirs = json.loads(stamp.read_text()) if stamp.is_file() else mine
        except ValueError as error:
            raise UserError(
                f"{stamp} is damaged ({error}): the settings of the models in {self.output} are "
                f"unknown. If they are {mine}, delete that file; if not, choose another --output."
            ) from error
        if theirs != mine:
            raise UserError(
                f"{self.output} holds a job with other settings:\n  {theirs}\nnot\n  {mine}\n"
                "Choose another --output, or delete that folder."
            )
        for stage in STAGES:
            self.config(stage)  # or a mistake in --seed or a key would stay in the stamp
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_text(stamp, json.dumps(mine))

    def config_file(self, stage: str) -> str:
        return os.path.join(self.configs, f"{stage}.yaml")

    def folder(self, stage: str) -> str:
        return os.path.join(self.output, stage)

    def weights(self, stage: str) -> str:
        return os.path.join(self.folder(stage), "student.pth")

    def stage_opts(self, stage: str) -> list[str]:
        opts = [*self.opts, "OUTPUT_DIR", self.folder(stage)]
        if stage == "distilled":
            opts += ["MODEL.DISTILLATION.TEACHER.WEIGHTS", self.weights("teacher")]
            opts += ["DATASETS.PSEUDO_LABELS.FILES", f"['{self.pseudo_labels}']"]
        return opts

    def config(self, stage: str) -> CfgNode:
        return load_config(self.config_file(stage), self.stage_opts(stage))

    def train(self, stage: str) -> None:
        evaluated = "bbox/AP" in final_values(self.folder(stage))
        if os.path.isfile(self.weights(stage)) and evaluated:
            print(f"[{stage}] already finished: {self.weights(stage)}", flush=True)
            return
        print(f"[{stage}] {STAGES[stage]}: training", flush=True)
        call("train_net.py", "--resume", "--config-file", self.config_file(stage),
             *self.stage_opts(stage))  # fmt: skip

    def label(self) -> None:
        teacher = file_sha256(self.weights("teacher"))
        if os.path.isfile(self.pseudo_labels) and (
            read_pseudo_labels(self.pseudo_labels)[0].teacher_sha256 == teacher
        ):
            print(f"[pseudo-labels] already written: {self.pseudo_labels}", flush=True)
            return
        cfg = self.config("distilled")
        (unlabeled,) = [n for n in cfg.DATASETS.TRAIN if n.endswith("_unlabeled")]
        call("tools/pseudo_label.py", "--config-file", self.config_file("teacher"),
             "--weights", self.weights("teacher"), "--dataset", unlabeled,
             "--output", self.pseudo_labels,
             "--score-thresh", str(cfg.DATASETS.PSEUDO_LABELS.SCORE_THRESH),
             *self.opts)  # fmt: skip

    def report(self) -> None:
        rows = []
        for stage, data in STAGES.items():
            values = last_values(self.folder(stage))
            model = build_model(self.config(stage))
            size = sum(p.numel() for p in model.parameters()) / 1e6
            rows.append(
                [stage, data, *(values[f"bbox/{m}"] for m in ("AP", "AP50", "AP75")), size,
                 training_seconds(self.folder(stage))]
            )  # fmt: skip
        header = ["model", "data it saw", "AP", "AP50", "AP75", "parameters (M)", "seconds"]
        formats = ("", "", ".2f", ".2f", ".2f", ".2f", ".0f")
        table = tabulate(rows, header, tablefmt="github", floatfmt=formats)
        plot_paths(self.folder("distilled"), os.path.join(self.output, "path_weights.png"))
        models = {n: (self.config(n), self.weights(n)) for n in ("supervised", "distilled")}
        test = self.config("distilled").DATASETS.TEST[0]
        # Focal losses keep scores low, so that a box with 0.3 is a good one here.
        sheet = os.path.join(self.output, "predictions.png")
        contact_sheet(models, test, sheet, score_thresh=0.3)
        report = os.path.join(self.output, "report.md")
        write_text(
            report,
            f"# Distilled and supervised students on {test}\n\n{table}\n\n"
            "![path weights, raw and weighted path losses](path_weights.png)\n\n"
            "![ground truth and predictions](predictions.png)\n",
        )
        print(f"\n{table}\n\n{report}", flush=True)


def call(script: str, *args: str) -> None:
    """Run a script of this repository. If it fails, this one ends with its exit status."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(REPOSITORY / script), *args]
    with subprocess.Popen(command, env=environment) as process, not_orphaned(process):
        status = process.wait()
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


def main() -> None:
    args = parse_args()
    os.chdir(REPOSITORY)
    setup_logger()
    job = Quickstart(args.configs, args.output, args.seed, args.opts)
    job.claim()
    if args.configs == "configs/quickstart":
        print("[data] making the embedded data set: datasets/toy", flush=True)
        make_toy("datasets/toy")
    job.train("teacher")
    job.label()
    job.train("supervised")
    job.train("distilled")
    job.report()


if __name__ == "__main__":
    raise SystemExit(run(main))
