"""Aggregators: how several path losses become one; importing this registers them."""

from multas.distillation.aggregation import (  # noqa: F401
    adaptive,
    bilevel,
    dwa,
    fading,
    fixed,
    grad_norm,
    imtl_l,
    mgda,
    uw_so,
)
