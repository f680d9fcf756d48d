"""Cost of a distillation step, against the step of the supervised student."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torch import Tensor, nn

from memory import peak_gigabytes
from multas.distillation import Distiller, Teacher
from multas.distillation.paths.base import Path
from multas.distillation.teacher.precision import teacher_precision
from multas.engine import Trainer, load_config
from multas.engine.steps.mixed_precision import training_half
from multas.modeling.heads import DenseDetectionHead
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.layers import channels_last_
from multas.modeling.multitask_network import MultiTaskNetwork
from stock import given_teacher, random_batch, weigh_paths
from tables import ratio_table
from timing import Parts, Seconds, peak_memory, take_turns

TABLE = "configs/limited-data/table1.yaml"
_AT = {
    "TYPE": "AttentionTransfer",
    "STUDENT": [f"backbone.bottom_up.res{i}" for i in (3, 4, 5)],
}
_SOFT = {"TYPE": "SoftDetection"}
_PATHS = "MODEL.DISTILLATION.PATHS"
_BFLOAT16 = ["MODEL.DISTILLATION.TEACHER.PRECISION", "auto"]
_AMP = ["SOLVER.AMP.ENABLED", "auto", "SOLVER.CHANNELS_LAST", True]
# MSE is measured with three kinds of teachers, and with a student in 16 bits.
PLAIN, FAST, KEPT = "MSE", "MSE, PRECISION auto", "MSE, warm cache"
HALF = "MSE, AMP and PRECISION auto"
# name -> config and the keys to change.
ROWS: dict[str, tuple[str, list]] = {
    "supervised": ("supervised", []),
    "supervised, AMP auto": ("supervised", _AMP),
    PLAIN: ("supervised_mse", []),
    FAST: ("supervised_mse", _BFLOAT16),
    HALF: ("supervised_mse", [*_AMP, *_BFLOAT16]),
    KEPT: ("supervised_mse", []),
    "PDF, PRECISION auto": ("supervised_pdf", _BFLOAT16),
    "DeFeat, PRECISION auto": ("supervised_defeat", _BFLOAT16),
    "soft, PRECISION auto": ("supervised_mse", [*_BFLOAT16, _PATHS, [_SOFT]]),
    "AT + soft, PRECISION auto": ("supervised_mse", [*_BFLOAT16, _PATHS, [_AT, _SOFT]]),
    "self-trained": ("self_trained", _BFLOAT16),
    "self-trained + PDF": ("self_trained_pdf", _BFLOAT16),
}
BARS = {FAST: "≤ 1.80", HALF: "≤ 0.55", KEPT: "≤ 1.15"}  # on a processor with AMX
MEMORY_STEPS, MEMORY_ROUNDS = 3, 3
SIZE, BATCH, OBJECTS, CLASSES = 320, 4, 6, 20


class Step:
    """The training step of one row, always on the same batch.

    Args:
        config: name of a row of TABLE.
        opts: KEY VALUE pairs.
        batch: model inputs.
    """

    def __init__(self, config: str, opts: Sequence[Any], batch: list[dict]) -> None:
        self.cfg = _config(f"{TABLE}#voc/half/{config}", opts)
        self.batch = batch
        torch.manual_seed(0)
        self.model = build_model(self.cfg)
        if isinstance(self.model, Distiller):
            teacher_cfg = _config(self.cfg.MODEL.DISTILLATION.TEACHER.CONFIG_FILE)
            network = build_model(teacher_cfg)
            precision = teacher_precision(
                self.cfg.MODEL.DISTILLATION.TEACHER.PRECISION, network.device
            )
            teacher = Teacher(network, teacher_cfg.INPUT.FORMAT, precision=precision)
            given_teacher(self.model, self.cfg, teacher)
        if self.cfg.SOLVER.CHANNELS_LAST:
            channels_last_(self.model)
        device = torch.device(self.cfg.MODEL.DEVICE)
        self.autocast = partial(
            torch.autocast, device.type, training_half(device), self.cfg.SOLVER.AMP.ENABLED
        )
        self.model.train()
        self.optimizer = Trainer.build_optimizer(self.cfg, self.model)
        self.hook = weigh_paths(self.cfg, self.model, self.optimizer)

    @property
    def student(self) -> nn.Module:
        return self.model.student if isinstance(self.model, Distiller) else self.model

    def __call__(self, parts: Parts | None = None) -> None:
        parts = parts or Parts()
        with parts.part("other"):
            with self.autocast():
                losses = self.model(self.batch)
            self.optimizer.zero_grad()
            with parts.part("backward"):
                torch.stack(list(losses.values())).sum().backward()
            with parts.part("optimiser"):
                self.optimizer.step()


def _config(file: str, opts: Sequence[Any] = ()) -> CfgNode:
    # Random weights; the time does not depend on them.
    return load_config(file, ["MODEL.WEIGHTS", "", "DATASETS.CARDS", "()", *opts])


def new_step(row: str, batch: list[dict], folder: str) -> Step:
    """The step of a row; ``folder`` is for its cache, if any."""
    config, opts = ROWS[row]
    cache = ["MODEL.DISTILLATION.CACHE.FOLDER", folder] if row == KEPT else []
    return Step(config, [*opts, *cache], batch)


def watched_step(step: Step) -> dict[str, float]:
    """Run a step and return the exclusive seconds of each part."""
    parts = Parts()
    with ExitStack() as stack:
        for owner, method, name in (
            (Teacher, "output_of", "teacher forward"),
            (step.student, "raw_outputs", "student forward"),  # not of the teacher
            (DenseDetectionHead, "losses", "detection losses"),
            (DenseLoss, "assign", "assignment"),
            (Path, "__call__", "path losses and adapters"),
        ):
            stack.enter_context(parts.watch(owner, method, name))
        step(parts)
    return dict(parts.seconds)


def detached_detection_losses(step: Step) -> Callable[[], None]:
    """Assignment and detection losses, forward and backward, on given predictions."""
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
    with TemporaryDirectory() as folder, EventStorage():
        steps = {row: new_step(row, batch, folder) for row in ROWS}
        assigning = {
            "iou (student)": steps["supervised"],
            "mutual guidance (teacher)": Step("teacher", [], batch),
        }
        whole = take_turns(steps, rounds)
        split: dict[str, dict[str, Seconds]] = {row: defaultdict(list) for row in ROWS}
        for _ in range(rounds):
            for row, step in steps.items():
                for part, seconds in watched_step(step).items():
                    split[row][part].append(seconds)
        alone = take_turns(
            {"supervised step": steps["supervised"]}
            | {name: detached_detection_losses(step) for name, step in assigning.items()},
            rounds,
        )
    return "\n\n".join(
        [
            f"## Step: {SIZE} px, batch {BATCH}, {OBJECTS} objects per image, {rounds} rounds",
            ratio_table(whole, "row", bars=BARS),
            "Where the time goes (median seconds; backward is that of everything):",
            _parts_table(split),
            "Assignment and detection losses with their own backward pass, on given predictions:",
            ratio_table(alone, "assignment", digits=4),
            "Peak memory of a process that takes a few steps, imports included:",
            _memory(min(rounds, MEMORY_ROUNDS)),
        ]
    )


def _memory(rounds: int) -> str:
    # Without the cache row, as each process would have to fill its cache first.
    arguments = {row: (row, BATCH, SIZE) for row in ("supervised", PLAIN, FAST)}
    gigabytes, missing = peak_gigabytes(__file__, arguments, rounds)
    return ratio_table(gigabytes, "row", missing=missing, unit="GB", digits=2)


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


def main(row: str, images: str, size: str) -> None:
    """Print the peak memory (bytes) of a few steps of one row."""
    torch.manual_seed(0)
    batch = random_batch(int(images), int(size), OBJECTS, CLASSES)
    with TemporaryDirectory() as folder, EventStorage():
        step = new_step(row, batch, folder)
        for _ in range(MEMORY_STEPS):
            step()
    print(peak_memory())


if __name__ == "__main__":
    main(*sys.argv[1:])
