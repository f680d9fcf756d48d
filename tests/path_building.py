"""A path as an entry of a config makes it, without a network."""

from torch import nn

from multas.distillation.paths import build
from multas.distillation.paths.spec import parse_paths


def build_path(kind, student, teacher, teacher_model=None, **options):
    """A path from an entry of MODEL.DISTILLATION.PATHS and what its layers returned."""
    names = [f"layer{i}" for i in range(max(len(student), len(teacher)))]
    layers = {"STUDENT": names[: len(student)], "TEACHER": names[: len(teacher)]}
    (spec,) = parse_paths([{"TYPE": kind, **layers} | options])
    records = [dict(zip(names, values, strict=False)) for values in (student, teacher)]
    probe = build.Probe(None, records[0], [records[1]])
    return build.build_path(spec, probe, teacher_model or nn.Module())
