"""Training."""

from multas.engine.path_weights import PathWeights
from multas.engine.setup import load_config, setup
from multas.engine.trainer import Trainer

__all__ = ["PathWeights", "Trainer", "load_config", "setup"]
