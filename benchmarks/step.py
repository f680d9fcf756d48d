"""What a distillation step costs, against the step of the supervised student."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn

from multas.distillation import Distiller, Teacher
from multas.distillation.paths.base import Path
from multas.engine import Trainer, load_config
from multas.modeling.heads import DenseDetectionHead
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.multitask_network import MultiTaskNetwork
from stock import given_teacher, random_batch
from tables import ratio_table
from timing import Parts, Seconds, take_turns

FOLDER = "configs/limited-data/voc/half"
ROWS = (
    "supervised",
    "supervised_mse",
    "supervised_pdf",
    "supervised_defeat",
    "self_trained",
    "self_trained_pdf",
)
SIZE, BATCH, OBJECTS, CLASSES = 320, 4, 6, 20


class Step:
    """Forward, backward and optimiser of one row of the tables, on one batch."""

    def __init__(self, row: str, batch: list[dict]) -> None:
        self.cfg = _config(f"{FOLDER}/{row}.yaml")
        self.batch = batch
        torch.manual_seed(0)
        self.model = build_model(self.cfg)
        if isinstance(self.model, Distiller):
            teacher_cfg = _config(self.cfg.MODEL.DISTILLATION.TEACHER.CONFIG_FILE)
            teacher = Teacher(build_model(teacher_cfg), teacher_cfg.INPUT.FORMAT)
            given_teacher(self.model, self.cfg, teacher)
        self.model.train()
        self.optimizer = Trainer.build_optimizer(self.cfg, self.model)

    @property
    def student(self) -> nn.Module:
        return self.model.student if isinstance(self.model, Distiller) else self.model

    def __call__(self, parts: Parts | None = None) -> None:
        parts = parts or Parts()
        with parts.part("other"):
            losses = self.model(self.batch)
            self.optimizer.zero_grad()
            with parts.part("backward"):
                torch.stack(list(losses.values())).sum().backward()
            with parts.part("optimiser"):
                self.optimizer.step()


def _config(file: str) -> CfgNode:
    # Random weights: what is computed does not depend on them.
    return load_config(file, ["MODEL.WEIGHTS", "", "DATASETS.CARDS", "()"])


def watched_step(step: Step) -> dict[str, float]:
    """Seconds of each part of one step, none counted twice."""
    parts = Parts()
    with ExitStack() as stack:
        for owner, method, name in (
            (Teacher, "record", "teacher forward"),
            (Teacher, "record_with_boxes", "teacher forward"),
            (step.student, "raw_outputs", "student forward"),  # not the teacher's
            (DenseDetectionHead, "losses", "detection losses"),
            (DenseLoss, "assign", "assignment"),
            (Path, "__call__", "path losses and adapters"),
        ):
            stack.enter_context(parts.watch(owner, method, name))
        step(parts)
    return dict(parts.seconds)


def detached_detection_losses(step: Step) -> Callable[[], None]:
    """Assignment and detection losses with their own backward pass, on given predictions."""
    student = step.student
    assert isinstance(student, MultiTaskNetwork)
    head = student.heads["det"]
    assert isinstance(head, DenseDetectionHead)
    with torch.no_grad():
        outputs = student.raw_outputs(step.batch)
    logits, deltas = outputs.predictions["det"]
    leaves: tuple[list[Tensor], list[Tensor]] = (
        [x.requires_grad_() for x in logits],
        [x.requires_grad_() for x in deltas],
    )
    annotations = [x["instances"] for x in step.batch]

    def call() -> None:
        losses = head.losses(leaves, outputs.features, annotations, (SIZE, SIZE))
        torch.stack(list(losses.values())).sum().backward()

    return call


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    torch.manual_seed(0)
    batch = random_batch(BATCH, SIZE, OBJECTS, CLASSES)
    steps = {row: Step(row, batch) for row in ROWS}
    assigning = {"iou (student)": steps["supervised"], "mutual guidance (teacher)": _teacher(batch)}
    with EventStorage():
        whole = take_turns(steps, rounds)
        split: dict[str, dict[str, Seconds]] = {row: defaultdict(list) for row in ROWS}
        for _ in range(rounds):
            for row, step in steps.items():
                for part, seconds in watched_step(step).items():
                    split[row][part].append(seconds)
        alone = take_turns(
            {name: detached_detection_losses(step) for name, step in assigning.items()}, rounds
        )
    base = statistics.median(whole["supervised"])
    shares = [[n, statistics.median(t), statistics.median(t) / base] for n, t in alone.items()]
    return "\n\n".join(
        [
            f"## Step: {SIZE} px, batch {BATCH}, {OBJECTS} objects an image, {rounds} rounds",
            ratio_table(whole, "row"),
            "Where the time goes (median seconds; backward is that of everything):",
            _parts_table(split),
            "Assignment and detection losses with their own backward pass, on given predictions "
            "(share of the supervised student's step):",
            tabulate(
                shares,
                ["assignment", "median (s)", "share"],
                tablefmt="github",
                floatfmt=("", ".4f", ".3f"),
            ),
        ]
    )


def _teacher(batch: list[dict]) -> Step:
    return Step("teacher", batch)


def _parts_table(split: dict[str, dict[str, Seconds]]) -> str:
    names = list(dict.fromkeys(part for parts in split.values() for part in parts))
    rows = []
    for row, parts in split.items():
        medians = {part: statistics.median(parts[part]) for part in names if parts.get(part)}
        losses = sum(
            medians.get(part, 0.0)
            for part in ("assignment", "detection losses", "path losses and adapters")
        )
        share = losses / sum(medians.values())
        rows.append([row, *(medians.get(part, 0.0) for part in names), f"{100 * share:.1f} %"])
    header = ["row", *names, "assignment + losses"]
    return tabulate(rows, header, tablefmt="github", floatfmt=".3f")
