"""From which score on a teacher's boxes count as pseudo-labels, by images that have the truth."""

from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from multas.engine.checks.images import checked_images
from multas.engine.comparison.data import load_data
from multas.engine.comparison.matching import (
    IOU,
    Matches,
    best_thresholds,
    match,
    precision_recall_f1,
)
from multas.engine.comparison.predictions import predictions_of
from multas.engine.comparison.runs import Run
from multas.util.annotation import BOXES

FIXED = 0.45  # where there is nothing to choose on
PRIOR = 10  # objects that speak for the threshold of all classes, or for the fixed one


def chosen_on(name: str, teacher: Run, *, flip: bool) -> tuple[list[float], list[str]]:
    """The thresholds of a teacher's classes, and lines that say why.

    Args:
        name: a data set with boxes that the teacher has not learned from.
        teacher: a finished training, whose folder keeps what it finds.
        flip: whether it labels each image together with its mirror image.

    Raises:
        UserError: The teacher has other classes, or its weights or the images cannot be used.
    """
    with checked_images(teacher.cfg, [name]):
        data = load_data(name)
        found = predictions_of(teacher, name, data.records, flip=flip)
    classes = data.classes(BOXES)
    matches = match(data, found, len(classes))
    thresholds = pseudo_label_thresholds(matches)
    why = (
        f"Chosen on {name} ({len(data.records)} images) by the best F1 at an IoU of {IOU}; the "
        f"fewer objects are found, the nearer to one threshold for all, and this one to {FIXED}."
    )
    return thresholds[:-1].tolist(), [why, *threshold_table(classes, matches, thresholds)]


def pseudo_label_thresholds(matches: Matches, fixed: float = FIXED) -> np.ndarray:
    """The score from which on the boxes of each class, and of all together, are used.

    It is that of the best F1, which few objects do not tell well. Therefore the threshold of a
    class with n objects found is (n t + 10 a) / (n + 10), where t is its own best one and ``a``
    that of all classes together, which is drawn to the fixed one in the same way.

    Args:
        matches: the teacher's detections on annotated images that it has not learned from.
        fixed: the threshold where nothing is found.

    Returns:
        (K+1,) float64 with 3 digits; the last one is that of all classes.
    """
    best, found = np.nan_to_num(best_thresholds(matches)), _found(matches)

    def drawn(k: int, to: float) -> float:
        return (found[k] * best[k] + PRIOR * to) / (found[k] + PRIOR)

    every = drawn(matches.num_classes, fixed)
    own = [drawn(k, every) for k in range(matches.num_classes)]
    return np.round([*own, every], 3)


def threshold_table(classes: Sequence[str], matches: Matches, thresholds: np.ndarray) -> list[str]:
    """A line for each class and one for all, with what the thresholds keep of the detections."""
    best, found = best_thresholds(matches), _found(matches)
    rows = []
    for k, name in enumerate([*classes, "all, with one threshold"]):
        shares = precision_recall_f1(matches, thresholds, k)[:2]
        numbers = [thresholds[k], best[k], *shares]
        shown = ["-" if np.isnan(number) else f"{number:.3f}" for number in numbers]
        rows.append([name, *shown, str(matches.objects_of(k)), str(found[k])])
    header = ["class", "score from", "best F1 from", "precision", "recall", "objects", "found"]
    return tabulate(rows, header, disable_numparse=True).splitlines()


def _found(matches: Matches) -> list[int]:
    """The objects that are found at any score, of each class and of all."""
    return [
        int(np.count_nonzero(matches.hits & matches.of(k))) for k in range(matches.num_classes + 1)
    ]
