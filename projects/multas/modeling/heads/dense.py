"""The dense detection head: predictor, anchors, losses and inference put together."""

from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from multas.modeling.box_coding import decode_boxes
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
from multas.modeling.heads.dense_loss import DenseLoss
from multas.modeling.heads.dense_predictor import (
    LevelwisePredictor,
    Maps,
    flatten_levels,
    predictor_options,
    shared_predictor,
)
from multas.modeling.layers import connected_zero
from multas.util.annotation import BOXES


@TASK_HEAD_REGISTRY.register()
class DenseDetectionHead(TaskHead):
    """Anchor-based single-shot detection on several levels.

    Args:
        in_features: names of the maps to use, finest first.
        predictor: module from a list of maps to logits and deltas, like those beside it.
        anchor_generator: module from the maps to one ``Boxes`` of Hi*Wi*A anchors per level.
        loss: the losses in training.
        detect: inference.
    """

    annotation = BOXES
    result = "instances"
    config_node = "MODEL.DENSE_HEAD"

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        predictor: nn.Module,
        anchor_generator: nn.Module,
        loss: DenseLoss,
        detect: DenseInference,
    ) -> None:
        super().__init__()
        self.in_features = list(in_features)
        self.predictor = predictor
        self.anchor_generator = anchor_generator
        self.loss = loss
        self.detect = detect
        self.num_classes = loss.num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.DENSE_HEAD
        key = "MODEL.DENSE_HEAD.IN_FEATURES"
        names, shapes = select_features(head.IN_FEATURES, input_shape, key)
        anchor_generator = build_anchors(cfg, shapes)
        options = predictor_options(head, shapes, anchor_generator.num_anchors, names)
        if not head.SHARED:
            options["slope"] = head.LEAKY_SLOPE
        return {
            "in_features": names,
            "predictor": (shared_predictor if head.SHARED else LevelwisePredictor)(**options),
            "anchor_generator": anchor_generator,
            "loss": DenseLoss(
                num_classes=head.NUM_CLASSES,
                assignment=head.ASSIGNMENT,
                iou_thresholds=tuple(head.IOU_THRESHOLDS),
                mutual_topk=head.MUTUAL_TOPK,
                mutual_sigma=head.MUTUAL_SIGMA,
                cls_loss=head.CLS_LOSS,
                focal_alpha=head.FOCAL_ALPHA,
                focal_gamma=head.FOCAL_GAMMA,
                quality_gamma=head.QUALITY_FOCAL_GAMMA,
                box_loss=head.BOX_LOSS,
                box_loss_weight=head.BOX_LOSS_WEIGHT,
                smooth_l1_beta=head.SMOOTH_L1_BETA,
                box_weights=tuple(head.BBOX_REG_WEIGHTS),
                use_scores=head.WEIGHT_BY_SCORE,
            ),
            "detect": DenseInference(
                score_thresh=head.SCORE_THRESH_TEST,
                nms_thresh=head.NMS_THRESH_TEST,
                topk=head.TOPK_CANDIDATES_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
                class_agnostic=head.CLASS_AGNOSTIC_NMS,
                decode=partial(decode_boxes, weights=tuple(head.BBOX_REG_WEIGHTS)),
            ),
        }

    def forward(self, features: Features) -> Maps:
        """Logits and deltas of each level, in the layout of Detectron2's RetinaNet head."""
        return self.predictor([features[name] for name in self.in_features])

    def anchors(self, features: Features) -> Tensor:
        """(R, 4) anchors of all levels, XYXY in pixels, in the order of :meth:`flatten`."""
        maps = [features[name] for name in self.in_features]
        return Boxes.cat(self.anchor_generator(maps)).tensor

    def flatten(self, predictions: Maps) -> tuple[Tensor, Tensor]:
        """Per level maps -> logits (N, R, K) and deltas (N, R, 4)."""
        logits, deltas = predictions
        return flatten_levels(logits, self.num_classes), flatten_levels(deltas, 4)

    def losses(
        self, predictions: Maps, features: Features, annotations: list[Any], image_size: Size
    ) -> dict[str, Tensor]:
        """Losses "loss_cls" and "loss_box_reg" over the annotated images."""
        logits, deltas = self.flatten(predictions)
        index, objects = annotated_images(annotations)
        if not index:
            return {"loss_cls": connected_zero(logits), "loss_box_reg": connected_zero(deltas)}
        logits, deltas = pick_images(logits, index), pick_images(deltas, index)
        objects = [instances.to(logits.device) for instances in objects]
        return self.loss(logits, deltas, self.anchors(features), objects)

    def inference(
        self, predictions: Maps, features: Features, image_sizes: Sizes, output_sizes: Sizes
    ) -> list[Instances]:
        """``Instances`` of each image with ``pred_boxes``, ``scores`` and ``pred_classes``."""
        logits, deltas = self.flatten(predictions)
        anchors = self.anchors(features)
        return self.detect.in_images(logits, deltas, anchors, image_sizes, output_sizes)

    def export(
        self, predictions: Maps, features: Features, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """Detections as tensors, see :meth:`DenseInference.export`."""
        return self.detect.export(
            *self.flatten(predictions), self.anchors(features), image_sizes, nms
        )
