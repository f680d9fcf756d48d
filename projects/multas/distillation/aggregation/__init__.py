"""Aggregators: how several path losses become one; importing this registers them."""

from multas.distillation.aggregation import adaptive, bilevel, dwa, fixed, grad_norm, mgda  # noqa: F401
