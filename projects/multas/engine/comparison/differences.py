"""The images on which a run and the baseline differ most, in both directions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from multas.engine.comparison.figures import Judged
from multas.util.document import Block, Gallery, Heading, Paragraph, Picture

IMAGES = 3  # of each direction
MAX_RUNS = 3  # that are compared with the baseline
_SMALLEST = 1e-6  # a difference

Panels = Callable[[Judged, Sequence[str], int, Path], list[Picture]]


def difference_blocks(
    judged: Judged, panels: Panels, measure: str, folder: Path, before: Sequence[Block] = ()
) -> list[Block]:
    """Pictures of what differs most.

    Args:
        judged: a task.
        panels: draws an image and what runs make of it.
        measure: what the score of an image is.
        folder: for the pictures.
        before: what explains the pictures.
    """
    first, *others = judged.entries()
    if not others:
        worst = _first(first[2].image_scores, 2 * IMAGES)
        shown = [panels(judged, [first[1]], number, folder) for number in worst]
        return [Heading(f"Where {first[1]} is worst", 3), *before, *_galleries(shown)]
    if first[1] != judged.names[0]:
        return []
    blocks: list[Block] = [Heading("Where runs differ most", 3), *before]
    if len(others) > MAX_RUNS:
        blocks.append(Paragraph(f"Of {len(others)} runs the first {MAX_RUNS} are shown."))
    for _, name, result in others[:MAX_RUNS]:
        loss = first[2].image_scores - result.image_scores
        for sign, word in ((1, "better"), (-1, "worse")):
            chosen = sign * loss < -_SMALLEST
            text = (
                f"{name} is {word} than {first[1]} on {chosen.sum()} of {len(loss)} images by "
                f"{measure}"
            )
            blocks.append(Paragraph(f"{text}, most of all here:" if chosen.any() else f"{text}."))
            numbers = _first(np.where(chosen, sign * loss, np.nan), IMAGES)
            shown = [panels(judged, (first[1], name), n, folder) for n in numbers]
            blocks += _galleries(shown)
    return blocks


def _first(values: np.ndarray, count: int) -> list[int]:
    """The numbers of the lowest values that are not NaN, the lowest first."""
    known = np.flatnonzero(np.isfinite(values))
    return known[np.argsort(values[known], kind="stable")][:count].tolist()


def _galleries(shown: Sequence[list[Picture]]) -> list[Block]:
    """A line for each image, or one for all that have a single picture."""
    if all(len(pictures) == 1 for pictures in shown):
        return [Gallery([picture for pictures in shown for picture in pictures], width=260)]
    return [Gallery(pictures, width=260) for pictures in shown]
