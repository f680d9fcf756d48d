"""How runs went: losses, validation and path weights over the iterations."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from multas.engine.comparison.plots import Curve, colour_of, plot_curves
from multas.engine.comparison.runs import Run
from multas.util.document import Block, Gallery, Heading, Legend, Paragraph, Picture

MAX_LOSSES = 6
MAX_PATHS = 16
_DISTILLED = "loss_kd"
_PENALTY = "loss_kd_z"  # of learned path weights, no loss of a path
# The figures that are followed, in order; each may have the name of a data set before it.
_FOLLOWED = ("bbox/AP", "bbox/AP50", "sem_seg/mIoU", "classification/top1_error")
_WEIGHTS = ("student/", "ema/", "best/", "teacher")  # what figures by their name belong to

Record = Mapping[str, float]


def curve(run: Run, value: Callable[[Record], float | None]) -> Curve:
    """Iterations and values, each (P,), where there is a value."""
    pairs = [(i, v) for i, r in sorted(run.records.items()) if (v := value(r)) is not None]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def history_blocks(runs: Sequence[Run], folder: Path) -> list[Block]:
    """Curves of training and validation of all runs; plots are written to ``folder``."""
    known = [run for run in runs if run.records]
    if not known:
        return []
    legend = Legend([(run.name, colour_of(i)) for i, run in enumerate(runs) if run.records])
    terms = [k for run in known for r in run.records.values() for k in r if k.startswith("loss")]
    tasks = sorted({k for k in terms if not k.startswith(_DISTILLED)})[:MAX_LOSSES]
    values: dict[str, Callable[[Record], float | None]] = {k: _value(k) for k in tasks}
    values["distillation, weighted"] = _distillation
    pictures = _plots(runs, values, "loss", folder)
    blocks: list[Block] = [Heading("Training"), legend, Gallery(pictures)]
    keys = {key for run in known for r in run.records.values() for key in r}
    followed = {
        key: _value(key)
        for key in sorted(keys, key=lambda k: (k.count("/"), k))
        if key.endswith(_FOLLOWED) and not key.startswith(_WEIGHTS)
        and max(len(curve(run, _value(key))[0]) for run in known) > 1
    }  # fmt: skip
    if followed:
        return [*blocks, Gallery(_plots(runs, followed, "percent", folder))]
    text = "No figure is followed: the runs were evaluated at their end alone (TEST.EVAL_PERIOD)."
    return [*blocks, Paragraph(text)]


def _value(key: str) -> Callable[[Record], float | None]:
    return lambda record: record.get(key)


def _distillation(record: Record) -> float | None:
    """The sum of all losses of paths, as they are weighted."""
    terms = [v for k, v in record.items() if k.startswith(_DISTILLED) and k != _PENALTY]
    return sum(terms) if terms else None


def _plots(
    runs: Sequence[Run],
    values: Mapping[str, Callable[[Record], float | None]],
    what: str,
    folder: Path,
) -> list[Picture]:
    pictures: list[Picture] = []
    for title, value in values.items():
        curves = {i: curve(run, value) for i, run in enumerate(runs)}
        curves = {i: own for i, own in curves.items() if len(own[0])}
        if curves:
            file = folder / f"{what}_{len(pictures)}.svg"
            plot_curves(file, title, ("iteration", what), curves)
            pictures.append(Picture(file, f"{title} over the iterations"))
    return pictures


def path_blocks(runs: Sequence[Run], folder: Path) -> list[Block]:
    """Weight v, loss L and v·L of the paths of each distilled run, over the iterations."""
    blocks: list[Block] = []
    for number, run in enumerate(runs):
        keys = sorted({key for record in run.records.values() for key in record})
        paths = [key.split("/", 1)[1] for key in keys if key.startswith("path_loss/")]
        if not paths:
            continue
        shown = paths[:MAX_PATHS]
        pictures: list[Picture] = []
        for title, value in _PANELS.items():
            curves = {i: curve(run, partial(value, path)) for i, path in enumerate(shown)}
            file = folder / f"paths_{number}_{len(pictures)}.svg"
            plot_curves(file, title, ("iteration", ""), curves, log=True)
            pictures.append(Picture(file, f"{title} of {run.name}"))
        legend = Legend([(path, colour_of(i)) for i, path in enumerate(shown)])
        blocks += [Heading(f"Paths of {run.name}"), legend, Gallery(pictures)]
        if len(paths) > len(shown):
            blocks.append(Paragraph(f"Of {len(paths)} paths the first {len(shown)} are shown."))
    return blocks


def _weight(path: str, record: Record) -> float | None:
    return record.get(f"path_weight/{path}")


def _loss(path: str, record: Record) -> float | None:
    return record.get(f"path_loss/{path}")


def _weighted(path: str, record: Record) -> float | None:
    weight, loss = _weight(path, record), _loss(path, record)
    return None if weight is None or loss is None else weight * loss


_PANELS = {
    "path weight v": _weight,
    "raw path loss L": _loss,
    "weighted path loss v·L": _weighted,
}
