"""A training, and what it has left in its folder."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multas.engine.report import final_values, last_values, training_seconds
from reproduction.tables import METRICS


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        config_file: its config, a row's address or a file.
        seed: the seed of weights and batches.
        opts: KEY VALUE pairs, without OUTPUT_DIR.
        folder: the folder of its own, named by the hash.
        needs: trainings whose weights it starts from or is taught by.
        iterations: how many it has, if it is not stopped early; 0 = its schedule is in epochs.
        selects_on_test: whether its weights are the best on a set on which they are tested.
        gpus: how many GPUs share its batches.
        kept: what a file of results has of it, see :mod:`reproduction.kept`.
    """

    config_file: str
    seed: int
    opts: tuple[str, ...]
    folder: Path
    needs: tuple["Run", ...]
    iterations: int
    selects_on_test: bool = False
    gpus: int = 1
    kept: Mapping[str, Any] | None = field(default=None, compare=False)

    @property
    def digest(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        return title_of(self.config_file, self.seed)

    @property
    def weights(self) -> Path:
        return self.folder / "student.pth"

    @property
    def console(self) -> Path:
        """The file with all that the training prints."""
        return self.folder / "console.txt"

    @property
    def arguments(self) -> list[str]:
        """The arguments of the Python interpreter, in the root of the repository."""
        start = ["train_net.py", "--resume", "--config-file", self.config_file]
        start += ["--num-gpus", str(self.gpus)] if self.gpus > 1 else []
        return [*start, *self.opts, "OUTPUT_DIR", str(self.folder)]

    @property
    def command_line(self) -> str:
        return shlex.join(["python", *self.arguments])

    @property
    def is_finished(self) -> bool:
        """Whether its weights are there and have been evaluated."""
        measured = final_values(str(self.folder)).keys()
        return self.weights.is_file() and bool({m.key for m in METRICS.values()} & measured)

    @property
    def result(self) -> Mapping[str, Any] | None:
        """What is kept of it, as long as it is not finished here."""
        return None if self.is_finished else self.kept

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value of each metric."""
        known = self.result
        return last_values(str(self.folder)) if known is None else known["metrics"]

    @property
    def seconds(self) -> float:
        """The training time by the log, however it ended; 0 where there is none."""
        if (known := self.result) is not None:
            return known["seconds"]
        has_log = (self.folder / "metrics.json").is_file()
        return training_seconds(str(self.folder)) if has_log else 0.0


def title_of(config_file: str, seed: int) -> str:
    """What a training is called, by its config and seed."""
    name = config_file.removeprefix("configs/").replace(".yaml#", "/")
    return f"{name}, seed {seed}"
