"""Paths between logits: soft target (ST) and l2-logits."""

from functools import partial

from multas.distillation.functional.logits import L2_REDUCTIONS, l2_logits, soft_target
from multas.distillation.paths.base import PATH_REGISTRY, TappedLayers
from multas.distillation.paths.layers import LayerPath
from multas.util.errors import UserError
from multas.util.names import check_choice


class LogitPath(LayerPath):
    """A path between logits (N, C), or (N, C, H, W) of a segmentation; there are no adapters."""

    width_cure = "Both networks need the same classes."
    tensors = ("logits (N, C) or (N, C, H, W)", (2, 4), "Tap logits.")

    def __init__(self, layers: TappedLayers, *, resize: str = "student") -> None:
        super().__init__(layers, resize=resize, adapter="none")


@PATH_REGISTRY.register()
class SoftTarget(LogitPath):
    """KL divergence of softened class probabilities (Hinton et al., arXiv 2015).

    Args:
        resize: see :class:`LayerPath`.
        temperature, scale_by_t2: see :func:`multas.distillation.functional.logits.soft_target`.
    """

    default_name = "st"
    default_weight = 0.1

    def __init__(
        self,
        layers: TappedLayers,
        *,
        resize: str = "student",
        temperature: float = 4.0,
        scale_by_t2: bool = True,
    ) -> None:
        super().__init__(layers, resize=resize)
        if temperature <= 0:
            raise UserError(f"TEMPERATURE is {temperature}; it must be positive.")
        self.layer_loss = partial(soft_target, temperature=temperature, scale_by_t2=scale_by_t2)


@PATH_REGISTRY.register()
class L2Logits(LogitPath):
    """Squared difference of raw logits (Ba and Caruana, NeurIPS 2014).

    Args:
        resize: see :class:`LayerPath`.
        reduction: see :func:`multas.distillation.functional.logits.l2_logits`. The default weight
            0.1 belongs to "mean".
    """

    default_name = "l2"
    default_weight = 0.1

    def __init__(
        self, layers: TappedLayers, *, resize: str = "student", reduction: str = "mean"
    ) -> None:
        super().__init__(layers, resize=resize)
        check_choice("REDUCTION", reduction, L2_REDUCTIONS)
        self.layer_loss = partial(l2_logits, reduction=reduction)
