"""Learning rates: the reference's curve, polynomial decay, Detectron2's own untouched."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_lr_scheduler as detectron2_lr_scheduler

from multas.config import add_multas_config
from multas.engine.lr_schedule import build_lr_scheduler


def config(**solver):
    cfg = get_cfg()
    add_multas_config(cfg)
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def curve(cfg, build=build_lr_scheduler) -> np.ndarray:
    """The rate of iterations 0 … MAX_ITER."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    scheduler = build(cfg, optimizer)
    rates = []
    for _ in range(cfg.SOLVER.MAX_ITER):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array([*rates, optimizer.param_groups[0]["lr"]])


@pytest.mark.parametrize("name", ["lr_curve_a", "lr_curve_b"])
def test_cosine_is_the_references(repository, name):
    case = np.load(repository / "tests" / "golden" / "multas" / f"{name}.npz")
    cfg = config(
        LR_SCHEDULER_NAME="WarmupCosineToFloorLR",
        BASE_LR=float(case["in_base_lr"]),
        WARMUP_ITERS=int(case["in_warm_iter"]),
        WARMUP_FACTOR=0.1,
        FINAL_LR_FACTOR=0.1,
        MAX_ITER=int(case["in_max_iter"]),
    )
    np.testing.assert_allclose(curve(cfg)[case["in_iteration"]], case["out_lr"], rtol=1e-9)


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_polynomial_decay_ends_at_its_floor(floor):
    cfg = config(
        LR_SCHEDULER_NAME="WarmupPolyLR", BASE_LR=0.02, MAX_ITER=50, WARMUP_ITERS=0,
        POLY_LR_POWER=0.9, FINAL_LR_FACTOR=floor,
    )  # fmt: skip
    i = np.arange(51)
    expected = 0.02 * (floor + (1 - floor) * (1 - i / 50) ** 0.9)
    np.testing.assert_allclose(curve(cfg), expected, rtol=1e-9)


def test_warmup_of_the_polynomial_meets_its_curve():
    cfg = config(
        LR_SCHEDULER_NAME="WarmupPolyLR", BASE_LR=1.0, MAX_ITER=100, WARMUP_ITERS=20,
        WARMUP_FACTOR=0.1, FINAL_LR_FACTOR=0.0,
    )  # fmt: skip
    rates = curve(cfg)
    assert rates[0] == pytest.approx(0.1)
    np.testing.assert_allclose(rates[20:], (1 - np.arange(20, 101) / 100) ** 0.9)
    assert (np.diff(rates[:20]) > 0).all()


@pytest.mark.parametrize("name", ["WarmupCosineToFloorLR", "WarmupPolyLR"])
@pytest.mark.parametrize("warmup", [0, 10, 30])
def test_any_warmup_gives_finite_rates_in_range(name, warmup):
    cfg = config(LR_SCHEDULER_NAME=name, BASE_LR=1.0, MAX_ITER=10, WARMUP_ITERS=warmup)
    rates = curve(cfg)
    assert np.isfinite(rates).all()
    assert rates.min() >= 0
    assert rates.max() <= 1


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_detectron2s_own_schedules_stay_detectron2s(name):
    cfg = config(LR_SCHEDULER_NAME=name, MAX_ITER=40, STEPS=(20, 30), WARMUP_ITERS=5)
    assert (curve(cfg) == curve(cfg, detectron2_lr_scheduler)).all()


def test_an_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="Unknown"):
        curve(config(LR_SCHEDULER_NAME="Nothing"))
