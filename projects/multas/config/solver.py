"""Config keys of optimisation."""

from detectron2.config import CfgNode as CN


def add_solver_config(cfg: CN) -> None:
    """Add the keys below, in place."""
    # Weight decay on biases is Detectron2's SOLVER.WEIGHT_DECAY_BIAS, on norms
    # SOLVER.WEIGHT_DECAY_NORM.
    cfg.SOLVER.EMA = CN()
    # Exponential moving average of the student's weights and BatchNorm statistics.
    cfg.SOLVER.EMA.ENABLED = False
    # decay(k) = DECAY (1 - exp(-k / RAMP)) at update k: short memory at first.
    cfg.SOLVER.EMA.DECAY = 0.9998
    cfg.SOLVER.EMA.RAMP = 2000.0
