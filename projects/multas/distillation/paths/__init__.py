"""Distillation paths; importing this registers them."""

from multas.distillation.paths import (  # noqa: F401  # noqa: F401
    cross_head,
    defeat,
    features,
    fkd,
    localization,
    logits,
    overhaul,
    pdf,
    soft_detection,
)
