"""A trained network as one graph: normalisation, network, decoding and NMS."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import Tensor, nn

from multas.modeling.detection_graph import (
    best_candidates,
    best_detections,
    by_class,
    suppress,
)
from multas.modeling.fold import fold_batch_norm
from multas.modeling.multitask_network import MultiTaskNetwork
from multas.util.errors import UserError

Decode = Callable[[Any, dict[str, Tensor], Tensor, bool], dict[str, Tensor]]


class Normalise(nn.Module):
    """Pixels from 0 to 255 -> the padded input of a network.

    Args:
        model: has ``pixel_mean``, ``pixel_std`` and a backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.register_buffer("mean", model.pixel_mean.detach().clone())
        self.register_buffer("std", model.pixel_std.detach().clone())
        self.divisor = max(model.backbone.size_divisibility, 1)

    def forward(self, images: Tensor, image_sizes: Tensor | None) -> Tensor:
        """(N, C, H, W) -> the same, or with zeros where an image smaller than (H, W) ends."""
        pixels = (images.float() - self.mean) / self.std
        height, width = pixels.shape[-2:]
        if image_sizes is not None:
            rows = torch.arange(height, device=images.device) < image_sizes[:, :1]
            columns = torch.arange(width, device=images.device) < image_sizes[:, 1:]
            inside = rows.unsqueeze(2) & columns.unsqueeze(1)
            return torch.where(inside.unsqueeze(1), pixels, 0.0)
        return F.pad(pixels, (0, -width % self.divisor, 0, -height % self.divisor))


class Decoding(nn.Module):
    """Raw predictions of the heads -> results. A module, so that the graph's nodes have its name.

    Args:
        decoders: for each task the function that decodes its predictions.
        nms: whether they drop the weaker of overlapping boxes.
    """

    def __init__(self, decoders: Mapping[str, Decode], nms: bool) -> None:
        super().__init__()
        self.decoders, self.nms = decoders, nms

    def forward(
        self, predictions: dict[str, Any], features: dict[str, Tensor], image_sizes: Tensor
    ) -> dict[str, Tensor]:
        results: dict[str, Tensor] = {}
        for task, decode in self.decoders.items():
            results |= decode(predictions[task], features, image_sizes, self.nms)
        return results


class ExportGraph(nn.Module):
    """A network in eval mode whose inputs and outputs are tensors alone.

    Args:
        model: a :class:`MultiTaskNetwork` or Detectron2's RetinaNet. It is copied, and its
            BatchNorms are folded.
        nms: whether the graph drops the weaker of overlapping boxes.

    Raises:
        UserError: A model, or a head of it, cannot be exported.
    """

    def __init__(self, model: nn.Module, nms: bool = True) -> None:
        super().__init__()
        if not isinstance(model, MultiTaskNetwork | RetinaNet):
            raise UserError(
                f"{type(model).__name__} cannot be exported; MultiTaskNetwork, a Distiller of one "
                "and Detectron2's RetinaNet can."
            )
        model = fold_batch_norm(model)
        self.normalise = Normalise(model)
        self.backbone = cast(Any, model).backbone
        if isinstance(model, MultiTaskNetwork):
            heads: dict[str, nn.Module] = dict(model.heads.items())
        else:
            heads = {"det": _RetinaNetHead(cast(RetinaNet, model))}
        decoders = {task: cast(Any, head).export for task, head in heads.items()}
        self.heads = nn.ModuleDict(heads)
        self.decoding = Decoding(decoders, nms)

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """The values of :meth:`results`, as graphs of other runtimes have outputs in an order."""
        return tuple(self.results(images, image_sizes).values())

    def results(self, images: Tensor, image_sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Results of all heads, by name.

        Args:
            images: (N, C, H, W), values from 0 to 255, uint8.
            image_sizes: (N, 2), float32: the heights and widths of images that are smaller than
                (H, W), which is a multiple of the network's divisor then. Without them all images
                fill the whole input.
        """
        pixels = self.normalise(images, image_sizes)
        if image_sizes is None:
            height, width = images.shape[-2:]
            image_sizes = torch.tensor([[height, width]], dtype=torch.float32)
            image_sizes = image_sizes.to(images.device).expand(images.shape[0], 2)
        features = self.backbone(pixels)
        predictions = {task: head(features) for task, head in self.heads.items()}
        return self.decoding(predictions, features, image_sizes)


class _RetinaNetHead(nn.Module):
    """The head of Detectron2's RetinaNet, with the interface of our heads."""

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.head = model.head
        self.score_thresh, self.nms_thresh = model.test_score_thresh, model.test_nms_thresh
        self.topk, self.limit = model.test_topk_candidates, model.max_detections_per_image
        self.apply_deltas = model.box2box_transform.apply_deltas
        self.num_classes, self.in_features = model.num_classes, model.head_in_features
        self.anchor_generator = model.anchor_generator

    def forward(self, features: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return self.head([features[name] for name in self.in_features])

    def export(
        self, predictions: Any, features: dict[str, Tensor], image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """As :meth:`DenseInference.export`, with the best candidates of each level, not clipped."""
        logits = [permute_to_N_HWA_K(x, self.num_classes) for x in predictions[0]]
        deltas = [permute_to_N_HWA_K(x, 4) for x in predictions[1]]
        anchors = self.anchor_generator([features[name] for name in self.in_features])
        levels = [
            self._level(*level, nms)
            for level in zip(logits, deltas, (x.tensor for x in anchors), strict=True)
        ]
        boxes, scores = (torch.cat(x, dim=-2) for x in zip(*levels, strict=True))
        if not nms:
            return {"boxes": boxes, "scores": scores}
        scores = scores.transpose(1, 2)
        stay = suppress(boxes, scores, self.nms_thresh, self.score_thresh, self.limit)
        return best_detections(boxes, scores * stay, self.limit)

    def _level(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, nms: bool
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, T, 4) and scores (N, T, K) of the candidates of a level; without NMS of all."""
        if not nms:
            return self._decode(deltas, anchors.expand_as(deltas)), logits.sigmoid()
        scores, rows, classes = best_candidates(logits, self.topk)
        picked = deltas.gather(1, rows.unsqueeze(-1).expand(-1, -1, 4))
        boxes = self._decode(picked, anchors[rows])
        return boxes, by_class(scores, classes, self.num_classes).transpose(1, 2)

    def _decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        boxes = self.apply_deltas(deltas.flatten(0, 1), anchors.flatten(0, 1))
        return boxes.view_as(anchors)
