"""Runs compared on one page; every part of it stands alone."""

from multas.engine.comparison.page import write_report

__all__ = ["write_report"]
