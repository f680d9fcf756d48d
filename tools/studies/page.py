"""docs/evidence.md, from the files of evidence/ alone."""

import statistics
import textwrap
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from multas.evaluation.resampling import interval
from multas.util.files import write_text
from studies import small_scale
from studies.results import Result, read_results, results_of
from studies.study import REPOSITORY, Study, names, read_study

PAGE = REPOSITORY / "docs" / "evidence.md"
_HEAD = """# Evidence

What is claimed is shown here, by numbers that `tools/evidence.py` has computed and keeps in
[evidence/](../evidence). AP is COCO's of boxes, in percent, as mean ± standard deviation over
seeds; the number of seeds is in brackets where it is not yet the study's. A difference has its 95 %
interval, by bootstrap over seeds and images in pairs, and is bold where it excludes zero."""


def write_page() -> None:
    """Write docs/evidence.md anew."""
    write_text(PAGE, page())


def page() -> str:
    """The content of docs/evidence.md."""
    parts = [_HEAD]
    for name in names():
        study = read_study(name)
        results = read_results(study)
        if results:
            parts += section(study, results)
    parts += small_scale.sections()
    return "\n\n".join(parts) + "\n"


def section(study: Study, results: Sequence[Result]) -> list[str]:
    """The parts of the page on one study."""
    command = f"```bash\npython tools/evidence.py {study.name} --data /data --jobs 2\n```"
    seeds = "one seed" if study.seeds == 1 else f"{study.seeds} seeds"
    return [
        f"## {study.title}",
        textwrap.fill(study.about, 100),
        f"{study.iterations} iterations, {seeds}, evaluated on {study.split}; the command:",
        command,
        table(study, results),
        differences(study, results),
    ]


def table(study: Study, results: Sequence[Result]) -> str:
    """AP of each row and the minutes of its training, as a table in Markdown."""
    lines = []
    for data, labels, images in _settings(study, results):
        cells = [_mean(study, results_of(results, data, labels, row)) for row in study.rows]
        lines.append([data, f"{_percent(labels)} ({images})", *cells])
    minutes = [_minutes([r for r in results if r["row"] == row]) for row in study.rows]
    lines.append(["minutes", "", *minutes])
    header = ["data", "labels (images)", *study.rows]
    return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def differences(study: Study, results: Sequence[Result]) -> str:
    """The differences of rows to those that they are compared with, as a table in Markdown."""
    compared = {name: row.versus for name, row in study.rows.items() if row.versus}
    lines = []
    for data, labels, _ in _settings(study, results):
        cells = [
            _difference(
                results_of(results, data, labels, row), results_of(results, data, labels, versus)
            )
            for row, versus in compared.items()
        ]
        lines.append([data, _percent(labels), *cells])
    header = ["AP more", "labels", *(f"{row}: than {base}" for row, base in compared.items())]
    return tabulate(lines, header, tablefmt="github", disable_numparse=True)


def _settings(study: Study, results: Sequence[Result]) -> list[tuple[str, str, int]]:
    """Data set, share of labels and the number of images with labels, of what has results."""
    found = []
    for data in study.data:
        for labels in map(str, study.labels):
            own = [r for r in results if (r["data"], r["labels"]) == (data, labels)]
            if own:
                found.append((data, labels, own[0]["images"]))
    return found


def _mean(study: Study, by_seed: dict[int, Result]) -> str:
    values = [result["AP"] for result in by_seed.values()]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    count = "" if len(values) == study.seeds else f" ({len(values)})"
    return f"{statistics.fmean(values):.1f}{spread}{count}"


def _difference(ours: dict[int, Result], theirs: dict[int, Result]) -> str:
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return ""
    mean = statistics.fmean(ours[seed]["AP"] - theirs[seed]["AP"] for seed in seeds)
    pairs = [np.subtract(ours[seed]["resampled"], theirs[seed]["resampled"]) for seed in seeds]
    low, high = interval(np.stack(pairs))
    text = f"{mean:+.1f} ({low:+.1f} … {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def _minutes(results: Sequence[Result]) -> str:
    known = [r["seconds"] for r in results if "seconds" in r]
    return f"{statistics.fmean(known) / 60:.1f}" if known else ""


def _percent(labels: str) -> str:
    numerator, _, denominator = labels.partition("/")
    return f"{100 * int(numerator) / int(denominator or 1):.0f} %"
