"""From scores and deltas of all anchors to detections."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.layers import batched_nms
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from multas.modeling.box_coding import decode_boxes
from multas.modeling.detection_graph import (
    best_candidates,
    best_detections,
    by_class,
    clip_boxes,
    suppress,
)
from multas.modeling.heads.build import Size, Sizes


@dataclass(frozen=True, kw_only=True)
class DenseInference:
    """Threshold, top-k, decoding, clipping, NMS.

    Args:
        score_thresh: score above which there is a detection.
        nms_thresh: IoU above which the weaker of two boxes is dropped.
        topk: number of candidates that are kept before NMS, best first; 0 for all.
        max_detections: number of detections of an image that are kept, best first; 0 for all.
        class_agnostic: whether there is one NMS over all anchors, ranked by their best class, and
            each class above the threshold of an anchor that is kept is a detection (the code of Lê
            and Pham, ICCVW 2023). Otherwise there is one NMS for each class, as in Detectron2.
        decode: function from the box predictions (C, D) and the anchors (C, P) of C candidates to
            boxes (C, 4) XYXY, pixels; by default of box deltas (C, 4) and boxes (C, 4).
    """

    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    topk: int = 1000
    max_detections: int = 100
    class_agnostic: bool = False
    decode: Callable[[Tensor, Tensor], Tensor] = decode_boxes

    def __call__(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, image_size: Size
    ) -> Instances:
        """Detections of one image.

        Args:
            logits: (R, K).
            deltas, anchors: (R, D) and (R, P) as ``decode`` takes them.
            image_size: size of the image without padding.

        Returns:
            Instances with ``pred_boxes`` (clipped to the image), ``scores`` and
            ``pred_classes``, best first.
        """
        scores = logits.sigmoid()
        select = self._class_agnostic if self.class_agnostic else self._per_class
        end = self.max_detections or None
        boxes, scores, classes = (x[:end] for x in select(scores, deltas, anchors, image_size))
        return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)

    def in_images(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, sizes: Sizes, output_sizes: Sizes
    ) -> list[Instances]:
        """Detections of N images, which share their anchors, in the coordinates of the outputs."""
        images = zip(logits, deltas, sizes, output_sizes, strict=True)
        return [
            detector_postprocess(self(scores, boxes, anchors, size), *output_size)
            for scores, boxes, size, output_size in images
        ]

    def _per_class(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        values, index = self._candidates(scores.flatten())
        rows, classes = index // scores.shape[1], index % scores.shape[1]
        boxes = self._decode(deltas[rows], anchors[rows], size)
        # Boxes are single precision there, and torchvision wants scores of the same type.
        keep = batched_nms(boxes, values.float(), classes, self.nms_thresh)
        return boxes[keep], values[keep], classes[keep]

    def _class_agnostic(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: Size
    ) -> tuple[Tensor, Tensor, Tensor]:
        best, rows = self._candidates(scores.amax(1))
        boxes = self._decode(deltas[rows], anchors[rows], size)
        keep = batched_nms(boxes, best.float(), torch.zeros_like(rows), self.nms_thresh)
        boxes, scores = boxes[keep], scores[rows[keep]]
        row, classes = torch.nonzero(scores > self.score_thresh, as_tuple=True)
        values, order = scores[row, classes].sort(descending=True, stable=True)
        return boxes[row[order]], values, classes[order]

    def _candidates(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The best entries of a vector above the threshold, and their indices."""
        count = min(self.topk or len(scores), len(scores))
        values, index = scores.topk(count)
        above = values > self.score_thresh
        return values[above], index[above]

    def _decode(self, deltas: Tensor, anchors: Tensor, size: Size) -> Tensor:
        boxes = Boxes(self.decode(deltas.to(anchors.dtype), anchors))
        boxes.clip(size)
        return boxes.tensor

    def export(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, image_sizes: Tensor, nms: bool
    ) -> dict[str, Tensor]:
        """The same detections of N images at once, as tensors of fixed shapes.

        Args:
            logits: (N, R, K).
            deltas: (N, R, D).
            anchors: (R, P).
            image_sizes: (N, 2), heights and widths without padding.
            nms: whether the weaker of overlapping boxes are dropped. Otherwise all R boxes are
                given, with the scores of all classes.

        Returns:
            "boxes" (N, M, 4) XYXY in pixels of the network's input, "scores" (N, M), best first and
            then zeros, and "classes" (N, M); without NMS "boxes" (N, R, 4), "scores" (N, R, K).
        """
        if not nms:
            boxes = clip_boxes(self.decode(deltas, anchors), image_sizes)
            return {"boxes": boxes, "scores": logits.sigmoid()}
        boxes, scores = self._ranked(logits, deltas, anchors, image_sizes)
        ranked = scores.amax(1, keepdim=True) if self.class_agnostic else scores
        limit = 0 if self.class_agnostic else self.max_detections
        stay = suppress(boxes, ranked, self.nms_thresh, self.score_thresh, limit)
        stay = stay & (scores > self.score_thresh)
        return best_detections(boxes, scores * stay, self.max_detections)

    def _ranked(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The candidates before NMS: boxes (N, T, 4) and the scores of their classes (N, K, T)."""
        if not self.topk:
            boxes = clip_boxes(self.decode(deltas, anchors), image_sizes)
            return boxes, logits.sigmoid().transpose(1, 2)
        by_place = logits.amax(2, keepdim=True) if self.class_agnostic else logits
        scores, rows, classes = best_candidates(by_place, self.topk)
        picked = deltas.gather(1, rows.unsqueeze(-1).expand(-1, -1, deltas.shape[2]))
        boxes = clip_boxes(self.decode(picked, anchors[rows]), image_sizes)
        if not self.class_agnostic:
            return boxes, by_class(scores, classes, logits.shape[2])
        rows = rows.unsqueeze(-1).expand(-1, -1, logits.shape[2])
        return boxes, logits.gather(1, rows).sigmoid().transpose(1, 2)
