"""Aggregators: how several path losses become one; importing this registers them."""

from multas.distillation.aggregation import (  # noqa: F401
    adaptive,
    bilevel,
    dto,
    dwa,
    fading,
    fixed,
    grad_norm,
    gradient_ratio,
    gradient_similarity,
    imtl_l,
    mgda,
    uw_so,
)
