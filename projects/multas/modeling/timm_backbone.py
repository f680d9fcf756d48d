"""Backbones from timm, alone or below an FPN or a PAFPN.

Their submodules and parameters have the names that timm gives them, below ``body``: a path taps
``backbone.bottom_up.body.blocks.4`` where ``timm.create_model(NAME)`` has ``blocks.4``.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from multas.modeling.backbone import fpn_on
from multas.modeling.neck import ContextPyramid, context_pyramid_on
from multas.modeling.timm_models import (
    KEY,
    create_timm_model,
    import_timm,
    is_plain,
    levels_of,
    scale_of,
)
from multas.util.errors import UserError

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """Some of the feature maps of a model of timm, ``res<log2 of their stride>``.

    What is behind the last one of them is removed from the model. The map of a plain ViT, whose
    layers all have one stride, has passed through the model's last norm. Where patches are of 14
    px, images are resized by 14/16, so that the stride is 16.

    Args:
        model: as :func:`create_timm_model` makes it.
        out_features: the names of the maps; None: all.
        freeze_at: everything up to the map of the stride 2^freeze_at stays as it is, with the
            statistics of its BatchNorms; 0: nothing.

    Raises:
        UserError: The model has no map of such a stride.
    """

    def __init__(
        self, model: Any, out_features: Sequence[str] | None = None, freeze_at: int = 0
    ) -> None:
        super().__init__()
        levels = levels_of(model)
        out_features = list(levels) if out_features is None else out_features
        unknown = [name for name in out_features if name not in levels]
        if unknown or not out_features:
            strides = ", ".join(f"{name} ({level.stride})" for name, level in levels.items())
            cure = (
                "a plain ViT has one; set MODEL.BACKBONE.NAME to build_timm_vit_pyramid_backbone."
                if is_plain(model)
                else "name these in MODEL.FPN.IN_FEATURES (of an FPN), MODEL.NECK.IN_FEATURES (of "
                f"a context FPN) or {KEY}.OUT_FEATURES."
            )
            raise UserError(
                f"The model of {KEY}.NAME has no map {', '.join(unknown) or 'that is asked for'}. "
                f"It has, with their strides, {strides}: {cure}"
            )
        chosen = {n: level for n, level in levels.items() if n in out_features}  # finest first
        self.body: Any = model
        self.scale, self.norm = scale_of(model), is_plain(model)
        frozen = [level for level in levels.values() if level.stride <= 1 << freeze_at]
        if freeze_at and frozen:
            _freeze(model, "" if len(frozen) == len(levels) else frozen[-1].module)
        indices = [level.number for level in chosen.values()]
        self.indices = model.prune_intermediate_layers(indices, prune_norm=not self.norm)
        self._out_features = list(chosen)
        self._out_feature_strides = {name: level.stride for name, level in chosen.items()}
        self._out_feature_channels = {name: level.channels for name, level in chosen.items()}

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str] | None = None
    ) -> "TimmBackbone":
        """Build the model of ``MODEL.TIMM.*`` with ``MODEL.BACKBONE.FREEZE_AT``."""
        model = create_timm_model(cfg, input_shape.channels)
        if cfg.MODEL.BACKBONE.FREEZE_AT and not (cfg.MODEL.TIMM.PRETRAINED or cfg.MODEL.WEIGHTS):
            logger.warning(
                f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}, but there are no "
                f"weights: layers stay random. Set it to 0, or {KEY}.PRETRAINED."
            )
        if cfg.MODEL.TIMM.NORM:
            import_timm()
            from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

            own = {"FrozenBN": freeze_batch_norm_2d, "SyncBN": convert_sync_batchnorm}
            model = own[cfg.MODEL.TIMM.NORM](model)
        return cls(model, out_features, cfg.MODEL.BACKBONE.FREEZE_AT)

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride: a ViT takes whole patches alone."""
        return max(self._out_feature_strides.values())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> {"res3": (N, D3, H/8, W/8), …}, finest first."""
        if self.scale != 1:
            size = [round(side * self.scale) for side in x.shape[-2:]]
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        maps = self.body.forward_intermediates(
            x, indices=self.indices, norm=self.norm, output_fmt="NCHW", intermediates_only=True
        )
        return dict(zip(self._out_features, maps, strict=True))


def _freeze(model: nn.Module, last: str) -> None:
    """Freeze what stands before a submodule, and it; with the name "" all."""
    from timm.utils.model import freeze

    freeze(model, list(_up_to(model, last)) if last else [])
    if not last:
        model.requires_grad_(False)  # and what stands in no submodule, such as position embeddings


def _up_to(model: nn.Module, last: str) -> Iterator[str]:
    """The submodules up to one, without those that hold it."""
    for name, _ in model.named_modules():
        if name and not last.startswith(f"{name}."):
            yield name
        if name == last:
            return


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The maps ``MODEL.TIMM.OUT_FEATURES`` of a model of timm, with nothing on top."""
    return TimmBackbone.from_config(cfg, input_shape, cfg.MODEL.TIMM.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on a model of timm; reads ``MODEL.TIMM.*`` and ``MODEL.FPN.*``.

    Levels are those of :func:`build_multas_fpn_backbone`.
    """
    return fpn_on(TimmBackbone.from_config(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES), cfg)


@BACKBONE_REGISTRY.register()
def build_timm_context_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ContextPyramid:
    """A model of timm, context module and FPN; reads ``MODEL.TIMM.*`` and ``MODEL.NECK.*``."""
    return context_pyramid_on(
        TimmBackbone.from_config(cfg, input_shape, cfg.MODEL.NECK.IN_FEATURES), cfg
    )


@BACKBONE_REGISTRY.register()
def build_timm_context_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ContextPyramid:
    """A model of timm, context module and PAFPN; reads ``MODEL.TIMM.*`` and ``MODEL.NECK.*``."""
    return context_pyramid_on(
        TimmBackbone.from_config(cfg, input_shape, cfg.MODEL.NECK.IN_FEATURES),
        cfg,
        bottom_up_path=True,
    )
