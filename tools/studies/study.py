"""A study as its file in evidence/ describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from multas.util.errors import UserError
from multas.util.yaml_files import read_yaml

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "evidence"
BASES = ("teacher", "supervised", "distilled")
CHOICE = "choice"
NEIGHBOUR = "yolo"
CONFIGS = (*BASES, CHOICE, NEIGHBOUR)


@dataclass(frozen=True)
class Cell:
    """One data set with a share of its labels and a seed: all rows are trained on it."""

    data: str
    labels: Fraction
    seed: int

    @property
    def name(self) -> str:
        """Such as bccd-1of10-seed1."""
        share = f"{self.labels.numerator}of{self.labels.denominator}"
        return f"{self.data}-{share}-seed{self.seed}"


@dataclass(frozen=True)
class RowSpec:
    """A training of each cell, or a choice of two.

    Attributes:
        config: which of a job's configs it begins with, "teacher", "supervised" or "distilled"; or
            "choice"; or "yolo", see :func:`studies.neighbour.train_yolo`.
        opts: the keys that differ, by their full names; of "yolo" arguments of its training.
        versus: the row that it is compared with; "" = none.
        choose_from: of a choice the two rows, of which it is the one that is better on val.
        only: the data sets and shares of labels that it is trained on, as the study names them;
            what is not named is not restricted.
    """

    config: str
    opts: Mapping[str, Any] = field(default_factory=dict)
    versus: str = ""
    choose_from: tuple[str, ...] = ()
    only: Mapping[str, list[str]] = field(default_factory=dict)

    def is_for(self, cell: Cell) -> bool:
        """Whether it is trained on the data of a cell."""
        own = {"data": cell.data, "labels": str(cell.labels)}
        return all(own[name] in map(str, allowed) for name, allowed in self.only.items())


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        file: that describes it; its results are beside it.
        title, about: for the page that shows it.
        data: folders or cards in the folder of all data, one for each data set.
        tasks: that the images are used for.
        labels: the shares of the labels.
        seeds: 1, 2, … so many.
        size: of the student.
        iterations: of each training that has no SOLVER.MAX_ITER of its own.
        opts: keys of all trainings, by their full names.
        rows: the trainings by their names; those that others need come first.
        split: what is evaluated on: "test", or "val" where something is chosen.
    """

    file: Path
    title: str
    about: str
    data: tuple[str, ...]
    tasks: tuple[str, ...]
    labels: tuple[Fraction, ...]
    seeds: int
    size: str
    iterations: int
    opts: Mapping[str, Any]
    rows: Mapping[str, RowSpec]
    split: str = "test"

    @property
    def name(self) -> str:
        return self.file.stem

    def cells(self) -> list[Cell]:
        """All of them, those of the first seed first."""
        return [
            Cell(data, labels, seed)
            for seed in range(1, self.seeds + 1)
            for data in self.data
            for labels in self.labels
        ]

    def length_of(self, row: RowSpec) -> int:
        """The iterations of a training."""
        return row.opts.get("SOLVER.MAX_ITER", self.iterations)

    def rows_of(self, cell: Cell) -> dict[str, RowSpec]:
        """The rows that make sense on the data of a cell."""
        return {name: row for name, row in self.rows.items() if row.is_for(cell)}


def names() -> list[str]:
    """The names of the studies in evidence/."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_study(name: str) -> Study:
    """Read a study of evidence/ by its name, or one of your own by its file.

    Raises:
        UserError: There is no such study, or its file is wrong.
    """
    file = Path(name) if name.endswith(".yaml") else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise UserError(
            f"There is no study {name}; choose from {', '.join(names())}, or give a .yaml file."
        )
    content = dict(read_yaml(str(file)))
    try:
        rows = {row: RowSpec(**spec) for row, spec in content.pop("rows").items()}
        labels = tuple(Fraction(str(share)) for share in content.pop("labels"))
        content["data"], content["tasks"] = tuple(content["data"]), tuple(content["tasks"])
        study = Study(file=file, labels=labels, rows=rows, opts=content.pop("opts", {}), **content)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: {error}. Study in {__file__} says what it has.") from error
    if study.split not in ("test", "val"):
        raise UserError(f"{file}: split is test or val, not {study.split!r}.")
    for row, spec in rows.items():
        if spec.config not in CONFIGS:
            raise UserError(f"{file}, row {row}: config is one of {', '.join(CONFIGS)}.")
        if unknown := spec.only.keys() - {"data", "labels"}:
            raise UserError(
                f"{file}, row {row}: only names data and labels, not {', '.join(unknown)}."
            )
        if len(rows.keys() & set(spec.choose_from)) != 2 * (spec.config == CHOICE):
            raise UserError(f"{file}, row {row}: choose_from are two rows of a choice.")
        if spec.versus and spec.versus not in rows:
            raise UserError(f"{file}, row {row}: versus names no row, but {spec.versus!r}.")
    return study
