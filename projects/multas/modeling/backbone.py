"""ResNets of any width, with a stem for large or small images, alone and with an FPN.

Blocks, module names and hence weights are those of Detectron2's ResNet and FPN.
"""

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

from multas.modeling.layers import Norm, norm_factory

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Stem(CNNBlockBase):
    """A convolution, norm, ReLU and, if asked for, the 3x3 stride-2 max-pooling.

    Without the pooling all stages have half their usual stride (ScratchDet, CVPR 2019, as paper A
    uses it: the root stays the pretrained 7x7 convolution). A 3x3 stride-1 convolution without
    pooling is the stem for images of 32 px (ResNets on CIFAR, paper B).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm = "BN",
        max_pool: bool = True,
        kernel_size: int = 7,
        stride: int = 2,
    ) -> None:
        super().__init__(in_channels, out_channels, 2 * stride if max_pool else stride)
        self.max_pool = max_pool
        self.conv1 = Conv2d(
            in_channels,
            out_channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
            norm=get_norm(norm, out_channels),
        )
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""
        x = F.relu_(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.max_pool else x


def build_resnet(
    depth: int,
    out_features: list[str],
    *,
    in_channels: int = 3,
    stem_channels: int = 64,
    res2_channels: int | None = None,
    width_per_group: int = 64,
    num_groups: int = 1,
    stride_in_1x1: bool = False,
    norm: Norm = "BN",
    max_pool: bool = True,
    stem_kernel: int = 7,
    stem_stride: int = 2,
    freeze_at: int = 0,
) -> ResNet:
    """A ResNet whose widths are free.

    Args:
        depth: 18, 34, 50, 101 or 152.
        out_features: names of the stages to return: "stem", "res2" … "res5"; stages behind the
            last of them are not built.
        res2_channels: output channels of res2, doubled by every further stage; default: 64 for
            18 and 34 layers, else 256.
        width_per_group, num_groups, stride_in_1x1: bottleneck blocks only (from 50 layers).
        max_pool: whether the stem ends with the max-pooling (strides of res2 … res5: 4 … 32) or
            not (2 … 16).
        stem_kernel, stem_stride: of the stem's convolution, odd kernel; stride 1 halves all strides
            once more.
        freeze_at: how many stages are frozen, the stem being the first.

    Raises:
        ValueError: for an unknown depth, or a stem that does not keep sizes multiples of strides.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {depth}; choose one of {sorted(BLOCKS_PER_STAGE)}."
        )
    if stem_kernel % 2 == 0 or stem_stride not in (1, 2):
        raise ValueError(
            f"MODEL.RESNETS.STEM_KERNEL_SIZE is {stem_kernel} and STEM_STRIDE {stem_stride}; the "
            "kernel must be odd (7, or 3 for CIFAR), the stride 2 (or 1 for CIFAR)."
        )
    norm = norm_factory(norm)
    basic = depth < 50
    channels = res2_channels or (64 if basic else 256)
    bottleneck = num_groups * width_per_group
    stages, previous = [], stem_channels
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        options = (
            {"block_class": BasicBlock}
            if basic
            else {
                "block_class": BottleneckBlock,
                "bottleneck_channels": bottleneck << index,
                "num_groups": num_groups,
                "stride_in_1x1": stride_in_1x1,
            }
        )
        stages.append(
            ResNet.make_stage(
                num_blocks=num_blocks,
                stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
                in_channels=previous,
                out_channels=channels << index,
                norm=norm,
                **options,
            )
        )
        previous = channels << index
    stem = Stem(in_channels, stem_channels, norm, max_pool, stem_kernel, stem_stride)
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)


@BACKBONE_REGISTRY.register()
def build_multas_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """``MODEL.RESNETS.*`` as in Detectron2, plus narrow R18/R34 and
    ``STEM_{MAX_POOL,KERNEL_SIZE,STRIDE}``."""
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE) or resnets.RES5_DILATION != 1:
        raise ValueError(
            "build_multas_resnet_backbone has neither deformable nor dilated stages: set "
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE to False everywhere and RES5_DILATION to 1, or "
            "MODEL.BACKBONE.NAME to Detectron2's build_resnet_backbone."
        )
    if resnets.DEPTH < 50 and (resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS) == (64, 256):
        raise ValueError(
            f"MODEL.RESNETS.DEPTH is {resnets.DEPTH} and RES2_OUT_CHANNELS 256, Detectron2's "
            "default for bottleneck blocks: set it to 64, the width of the stem (or less)."
        )
    return build_resnet(
        resnets.DEPTH,
        resnets.OUT_FEATURES,
        in_channels=input_shape.channels,
        stem_channels=resnets.STEM_OUT_CHANNELS,
        res2_channels=resnets.RES2_OUT_CHANNELS,
        width_per_group=resnets.WIDTH_PER_GROUP,
        num_groups=resnets.NUM_GROUPS,
        stride_in_1x1=resnets.STRIDE_IN_1X1,
        norm=resnets.NORM,
        max_pool=resnets.STEM_MAX_POOL,
        stem_kernel=resnets.STEM_KERNEL_SIZE,
        stem_stride=resnets.STEM_STRIDE,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


class ExtraLevels(nn.Module):
    """Levels above an FPN: 3x3 stride-2 convolutions of the last stage, ReLU between them.

    Two levels are RetinaNet's p6 and p7, with the same weight names.
    """

    def __init__(
        self,
        in_feature: str,
        in_channels: int,
        out_channels: int,
        num_levels: int,
        first_level: int,
    ) -> None:
        super().__init__()
        self.num_levels = num_levels
        self.in_feature = in_feature
        self.names = [f"p{first_level + i}" for i in range(num_levels)]
        for i, name in enumerate(self.names):
            conv = nn.Conv2d(out_channels if i else in_channels, out_channels, 3, 2, 1)
            weight_init.c2_xavier_fill(conv)
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels: list[Tensor] = []
        for name in self.names:
            x = getattr(self, name)(F.relu(levels[-1]) if levels else x)
            levels.append(x)
        return levels


@BACKBONE_REGISTRY.register()
def build_multas_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Detectron2's FPN on :func:`build_multas_resnet_backbone`.

    ``MODEL.FPN.{IN_FEATURES,OUT_CHANNELS,NORM,FUSE_TYPE}`` as in Detectron2;
    ``MODEL.FPN.NUM_EXTRA_LEVELS`` coarser levels are made from the last stage. A level is called
    ``p<log2 of its stride>``.
    """
    bottom_up = build_multas_resnet_backbone(cfg, input_shape)
    shapes = bottom_up.output_shape()
    fpn = cfg.MODEL.FPN
    missing = [name for name in fpn.IN_FEATURES if name not in shapes]
    if missing or not fpn.IN_FEATURES:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {list(fpn.IN_FEATURES)}, MODEL.RESNETS.OUT_FEATURES is "
            f"{list(shapes)}: the first must be a non-empty part of the second."
        )
    last = fpn.IN_FEATURES[-1]
    extra = None
    if fpn.NUM_EXTRA_LEVELS:
        extra = ExtraLevels(
            last,
            shapes[last].channels,
            fpn.OUT_CHANNELS,
            fpn.NUM_EXTRA_LEVELS,
            first_level=shapes[last].stride.bit_length(),
        )
    return FPN(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        norm=norm_factory(fpn.NORM),
        top_block=extra,
        fuse_type=fpn.FUSE_TYPE,
    )
