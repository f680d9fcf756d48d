"""Which of two students is handed out: the better one on images that neither has learned from."""

from collections.abc import Sequence

from multas.engine.checks.images import checked_images
from multas.engine.comparison.data import load_data, validation_set
from multas.engine.comparison.figures import METRICS
from multas.engine.comparison.judging import TASKS
from multas.engine.comparison.predictions import predictions_of
from multas.engine.comparison.runs import Run


def gains_on_val(first: Run, second: Run, tests: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The main figure of two trainings, in percent, on the validation sets beside test sets.

    What they predict is kept in their folders, so that it is not computed twice.

    Args:
        tests: registered data sets, whose cards may have a split to choose on.

    Returns:
        By "AP on cells_val" and the like; nothing where there is no validation set.

    Raises:
        UserError: The validation images cannot be used.
    """
    found = {}
    for test in tests:
        data = load_data(test)
        for kind in data.tasks:
            name = validation_set(first.cfg, data, kind)
            if not name:
                continue
            val, metric = load_data(name), METRICS[kind][0]
            with checked_images(first.cfg, [name]):
                judged = [
                    TASKS[kind].judge(
                        run.cfg, val, predictions_of(run, name, list(val.records)), None
                    )
                    for run in (first, second)
                ]
            values = [metric.of(result.figures) for result in judged]
            found[f"{metric.title} on {name}"] = (values[0], values[1])
    return found
