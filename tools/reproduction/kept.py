"""Results in one file that outlives the folders of their runs, so that they are trained once.

A result is a few numbers: the metrics of a run after its last iteration, its mean average precision
on resampled test images, and how long it took. Its weights are not kept, so that a run whose
weights another one needs is trained again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from multas.engine.report import final_values, training_seconds
from multas.util.errors import UserError
from multas.util.files import write_text
from reproduction.certainty import BY_IMAGE, resampled_of
from reproduction.run import KEPT, Run
from reproduction.tables import METRICS


def restore(file: Path, runs: Sequence[Run]) -> None:
    """Lay what a file has of runs into the folders of those that are not finished.

    Raises:
        UserError: The file is not one that :func:`keep` has written.
    """
    known = _read(file)
    for run in runs:
        if run.digest in known and not run.is_finished:
            run.folder.mkdir(parents=True, exist_ok=True)
            write_text(run.folder / KEPT, json.dumps(known[run.digest]) + "\n")


def keep(file: Path, runs: Sequence[Run]) -> None:
    """Add the results of finished runs to a file; those of other runs stay in it.

    Raises:
        UserError: The file is not one that this function has written.
    """
    found = {**_read(file), **{run.digest: _result(run) for run in runs if run.is_finished}}
    entries = sorted(found.values(), key=lambda entry: (entry["title"], entry["run"]))
    write_text(file, "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")


def _read(file: Path) -> dict[str, Mapping]:
    if not file.is_file():
        return {}
    try:
        return {entry["run"]: entry for entry in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--results {file}: this is no file of results ({error}). Name one that --results has "
            "written, or a new one."
        ) from error


def _result(run: Run) -> Mapping:
    values, keys = final_values(str(run.folder)), {metric.key for metric in METRICS.values()}
    samples = resampled_of(run, BY_IMAGE) if BY_IMAGE in values else None
    return {
        "run": run.digest,
        "title": run.title,
        "metrics": {key: round(value, 4) for key, value in values.items() if key in keys},
        "resampled": {} if samples is None else {BY_IMAGE: [round(x, 2) for x in samples]},
        "seconds": round(training_seconds(str(run.folder))),
    }
