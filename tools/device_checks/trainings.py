"""Rows of the papers' tables on their embedded sets, made tiny: a few images and iterations."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from multas.config.rows import read_config
from multas.data import make_toy, make_toy_classes
from multas.distillation import Teacher
from multas.engine import Trainer, load_config

ITERATIONS = 3
# How far the terms of a loss in float32 on two devices, which add up numbers in another order, may
# differ in the first iterations, relative to them. The second shows the gradient of the first. From
# step to step, a difference grows ten- to a hundredfold where a loss has a large weight.
TOLERANCES = (1e-4, 1e-2)
_NEARLY = 1e-5  # the same, absolute, for terms that are nearly 0
_TEACHER = "MODEL.DISTILLATION.TEACHER"
# The same numbers on every device; a row may say otherwise.
_PLAIN = [
    "MODEL.WEIGHTS", "",
    "SOLVER.AMP.ENABLED", False,
    "SOLVER.CHANNELS_LAST", False,
    "SOLVER.EPOCHS", 0.0,
    "SOLVER.MAX_ITER", ITERATIONS,
    "SOLVER.STEPS", [],
    "SOLVER.IMS_PER_BATCH", 4,
    "SOLVER.BASE_LR", 0.001,
    "DATASETS.TEST", [],
    "TEST.VIS_IMAGES", 0,
]  # fmt: skip

Losses = Mapping[str, Sequence[float]]


@dataclass
class Trainings:
    """Makes and runs tiny trainings.

    Args:
        folder: for data, weights and runs; they are made when they are needed.
    """

    folder: Path
    _losses: dict[str, Losses] = field(default_factory=dict)
    _count: int = 0

    def config(self, address: str, device: str, *opts: Any) -> CfgNode:
        """A row of a table on its embedded set, for a few iterations on a device.

        Args:
            address: the row.
            device: the device.
            opts: KEY VALUE pairs that prevail.
        """
        self._count += 1
        content = read_config(address)
        cards = [str(self._card(Path(card))) for card in content["DATASETS"]["CARDS"]]
        pairs = [*_PLAIN, "DATASETS.CARDS", cards, "MODEL.DEVICE", device]
        pairs += ["OUTPUT_DIR", str(self.folder / f"run{self._count}")]
        distillation = content["MODEL"].get("DISTILLATION", {})
        if teacher := distillation.get("TEACHER", {}).get("CONFIG_FILE"):
            pairs += [f"{_TEACHER}.WEIGHTS", str(self._teacher(teacher))]
            pairs += [f"{_TEACHER}.PRECISION", ""]
        return load_config(address, [*pairs, *opts])

    def _card(self, shipped: Path) -> Path:
        """A card of this name, of a set of a few scenes."""
        own = self.folder / shipped.name
        if not own.is_file():
            make = make_toy_classes if "classes" in shipped.stem else make_toy
            root = make(self.folder / shipped.stem, train=16, val=4, test=4)
            content = yaml.safe_load(shipped.read_text())
            own.write_text(yaml.safe_dump({**content, "root": str(root)}))
        return own

    def _teacher(self, address: str) -> Path:
        """The random weights of a teacher, whose BatchNorms know what images are like."""
        file = self.folder / f"{address.replace('/', '_')}.pth"
        if not file.is_file():
            cfg = Teacher.load_config(address, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
            torch.manual_seed(5)
            model = build_model(cfg).train()
            for layer in model.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.momentum = 1.0
            images = [{"image": torch.randint(256, (3, 64, 64)).byte()} for _ in range(4)]
            with torch.no_grad():
                model.raw_outputs(images)
            torch.save({"model": model.state_dict()}, file)
        return file

    def losses(self, address: str, device: str, *opts: Any) -> Losses:
        """Each loss of a training in each iteration, from the CPU at most once."""
        key = f"{address} {device} {opts}"
        if key not in self._losses:
            self._losses[key] = losses_of(train(self.config(address, device, *opts)))
        return self._losses[key]

    def compared(self, address: str, device: str, *opts: Any) -> str:
        """Train on a device and on the CPU, and make sure that the losses agree.

        Returns:
            What was found, in words.

        Raises:
            AssertionError: a loss is not finite, or differs.
        """
        found = self.losses(address, device, *opts)
        check_finite(found)
        if torch.device(device).type == "cpu":
            return f"{describe(found)}; the CPU is the reference"
        worst = largest_difference(found, self.losses(address, "cpu", *opts))
        return f"{describe(found)}; {worst:.0e} from the CPU"


def train(cfg: CfgNode, prepare: Callable[[Trainer], None] = lambda trainer: None) -> Trainer:
    """The trainer after its last iteration; ``prepare`` gets it before the first."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with exact():
        torch.manual_seed(1)
        trainer = Trainer(cfg)
        trainer.resume_or_load(False)
        prepare(trainer)
        trainer.train()
    return trainer


@contextmanager
def exact() -> Iterator[None]:
    """Products of float32 are computed in float32 on GPUs, too, not in the shorter TF32."""
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def losses_of(trainer: Trainer) -> Losses:
    """Each loss that a training has logged, for every iteration."""
    histories = trainer.storage.histories().items()
    return {
        name: [value for value, _ in history.values()]
        for name, history in histories
        if name.startswith(("loss", "total_loss", "path_loss"))
    }


def describe(losses: Losses) -> str:
    first, *_, last = losses["total_loss"]
    return f"loss {first:.3g} to {last:.3g}"


def check_finite(losses: Losses) -> None:
    """Make sure that losses are finite.

    Raises:
        AssertionError: they are not.
    """
    for name, values in losses.items():
        bad = [i for i, x in enumerate(values) if not torch.isfinite(torch.tensor(x))]
        assert not bad, f"{name} is not finite in iterations {bad}"


def largest_difference(
    found: Losses, wanted: Losses, tolerances: Sequence[float] = TOLERANCES
) -> float:
    """Make sure that losses agree in the first iterations.

    Args:
        found, wanted: the losses.
        tolerances: the relative difference that may be in each iteration from the first on.

    Returns:
        The largest relative difference in the first iteration.

    Raises:
        AssertionError: they do not agree. The message has the first that differs.
    """
    assert found.keys() == wanted.keys(), f"only one has {sorted(found.keys() ^ wanted.keys())}"
    for i, tolerance in enumerate(tolerances):
        for name in found:
            a, b = found[name][i], wanted[name][i]
            same = abs(a - b) <= tolerance * abs(b) + _NEARLY
            assert same, f"{name} is {a:.6g} in iteration {i}, not {b:.6g}"
    pairs = [(found[name][0], wanted[name][0]) for name in found]
    return max(abs(a - b) / max(abs(b), _NEARLY) for a, b in pairs)
