"""Time and precision of the min-norm solver, against TorchJD's and Frank-Wolfe."""

import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from certified import angle_residual, excess
from multas.distillation.gradients.min_norm import min_norm_weights
from tables import round_ratios, spread
from timing import attempt, take_turns

SIZES = (2, 3, 5, 8, 16, 32, 64)
PROBLEMS, DIMENSIONS = 20, 200
FRANK_WOLFE_STEPS, FRANK_WOLFE_GAP = 1000, 1e-9
BARS = "K ≤ 8: excess ≤ 1e-9, at most 0.5 ms"

Solver = Callable[[Tensor], Tensor]


def random_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Gradients of similar length."""
    return rng.normal(size=(count, DIMENSIONS))


def scaled_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Gradients with lengths from 1e-6 to 1e6, as of unbalanced losses."""
    return random_rows(rng, count) * 10.0 ** rng.permutation(np.linspace(-6, 6, count))[:, None]


def degenerate_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """Gradients of rank K/2, two of them equal; the optimum is often zero."""
    rank = max(count // 2, 1)
    rows = rng.normal(size=(count, rank)) @ rng.normal(size=(rank, DIMENSIONS))
    rows[-1] = rows[0]
    return rows


KINDS = {"random": random_rows, "badly scaled": scaled_rows, "degenerate": degenerate_rows}


def frank_wolfe(gram: Tensor) -> Tensor:
    """Frank-Wolfe with line search (Jaggi, ICML 2013)."""
    weights = torch.zeros(len(gram), dtype=gram.dtype)
    weights[gram.diagonal().argmin()] = 1.0
    for _ in range(FRANK_WOLFE_STEPS):
        product = gram @ weights
        value, vertex = weights @ product, int(product.argmin())
        gap = value - product[vertex]
        if gap <= FRANK_WOLFE_GAP * value:
            break
        length = gap / (value - 2 * product[vertex] + gram[vertex, vertex])
        step = min(float(length), 1.0)
        weights *= 1 - step
        weights[vertex] += step
    return weights


def _torchjd() -> Solver:
    from torchjd.aggregation import MGDAWeighting

    return MGDAWeighting()


def solvers() -> tuple[dict[str, Solver], dict[str, str]]:
    """The solvers that work here, ours first, and the error messages of the others."""
    works, missing = attempt({"torchjd": lambda: _on_identity(_torchjd())})
    found: dict[str, Solver] = {"ours": min_norm_weights}
    found |= {name: _torchjd() for name in works}
    return found | {"Frank-Wolfe": frank_wolfe}, missing


def _on_identity(solver: Solver) -> Callable[[], Tensor]:
    return lambda: solver(torch.eye(2, dtype=torch.float64))


def compare(kind: str, count: int, found: dict[str, Solver], rounds: int) -> list[list[str]]:
    """A row per solver: milliseconds, ratio, excess and residual."""
    rng = np.random.default_rng(count)
    problems = [KINDS[kind](rng, count) for _ in range(PROBLEMS)]
    grams = [torch.from_numpy(rows @ rows.T) for rows in problems]

    def all_problems(solver: Solver) -> Callable[[], None]:
        def call() -> None:
            for gram in grams:
                solver(gram)

        return call

    seconds = take_turns({name: all_problems(s) for name, s in found.items()}, rounds)
    points = {name: [solver(g).numpy() for g in grams] for name, solver in found.items()}
    together = zip(problems, zip(*points.values(), strict=True), strict=True)
    above = [excess(rows, weights) for rows, weights in together]
    table = []
    for (name, times), excesses in zip(seconds.items(), zip(*above, strict=True), strict=True):
        residuals = [angle_residual(*pair) for pair in zip(problems, points[name], strict=True)]
        row = [kind, str(count), name, spread((1e3 * t / PROBLEMS for t in times), 3)]
        row.append(spread(round_ratios(times, seconds["ours"])))
        row += [_worst(excesses), _worst(residuals)]
        table.append(row)
    return table


def _worst(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0e} / {max(values):.0e}"


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    found, missing = solvers()
    rows = [row for k in KINDS for n in SIZES for row in compare(k, n, found, rounds)]
    header = ["Gram matrix", "K", "solver", "ms: min / median / max", "ratio: min / median / max"]
    header += ["excess: median / max", "KKT residual: median / max"]
    table = tabulate(rows, header, tablefmt="github", disable_numparse=True)
    absent = "".join(f" {name} is missing: {reason}." for name, reason in missing.items())
    return (
        f"## Min-norm solver: {PROBLEMS} problems each, {rounds} rounds\n\nBars: {BARS}."
        f"{absent}\n\n{table}"
    )
