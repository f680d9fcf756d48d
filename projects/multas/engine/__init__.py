"""Training."""

from multas.engine.setup import load_config, setup
from multas.engine.trainer import Trainer

__all__ = ["Trainer", "load_config", "setup"]
