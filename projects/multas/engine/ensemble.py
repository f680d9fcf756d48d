"""Detection with an ensemble of flips and scales of the image."""

from collections.abc import Iterator, Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F


class FlipScaleEnsemble(nn.Module):
    """Detects on every scaled and mirrored copy of an image and merges by NMS per class.

    The teacher of "Data Distillation: Towards Omni-Supervised Learning" (Radosavovic et al.,
    CVPR 2018, section 3) applied to boxes: the union of what is found on all copies, of which NMS
    keeps the best-scored.

    Args:
        model: predicts "instances" with ``pred_boxes`` (original pixels), ``scores``,
            ``pred_classes``.
        scales: factors of the input size.
        flip: whether each scale is run mirrored, too.
        nms_thresh: IoU above which a worse-scored box of the same class goes.
        topk: boxes per image that are kept, best first; 0 = all.

    Raises:
        ValueError: no scale, or one that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[float] = (1.0,),
        *,
        flip: bool = True,
        nms_thresh: float = 0.5,
        topk: int = 100,
    ) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales are {list(scales)}; give at least one, all positive.")
        self.model = model
        self.scales = tuple(scales)
        self.flip = flip
        self.nms_thresh = nms_thresh
        self.topk = topk

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As the model in eval mode: list of dicts with "image" (3, H, W) to list of dicts with
        "instances"."""
        found: list[list[Instances]] = [[] for _ in batched_inputs]
        for inputs, mirrored in self._views(batched_inputs):
            for views, output in zip(found, self.model(inputs), strict=True):
                instances = output["instances"]
                views.append(_mirror_boxes(instances) if mirrored else instances)
        return [{"instances": self._merge(views)} for views in found]

    def _views(self, batched_inputs: list[dict]) -> Iterator[tuple[list[dict], bool]]:
        for scale in self.scales:
            scaled = [x | _with_size(x, _scaled(x["image"], scale)) for x in batched_inputs]
            yield scaled, False
            if self.flip:
                yield [x | {"image": x["image"].flip(-1)} for x in scaled], True

    def _merge(self, views: list[Instances]) -> Instances:
        instances = Instances.cat(views)
        keep = batched_nms(
            instances.pred_boxes.tensor, instances.scores, instances.pred_classes, self.nms_thresh
        )
        return instances[keep[: self.topk] if self.topk > 0 else keep]


def _with_size(sample: dict, image: Tensor) -> dict:
    """The image, and the size that boxes are to refer to."""
    height, width = sample["image"].shape[-2:]
    return {
        "image": image,
        "height": sample.get("height", height),
        "width": sample.get("width", width),
    }


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    size = [max(round(side * scale), 1) for side in image.shape[-2:]]
    resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    return resized if image.is_floating_point() else resized.round().to(image.dtype)


def _mirror_boxes(instances: Instances) -> Instances:
    width = instances.image_size[1]
    x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(-1)
    instances.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=-1))
    return instances
