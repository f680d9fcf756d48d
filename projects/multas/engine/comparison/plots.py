"""Plots as SVG files that a page takes in: its colours, light or dark, are theirs.

A plot is about as wide as a telephone. Its colours are explained by a :class:`Legend` of the page,
so that nothing lies over the curves.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours of runs, readable on white and on black, and told apart by most colour-blind people.
COLOURS = ("#2f7ed8", "#d9730d", "#2a9d6f", "#c2498f", "#8a63d2", "#0f93a8", "#d64545", "#8d8100")
SIZE = (3.4, 2.35)  # inches, of which the page makes 96 pixels each
_CELL = 0.29  # inches, of a matrix
_TEXT, _LINE = "#1c2430", "#d5dae1"
_MAX_POINTS = 400
_MAX_NAME = 18
_UNSAID = ("Date", "Creator", "Format", "Type")  # of what made a file
_STYLES = ("-", "--", ":")

Curve = tuple[np.ndarray, np.ndarray]


def colour_of(number: int) -> str:
    """The colour of the n-th run or path, in all plots of a page."""
    return COLOURS[number % len(COLOURS)]


def plot_curves(
    file: Path,
    title: str,
    axes: tuple[str, str],
    curves: Mapping[int, Curve],
    *,
    points: Mapping[int, Curve] | None = None,
    unit: bool = False,
    log: bool = False,
) -> Path:
    """Draw curves over one another.

    Args:
        file: the SVG file to write.
        title: above the plot.
        axes: what is drawn to the right, and upwards.
        curves: x and y, each (P,), by the number of the colour.
        points: of curves, to be marked, likewise.
        unit: whether both axes go from 0 to 1.
        log: whether the y axis is logarithmic; what is not above 0 is left out.

    Returns:
        The file.
    """
    figure = Figure(figsize=SIZE)
    figure.subplots_adjust(left=0.18, right=0.96, bottom=0.2, top=0.88)
    plot = _plain(figure.add_subplot())
    for number, curve in curves.items():
        style = _STYLES[number // len(COLOURS) % len(_STYLES)]
        x, y = _thinned(*curve)
        shown = np.isfinite(y) & ((y > 0) | (not log))
        mark = "o" if shown.sum() == 1 else ""
        plot.plot(x[shown], y[shown], style, marker=mark, color=colour_of(number), lw=1.5)
    for number, (x, y) in (points or {}).items():
        plot.plot(x, y, "o", ms=5, color=colour_of(number))
    plot.set_title(_shortened(title, 40), fontsize=9, color=_TEXT, loc="left")
    plot.set_xlabel(axes[0])
    plot.set_ylabel(axes[1])
    plot.grid(color=_LINE, lw=0.6)
    if log:
        plot.set_yscale("log")
    if unit:
        plot.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return _save(figure, file)


def plot_matrix(
    file: Path,
    title: str,
    axes: tuple[str, str],
    shares: np.ndarray,
    names: tuple[Sequence[str], Sequence[str]],
    colour: str,
) -> Path:
    """Draw a matrix of shares as cells with percents; the file grows with the matrix.

    Args:
        file: the SVG file to write.
        title: above the matrix.
        axes: what the rows and what the columns are.
        shares: (R, C) in [0, 1]; NaN is left empty.
        names: of the rows and of the columns.
        colour: of a full cell.

    Returns:
        The file.
    """
    rows, columns = ([_shortened(name, _MAX_NAME) for name in part] for part in names)
    margin = 0.55 + 0.075 * max(map(len, [*rows, *columns]))
    size = margin + 0.3 + _CELL * len(columns), margin + 0.3 + _CELL * len(rows)
    figure = Figure(figsize=(max(size[0], SIZE[0]), size[1]), layout="constrained")
    plot = _plain(figure.add_subplot())
    cells = np.zeros((*shares.shape, 4))
    cells[..., :3] = matplotlib.colors.to_rgb(colour)
    cells[..., 3] = np.nan_to_num(shares)
    plot.pcolormesh(cells)
    for (row, column), share in np.ndenumerate(np.nan_to_num(shares)):
        if percent := round(100 * share):
            at = (column + 0.5, row + 0.5)
            plot.annotate(f"{percent}", at, ha="center", va="center", fontsize=7, color=_TEXT)
    plot.set(aspect="equal", xlim=(0, len(columns)), ylim=(len(rows), 0))
    plot.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=90)
    plot.set_yticks(np.arange(len(rows)) + 0.5, rows)
    plot.tick_params(length=0)
    plot.set_ylabel(axes[0])
    plot.set_xlabel(axes[1])
    figure.suptitle(_shortened(title, 60), fontsize=9, color=_TEXT)
    return _save(figure, file)


def _plain(plot: Axes) -> Axes:
    """The axes in the colours of text and lines, without a frame."""
    plot.patch.set_visible(False)
    for side, spine in plot.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_LINE)
    plot.tick_params(colors=_TEXT, labelsize=8)
    for axis in (plot.xaxis, plot.yaxis):
        axis.label.set(color=_TEXT, fontsize=8)
    return plot


def _thinned(x: np.ndarray, y: np.ndarray) -> Curve:
    """At most _MAX_POINTS of a curve, each the mean of its neighbours."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) <= _MAX_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), _MAX_POINTS)
    return np.array([x[part].mean() for part in parts]), np.array([y[p].mean() for p in parts])


def _save(figure: Figure, file: Path) -> Path:
    figure.patch.set_visible(False)
    # Letters stay letters, in a font of the reader. The names of parts differ from file to file,
    # since all of them come into one page, and are the same in every run.
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "/".join(file.parts[-2:])}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader has it
        figure.savefig(file, format="svg", metadata=dict.fromkeys(_UNSAID))
    image = file.read_text(encoding="utf-8")
    image = image.replace(_TEXT, f"var(--text, {_TEXT})").replace(_LINE, f"var(--line, {_LINE})")
    file.write_text(image, encoding="utf-8")
    return file


def _shortened(name: str, length: int) -> str:
    short = name if len(name) <= length else f"{name[: length - 1]}…"
    return short.replace("$", r"\$")  # which would begin a formula
