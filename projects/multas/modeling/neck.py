"""The necks of Lê and Pham (ICCVW 2023): context module, strided convolutions, FPN or PAFPN.

Shapes: D channels of the neck, L levels. All levels are computed from one map, the output of the
context module, and not from several stages of the backbone.
"""

from functools import partial

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from multas.modeling.backbone import build_multas_resnet_backbone
from multas.modeling.layers import Norm, conv_block
from multas.util.errors import UserError


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ContextEnhancement(nn.Module):
    """Context enhancement module (ThunderNet; Qin et al., ICCV 2019, section 3.2).

    LeakyReLU of the sum of 1x1 convolutions of the finer stage, the coarser stage (upsampled) and
    its global average (broadcast).
    """

    def __init__(
        self, fine_channels: int, coarse_channels: int, channels: int, norm: Norm, slope: float
    ) -> None:
        super().__init__()
        self.fine = conv_block(fine_channels, channels, 1, norm=norm, leaky_slope=None)
        self.coarse = conv_block(coarse_channels, channels, 1, norm=norm, leaky_slope=None)
        self.pooled = conv_block(coarse_channels, channels, 1, norm=norm, leaky_slope=None)
        self.activation = nn.LeakyReLU(slope, inplace=True)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """(N, C1, H, W), (N, C2, H/2, W/2) -> (N, D, H, W)."""
        pooled = self.pooled(F.adaptive_avg_pool2d(coarse, 1))
        return self.activation(self.fine(fine) + _upsample(self.coarse(coarse)) + pooled)


class PyramidExtractor(nn.Module):
    """One 3x3 convolution block per level, on the level before; stride 2 except for the first."""

    def __init__(self, channels: int, num_levels: int, norm: Norm, slope: float) -> None:
        super().__init__()
        block = partial(conv_block, channels, channels, norm=norm, leaky_slope=slope)
        self.levels = nn.ModuleList(block(3, 2 if i else 1) for i in range(num_levels))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, D, H, W) -> L levels (N, D, H/2^i, W/2^i)."""
        pyramid = []
        for level in self.levels:
            x = level(x)
            pyramid.append(x)
        return pyramid


class TopDown(nn.Module):
    """FPN (Lin et al., CVPR 2017) with nearest upsampling and a norm in all convolution blocks."""

    def __init__(self, channels: int, num_levels: int, norm: Norm, slope: float) -> None:
        super().__init__()
        block = partial(conv_block, channels, channels, norm=norm, leaky_slope=slope)
        self.lateral = nn.ModuleList(block(1) for _ in range(num_levels))
        self.output = nn.ModuleList(block(3) for _ in range(num_levels))

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """L levels, finest first -> L levels of the same shapes."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, pyramid, strict=True)]
        for i in range(len(maps) - 2, -1, -1):
            maps[i] = maps[i] + _upsample(maps[i + 1])
        return [output(x) for output, x in zip(self.output, maps, strict=True)]


class BottomUp(nn.Module):
    """Bottom-up path of PANet (Liu et al., CVPR 2018): strided 3x3 blocks, then 3x3 outputs."""

    def __init__(self, channels: int, num_levels: int, norm: Norm, slope: float) -> None:
        super().__init__()
        block = partial(conv_block, channels, channels, norm=norm, leaky_slope=slope)
        self.down = nn.ModuleList(block(3, 2) for _ in range(num_levels - 1))
        self.output = nn.ModuleList(block(3) for _ in range(num_levels))

    def forward(self, pyramid: list[Tensor]) -> list[Tensor]:
        """L levels, finest first -> L levels of the same shapes."""
        maps = [pyramid[0]]
        for down, x in zip(self.down, pyramid[1:], strict=True):
            maps.append(x + down(maps[-1]))
        return [output(x) for output, x in zip(self.output, maps, strict=True)]


class ContextPyramid(Backbone):
    """A backbone with a neck on top; levels are called ``p<log2 of their stride>``.

    Args:
        bottom_up: the backbone below, any of Detectron2's.
        in_features: two of its outputs, the second with twice the stride of the first.
        channels: D.
        num_levels: L; 4 for 320 px and 5 from 512 px in the paper.
        norm, slope: norm and LeakyReLU slope of every block.
        bottom_up_path: whether a bottom-up path follows the FPN, which makes it a PAFPN.

    Raises:
        UserError: other ``in_features``.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        *,
        channels: int = 256,
        num_levels: int = 4,
        norm: Norm = "BN",
        slope: float = 0.1,
        bottom_up_path: bool = False,
    ) -> None:
        super().__init__()
        shapes = bottom_up.output_shape()
        known = [shapes[name] for name in in_features if name in shapes]
        if len(in_features) != 2 or len(known) != 2 or known[1].stride != 2 * known[0].stride:
            offered = {name: shape.stride for name, shape in shapes.items()}
            raise UserError(
                f"MODEL.NECK.IN_FEATURES is {list(in_features)}; name two outputs of the backbone, "
                "the second with twice the stride of the first. Outputs and strides: "
                f"{offered}; MODEL.RESNETS.OUT_FEATURES can name more."
            )
        fine, coarse = known
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.context = ContextEnhancement(fine.channels, coarse.channels, channels, norm, slope)
        self.extractor = PyramidExtractor(channels, num_levels, norm, slope)
        self.top_down = TopDown(channels, num_levels, norm, slope)
        self.up = BottomUp(channels, num_levels, norm, slope) if bottom_up_path else None
        strides = [fine.stride << i for i in range(num_levels)]
        self._out_features = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(self._out_features, channels)

    @property
    def size_divisibility(self) -> int:
        """The coarsest stride, so that upsampled levels fit the next finer level."""
        return self._out_feature_strides[self._out_features[-1]]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> {"p3": (N, D, H/8, W/8), …}, finest level first."""
        features = self.bottom_up(x)
        fine, coarse = (features[name] for name in self.in_features)
        pyramid = self.top_down(self.extractor(self.context(fine, coarse)))
        if self.up is not None:
            pyramid = self.up(pyramid)
        return dict(zip(self._out_features, pyramid, strict=True))


def context_pyramid_on(
    bottom_up: Backbone, cfg: CfgNode, *, bottom_up_path: bool = False
) -> ContextPyramid:
    """A :class:`ContextPyramid` as ``MODEL.NECK.*`` says, on a backbone."""
    neck = cfg.MODEL.NECK
    return ContextPyramid(
        bottom_up,
        neck.IN_FEATURES,
        channels=neck.OUT_CHANNELS,
        num_levels=neck.NUM_LEVELS,
        norm=neck.NORM,
        slope=neck.LEAKY_SLOPE,
        bottom_up_path=bottom_up_path,
    )


@BACKBONE_REGISTRY.register()
def build_context_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ContextPyramid:
    """ResNet, context module and FPN (the paper's students); reads ``MODEL.NECK.*``."""
    return context_pyramid_on(build_multas_resnet_backbone(cfg, input_shape), cfg)


@BACKBONE_REGISTRY.register()
def build_context_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ContextPyramid:
    """ResNet, context module and PAFPN (the paper's teachers); reads ``MODEL.NECK.*``."""
    bottom_up = build_multas_resnet_backbone(cfg, input_shape)
    return context_pyramid_on(bottom_up, cfg, bottom_up_path=True)
