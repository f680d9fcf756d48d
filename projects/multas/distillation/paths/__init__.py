"""Distillation paths; importing this registers them."""

from multas.distillation.paths.base import PATH_REGISTRY, Path, Targets
from multas.distillation.paths.feature_mse import FeatureMSE
from multas.distillation.paths.layers import LayerPath
from multas.distillation.paths.soft_detection import SoftDetection

__all__ = ["PATH_REGISTRY", "FeatureMSE", "LayerPath", "Path", "SoftDetection", "Targets"]
