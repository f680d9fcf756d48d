"""The stages of a job: teacher, pseudo-labels, supervised and distilled student, files, report."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from multas.data.card import UNLABELED
from multas.data.pseudo_label_files import file_sha256, read_pseudo_labels
from multas.data.task_batches import training_sets
from multas.engine import load_config
from multas.engine.comparison import write_report
from multas.engine.comparison.data import load_data, validation_set
from multas.engine.comparison.runs import Run, read_runs
from multas.engine.export_table import FILE, cells, read_rows
from multas.engine.report import (
    contact_sheet,
    plot_paths,
)
from multas.util.annotation import BOXES
from multas.util.files import write_text
from own_data.choice import Choice, choose_of, figures_on_val, sets_on_val
from own_data.recipe import THRESHOLDS, write_thresholds
from own_data.scripts import call, called
from own_data.tables import figures_in, figures_table
from own_data.thresholds import FIXED, chosen_on

STUDENTS = ("supervised", "distilled")
STAGES = ("teacher", *STUDENTS)


@dataclass(frozen=True)
class Job:
    """Three trainings and what is made of them, in one folder.

    Attributes:
        configs: the folder with teacher.yaml, supervised.yaml and distilled.yaml.
        output: the folder of the results.
        opts: KEY VALUE pairs for all stages.
        teacher: config and weights of a teacher that is there already; None = it is trained.
        formats: what the distilled student is exported to; none = it is not.
        flip: whether the teacher labels each image together with its mirror image, if it learns
            from mirror images. One of chess pieces had AP 61.45 so and 58.28 without, one of nuclei
            44.62 and 43.98 (a tenth of the labels, validation lists, one seed).
    """

    configs: Path
    output: Path
    opts: Sequence[str] = ()
    teacher: tuple[str, str] | None = None
    formats: Sequence[str] = ()
    flip: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """The trainings, in order."""
        return STUDENTS if self.teacher else STAGES

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
            opts += [] if self.teacher else teacher_opts(self.opts)
            opts += ["DATASETS.PSEUDO_LABELS.FILES", repr(self.pseudo_labels)]
        return opts

    @property
    def pseudo_labels(self) -> list[str]:
        """The files of the teacher's labels, one for each data set without annotations."""
        cfg = load_config(self.config_file("distilled"), list(self.opts))
        files = cfg.DATASETS.PSEUDO_LABELS.FILES
        return [str(self.output / os.path.basename(file)) for file in files]

    def config(self, stage: str) -> CfgNode:
        return load_config(self.config_file(stage), self.stage_opts(stage))

    def run(self) -> None:
        """All stages. What is finished is skipped, and what was interrupted is resumed."""
        if not self.teacher:
            self.train("teacher")
        self.label()
        self.train("supervised")
        self.train("distilled")
        choice = self.choose()
        self.export(choice.stage)
        self.report(choice)

    def train(self, stage: str) -> None:
        tests = self.config(stage).DATASETS.TEST
        evaluated = bool(figures_in(self.folder(stage), tests))
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
            "pseudo-labelled images" if self.pseudo_labels else "images without annotation"
        )

    def label(self) -> None:
        """Let the teacher label the images that have no annotations."""
        if not self.pseudo_labels:
            return
        self.choose_thresholds()
        config, weights = self.teacher_files()
        cfg = self.config("distilled")
        options = cfg.DATASETS.PSEUDO_LABELS
        lowest = max(options.SCORE_THRESH, min(options.CLASS_SCORE_THRESH, default=0.0))
        unlabeled = [name for name in training_sets(cfg) if name.endswith(UNLABELED)]
        for name, file in zip(unlabeled, self.pseudo_labels, strict=False):
            if _has_labels(file, weights, lowest):
                print(f"[pseudo-labels] already written: {file}", flush=True)
                continue
            print(f"[pseudo-labels] {name}", flush=True)
            call("tools/pseudo_label.py", "--config-file", config, "--weights", weights,
                 "--dataset", name, "--output", file, "--score-thresh", str(lowest),
                 *(["--flip"] if self._flips(cfg) else []),
                 *self._registers(cfg), *self.opts)  # fmt: skip

    def choose_thresholds(self) -> None:
        """Choose on a val split from which score on the teacher's boxes of each class are used.

        What a person or a former call has chosen stays, and so does the threshold of a recipe that
        has no thresholds.yaml.
        """
        file, cfg = self.configs / THRESHOLDS, self.config("distilled")
        options = cfg.DATASETS.PSEUDO_LABELS
        is_open = options.SCORE_THRESH == FIXED and not options.CLASS_SCORE_THRESH
        if not is_open or not file.is_file() or "DATASETS.PSEUDO_LABELS.SCORE_THRESH" in self.opts:
            given = options.CLASS_SCORE_THRESH or options.SCORE_THRESH
            print(f"[thresholds] as the config has them: {given}", flush=True)
            return
        val = validation_set(cfg, load_data(cfg.DATASETS.TEST[0]), BOXES)
        if not val:
            print(f"[thresholds] {FIXED}, since there is no val split to choose on", flush=True)
            return
        chosen, comments = chosen_on(val, self._teacher_run(cfg), flip=self._flips(cfg))
        write_thresholds(file, {"CLASS_SCORE_THRESH": chosen}, comments)
        print("\n".join([f"[thresholds] {file}", *comments]), flush=True)

    def _flips(self, cfg: CfgNode) -> bool:
        return self.flip and cfg.INPUT.RANDOM_FLIP == "horizontal"

    def _teacher_run(self, cfg: CfgNode) -> Run:
        """The teacher as a finished training; one that was there already gets a folder here."""
        if not self.teacher:
            return read_runs([self.folder("teacher")])[0]
        config, weights = self.teacher
        own = load_config(config, [*self._registers(cfg), *self.opts])
        return Run(Path(self.folder("teacher")), "teacher", own, Path(weights))

    def _registers(self, cfg: CfgNode) -> list[str]:
        """What makes the data known to the config of a teacher that was there already."""
        return ["DATASETS.CARDS", repr(list(cfg.DATASETS.CARDS))] if self.teacher else []

    def choose(self) -> Choice:
        """Choose the student that is handed out; OUTPUT/student leads to its folder."""
        first, second = read_runs([self.folder(stage) for stage in STUDENTS])
        cfg = self.config("distilled")
        figures = figures_on_val(first, second, cfg.DATASETS.TEST)
        choice = choose_of(STUDENTS, figures, has_masks="seg" in cfg.MODEL.MULTITASK.TASKS)
        print(f"[choice] {choice.sentence}", flush=True)
        link = self.output / "student"
        if link.is_symlink() or not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(choice.stage, target_is_directory=True)
        return choice

    def export(self, stage: str) -> None:
        """Write a student for other runtimes; what fails is told and costs no more."""
        file = Path(self.weights(stage))
        if not self.formats or file.with_name(FILE).is_file():
            return
        cfg = self.config("distilled")
        labeled = [n for n in training_sets(cfg) if not n.endswith(UNLABELED)]
        vals = [name for _, name in sets_on_val(cfg, cfg.DATASETS.TEST)]
        print(f"[export] {', '.join(self.formats)}, and in 8 bits", flush=True)
        status = called(
            "tools/export.py", "--config-file", str(file.with_name("config.yaml")),
            "--weights", str(file), "--format", *self.formats, "--int8", "--calibrate", labeled[0],
            "--evaluate", *cfg.DATASETS.TEST, "--search", *(vals if all(vals) else labeled),
        )  # fmt: skip
        if status:
            print("[export] not all files were written, see above", flush=True)

    def _table(self) -> str:
        """The figures of all stages, as a table in Markdown."""
        trainings = []
        for stage in self.stages:
            parameters = sum(p.numel() for p in build_model(self.config(stage)).parameters())
            trainings.append((stage, self.data_of(stage), self.folder(stage), parameters))
        return figures_table(trainings, self.config("distilled").DATASETS.TEST)

    def report(self, choice: Choice) -> None:
        """Write report.html, and report.md with its pictures, and print its tables."""
        cfg = self.config("distilled")
        title = f"# Distilled and supervised students on {cfg.DATASETS.TEST[0]}"
        parts = [title, self._table(), choice.sentence]
        if cfg.MODEL.META_ARCHITECTURE == "Distiller":
            plot_paths(self.folder("distilled"), str(self.output / "path_weights.png"))
            parts.append("![path weights, raw and weighted path losses](path_weights.png)")
        if "det" in cfg.MODEL.MULTITASK.TASKS:
            models = {n: (self.config(n), self.weights(n)) for n in STUDENTS}
            # Focal losses keep scores low, so that a box with 0.3 is a good one here.
            sheet = str(self.output / "predictions.png")
            contact_sheet(models, cfg.DATASETS.TEST[0], sheet, score_thresh=0.3)
            parts.append("![ground truth and predictions](predictions.png)")
        for stage in STUDENTS:
            for network in read_rows(Path(self.folder(stage))).values():
                header, rows = cells(network)
                grid = tabulate(rows, header, tablefmt="github", disable_numparse=True)
                parts += [f"The {stage} student in each runtime:", grid]
        write_text(self.output / "report.md", "\n\n".join(parts) + "\n")
        stages = [*STUDENTS, *(stage for stage in self.stages if stage not in STUDENTS)]
        folders = [self.folder(stage) for stage in stages]
        page = write_report(
            folders, self.output / "report.html", baseline=folders[0],
            chosen=self.folder(choice.stage), why=choice.sentence,
        )  # fmt: skip
        tables = [part for part in parts if part.startswith("|")]
        print("\n" + "\n\n".join([*tables, str(page)]), flush=True)


def teacher_opts(opts: Sequence[str]) -> list[str]:
    """What makes a teacher that was trained with KEY VALUE pairs the same network for a student."""
    own: list[str] = []
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key.startswith("MODEL.") and not key.startswith("MODEL.DISTILLATION."):
            own += [key, value]
    return ["MODEL.DISTILLATION.TEACHER.OPTS", repr(own)] if own else []


def _has_labels(file: str, weights: str, lowest: float) -> bool:
    """Whether a file has what a teacher finds from a score on, or what a person made of that."""
    if not os.path.isfile(file):
        return False
    header, _ = read_pseudo_labels(file)
    is_complete = header.score_thresh <= lowest or bool(header.reviewed)
    return is_complete and header.teacher_sha256 == file_sha256(weights)
