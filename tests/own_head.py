"""What a user writes to add a head with an annotation of its own: this file, and config keys:

IMPORT_MODULES: [own_head]
MODEL.MULTITASK.TASKS: [count]
MODEL.MULTITASK.HEADS: [{TYPE: CountHead, HIDDEN: 3}]
"""

import torch
from detectron2.config import configurable
from torch import nn

from multas.modeling import TASK_HEAD_REGISTRY, TaskHead
from multas.util.annotation import Annotation

# Dataset dicts have the number of objects as "count", and so have the inputs of the model.
COUNT = Annotation(dataset_key="count", input_key="count", task="count")


@TASK_HEAD_REGISTRY.register()
class CountHead(TaskHead):
    """The number of objects in an image, from the mean of the finest map."""

    annotation = COUNT
    result = "count"

    @configurable
    def __init__(self, *, in_feature: str, in_channels: int, hidden: int = 8):
        super().__init__()
        self.in_feature = in_feature
        self.layers = nn.Sequential(
            nn.Linear(in_channels, hidden), nn.LeakyReLU(), nn.Linear(hidden, 1)
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        name = min(input_shape, key=lambda name: input_shape[name].stride)
        return {"in_feature": name, "in_channels": input_shape[name].channels}

    def forward(self, features):
        return self.layers(features[self.in_feature].mean(dim=(2, 3)))[:, 0]

    def losses(self, predictions, features, annotations, image_size):
        pairs = zip(predictions, annotations, strict=True)
        errors = [(p - count).square() for p, count in pairs if count is not None]
        return {"loss_count": torch.stack(errors).mean() if errors else 0.0 * predictions.sum()}

    def inference(self, predictions, features, image_sizes, output_sizes):
        return list(predictions)
