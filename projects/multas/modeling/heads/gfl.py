"""The generalized focal loss head: box sides as distributions, scores as quality of the box."""

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn

from multas.modeling.heads.build import (
    TASK_HEAD_REGISTRY,
    Features,
    Size,
    Sizes,
    TaskHead,
    annotated_images,
    build_anchors,
    pick_images,
    select_features,
)
from multas.modeling.heads.dense_inference import DenseInference
from multas.modeling.heads.dense_predictor import (
    Maps,
    flatten_levels,
    predictor_options,
    shared_predictor,
)
from multas.modeling.heads.gfl_loss import GFLLoss, anchor_places, decode_sides, divisors
from multas.modeling.layers import connected_zero
from multas.modeling.losses import full_precision
from multas.util.annotation import BOXES


@TASK_HEAD_REGISTRY.register()
class GFLHead(TaskHead):
    """RetinaNet's head with the losses of Generalized Focal Loss (Li et al., NeurIPS 2020).

    Its predictions fit the path ``LocalizationDistillation``.

    Args:
        strides: strides of the maps, pixels.
        predictor: module from a list of maps (N, D, Hi, Wi) to logits and sides, for each level
            (N, A*K, Hi, Wi) and (N, A*4*(reg_max+1), Hi, Wi).
        in_features, anchor_generator, loss, detect: as of :class:`DenseDetectionHead`.
    """

    annotation = BOXES
    result = "instances"
    config_node = "MODEL.GFL_HEAD"

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        strides: list[int],
        predictor: nn.Module,
        anchor_generator: nn.Module,
        loss: GFLLoss,
        detect: DenseInference,
    ) -> None:
        super().__init__()
        self.in_features = list(in_features)
        self.strides = list(strides)
        self.predictor = predictor
        self.anchor_generator = anchor_generator
        self.loss = loss
        self.detect = detect
        self.num_classes = loss.num_classes
        # One predictor serves all levels; the factor lets each have its own sharpness.
        self.scales = nn.Parameter(torch.ones(len(self.in_features)))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.GFL_HEAD
        names, shapes = select_features(head.IN_FEATURES, input_shape, "MODEL.GFL_HEAD.IN_FEATURES")
        anchor_generator = build_anchors(cfg, shapes)
        options = predictor_options(head, shapes, anchor_generator.num_anchors, names)
        return {
            "in_features": names,
            "strides": [shape.stride for shape in shapes],
            "predictor": gfl_predictor(options, head.REG_MAX),
            "anchor_generator": anchor_generator,
            "loss": GFLLoss(
                num_classes=head.NUM_CLASSES,
                reg_max=head.REG_MAX,
                assignment=head.ASSIGNMENT,
                atss_topk=head.ATSS_TOPK,
                iou_thresholds=tuple(head.IOU_THRESHOLDS),
                beta=head.QUALITY_FOCAL_BETA,
                cls_weight=head.CLS_LOSS_WEIGHT,
                box_weight=head.GIOU_LOSS_WEIGHT,
                dfl_weight=head.DFL_LOSS_WEIGHT,
                use_scores=head.WEIGHT_BY_SCORE,
            ),
            "detect": DenseInference(
                score_thresh=head.SCORE_THRESH_TEST,
                nms_thresh=head.NMS_THRESH_TEST,
                topk=head.TOPK_CANDIDATES_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
                decode=partial(decode_sides, reg_max=head.REG_MAX),
            ),
        }

    def forward(self, features: Features) -> Maps:
        """Logits of the classes and of the distributions of each level, see ``predictor``."""
        logits, sides = self.predictor([features[name] for name in self.in_features])
        return logits, [side * scale for side, scale in zip(sides, self.scales, strict=True)]

    def level_anchors(self, features: Features) -> list[Tensor]:
        """(Ri, 4) anchors of each level, XYXY in pixels, in the order of :meth:`flatten`."""
        maps = [features[name] for name in self.in_features]
        return [boxes.tensor for boxes in self.anchor_generator(maps)]

    def flatten(self, predictions: Maps) -> tuple[Tensor, Tensor]:
        """Per level maps -> logits (N, R, K) and distributions (N, R, 4 (reg_max + 1))."""
        logits, sides = predictions
        width = 4 * (self.loss.reg_max + 1)
        return flatten_levels(logits, self.num_classes), flatten_levels(sides, width)

    def losses(
        self, predictions: Maps, features: Features, annotations: list[Any], image_size: Size
    ) -> dict[str, Tensor]:
        """Losses "loss_cls", "loss_box_reg" and "loss_dfl" over the annotated images."""
        logits, sides = self.flatten(predictions)
        index, objects = annotated_images(annotations)
        if not index:
            none = full_precision(logits.detach()).new_zeros(0)
            divisors(none > 0, none)  # the other processes wait for this exchange
            zero = connected_zero(sides)
            return {"loss_cls": connected_zero(logits), "loss_box_reg": zero, "loss_dfl": zero}
        logits, sides = pick_images(logits, index), pick_images(sides, index)
        objects = [instances.to(logits.device) for instances in objects]
        return self.loss(logits, sides, self.level_anchors(features), self.strides, objects)

    def inference(
        self, predictions: Maps, features: Features, image_sizes: Sizes, output_sizes: Sizes
    ) -> list[Instances]:
        """``Instances`` of each image with ``pred_boxes``, ``scores`` and ``pred_classes``."""
        logits, sides = self.flatten(predictions)
        places = anchor_places(self.level_anchors(features), self.strides)
        return self.detect.in_images(logits, sides, places, image_sizes, output_sizes)

    def export(
        self, predictions: Maps, features: Features, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """Detections as tensors, see :meth:`DenseInference.export`."""
        places = anchor_places(self.level_anchors(features), self.strides)
        return self.detect.export(*self.flatten(predictions), places, image_sizes, nms)


def gfl_predictor(options: dict[str, Any], reg_max: int) -> nn.Module:
    """Detectron2's RetinaNet head whose last box layer gives reg_max + 1 logits for each side."""
    predictor = shared_predictor(**options)
    width, sides = options["input_shape"][0].channels, options["num_anchors"] * 4
    predictor.bbox_pred = nn.Conv2d(width, sides * (reg_max + 1), 3, padding=1)
    nn.init.normal_(predictor.bbox_pred.weight, std=0.01)
    nn.init.zeros_(predictor.bbox_pred.bias)
    return predictor
