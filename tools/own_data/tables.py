"""The figures of the trainings of a job."""

from collections.abc import Sequence

from tabulate import tabulate

from multas.engine.comparison.data import noted_figures
from multas.engine.report import training_seconds

# Of each task, as the table has them.
FIGURES = {
    "bbox": ("AP", "AP50", "AP75"),
    "sem_seg": ("mIoU", "pACC"),
    "classification": ("top1_error",),
}


def figures_in(folder: str, tests: Sequence[str]) -> dict[str, float]:
    """The figures of a finished training on test sets; none says that it was not evaluated.

    Where there are several sets, the name of each stands in front: cells_test/bbox/AP.
    """
    several = len(tests) > 1
    found: dict[str, float] = {}
    for test in tests:
        values = noted_figures(folder, test, several)
        names = [f"{task}/{figure}" for task, figures in FIGURES.items() for figure in figures]
        place = f"{test}/" * several
        found |= {f"{place}{name}": values[name] for name in names if name in values}
    return found


def figures_table(trainings: Sequence[tuple[str, str, str, int]], tests: Sequence[str]) -> str:
    """A table in Markdown.

    Args:
        trainings: of each its name, what it learned from, its folder and the number of its
            parameters.
        tests: the sets on which they were evaluated.
    """
    measured = [figures_in(folder, tests) for _, _, folder, _ in trainings]
    names = list(dict.fromkeys(name for values in measured for name in values))
    rows = [
        [name, data, *map(values.get, names), parameters / 1e6, training_seconds(folder)]
        for (name, data, folder, parameters), values in zip(trainings, measured, strict=True)
    ]
    header = ["model", "data it saw", *_short(names), "parameters (M)", "seconds"]
    formats = ("", "", *(".2f" for _ in names), ".2f", ".0f")
    return tabulate(rows, header, tablefmt="github", floatfmt=formats)


def _short(names: Sequence[str]) -> list[str]:
    """Figures by their last word, and those that share it by their whole names."""
    last = [name.rpartition("/")[2] for name in names]
    return [word if last.count(word) == 1 else name for word, name in zip(last, names, strict=True)]
