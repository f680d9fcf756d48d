"""The rest of a teacher's dense head, for features of a student to pass through."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
from detectron2.modeling import RetinaNet
from torch import Tensor, nn

from multas.modeling.box_coding import decode_boxes
from multas.modeling.heads import DenseDetectionHead, GFLHead
from multas.modeling.heads.dense_predictor import Cut, Maps, cut_subnets, flatten_levels
from multas.modeling.heads.gfl_loss import anchor_places
from multas.modeling.losses import full_precision
from multas.util.errors import UserError


def crossing_layers(network: nn.Module, head: str, position: int) -> list[str]:
    """The names of the layers in front of a cut through a dense head.

    Args:
        network: student or teacher.
        head: the name of its head.
        position: see :func:`multas.modeling.heads.dense_predictor.cut_subnets`.

    Returns:
        Those of the sub-networks of the classes, then of the boxes.

    Raises:
        UserError: There is no such head, or it has fewer convolutions.
    """
    _, where, predictor = _parts(network, head)
    return [f"{where}.{cut.layer}" for cuts in cut_subnets(predictor, position) for cut in cuts]


class TeacherHead:
    """The layers of a teacher's dense head behind a cut, and what their predictions mean.

    No ``nn.Module``, so that a path that holds it has no layer of the teacher in its state dict.
    The teacher's parameters need no gradient, but what passes through has one.

    Args:
        network: the teacher.
        name: the name of its head.
        position: see :func:`multas.modeling.heads.dense_predictor.cut_subnets`.

    Attributes:
        bins: number of values of the distribution of each box side; 1 if the head predicts deltas.
    """

    def __init__(self, network: nn.Module, name: str, position: int) -> None:
        head, _, predictor = _parts(network, name)
        self._head = head
        self._scores, self._boxes = cut_subnets(predictor, position)
        self.bins: int = head.loss.reg_max + 1 if isinstance(head, GFLHead) else 1
        if isinstance(head, RetinaNet):
            self._decode = partial(decode_boxes, weights=head.box2box_transform.weights)
        else:
            self._decode = head.detect.decode

    def widths(self, levels: int) -> list[int]:
        """The channels that enter, of each level for the classes and then for the boxes."""
        return [
            next(layer.in_channels for layer in cut.rest if isinstance(layer, nn.Conv2d))
            for cuts in (self._scores, self._boxes)
            for cut in _of_each(cuts, levels)
        ]

    def predict(self, maps: Sequence[Tensor]) -> Maps:
        """What the head makes of maps (N, D, Hi, Wi) of its levels, first those for the classes."""
        levels = len(maps) // 2
        logits = _pass_through(self._scores, maps[:levels])
        boxes = _pass_through(self._boxes, maps[levels:])
        if isinstance(self._head, GFLHead):
            boxes = [x * scale for x, scale in zip(boxes, self._head.scales, strict=True)]
        return logits, boxes

    def flatten(self, predictions: Maps) -> tuple[Tensor, Tensor]:
        """Logits (N, R, K) and deltas (N, R, 4) or distributions (N, R, 4 bins), as float32."""
        widths = self._head.num_classes, 4 * self.bins
        logits, boxes = (flatten_levels(x, n) for x, n in zip(predictions, widths, strict=True))
        return full_precision(logits), full_precision(boxes)

    def anchors(self, predictions: Maps) -> Tensor:
        """What :meth:`decode` starts from, (R, 4) or, with strides, (R, 3)."""
        head: Any = self._head
        levels = [boxes.tensor for boxes in head.anchor_generator(list(predictions[1]))]
        return anchor_places(levels, head.strides) if self.bins > 1 else torch.cat(levels)

    def decode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Boxes (N, R, 4) XYXY in pixels from what :meth:`flatten` gives."""
        return self._decode(boxes, anchors)


def _parts(network: nn.Module, name: str) -> tuple[Any, str, nn.Module]:
    """A dense head (of a RetinaNet: the network), the name of its predictor, and that."""
    modules = dict(network.named_modules())
    head = modules.get(name)
    if isinstance(head, DenseDetectionHead | GFLHead):
        return head, f"{name}.predictor", head.predictor
    parent = modules.get(name.rpartition(".")[0])
    if isinstance(parent, RetinaNet) and head is parent.head:
        return parent, name, head
    what = "is not there" if head is None else f"is a {type(head).__name__}"
    raise UserError(
        f"features are to pass through a dense head, but layer '{name}' {what}. Name a "
        "DenseDetectionHead or GFLHead (heads.det), or the head of a RetinaNet; between networks "
        "of other tasks use FeatureMSE or DeFeat."
    )


def _of_each(cuts: Sequence[Cut], levels: int) -> Sequence[Cut]:
    return cuts if len(cuts) == levels else [cuts[0]] * levels


def _pass_through(cuts: Sequence[Cut], maps: Sequence[Tensor]) -> list[Tensor]:
    # Level by level in order, because the norms of levels take turns.
    pairs = zip(_of_each(cuts, len(maps)), maps, strict=True)
    return [reduce(lambda x, layer: layer(x), cut.rest, own) for cut, own in pairs]
