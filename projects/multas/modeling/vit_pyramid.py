"""A pyramid on the one map of a plain vision transformer (Li et al., ECCV 2022, section 3)."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from multas.modeling.backbone import ExtraLevels, extra_levels
from multas.modeling.layers import Norm, norm_factory
from multas.modeling.timm_backbone import TimmBackbone
from multas.modeling.timm_models import KEY
from multas.util.errors import UserError


class SimplePyramid(Backbone):
    """ViTDet's simple feature pyramid: every level is computed from the last map alone.

    A finer level is made by strided deconvolutions, a coarser one by max-pooling; a 1x1 and a 3x3
    convolution follow, each with a norm.

    Args:
        bottom_up: gives one map.
        strides: those of the levels, powers of two; a level is called ``p<log2 of its stride>``.
        channels: D, of each level.
        norm: the norm of all layers ("LN" in the paper; "" = none).
        extra: further levels, computed from the coarsest one.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        strides: Sequence[int],
        channels: int,
        norm: Norm = "",
        extra: ExtraLevels | None = None,
    ) -> None:
        super().__init__()
        self.bottom_up, self.extra = bottom_up, extra
        ((self.in_feature, shape),) = bottom_up.output_shape().items()
        names = [f"p{stride.bit_length() - 1}" for stride in strides]
        self.levels = nn.ModuleDict()
        for name, stride in zip(names, strides, strict=True):
            resampling, width = _resampling(shape, stride, norm)
            options = {"norm": get_norm(norm, channels), "bias": not norm}
            more = {"norm": get_norm(norm, channels), "bias": not norm, "padding": 1}
            convs = [Conv2d(width, channels, 1, **options), Conv2d(channels, channels, 3, **more)]
            self.levels[name] = nn.Sequential(*resampling, *convs)
        beyond = extra.names if extra else []
        strides = [*strides, *(strides[-1] << (i + 1) for i in range(len(beyond)))]
        self._out_features = [*names, *beyond]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)
        self._divisor = max(shape.stride, self._out_feature_strides[names[-1]])

    @property
    def size_divisibility(self) -> int:
        """Whole patches, and whole windows of the pooling."""
        return self._divisor

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> {"p3": (N, D, H/8, W/8), …}, finest first."""
        features = self.bottom_up(x)[self.in_feature]
        maps = [level(features) for level in self.levels.values()]
        if self.extra is not None:
            maps += self.extra(maps[-1])
        return dict(zip(self._out_features, maps, strict=True))


def _resampling(shape: ShapeSpec, stride: int, norm: Norm) -> tuple[list[nn.Module], int]:
    """Layers from the map of a backbone to a stride, and the number of channels that they give."""
    width, layers = shape.channels, list[nn.Module]()
    if stride > shape.stride:
        factor = stride // shape.stride
        return [nn.MaxPool2d(factor, factor)], width
    for _ in range((shape.stride // stride).bit_length() - 1):
        if layers:
            layers += [m for m in (get_norm(norm, width), nn.GELU()) if m is not None]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, 2))
        width //= 2
    return layers, width


@BACKBONE_REGISTRY.register()
def build_timm_vit_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimplePyramid:
    """A plain ViT of timm and a simple pyramid; reads ``MODEL.TIMM.*`` and ``MODEL.FPN.*``.

    The levels have the strides of ``MODEL.FPN.IN_FEATURES``: res2 4, res3 8 …, and
    ``MODEL.FPN.NUM_EXTRA_LEVELS`` coarser ones follow, so that the keys of an FPN serve both.

    Raises:
        UserError: The model is no plain ViT, or a level has no such name.
    """
    bottom_up = TimmBackbone.from_config(cfg, input_shape)
    shapes = bottom_up.output_shape()
    if len(shapes) > 1:
        raise UserError(
            f"{KEY}.NAME is '{cfg.MODEL.TIMM.NAME}', which has maps of the strides "
            f"{[shape.stride for shape in shapes.values()]}; the pyramid is for a plain ViT, which "
            "has one. Set MODEL.BACKBONE.NAME to build_timm_fpn_backbone."
        )
    strides = {f"res{i}": 1 << i for i in range(2, 7)}
    fpn = cfg.MODEL.FPN
    wanted = list(fpn.IN_FEATURES)
    if not wanted or wanted != [name for name in strides if name in wanted]:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is {wanted}; name the levels of the pyramid, finest first, as "
            f"the stages of a ResNet: some of {list(strides)}."
        )
    chosen = [strides[name] for name in wanted]
    extra = extra_levels(cfg, wanted[-1], fpn.OUT_CHANNELS, chosen[-1])
    return SimplePyramid(bottom_up, chosen, fpn.OUT_CHANNELS, norm_factory(fpn.NORM), extra)
