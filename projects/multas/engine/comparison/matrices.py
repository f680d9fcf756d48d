"""Confusion matrices of runs, one below the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from multas.engine.comparison.figures import Judged, most
from multas.engine.comparison.plots import colour_of, plot_matrix
from multas.util.document import Block, Paragraph, Picture

MAX_CLASSES = 30


def matrix_blocks(
    judged: Judged,
    counts: Mapping[str, np.ndarray],
    names: Sequence[str],
    folder: Path,
    always: int | None = None,
) -> list[Block]:
    """Plots of confusion, with the classes that are confused most if they are many.

    Args:
        judged: the task.
        counts: (K, K) by true (rows) and predicted class, of each run.
        names: K.
        folder: for the plots.
        always: a class that is shown in any case.
    """
    wrong = sum(c.sum(axis=0) + c.sum(axis=1) - 2 * np.diagonal(c) for c in counts.values())
    wrong = np.asarray(wrong)[: len(names)]
    if always is not None:
        wrong[always] = wrong.max() + 1
    shown = most(range(len(names)), wrong.tolist(), MAX_CLASSES)
    labels = [names[k] for k in shown]
    blocks: list[Block] = []
    if len(shown) < len(names):
        text = f"Of {len(names)} classes the {len(shown)} that are confused most are shown."
        blocks.append(Paragraph(text))
    for i, name, _ in judged.entries():
        total = counts[name].sum(axis=1, keepdims=True)
        shares = (counts[name] / np.where(total > 0, total, np.nan))[np.ix_(shown, shown)]
        file = folder / f"confusion_{i}.svg"
        plot_matrix(file, name, ("true", "predicted"), shares, (labels, labels), colour_of(i))
        blocks.append(Picture(file, f"confusion matrix of {name}", whole=True))
    return blocks
