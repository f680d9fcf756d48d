"""Losses of a generalized focal loss head: quality focal loss, GIoU, distribution focal loss.

Shapes: n annotated images, R anchors of one image, K classes, B = reg_max + 1 bins of a box side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from multas.modeling.generalized_focal import (
    decode_logits,
    distribution_focal_elements,
    encode_distances,
    iou_and_giou,
)
from multas.modeling.label_assignment import (
    DenseTargets,
    assign_atss,
    assign_iou,
    score_weights,
)
from multas.modeling.losses import full_precision, quality_focal_loss, weighted_sum
from multas.modeling.matcher import PaddedObjects, pad_objects
from multas.util.names import check_choice
from multas.util.ranks import mean_over_ranks


def anchor_places(level_anchors: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """The places where the distances of box sides start, and their unit, all in pixels.

    Returns:
        (R, 3): x and y of the centre of each anchor, and the stride of its level.
    """
    places = [
        torch.cat([(a[:, :2] + a[:, 2:]) / 2.0, torch.full_like(a[:, :1], stride)], dim=1)
        for a, stride in zip(level_anchors, strides, strict=True)
    ]
    return torch.cat(places)


def decode_sides(sides: Tensor, places: Tensor, reg_max: int) -> Tensor:
    """Boxes (..., R, 4) XYXY in pixels from logits (..., R, 4 B) and places (R, 3)."""
    centres, stride = places[..., :2], places[..., 2:]
    return decode_logits(centres / stride, sides, reg_max) * stride


def divisors(positive: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The divisors of the losses: means over the processes, so that each object counts equally.

    Every process has to call it in every step, as the others wait for its numbers. ``positive``,
    bool, and the detached ``weight`` have one shape; they are empty if no image is annotated.

    Returns:
        Scalars: the number of positives, at least 1, and the sum of the weights, or 1 if it is 0.
    """
    own = torch.stack([positive.sum().to(weight.dtype), weight.sum()])
    count, total = mean_over_ranks(own)
    return count.clamp(min=1), torch.where(total > 0, total, 1.0)


@dataclass(frozen=True, kw_only=True)
class GFLLoss:
    """Losses of Generalized Focal Loss (Li et al., NeurIPS 2020) against objects.

    The target of a positive's class is the IoU of its predicted box (QFL, eq. 5). Its box counts
    in proportion to the score that the head gives it (the highest of its classes), and the sums of
    GIoU and DFL (eq. 6) are divided by the sum of these weights; QFL by the number of positives.
    Both are means over the processes, as in GFL: see :func:`divisors`.

    Args:
        num_classes: K.
        reg_max: largest bin of a side.
        assignment: "atss" (GFL) or "iou" (RetinaNet).
        atss_topk: number of candidates of an object on each level.
        beta: exponent of QFL.
        cls_weight, box_weight, dfl_weight: factors of QFL, GIoU and DFL (mean of four sides).
        iou_thresholds, use_scores: as of :class:`multas.modeling.heads.dense_loss.DenseLoss`.

    Raises:
        UserError: if the assignment is unknown.
    """

    num_classes: int
    reg_max: int = 16
    assignment: str = "atss"
    atss_topk: int = 9
    iou_thresholds: tuple[float, float] = (0.4, 0.5)
    beta: float = 2.0
    cls_weight: float = 1.0
    box_weight: float = 2.0
    dfl_weight: float = 0.25
    use_scores: bool = False

    def __post_init__(self) -> None:
        check_choice("MODEL.GFL_HEAD.ASSIGNMENT", self.assignment, ("atss", "iou"))

    def __call__(
        self,
        logits: Tensor,
        sides: Tensor,
        level_anchors: Sequence[Tensor],
        strides: Sequence[int],
        instances: list[Instances],
    ) -> dict[str, Tensor]:
        """Losses of n annotated images.

        Args:
            logits, sides: (n, R, K) and (n, R, 4 B).
            level_anchors, strides: (Ri, 4) XYXY and a number for each level, pixels.
            instances: ``gt_boxes`` and ``gt_classes`` of each image, on the device of ``logits``.

        Returns:
            Scalars "loss_cls", "loss_box_reg", "loss_dfl"; without an object the last two are 0.
        """
        logits, sides = full_precision(logits), full_precision(sides)
        objects = pad_objects(instances)
        targets = self.assign(objects, level_anchors)
        places = anchor_places(level_anchors, strides).to(sides.dtype)
        centres, stride = places[:, :2] / places[:, 2:], places[:, 2:]
        wanted = targets.boxes.to(sides.dtype) / stride
        # All anchors are decoded, since to pick the positives the host would have to wait for
        # their number. Background has weight 0 and its own anchor as finite target.
        iou, giou = iou_and_giou(decode_logits(centres, sides, self.reg_max), wanted)
        positive = targets.box_index >= 0
        weight = torch.where(positive, logits.detach().sigmoid().amax(dim=-1), 0.0)
        # The divisors do not contain the scores, so that uncertain labels shrink the loss.
        count, total = divisors(positive, weight)
        weight = weight / total
        cls_weights = None
        if self.use_scores:
            weights = score_weights(targets, objects, instances)
            cls_weights, box_weights = (x.to(weight.dtype) for x in weights)
            weight = weight * box_weights
        distances = encode_distances(centres, wanted, self.reg_max)
        loss_cls = quality_focal_loss(
            logits,
            targets.classes * iou.detach()[..., None],
            mask=targets.class_mask,
            gamma=self.beta,
            weight=self.cls_weight,
            weights=cls_weights,
            normalizer=count,
        )
        bins = sides.reshape(-1, self.reg_max + 1)
        dfl = distribution_focal_elements(bins, distances.flatten())
        loss_dfl = weighted_sum(dfl, weight.flatten().repeat_interleave(4), 4.0)
        return {
            "loss_cls": loss_cls,
            "loss_box_reg": self.box_weight * (weight * (1.0 - giou)).sum(),
            "loss_dfl": self.dfl_weight * loss_dfl,
        }

    def assign(self, objects: PaddedObjects, level_anchors: Sequence[Tensor]) -> DenseTargets:
        """The targets of each anchor, without gradient."""
        if self.assignment == "atss":
            return assign_atss(objects, level_anchors, self.num_classes, topk=self.atss_topk)
        anchors = torch.cat(list(level_anchors))
        return assign_iou(objects, anchors, self.num_classes, self.iou_thresholds)
