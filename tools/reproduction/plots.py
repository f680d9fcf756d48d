"""The pictures of a report: a metric against the amount of labels, path weights over time."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from multas.engine.report import plot_paths, read_metrics
from multas.util.document import Picture
from reproduction.results import Result

# Aggregations whose weights move while they train; the others would draw straight lines.
_LEARNED = ("adaptive", "multiobjective")


def labels_picture(results: Sequence[Result], metric: str, folder: Path) -> list[Picture]:
    """The paper's numbers and ours against the share of labelled images, side by side.

    Args:
        results: of all columns.
        metric: to draw.
        folder: for the file.

    Returns:
        The picture, or nothing if these columns do not differ by their labels.
    """
    if len({result.row.labels for result in results if result.row.labels}) < 2:
        return []
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharex=True)
    names = dict.fromkeys(result.row.name for result in results)
    for name in names:
        row = sorted((r for r in results if r.row.name == name), key=lambda r: r.row.labels)
        known = [r for r in row if metric in r.row.paper]
        style = {"marker": "o", "ls": "--" if row[0].row.is_reference else "-"}
        axes[0].plot(
            [r.row.labels for r in known], [r.row.paper[metric] for r in known], label=name, **style
        )
        done = [(r.row.labels, r.values(metric)) for r in row if r.values(metric)]
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in done]
        axes[1].errorbar(
            [share for share, _ in done],
            [statistics.fmean(values) for _, values in done],
            spread,
            label=name,
            capsize=3,
            **style,
        )
    shares = sorted({result.row.labels for result in results})
    for axis, title in zip(axes, ("paper", "ours"), strict=True):
        axis.set(title=title, xlabel="share of labelled images", xscale="log")
        axis.set_xticks(shares, [f"1/{round(1 / share)}" for share in shares], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(metric)
    axes[0].legend(fontsize=8)
    return [_saved(figure, folder / "labels.png", f"{metric} against the share of labels")]


def path_pictures(results: Sequence[Result], folder: Path) -> list[tuple[str, Picture]]:
    """Plot learned path weights over the iterations, of each row's first run that has a log."""
    pictures = []
    for number, result in enumerate(results):
        pairs = zip(result.runs, result.states, strict=True)
        run = next((run for run, state in pairs if state.is_good and not run.result), None)
        if run is None or not result.row.name.startswith(_LEARNED):
            continue
        records = read_metrics(str(run.folder)).values()
        if not any(key.startswith("path_weight/") for record in records for key in record):
            continue
        file = folder / f"paths_{number}.png"
        plot_paths(str(run.folder), str(file))
        title = f"{result.row.column}: {result.row.label}, seed {run.seed}"
        pictures.append((title, Picture(file, f"path weights and losses of {title}")))
    return pictures


def _saved(figure, file: Path, description: str) -> Picture:
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return Picture(file, description)
