"""The folders of trainings, finished or not, as what they left on disk says."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detectron2.config import CfgNode

from multas.engine.report import read_metrics
from multas.engine.setup import load_config
from multas.util.errors import UserError

_MEMORY = re.compile(r"\bmax_mem: (\d+)M")


@dataclass(frozen=True)
class Run:
    """A training by what is in its folder.

    Attributes:
        folder: its OUTPUT_DIR.
        name: of the folder, with as many of the folders above it as tell it from other runs.
        cfg: its config.
        weights: its final weights, student.pth; None if there are none.
        records: metrics by iteration; nothing if there are none.
    """

    folder: Path
    name: str
    cfg: CfgNode
    weights: Path | None
    records: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    @property
    def iterations(self) -> int:
        """How many it has trained, as far as its metrics tell."""
        return max((i + 1 for i, r in self.records.items() if "total_loss" in r), default=0)

    @property
    def megabytes(self) -> int | None:
        """The most memory that it took on a GPU; None if that is not known."""
        log = self.folder / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        return max(map(int, _MEMORY.findall(text)), default=None)

    def faults(self) -> list[str]:
        """What is missing, each in one sentence."""
        found = []
        if self.weights is None:
            config = shlex.quote(str(self.folder / "config.yaml"))
            planned = "" if self.cfg.SOLVER.EPOCHS else f" of {self.cfg.SOLVER.MAX_ITER}"
            reached = f"after {self.iterations}{planned} iterations" if self.records else "early"
            found.append(
                f"{self.name} was interrupted {reached} and has no student.pth, so that only its "
                f"curves are shown; train_net.py --resume --config-file {config} "
                "ends it."
            )
        if not self.records:
            found.append(f"{self.name} has no metrics.json, so that its curves are not known.")
        return found


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs in folders, each once.

    Raises:
        UserError: A folder is not that of a run, or its config cannot be used.
    """
    given = {Path(folder).resolve(): Path(folder) for folder in folders}
    names = _names(list(given))
    return [_read(folder, name) for folder, name in zip(given.values(), names, strict=True)]


def _read(folder: Path, name: str) -> Run:
    config, weights, metrics = (folder / x for x in ("config.yaml", "student.pth", "metrics.json"))
    if not config.is_file():
        raise UserError(
            f"{folder} is not the folder of a run: it has no config.yaml. Give the OUTPUT_DIR of a "
            "training, which has config.yaml, metrics.json and student.pth."
        )
    return Run(
        folder=folder,
        name=name,
        cfg=load_config(str(config)),
        weights=weights if weights.is_file() else None,
        records=read_metrics(str(folder)) if metrics.is_file() else {},
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    for length in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
