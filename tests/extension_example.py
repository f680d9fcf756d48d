"""What a user writes to add a path and an aggregator of their own: this file, and config keys:

IMPORT_MODULES: [extension_example]
MODEL.DISTILLATION.PATHS: [{TYPE: CosinePath, STUDENT: backbone, POWER: 2.0}]
MODEL.DISTILLATION.AGGREGATION.NAME: relative
"""

import torch

from multas.distillation import AGGREGATOR_REGISTRY, PATH_REGISTRY, Aggregator, Path
from multas.distillation.paths.base import flatten


@PATH_REGISTRY.register()
class CosinePath(Path):
    """1 - cosine of the mean activation per position, to a power."""

    default_name = "cosine"

    def __init__(self, *, student_shapes, teacher_shapes, power: float = 1.0):
        super().__init__()
        self.power = power

    def forward(self, student, teacher, targets):
        terms = []
        for s, t in zip(flatten(student), flatten(teacher), strict=True):
            maps = [x.mean(dim=1).flatten(1) for x in (s, t)]
            terms.append((1 - torch.cosine_similarity(*maps)).pow(self.power).mean())
        return {"": torch.stack(terms).mean()}


@AGGREGATOR_REGISTRY.register()
class Relative(Aggregator):
    """Every path counts in proportion to its loss in the first step."""

    def __init__(self, *, names, hand_tuned):
        super().__init__(names=names, hand_tuned=hand_tuned)
        self.register_buffer("first", torch.zeros(len(names)))

    def weights(self):
        return 1 / self.first.clamp(min=1e-6)

    def forward(self, losses):
        self.first.copy_(torch.where(self.first == 0, losses.detach(), self.first))
        return self.weights() * losses, {}
