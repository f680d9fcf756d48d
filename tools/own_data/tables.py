"""The figures of the trainings of a job."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from multas.engine.report import last_values, training_seconds

# Of each task, as the table has them.
FIGURES = {
    "bbox": ("AP", "AP50", "AP75"),
    "sem_seg": ("mIoU", "pACC"),
    "classification": ("top1_error",),
}


def figures_in(values: Mapping[str, float]) -> dict[str, float]:
    """The figures of all tasks that were measured; none says that a training was not evaluated."""
    names = [f"{task}/{figure}" for task, figures in FIGURES.items() for figure in figures]
    return {name: values[name] for name in names if name in values}


def figures_table(trainings: Sequence[tuple[str, str, str, int]]) -> str:
    """A table in Markdown.

    Args:
        trainings: of each its name, what it learned from, its folder and the number of its
            parameters.
    """
    measured = [last_values(folder) for _, _, folder, _ in trainings]
    names = list(dict.fromkeys(name for values in measured for name in figures_in(values)))
    rows = [
        [name, data, *map(values.get, names), parameters / 1e6, training_seconds(folder)]
        for (name, data, folder, parameters), values in zip(trainings, measured, strict=True)
    ]
    figures = [name.split("/")[1] for name in names]
    header = ["model", "data it saw", *figures, "parameters (M)", "seconds"]
    formats = ("", "", *(".2f" for _ in names), ".2f", ".0f")
    return tabulate(rows, header, tablefmt="github", floatfmt=formats)
