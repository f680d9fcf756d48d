"""ResNets of any width, for large or small images, with or without an FPN.

Blocks and parameter names are those of Detectron2's ResNet and FPN, so weights are exchangeable.
"""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

from multas.modeling.layers import Norm, norm_factory
from multas.util.errors import UserError

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class Stem(CNNBlockBase):
    """Convolution, norm, ReLU and optionally the 3x3 stride-2 max-pooling.

    Without the pooling all stages have half their usual stride, as in ScratchDet (Zhu et al., CVPR
    2019) but with the pretrained 7x7 convolution (Lê and Pham, ICCVW 2023). A 3x3 stride-1
    convolution without pooling is the stem for CIFAR's 32 px images (He et al., CVPR 2016,
    section 4.2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Norm,
        *,
        max_pool: bool,
        kernel_size: int,
        stride: int,
    ) -> None:
        super().__init__(in_channels, out_channels, 2 * stride if max_pool else stride)
        self.max_pool = max_pool
        norm = get_norm(norm, out_channels)
        options = {"padding": kernel_size // 2, "bias": False, "norm": norm}
        self.conv1 = Conv2d(in_channels, out_channels, kernel_size, stride, **options)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""
        x = F.relu_(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.max_pool else x


@BACKBONE_REGISTRY.register()
def build_multas_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet of any width, from 50 layers on with bottleneck blocks.

    Reads Detectron2's ``MODEL.RESNETS.*`` and ``STEM_{MAX_POOL,KERNEL_SIZE,STRIDE}`` there. With
    the pooling res2 … res5 have the strides 4 … 32, without it 2 … 16; a stem of stride 1 halves
    all of them once more.

    Raises:
        UserError: a key has a value that such a ResNet cannot have.
    """
    resnets = cfg.MODEL.RESNETS
    _check_resnet(resnets)
    norm, bottleneck = norm_factory(resnets.NORM), resnets.DEPTH >= 50
    options: dict[str, Any] = {"block_class": BasicBlock, "norm": norm}
    if bottleneck:
        options |= {"block_class": BottleneckBlock, "num_groups": resnets.NUM_GROUPS}
        options["stride_in_1x1"] = resnets.STRIDE_IN_1X1
    stages, previous = [], resnets.STEM_OUT_CHANNELS
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[resnets.DEPTH]):
        if bottleneck:
            width = resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP
            options["bottleneck_channels"] = width << index
        options["stride_per_block"] = [2 if index else 1] + [1] * (num_blocks - 1)
        shape = {"in_channels": previous, "out_channels": resnets.RES2_OUT_CHANNELS << index}
        stages.append(ResNet.make_stage(num_blocks=num_blocks, **shape, **options))
        previous = shape["out_channels"]
    stem = Stem(
        input_shape.channels,
        resnets.STEM_OUT_CHANNELS,
        norm,
        max_pool=resnets.STEM_MAX_POOL,
        kernel_size=resnets.STEM_KERNEL_SIZE,
        stride=resnets.STEM_STRIDE,
    )
    return ResNet(stem, stages, None, list(resnets.OUT_FEATURES), cfg.MODEL.BACKBONE.FREEZE_AT)


def _check_resnet(resnets: CfgNode) -> None:
    depth, kernel, stride = resnets.DEPTH, resnets.STEM_KERNEL_SIZE, resnets.STEM_STRIDE
    if depth not in BLOCKS_PER_STAGE:
        raise UserError(
            f"MODEL.RESNETS.DEPTH is {depth}; choose one of {sorted(BLOCKS_PER_STAGE)}."
        )
    if kernel % 2 == 0 or stride not in (1, 2):
        raise UserError(
            f"MODEL.RESNETS.STEM_KERNEL_SIZE is {kernel} and STEM_STRIDE {stride}; the kernel must "
            "be odd (7, or 3 for CIFAR), the stride 2 (or 1 for CIFAR)."
        )
    if any(resnets.DEFORM_ON_PER_STAGE) or resnets.RES5_DILATION != 1:
        raise UserError(
            "build_multas_resnet_backbone has neither deformable nor dilated stages: set "
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE to False everywhere and RES5_DILATION to 1, or "
            "MODEL.BACKBONE.NAME to Detectron2's build_resnet_backbone."
        )
    if depth < 50 and (resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS) == (64, 256):
        raise UserError(
            f"MODEL.RESNETS.DEPTH is {depth} and RES2_OUT_CHANNELS 256, Detectron2's default for "
            "bottleneck blocks: set it to 64, the width of the stem (or less)."
        )


class ExtraLevels(nn.Module):
    """Coarser FPN levels: 3x3 stride-2 convolutions of the last stage with ReLU in between.

    Two levels are RetinaNet's p6 and p7 (Lin et al., ICCV 2017), with the same parameter names.
    """

    def __init__(
        self, in_feature: str, in_channels: int, out_channels: int, names: list[str]
    ) -> None:
        super().__init__()
        self.in_feature, self.num_levels = in_feature, len(names)  # FPN reads them
        self.names = names
        for i, name in enumerate(names):
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
def build_multas_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's FPN on :func:`build_multas_resnet_backbone`, see :func:`fpn_on`."""
    return fpn_on(build_multas_resnet_backbone(cfg, input_shape), cfg)


def fpn_on(bottom_up: Backbone, cfg: CfgNode) -> FPN:
    """Detectron2's FPN on a backbone.

    Reads Detectron2's ``MODEL.FPN.*`` and ``MODEL.FPN.NUM_EXTRA_LEVELS``, the number of coarser
    levels made from the last stage. A level is called ``p<log2 of its stride>``.

    Raises:
        UserError: The backbone lacks a map that the FPN names.
    """
    shapes = bottom_up.output_shape()
    fpn = cfg.MODEL.FPN
    missing = [name for name in fpn.IN_FEATURES if name not in shapes]
    if missing or not fpn.IN_FEATURES:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is {list(fpn.IN_FEATURES)}; it must be a non-empty part of "
            f"MODEL.RESNETS.OUT_FEATURES, which is {list(shapes)}."
        )
    last = fpn.IN_FEATURES[-1]
    extra = extra_levels(cfg, last, shapes[last].channels, shapes[last].stride)
    norm = norm_factory(fpn.NORM)
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, norm, extra, fpn.FUSE_TYPE)


def extra_levels(
    cfg: CfgNode, in_feature: str, in_channels: int, stride: int
) -> ExtraLevels | None:
    """The ``MODEL.FPN.NUM_EXTRA_LEVELS`` coarser levels of a map of a stride; None for none."""
    fpn = cfg.MODEL.FPN
    names = [f"p{stride.bit_length() + i}" for i in range(fpn.NUM_EXTRA_LEVELS)]
    return ExtraLevels(in_feature, in_channels, fpn.OUT_CHANNELS, names) if names else None
