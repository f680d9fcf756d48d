"""Results in one file that outlives the folders of their runs, so that they are trained once.

A result is a few numbers: the metrics of a run after its last iteration, its mean average precision
on resampled test images, and how long it took. Its weights are not kept, so that a run whose
weights another one needs is trained again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from multas.util.errors import UserError
from multas.util.files import write_text
from reproduction.certainty import BY_IMAGE, resampled_of
from reproduction.run import Run
from reproduction.tables import METRICS


def read_kept(file: Path) -> dict[str, Mapping]:
    """The results in a file by the hashes of their runs; none where there is no file.

    Raises:
        UserError: The file is not one that :func:`keep` has written.
    """
    if not file.is_file():
        return {}
    try:
        return {entry["run"]: entry for entry in json.loads(file.read_text())}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"--results {file}: this is no file of results ({error}). Name one that --results has "
            "written, or a new one."
        ) from error


def keep(file: Path, runs: Sequence[Run]) -> None:
    """Add the results of finished runs to a file; those of other runs stay in it.

    Raises:
        UserError: The file is not one that this function has written.
    """
    found = {**read_kept(file), **{run.digest: _result(run) for run in runs if run.is_finished}}
    entries = sorted(found.values(), key=lambda entry: (entry["title"], entry["run"]))
    write_text(file, "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n")


def _result(run: Run) -> Mapping:
    keys, samples = {metric.key for metric in METRICS.values()}, resampled_of(run, BY_IMAGE)
    return {
        "run": run.digest,
        "title": run.title,
        "metrics": {key: round(value, 4) for key, value in run.metrics.items() if key in keys},
        "resampled": {} if samples is None else {BY_IMAGE: [round(x, 2) for x in samples]},
        "seconds": round(run.seconds),
    }
