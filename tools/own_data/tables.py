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


def figures_in(values: Mapping[str, float], tests: Sequence[str]) -> dict[str, float]:
    """The figures that were measured on test sets; none says that a training was not evaluated.

    Where there are several sets, Detectron2 puts the name of each in front: cells_test/bbox/AP.
    """
    return {
        name: values[name]
        for place in ("", *(f"{test}/" for test in tests))
        for task, figures in FIGURES.items()
        for name in (f"{place}{task}/{figure}" for figure in figures)
        if name in values
    }


def figures_table(trainings: Sequence[tuple[str, str, str, int]], tests: Sequence[str]) -> str:
    """A table in Markdown.

    Args:
        trainings: of each its name, what it learned from, its folder and the number of its
            parameters.
        tests: the sets on which they were evaluated.
    """
    measured = [figures_in(last_values(folder), tests) for _, _, folder, _ in trainings]
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
