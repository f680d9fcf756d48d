"""Distillation paths; importing this registers them."""

from multas.distillation.paths.attention import AttentionTransfer
from multas.distillation.paths.base import PATH_REGISTRY, Path, Targets
from multas.distillation.paths.defeat import DeFeat
from multas.distillation.paths.feature_mse import FeatureMSE
from multas.distillation.paths.features import FeatureMap, NeuronSelectivity, SoftmaxRegression
from multas.distillation.paths.fkd import FKD
from multas.distillation.paths.layers import LayerPath
from multas.distillation.paths.localization import LocalizationDistillation
from multas.distillation.paths.logits import L2Logits, SoftTarget
from multas.distillation.paths.overhaul import Overhaul
from multas.distillation.paths.pdf import PDFDistil
from multas.distillation.paths.soft_detection import SoftDetection

__all__ = [
    "FKD",
    "PATH_REGISTRY",
    "AttentionTransfer",
    "DeFeat",
    "FeatureMSE",
    "FeatureMap",
    "L2Logits",
    "LayerPath",
    "LocalizationDistillation",
    "NeuronSelectivity",
    "Overhaul",
    "PDFDistil",
    "Path",
    "SoftDetection",
    "SoftTarget",
    "SoftmaxRegression",
    "Targets",
]
