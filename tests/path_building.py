"""A path as an entry of a config makes it, without a network."""

from torch import nn

from multas.distillation.paths import build
from multas.distillation.paths.base import TappedLayers
from multas.distillation.paths.spec import parse_paths
from multas.distillation.taps import leaves


def build_path(kind, student, teacher, teacher_model=None, **options):
    """A path from an entry of MODEL.DISTILLATION.PATHS and what its layers returned."""
    (spec,) = parse_paths([{"TYPE": kind, "STUDENT": "layer"} | options])
    shapes = ([[tuple(x.shape) for x in leaves(y)] for y in side] for side in (student, teacher))
    return build.build_path(spec, TappedLayers(*shapes, teacher_model or nn.Module()))
