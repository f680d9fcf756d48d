"""Exported networks: files for other runtimes, and what runs them.

What is imported here needs neither torch nor Detectron2.
"""

from multas.deploy.detector import Description, Detector, Found

__all__ = ["Description", "Detector", "Found"]
