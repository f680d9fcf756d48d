"""The two sub-networks of a dense detector: class logits and box deltas for each anchor."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from torch import Tensor, nn

from multas.modeling.layers import LevelNorms, Norm, conv_block, norm_factory
from multas.util.errors import UserError

Maps = tuple[list[Tensor], list[Tensor]]  # logits and box predictions of each level


def flatten_levels(levels: Sequence[Tensor], channels: int) -> Tensor:
    """Join what a dense head predicts on all levels: L maps (N, A*C, Hi, Wi) -> (N, R, C).

    ``channels`` is C: K for class logits, 4 for box deltas. The R = sum over levels of Hi * Wi * A
    rows are in the order level, y, x, anchor.
    """
    return torch.cat([permute_to_N_HWA_K(level, channels) for level in levels], dim=1)


def predictor_options(
    head: CfgNode, shapes: list[ShapeSpec], anchors: list[int], levels: list[str]
) -> dict[str, Any]:
    """The arguments of a predictor, from the config node of its head and what each level has.

    Raises:
        UserError: if the numbers of anchors per place differ; the message names the levels.
    """
    if len(set(anchors)) != 1:
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR gives {anchors} anchors per place on the levels {levels}: "
            "SIZES x ASPECT_RATIOS must be equally many on each."
        )
    return {
        "input_shape": shapes,
        "num_classes": head.NUM_CLASSES,
        "num_anchors": anchors[0],
        "conv_dims": [shapes[0].channels] * head.NUM_CONVS,
        "norm": head.NORM,
        "prior_prob": head.PRIOR_PROB,
    }


class LevelwisePredictor(nn.Module):
    """Own sub-networks of blocks and a 1x1 convolution for each level (Lê and Pham, ICCVW 2023).

    Args:
        input_shape: shape of the map of each level.
        num_classes, num_anchors: K, and A, the number of anchors per place.
        conv_dims: output channels of each block of a sub-network.
        norm, slope: norm and LeakyReLU slope of the blocks.
        prior_prob: initial score of each class at each anchor.
    """

    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: list[int],
        norm: Norm = "BN",
        slope: float = 0.1,
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        bias = -math.log((1 - prior_prob) / prior_prob)
        widths = [[level.channels, *conv_dims] for level in input_shape]
        num_scores = num_anchors * num_classes
        self.cls_subnets = nn.ModuleList(_subnet(w, num_scores, norm, slope, bias) for w in widths)
        self.box_subnets = nn.ModuleList(
            _subnet(w, num_anchors * 4, norm, slope, 0.0) for w in widths
        )

    def forward(self, features: list[Tensor]) -> Maps:
        """A map (N, D, Hi, Wi) of each level -> logits (N, A*K, Hi, Wi) and deltas (N, A*4, Hi, Wi)
        of each, as Detectron2's RetinaNet head.
        """
        logits = [net(x) for net, x in zip(self.cls_subnets, features, strict=True)]
        deltas = [net(x) for net, x in zip(self.box_subnets, features, strict=True)]
        return logits, deltas


def _subnet(
    widths: list[int], out_channels: int, norm: Norm, slope: float, bias: float
) -> nn.Sequential:
    blocks = [conv_block(a, b, norm=norm, leaky_slope=slope) for a, b in pairwise(widths)]
    last = nn.Conv2d(widths[-1], out_channels, 1)
    nn.init.normal_(last.weight, std=0.01)
    last.bias = nn.Parameter(torch.full((out_channels,), bias))
    return nn.Sequential(*blocks, last)


def shared_predictor(*, input_shape: list[ShapeSpec], norm: str, **options: Any) -> RetinaNetHead:
    """Detectron2's own RetinaNet head: one pair of sub-networks (ReLU) for all levels.

    The arguments are those of :class:`LevelwisePredictor` but for ``slope``. With "BN" and "SyncBN"
    each level has its own statistics, as in Detectron2; "GN" has 32 groups, or fewer if the width
    is not a multiple of 64.
    """

    def cycled(channels: int) -> LevelNorms:
        return LevelNorms(len(input_shape), norm_factory(norm), num_features=channels)

    own: dict[str, Norm] = {"BN": cycled, "SyncBN": cycled, "GN": _group_norm}
    return RetinaNetHead(input_shape=input_shape, norm=own.get(norm, norm), **options)


def _group_norm(channels: int) -> nn.GroupNorm:
    # Detectron2's head tries its norm with one channel, for which 32 groups are an error. PyTorch
    # refuses groups of one channel on the 1x1 map of one image, where they have a single value.
    groups = math.gcd(32, channels)
    return nn.GroupNorm(groups if groups < channels else max(groups // 2, 1), channels)


class Cut(NamedTuple):
    """A place between two convolutions of a sub-network.

    Attributes:
        layer: the name in the predictor of the layer in front of it.
        rest: the layers behind it, up to the one that predicts.
    """

    layer: str
    rest: tuple[nn.Module, ...]


def cut_subnets(predictor: nn.Module, position: int) -> tuple[list[Cut], list[Cut]]:
    """Where the sub-networks of a predictor can be cut, those of the classes and of the boxes.

    Args:
        predictor: a :class:`LevelwisePredictor`, or Detectron2's RetinaNet head.
        position: number of convolutions in front of the cut; negative: counted from the end, so
            that -1 leaves one besides the predicting layer. At least one is in front.

    Returns:
        A cut for each level, or a single one where all levels share a sub-network.

    Raises:
        UserError: It is another predictor, or has fewer convolutions.
    """
    if isinstance(predictor, LevelwisePredictor):
        found = [
            [_cut(f"{name}.{level}", net[:-1], net[-1], range(len(net) - 1), position)
             for level, net in enumerate(getattr(predictor, name))]
            for name in ("cls_subnets", "box_subnets")
        ]  # fmt: skip
        return found[0], found[1]
    if not isinstance(predictor, RetinaNetHead):
        raise UserError(
            f"{type(predictor).__name__} is no dense predictor with a sub-network of convolutions "
            "for the classes and one for the boxes, as DenseDetectionHead, GFLHead and RetinaNet "
            "have them."
        )
    parts = {"cls_subnet": predictor.cls_score, "bbox_subnet": predictor.bbox_pred}
    found = []
    for name, last in parts.items():
        net = getattr(predictor, name)
        # A block ends where its activation does.
        ends = [i for i, layer in enumerate(net) if isinstance(layer, nn.ReLU)]
        found.append([_cut(name, net, last, ends, position)])
    return found[0], found[1]


def _cut(name: str, net: nn.Sequential, last: nn.Module, ends: Sequence[int], position: int) -> Cut:
    """``ends``: the index of the last layer of each convolution in ``net``."""
    if not 0 < abs(position) <= len(ends):
        raise UserError(
            f"POSITION is {position}, but a sub-network of the dense head has {len(ends)} "
            "convolutions in front of the predicting layer, one of which at least must be in front."
        )
    front = position if position > 0 else max(position + len(ends), 1)
    end = ends[front - 1]
    return Cut(f"{name}.{end}", (*list(net)[end + 1 :], last))
