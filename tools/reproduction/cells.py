"""The cells that tables of a report have in common."""

import math
import statistics

from multas.util.document import Cell, Link
from reproduction.execution import State
from reproduction.results import Result, log_of

NOTHING = "–"


def number(value: float, form: str = ".2f") -> str:
    """A number, or a dash for NaN."""
    return NOTHING if math.isnan(value) else format(value, form)


def measured(result: Result, metric: str) -> Cell:
    """The mean and spread of a row over its seeds; where there is none, why."""
    values = result.values(metric)
    pairs = zip(result.runs, result.states, strict=True)
    missing = [(run, state) for run, state in pairs if not state.is_good]
    if not values and missing:
        run, state = missing[0]
        return Link(state.value, log_of(run)) if state is State.FAILED else state.value
    if not values:
        return NOTHING
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    share = f" ({len(values)} of {len(result.states)} seeds)" if missing else ""
    return f"{statistics.fmean(values):.2f}{spread}{share}"
