"""What a user writes to add a path: this file, and config keys:

IMPORT_MODULES: [own_path]
MODEL.DISTILLATION.PATHS: [{TYPE: CosinePath, STUDENT: backbone, POWER: 2.0}]
"""

import torch

from multas.distillation import PATH_REGISTRY, Path
from multas.distillation.paths.base import flatten


@PATH_REGISTRY.register()
class CosinePath(Path):
    """1 - cosine of the mean activation per position, to a power."""

    default_name = "cosine"

    def __init__(self, layers, *, power: float = 1.0):
        super().__init__()
        self.power = power

    def forward(self, student, teacher, targets):
        terms = []
        for s, t in zip(flatten(student), flatten(teacher), strict=True):
            maps = [x.mean(dim=1).flatten(1) for x in (s, t)]
            terms.append((1 - torch.cosine_similarity(*maps)).pow(self.power).mean())
        return {"": torch.stack(terms).mean()}
