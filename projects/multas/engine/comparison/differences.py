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
    if first[1] != judged.names[0] or not others:
        return []
    blocks: list[Block] = [Heading("Where runs differ most", 3), *before]
    if len(others) > MAX_RUNS:
        blocks.append(Paragraph(f"Of {len(others)} runs the first {MAX_RUNS} are shown."))
    for _, name, result in others[:MAX_RUNS]:
        gain = np.nan_to_num(result.image_scores - first[2].image_scores)
        for sign, word in ((1, "better"), (-1, "worse")):
            count = np.count_nonzero(sign * gain > _SMALLEST)
            text = f"{name} is {word} than {first[1]} on {count} of {len(gain)} images by {measure}"
            blocks.append(Paragraph(f"{text}, most of all here:" if count else f"{text}."))
            for number in np.argsort(-sign * gain, kind="stable")[: min(count, IMAGES)]:
                pictures = panels(judged, (first[1], name), int(number), folder)
                blocks.append(Gallery(pictures, width=260))
    return blocks
