"""Tables of figures: those of all classes together and of each class, with differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from multas.engine.comparison.data import Data, Figures
from multas.util.annotation import BOXES, LABELS, MASKS, Annotation
from multas.util.document import Block, Grid, Heading, Paragraph

MAX_CLASSES = 40  # rows of a table
NOTHING = "–"


@dataclass(frozen=True)
class Metric:
    """A figure in percent, and the result that it is made of."""

    title: str
    key: str
    is_error: bool = False  # the figure is what is missing to 100

    def of(self, figures: Figures) -> float:
        value = figures.get(self.key, math.nan)
        return 100 - value if self.is_error else value


# The figures of all classes together, and what begins the name of that of a class.
METRICS = {
    BOXES: tuple(Metric(name, f"bbox/{name}") for name in ("AP", "AP50", "AP75")),
    MASKS: tuple(Metric(name, f"sem_seg/{name}") for name in ("mIoU", "mACC", "pACC")),
    LABELS: (
        Metric("accuracy", "classification/top1_error", is_error=True),
        Metric("top-5 accuracy", "classification/top5_error", is_error=True),
    ),
}
_OF_CLASS = {BOXES: "bbox/AP-", MASKS: "sem_seg/IoU-", LABELS: "classification/accuracy-"}


class Result(Protocol):
    """A run judged on one task of a data set."""

    @property
    def figures(self) -> Figures:
        """By names such as "bbox/AP", in percent."""

    @property
    def image_scores(self) -> np.ndarray:
        """(N,) float64, how well each image is done, more is better; NaN where it is not known."""


R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Judged(Generic[R]):
    """One task of a data set, with what all runs achieve there.

    Attributes:
        kind: the task.
        data: the data set.
        names: of the runs of the report, the baseline first; some may have no result.
        results: by name of the run.
        validation: the data set that was chosen on; "" = ``data`` itself.
        truth: what the annotations of ``data`` are called.
    """

    kind: Annotation
    data: Data
    names: Sequence[str]
    results: Mapping[str, R]
    validation: str = ""
    truth: str = "ground truth"

    @property
    def classes(self) -> list[str]:
        return self.data.classes(self.kind)

    def entries(self) -> list[tuple[int, str, R]]:
        """Number (that of its colour), name and result of each run that has one."""
        known = [(i, name) for i, name in enumerate(self.names) if name in self.results]
        return [(i, name, self.results[name]) for i, name in known]


def figures_grid(names: Sequence[str], figures: Mapping[str, Figures], kind: Annotation) -> Grid:
    """A table with a row for each run, with differences to the first.

    Args:
        names: of the runs, the baseline first.
        figures: of each run by its name.
        kind: the task.
    """
    metrics = METRICS[kind]
    table = [[metric.of(figures.get(name, {})) for metric in metrics] for name in names]
    rows = [
        [name, *(difference(*pair, not i) for pair in zip(own, table[0], strict=True))]
        for i, (name, own) in enumerate(zip(names, table, strict=True))
    ]
    return Grid(["run", *(metric.title for metric in metrics)], rows)


def class_blocks(judged: Judged, objects: Sequence[int], unit: str) -> list[Block]:
    """A table with a row for each class that occurs, with differences to the first run.

    Args:
        judged: the results.
        objects: how often each class occurs.
        unit: what is counted there.
    """
    names, entries = judged.classes, judged.entries()
    prefix = _OF_CLASS[judged.kind]
    columns = [[r.figures.get(f"{prefix}{n}", math.nan) for n in names] for _, _, r in entries]
    values = np.array(columns).T
    present = [k for k in range(len(names)) if objects[k]]
    shown = most(present, [_spread(values[k]) for k in present])
    rows = [
        [names[k], str(objects[k]),
         *(difference(v, values[k][0], i == 0) for i, v in enumerate(values[k]))]
        for k in shown
    ]  # fmt: skip
    name = prefix.split("/")[1].rstrip("-")
    title = f"{name[0].upper()}{name[1:]} of each class"
    blocks: list[Block] = [
        Heading(title, 3),
        Grid(["class", unit, *(name for _, name, _ in entries)], rows),
    ]
    if len(shown) < len(present):
        blocks.append(
            Paragraph(f"Of {len(present)} classes these {len(shown)} differ most between the runs.")
        )
    if absent := [names[k] for k in range(len(names)) if not objects[k]]:
        blocks.append(Paragraph(f"Not in {judged.data.name}, and so not judged: {listed(absent)}."))
    return blocks


def most(items: Sequence[int], sizes: Sequence[float], count: int = MAX_CLASSES) -> list[int]:
    """The items with the largest sizes, in their own order."""
    order = sorted(range(len(items)), key=lambda i: -sizes[i])[:count]
    return [items[i] for i in sorted(order)]


def _spread(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.ptp(known)) if known.size else 0.0


def difference(value: float, base: float, is_base: bool) -> str:
    """A figure, and in brackets what it has more than the baseline."""
    if math.isnan(value):
        return NOTHING
    return f"{value:.2f}" + ("" if is_base or math.isnan(base) else f" ({value - base:+.2f})")


def listed(names: Sequence[str], count: int = 12) -> str:
    """Names in a sentence, not all if they are many."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
