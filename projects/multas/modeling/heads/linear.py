"""A linear classifier of whole images."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
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
from multas.modeling.layers import connected_zero
from multas.modeling.losses import full_precision
from multas.util.annotation import LABELS


@TASK_HEAD_REGISTRY.register()
class LinearClassificationHead(TaskHead):
    """Global average pooling of the map ``in_feature`` and a linear layer, as in ResNet."""

    annotation = LABELS
    result = "scores"
    config_node = "MODEL.LINEAR_HEAD"

    @configurable
    def __init__(self, *, in_feature: str, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.linear = nn.Linear(in_channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.LINEAR_HEAD
        chosen = [head.IN_FEATURE] if head.IN_FEATURE else []
        names, shapes = select_features(chosen, input_shape, "MODEL.LINEAR_HEAD.IN_FEATURE")
        return {
            "in_feature": names[-1],
            "in_channels": shapes[-1].channels,
            "num_classes": head.NUM_CLASSES,
        }

    def forward(self, features: Features) -> Tensor:
        """(N, D, H, W) -> logits (N, K)."""
        return self.linear(features[self.in_feature].mean(dim=(2, 3)))

    def losses(
        self, predictions: Tensor, features: Features, annotations: list[Any], image_size: Size
    ) -> dict[str, Tensor]:
        """Loss "loss_class": softmax cross-entropy, the mean over the images with a label.

        A label is a class (int), or the shares of classes (a dict) in an image mixed of several.
        """
        index, labels = annotated_images(annotations)
        if not index:
            return {"loss_class": connected_zero(predictions)}
        logits = full_precision(pick_images(predictions, index))
        if any(isinstance(label, dict) for label in labels):
            targets = torch.zeros_like(logits)
            for row, label in zip(targets, labels, strict=True):
                for number, share in (label if isinstance(label, dict) else {label: 1.0}).items():
                    row[int(number)] = share
        else:
            targets = torch.tensor([int(label) for label in labels], device=predictions.device)
        return {"loss_class": F.cross_entropy(logits, targets)}

    def inference(
        self, predictions: Tensor, features: Features, image_sizes: Sizes, output_sizes: Sizes
    ) -> list[Tensor]:
        """Softmax scores (K,) of each image."""
        return list(full_precision(predictions).softmax(dim=1))

    def export(
        self, predictions: Tensor, features: Features, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """ "probabilities": softmax scores (N, K)."""
        return {"probabilities": predictions.softmax(dim=1)}
