"""Assignment and losses of the dense detection head, chosen by name.

Shapes: n annotated images, R anchors of one image, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from multas.modeling.box_coding import BOX_WEIGHTS, decode_boxes, encode_boxes
from multas.modeling.generalized_focal import iou_and_giou
from multas.modeling.label_assignment import (
    DenseTargets,
    assign_iou,
    assign_mutual_guidance,
    score_weights,
)
from multas.modeling.losses import balanced_l1_loss, focal_loss, full_precision, quality_focal_loss
from multas.modeling.matcher import PaddedObjects, pad_objects
from multas.util.names import check_choice

CHOICES = {
    "assignment": ("iou", "mutual_guidance"),
    "cls_loss": ("focal", "quality_focal"),
    "box_loss": ("balanced_l1", "smooth_l1", "giou"),
}


@dataclass(frozen=True, kw_only=True)
class DenseLoss:
    """Losses of dense predictions against objects.

    Args:
        num_classes: K.
        assignment: "iou" or "mutual_guidance".
        iou_thresholds: anchors are background below the first, positive from the second on, and
            ignored in between.
        mutual_topk, mutual_sigma: see :func:`multas.modeling.matcher.match_mutual_guidance`.
        cls_loss: "focal" or "quality_focal"; the qualities of the latter are 0 or 1 with "iou".
        focal_alpha, focal_gamma: parameters of "focal".
        quality_gamma: parameter of "quality_focal".
        box_loss: "balanced_l1" or "smooth_l1", on deltas, or "giou", on boxes: 1 - GIoU.
        box_loss_weight: factor of the box loss.
        smooth_l1_beta: error at which "smooth_l1" becomes linear.
        box_weights: factors of dx, dy, dw, dh.
        use_scores: whether positives count in proportion to the field ``gt_scores`` of their object
            (pseudo-labels); objects without the field count fully.

    Raises:
        UserError: if a name is unknown.
    """

    num_classes: int
    assignment: str = "iou"
    iou_thresholds: tuple[float, float] = (0.4, 0.5)
    mutual_topk: int = 15
    mutual_sigma: float = 2.0
    cls_loss: str = "quality_focal"
    focal_alpha: float = 0.25
    focal_gamma: float = 1.0
    quality_gamma: float = 2.0
    box_loss: str = "balanced_l1"
    box_loss_weight: float = 1.0
    smooth_l1_beta: float = 0.1
    box_weights: tuple[float, float, float, float] = BOX_WEIGHTS
    use_scores: bool = False

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            check_choice(f"MODEL.DENSE_HEAD.{field.upper()}", getattr(self, field), choices)

    def __call__(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, instances: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of n annotated images.

        Args:
            logits, deltas: (n, R, K) and (n, R, 4).
            anchors: (R, 4) XYXY, pixels.
            instances: ``gt_boxes`` and ``gt_classes`` of each image, on the device of ``logits``.

        Returns:
            "loss_cls", divided by the number of positive entries, and "loss_box_reg", the mean
            over the positives (and their coordinates), weighted by their quality under mutual
            guidance.
        """
        objects = pad_objects(instances)
        targets = self.assign(objects, anchors, logits, deltas)
        cls_weights, box_weights = None, targets.box_weights
        # The divisor is the sum without the scores, so that uncertain labels shrink the loss.
        total = box_weights.sum()
        if self.use_scores:
            cls_weights, scores = score_weights(targets, objects, instances)
            box_weights = box_weights * scores
        box_weights = box_weights / torch.where(total > 0, total, 1.0)
        return {
            "loss_cls": self._classification(logits, targets, cls_weights),
            "loss_box_reg": self.box_loss_weight
            * self._regression(deltas, anchors, targets, box_weights),
        }

    def assign(
        self, objects: PaddedObjects, anchors: Tensor, logits: Tensor, deltas: Tensor
    ) -> DenseTargets:
        """The targets of each anchor, without gradient."""
        if self.assignment == "iou":
            return assign_iou(objects, anchors, self.num_classes, self.iou_thresholds)
        return assign_mutual_guidance(
            objects,
            anchors,
            logits.detach(),
            deltas.detach(),
            topk=self.mutual_topk,
            sigma=self.mutual_sigma,
            soft=self.cls_loss == "quality_focal",
            box_weights=self.box_weights,
        )

    def _classification(
        self, logits: Tensor, targets: DenseTargets, weights: Tensor | None
    ) -> Tensor:
        loss: Callable[..., Tensor] = partial(quality_focal_loss, gamma=self.quality_gamma)
        if self.cls_loss == "focal":
            loss = partial(focal_loss, alpha=self.focal_alpha, gamma=self.focal_gamma)
        return loss(logits, targets.classes, mask=targets.class_mask, weights=weights)

    def _regression(
        self, deltas: Tensor, anchors: Tensor, targets: DenseTargets, weights: Tensor
    ) -> Tensor:
        """``weights`` (n, R) of the anchors add up to 1."""
        anchors = full_precision(anchors)
        if self.box_loss == "giou":
            boxes = decode_boxes(full_precision(deltas), anchors, self.box_weights)
            _, giou = iou_and_giou(boxes, targets.boxes)
            return (weights * (1.0 - giou)).sum()
        wanted, weights = encode_boxes(targets.boxes, anchors, self.box_weights), weights / 4.0
        if self.box_loss == "balanced_l1":
            return balanced_l1_loss(deltas, wanted, weights=weights[..., None])
        deltas = full_precision(deltas)
        errors = F.smooth_l1_loss(deltas, wanted, reduction="none", beta=self.smooth_l1_beta)
        return (errors * weights[..., None]).sum()
