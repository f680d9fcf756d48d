"""A path as an entry of a config makes it, without a network."""

from torch import nn

from multas.distillation.paths.spec import parse_paths
from multas.distillation.taps import leaves


def build_path(kind, student, teacher, teacher_model=None, **options):
    """A path from an entry of MODEL.DISTILLATION.PATHS and what its layers returned."""
    (spec,) = parse_paths(
        [{"TYPE": kind, "STUDENT": [f"s{i}" for i in range(len(student))]} | options]
    )

    def shapes(values):
        return [[tuple(leaf.shape) for leaf in leaves(value)] for value in values]

    return spec.build(shapes(student), shapes(teacher), teacher_model or nn.Module())
