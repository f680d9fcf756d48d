"""Which of two students is handed out: the better one on images that neither has learned from."""

from collections.abc import Sequence
from typing import NamedTuple

from detectron2.config import CfgNode

from multas.engine.checks.images import checked_images
from multas.engine.comparison.data import load_data, validation_set
from multas.engine.comparison.figures import METRICS
from multas.engine.comparison.judging import TASKS
from multas.engine.comparison.predictions import predictions_of
from multas.engine.comparison.runs import Run
from multas.util.annotation import Annotation

Figures = dict[str, tuple[float, float]]


class Choice(NamedTuple):
    """The training whose student is handed out, and why."""

    stage: str
    why: str

    @property
    def sentence(self) -> str:
        return f"The student that is handed out is the {self.stage} one: {self.why}."


def choose_of(stages: tuple[str, str], figures: Figures, *, has_masks: bool) -> Choice:
    """The second of two stages, such as ("supervised", "distilled"), or the first if it is better.

    So a teacher that cannot teach costs nothing. With nothing to choose on, it is the second one;
    with masks it is the first, since their distillation has cost more often than it has brought
    something (docs/choosing.md).

    Args:
        figures: of both, on images that neither has learned from; may be none.
        has_masks: whether masks are among the tasks.
    """
    if not figures:
        return Choice(stages[not has_masks], "there is no val split to choose on")
    pairs = (
        f"{name} {first:.2f} ({stages[0]}) and {second:.2f} ({stages[1]})"
        for name, (first, second) in figures.items()
    )
    return Choice(stages[is_as_good(figures)], "; ".join(pairs))


def sets_on_val(cfg: CfgNode, tests: Sequence[str]) -> list[tuple[Annotation, str]]:
    """The validation set beside each test set for each of its tasks; "" where there is none."""
    data = [load_data(test) for test in tests]
    return [(kind, validation_set(cfg, own, kind)) for own in data for kind in own.tasks]


def is_as_good(figures: Figures) -> bool:
    """Whether the second of each pair is no lower than the first, over all pairs together.

    So it is without any, and where a figure is not known (NaN).
    """
    return not sum(after - before for before, after in figures.values()) < 0


def figures_on_val(first: Run, second: Run, tests: Sequence[str]) -> Figures:
    """The main figures of two trainings, in percent, on the validation sets beside test sets.

    What they predict is kept in their folders, so that it is not computed twice.

    Args:
        tests: registered data sets, whose cards may have a split to choose on.

    Returns:
        Pairs by "AP on cells_val" and the like; nothing where there is no validation set.

    Raises:
        UserError: The validation images cannot be used.
    """
    found = {}
    for kind, name in sets_on_val(first.cfg, tests):
        if not name:
            continue
        val, metric = load_data(name), METRICS[kind][0]
        with checked_images(first.cfg, [name]):
            judged = [
                TASKS[kind].judge(run.cfg, val, predictions_of(run, name, list(val.records)), None)
                for run in (first, second)
            ]
        values = [metric.of(result.figures) for result in judged]
        found[f"{metric.title} on {name}"] = (values[0], values[1])
    return found
