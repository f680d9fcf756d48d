"""The results of a study, which are kept beside its file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multas.util.files import write_text
from studies.cell import RESULT, folder_of
from studies.study import Cell, Study

Result = Mapping[str, Any]


def read_results(study: Study) -> list[Result]:
    """All results that are kept; see :func:`studies.cell.run_cell` for what one has."""
    file = _file(study)
    return json.loads(file.read_text()) if file.is_file() else []


def is_complete(study: Study, cell: Cell) -> bool:
    """Whether there is a result of each row of a cell."""
    there = {result["row"] for result in read_results(study) if _is_of(result, cell)}
    return study.rows_of(cell).keys() <= there


def gather(study: Study, folder: Path) -> None:
    """Keep the results that cells have written to their folders below ``folder``."""
    found = {_key(result): result for result in read_results(study)}
    for cell in study.cells():
        for row in study.rows_of(cell):
            file = folder_of(folder / cell.name, row) / RESULT
            if file.is_file():
                result = json.loads(file.read_text())
                found[_key(result)] = result
    lines = [json.dumps(found[key]) for key in sorted(found)]
    write_text(_file(study), "[\n" + ",\n".join(lines) + "\n]\n")


def results_of(results: Sequence[Result], data: str, labels: str, row: str) -> dict[int, Result]:
    """The results of a row by seed."""
    return {
        result["seed"]: result
        for result in results
        if (result["data"], result["labels"], result["row"]) == (data, labels, row)
    }


def _file(study: Study) -> Path:
    return study.file.with_suffix(".json")


def _is_of(result: Result, cell: Cell) -> bool:
    own = (cell.data, str(cell.labels), cell.seed)
    return (result["data"], result["labels"], result["seed"]) == own


def _key(result: Result) -> tuple[str, str, int, str]:
    return result["data"], result["labels"], result["seed"], result["row"]
