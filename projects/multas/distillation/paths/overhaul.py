"""Overhaul of feature distillation (OFD; Heo et al., ICCV 2019) as a path."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from multas.distillation.functional.overhaul import (
    margin_relu,
    ofd_layer_weights,
    ofd_loss,
    ofd_margin,
)
from multas.distillation.paths.base import (
    PATH_REGISTRY,
    Outputs,
    TappedLayers,
    Targets,
    flatten_shapes,
)
from multas.distillation.paths.layers import LayerPath
from multas.util.errors import UserError
from multas.util.names import did_you_mean

logger = logging.getLogger(__name__)


@PATH_REGISTRY.register()
class Overhaul(LayerPath):
    """Partial squared distance to the teacher's features before the ReLU, cut at their margins.

    Tap both networks before the ReLU, e.g. the last convolution in the last block of each stage:
    Detectron2's ``Conv2d`` includes its norm, so ``res3.1.conv2`` is the output of a BatchNorm.

    Args:
        resize, adapter: see :class:`LayerPath`. The paper adapts every layer, even between
            equal widths.
        norms: for each map the dotted name of the teacher's BatchNorm (or of the convolution with
            this ``norm``) that it comes from.
        layer_weights: one per map; empty: 1/2^(L-1), ..., 1/2, 1 from first to last.
        divisor: divides the sum of squares of one image; 1000 in the authors' code.
    """

    default_name = "ofd"

    def __init__(
        self,
        layers: TappedLayers,
        *,
        norms: Sequence[str],
        layer_weights: Sequence[float] = (),
        divisor: float = 1000.0,
        resize: str = "student",
        adapter: str = "conv_bn_always",
    ) -> None:
        super().__init__(layers, resize=resize, adapter=adapter)
        count = len(self.adapters)
        self.layer_weights = list(layer_weights) or ofd_layer_weights(count)
        for key, given in (("NORMS", norms), ("LAYER_WEIGHTS", self.layer_weights)):
            if len(given) != count:
                raise UserError(f"{key} has {len(given)} entries for {count} feature maps.")
        self.divisor = divisor
        # In a tuple, so that the teacher's layers do not become submodules of this path.
        self._norms = tuple(_norm(layers.teacher_model, name) for name in norms)
        shapes = flatten_shapes(layers.teacher)
        for name, norm, (_, width, *_) in zip(norms, self._norms, shapes, strict=True):
            if len(norm.weight) != width:
                raise UserError(
                    f"NORMS: '{name}' has {len(norm.weight)} channels, but its map has {width}."
                )

    def margins(self) -> list[Tensor]:
        """One (C,) per map, computed in each step because a mean teacher changes."""
        return [ofd_margin(norm.weight, norm.bias).float() for norm in self._norms]

    def forward(self, student: Outputs, teacher: Outputs, targets: Targets) -> dict[str, Tensor]:
        maps = zip(self.pairs(student, teacher), self.margins(), self.layer_weights, strict=True)
        return {
            str(i): ofd_loss(s, margin_relu(t, margin), divisor=self.divisor, weight=weight)
            for i, ((s, t), margin, weight) in enumerate(maps)
        }


def _norm(teacher: nn.Module, name: str) -> Any:
    """The teacher's BatchNorm with this name, or the norm of the convolution with this name."""
    modules = dict(teacher.named_modules())
    if name not in modules:
        raise UserError(f"NORMS: the teacher has no layer '{name}'.{did_you_mean(name, modules)}")
    norm: Any = getattr(modules[name], "norm", modules[name])
    if getattr(norm, "weight", None) is None or getattr(norm, "running_mean", None) is None:
        raise UserError(
            f"NORMS: '{name}' of the teacher is {type(norm).__name__}, no BatchNorm with scale and "
            "shift; margins can be computed only for the output of a BatchNorm."
        )
    if norm.running_mean.eq(0).all():
        logger.warning(
            "The running means of the teacher's '%s' are exactly 0: either its statistics were "
            "folded into scale and shift (Caffe2 checkpoints), or it was never trained. OFD's "
            "margins are wrong then; use a teacher with its own BatchNorm statistics.",
            name,
        )
    return norm
