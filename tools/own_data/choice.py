"""Which of two students is handed out: the better one on images that neither has learned from."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from multas.engine.checks.images import checked_images
from multas.engine.comparison.data import load_data, validation_set
from multas.engine.comparison.figures import METRICS
from multas.engine.comparison.judging import TASKS
from multas.engine.comparison.predictions import predictions_of
from multas.engine.comparison.runs import Run
from multas.util.annotation import Annotation

Figures = dict[str, tuple[float, float]]


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
