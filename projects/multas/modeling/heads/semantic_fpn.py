"""The semantic segmentation head of Panoptic FPN, as in the code of Lê and Pham (ICCVW 2023)."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from multas.modeling.heads.build import (
    TASK_HEAD_REGISTRY,
    Features,
    Size,
    Sizes,
    TaskHead,
    annotated_images,
    pick_images,
    select_features,
)
from multas.modeling.layers import Norm, connected_zero, conv_block
from multas.modeling.losses import semantic_cross_entropy
from multas.util.annotation import MASKS
from multas.util.errors import UserError


@TASK_HEAD_REGISTRY.register()
class SemanticFPNHead(TaskHead):
    """Panoptic FPN (CVPR 2019), section 3: all levels are brought to one stride and added.

    A level of stride s goes through max(1, log2(s / common stride)) blocks of 3x3 convolution,
    norm and LeakyReLU. Each is followed by nearest upsampling by 2, unless the stride is the common
    one. The sum is upsampled (nearest) to the size of the input, where further blocks and a 1x1
    convolution follow. Panoptic FPN has no such blocks, the code of Lê and Pham has three.

    Args:
        in_features: names of the maps, finest first.
        input_shape: shapes of the maps, whose strides are ``common_stride`` times powers of 2.
        num_classes: C, background included.
        channels: width of the blocks.
        num_final_convs: number of blocks at full resolution.
        common_stride: stride at which levels are added.
        norm, slope: norm and LeakyReLU slope of the blocks.
        ignore_value: label of pixels without annotation.
    """

    annotation = MASKS
    result = "sem_seg"
    config_node = "MODEL.SEMANTIC_FPN_HEAD"

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        input_shape: list[ShapeSpec],
        num_classes: int,
        channels: int = 128,
        num_final_convs: int = 3,
        common_stride: int = 4,
        norm: Norm = "BN",
        slope: float = 0.1,
        ignore_value: int = 255,
    ) -> None:
        super().__init__()
        self.in_features = list(in_features)
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.branches = nn.ModuleList()
        block = partial(conv_block, out_channels=channels, norm=norm, leaky_slope=slope)
        for name, shape in zip(in_features, input_shape, strict=True):
            steps = math.log2(shape.stride / common_stride)
            if steps < 0 or not steps.is_integer():
                raise UserError(
                    f"Level {name} has stride {shape.stride}, which cannot be doubled down to "
                    f"MODEL.SEMANTIC_FPN_HEAD.COMMON_STRIDE ({common_stride}); change one of them "
                    "or name other levels in MODEL.SEMANTIC_FPN_HEAD.IN_FEATURES."
                )
            branch: list[nn.Module] = []
            for i in range(max(1, int(steps))):
                branch.append(block(channels if i else shape.channels))
                if steps:
                    branch.append(nn.Upsample(scale_factor=2, mode="nearest"))
            self.branches.append(nn.Sequential(*branch))
        self.upsample = nn.Upsample(scale_factor=common_stride, mode="nearest")
        self.final = nn.Sequential(*(block(channels) for _ in range(num_final_convs)))
        self.predictor = nn.Conv2d(channels, num_classes, 1, bias=False)
        nn.init.normal_(self.predictor.weight, std=0.01)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEMANTIC_FPN_HEAD
        key = "MODEL.SEMANTIC_FPN_HEAD.IN_FEATURES"
        names, shapes = select_features(head.IN_FEATURES, input_shape, key)
        return {
            "in_features": names,
            "input_shape": shapes,
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "num_final_convs": head.NUM_FINAL_CONVS,
            "common_stride": head.COMMON_STRIDE,
            "norm": head.NORM,
            "slope": head.LEAKY_SLOPE,
            "ignore_value": head.IGNORE_VALUE,
        }

    def forward(self, features: Features) -> Tensor:
        """Maps (N, D, Hi, Wi) -> logits (N, C, H, W) at the size of the padded input.

        Without final blocks, those of stride x stride pixels are the same, and there is one for
        all: (N, C, H / stride, W / stride). With many classes, a step takes a fraction of the time.
        """
        maps = [
            branch(features[name])
            for name, branch in zip(self.in_features, self.branches, strict=True)
        ]
        total = torch.stack(maps).sum(0) if len(maps) > 1 else maps[0]
        if not self.final:
            return self.predictor(total)
        return self.predictor(self.final(self.upsample(total)))

    def _at_full_size(self, predictions: Tensor) -> Tensor:
        return predictions if self.final else self.upsample(predictions)

    def losses(
        self, predictions: Tensor, features: Features, annotations: list[Any], image_size: Size
    ) -> dict[str, Tensor]:
        """Loss "loss_sem_seg": cross-entropy, the mean over the annotated pixels of the batch.

        Annotations are integer labels (Hi, Wi), at most of the padded size.
        """
        index, labels = annotated_images(annotations)
        if not index:
            return {"loss_sem_seg": connected_zero(predictions)}
        logits, ignored = pick_images(predictions, index), self.ignore_value
        height, width = image_size
        padding = [(0, width - x.shape[1], 0, height - x.shape[0]) for x in labels]
        padded = [
            F.pad(x.to(logits.device), sides, value=ignored)
            for x, sides in zip(labels, padding, strict=True)
        ]
        loss = semantic_cross_entropy(logits, torch.stack(padded), ignore_value=ignored)
        return {"loss_sem_seg": loss}

    def inference(
        self, predictions: Tensor, features: Features, image_sizes: Sizes, output_sizes: Sizes
    ) -> list[Tensor]:
        """Logits (C, H, W) of each image at its output size, as ``SemSegEvaluator`` takes them."""
        sizes = zip(self._at_full_size(predictions), image_sizes, output_sizes, strict=True)
        return [sem_seg_postprocess(x, size, *output) for x, size, output in sizes]

    def export(
        self, predictions: Tensor, features: Features, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """ "sem_seg": logits (N, C, H, W) at the size of the padded input."""
        return {"sem_seg": self._at_full_size(predictions)}
