"""The results of a table: numbers over seeds, differences, order, and cost."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from scipy.stats import kendalltau

from multas.config.tables import Table
from reproduction.execution import State, States
from reproduction.rows import Row
from reproduction.run import Run
from reproduction.runners import read_resources
from reproduction.tables import METRICS


@dataclass(frozen=True)
class Result:
    """A row and its runs, one for each seed, with their last metrics (empty if unfinished)."""

    row: Row
    runs: tuple[Run, ...]
    states: tuple[State, ...]
    metrics: tuple[Mapping[str, float], ...]

    def values(self, metric: str) -> list[float]:
        """The values of a metric, of the runs that have it."""
        key = METRICS[metric].key
        return [metrics[key] for metrics in self.metrics if key in metrics]

    def mean(self, metric: str) -> float:
        """The mean of a metric over the runs; NaN where none has it."""
        values = self.values(metric)
        return statistics.fmean(values) if values else math.nan


def read_result(row: Row, runs: Sequence[Run], states: States) -> Result:
    """Read what the runs of a row have written."""
    own = tuple(states[run.digest] for run in runs)
    pairs = zip(runs, own, strict=True)
    metrics = (run.metrics if state.is_good else {} for run, state in pairs)
    return Result(row, tuple(runs), own, tuple(metrics))


def metrics_of(table: Table, results: Sequence[Result]) -> list[str]:
    """The metrics that the rows of a column have, in the paper or by our runs."""
    return [
        metric
        for metric in table.metrics
        if any(metric in r.row.paper for r in results) or any(r.values(metric) for r in results)
    ] or [table.metrics[0]]


@dataclass(frozen=True)
class Order:
    """How far rows are in the paper's order: the number of their pairs that are."""

    rows: int
    held: int
    pairs: int
    tau: float  # Kendall's, NaN where it is not defined

    @property
    def holds(self) -> bool:
        return 0 < self.pairs == self.held


def compare_order(paper: Sequence[float], ours: Sequence[float]) -> Order:
    """Compare two rankings of the same rows; pairs that are equal in the paper do not count."""
    pairs = [
        (ours[i] - ours[j]) * (paper[i] - paper[j])
        for i, j in itertools.combinations(range(len(paper)), 2)
        if paper[i] != paper[j]
    ]
    tau = float(kendalltau(paper, ours).statistic) if len(paper) > 1 else math.nan
    return Order(len(paper), sum(pair > 0 for pair in pairs), len(pairs), tau)


def order_of(results: Sequence[Result], metric: str) -> Order:
    """The order of the rows that compete and have the paper's number and ours."""
    known = [
        (result.row.paper[metric], result.mean(metric))
        for result in results
        if not result.row.is_reference
        and metric in result.row.paper
        and not math.isnan(result.mean(metric))
    ]
    return compare_order([paper for paper, _ in known], [ours for _, ours in known])


def differences(results: Sequence[Result], metric: str) -> list[tuple[float, float] | None]:
    """The paper's and our difference of every row to its baseline.

    A difference is NaN where a number is unknown; a row without a baseline has None.
    """
    by_name = {result.row.name: result for result in results}
    found: list[tuple[float, float] | None] = []
    for result in results:
        base = by_name.get(result.row.baseline)
        if base is None or base is result:
            found.append(None)
            continue
        paper = result.row.paper.get(metric, math.nan) - base.row.paper.get(metric, math.nan)
        found.append((paper, result.mean(metric) - base.mean(metric)))
    return found


def device_of(run: Run) -> str:
    """The kind of device in the config that a run has written; "" where it has not."""
    written = run.folder / "config.yaml"
    if not written.is_file():
        return ""
    return yaml.safe_load(written.read_text())["MODEL"]["DEVICE"].partition(":")[0]


def cost_of(runs: Sequence[Run]) -> dict[str, float]:
    """The hours of GPUs and of CPU cores that runs took, e.g. {"CPU": 1.5}.

    A GPU that several trainings share counts once.
    """
    hours: dict[str, float] = {}
    for run in runs:
        device = device_of(run)
        if device:
            text = run.console.read_text() if run.console.is_file() else ""
            threads, gpus = read_resources(text)
            kind, count = ("CPU", threads) if device == "cpu" else ("GPU", gpus)
            hours[kind] = hours.get(kind, 0.0) + run.seconds * count / 3600
    return hours


def log_of(run: Run) -> Path:
    """The log of a run, or all that it has printed where it is not finished."""
    log = run.folder / "log.txt"
    return log if log.is_file() and run.is_finished else run.console
