"""How sure the results of a table are: intervals over seeds and test images, in pairs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import kendalltau

from multas.evaluation.build import COCO_DETECTIONS
from multas.evaluation.resampling import (
    SAMPLES,
    bounds,
    image_counts,
    read_evaluation,
    resampled_ap,
    resampled_means,
    share_above,
)
from multas.util.files import write_text
from reproduction.results import Result
from reproduction.run import Run
from reproduction.tables import METRICS

UNDECIDED = "not decided"
MIN_SEEDS = 3  # with fewer, the spread between seeds is not known
# The thresholds of IoU of each metric that COCO's files tell for resampled images; None: all ten.
BY_IMAGE = "bbox/AP"
_OF_COCO = {BY_IMAGE: None, "bbox/AP50": (0.5,), "bbox/AP75": (0.75,)}
_CACHE = "resampled.json"


@dataclass(frozen=True)
class Difference:
    """The mean difference of a row to its baseline, positive where the row is better.

    Attributes:
        low, high: the 95 % interval.
        probability: that the row is better, by the same resampling.
        seeds: the number of seeds that both have.
    """

    mean: float
    low: float
    high: float
    probability: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What the interval says: an order only where it leaves no other."""
        return _verdict(self.low, self.high, self.seeds, ("better", "worse"))


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau between the paper's order of rows and ours, with its 95 % interval."""

    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What the interval says of the paper's order."""
        return _verdict(self.low, self.high, self.seeds, ("the paper's", "another"))


def _verdict(low: float, high: float, seeds: int, words: tuple[str, str]) -> str:
    """The first word for an interval above 0, the second for one below."""
    if seeds < MIN_SEEDS or low <= 0 <= high:
        return UNDECIDED
    return words[low < 0]


def difference(result: Result, base: Result, metric: str) -> Difference | None:
    """Compare a row with its baseline over the seeds that both have; None without one."""
    seeds = _common([result, base], metric)
    if not seeds:
        return None
    sign = -1 if METRICS[metric].lower_is_better else 1
    ours, theirs = (samples_of(x, metric, seeds) for x in (result, base))
    means = resampled_means(sign * (ours - theirs))
    exact = [_values(result, metric)[s] - _values(base, metric)[s] for s in seeds]
    return Difference(sign * float(np.mean(exact)), *bounds(means), share_above(means), len(seeds))


def agreement(results: Sequence[Result], metric: str) -> Agreement | None:
    """How the order of the rows that compete agrees with the paper's; None for fewer than two."""
    known = [
        result
        for result in results
        if not result.row.is_reference and metric in result.row.paper and _values(result, metric)
    ]
    seeds = _common(known, metric)
    if len(known) < 2 or not seeds:
        return None
    means = resampled_means(np.stack([samples_of(result, metric, seeds) for result in known]))
    paper = [result.row.paper[metric] for result in known]
    taus = np.array([kendalltau(paper, column).statistic for column in means.T])
    if np.isnan(taus).all():
        return None
    return Agreement(*bounds(taus), len(seeds))


def samples_of(result: Result, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """(S, B): the figures of these seeds on resampled test images.

    Where an evaluation does not tell them by image, they are the same in all B: the interval is
    then over seeds alone.
    """
    runs = {run.seed: run for run in result.runs}
    values = _values(result, metric)
    return np.stack([_samples(runs[seed], METRICS[metric].key, values[seed]) for seed in seeds])


def is_by_image(result: Result, metric: str) -> bool:
    """Whether the figures of a row are known on resampled test images."""
    key, seeds = METRICS[metric].key, _values(result, metric)
    return all(resampled_of(run, key) is not None for run in result.runs if run.seed in seeds)


def resampled_of(run: Run, key: str) -> list[float] | None:
    """A figure of a run on resampled test images; None where its evaluation tells none by image."""
    if (result := run.result) is not None:
        return result["resampled"].get(key)
    source = _evaluated(run) if key in _OF_COCO else None
    if source is None:
        return None
    cache = run.folder / _CACHE
    known = json.loads(cache.read_text()) if cache.is_file() else {}
    if key not in known or cache.stat().st_mtime_ns < source.stat().st_mtime_ns:
        known = {**known, key: _resampled(run, source, key)}
        write_text(cache, json.dumps(known) + "\n")
    return known[key]


def _common(results: Iterable[Result], metric: str) -> list[int]:
    known = [_values(result, metric).keys() for result in results]
    return sorted(set.intersection(*map(set, known))) if known else []


def _values(result: Result, metric: str) -> dict[int, float]:
    """The figure of each seed that has one."""
    key = METRICS[metric].key
    pairs = zip(result.runs, result.metrics, strict=True)
    return {run.seed: metrics[key] for run, metrics in pairs if key in metrics}


def _samples(run: Run, key: str, value: float) -> np.ndarray:
    known = resampled_of(run, key)
    return np.full(SAMPLES, value) if known is None else np.array(known)


def _resampled(run: Run, source: Path, key: str) -> list[float]:
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    detections = max(config["TEST"]["DETECTIONS_PER_IMAGE"], COCO_DETECTIONS)
    folder = source.parent
    evaluation = read_evaluation(folder, folder.name, detections, _OF_COCO[key])
    counts = image_counts(len(evaluation.params.imgIds))
    return resampled_ap(evaluation, counts).round(3).tolist()


def _evaluated(run: Run) -> Path | None:
    """What a run's evaluation by COCO has found on its one test set; None: no such file."""
    found = sorted((run.folder / "inference").glob("*/coco_instances_results.json"))
    return found[0] if len(found) == 1 else None
