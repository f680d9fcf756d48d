"""Detection and segmentation with an ensemble of flips and scales of the image."""

from collections.abc import Iterator, Sequence

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from multas.util.annotation import BOXES, MASKS
from multas.util.errors import UserError


class FlipScaleEnsemble(nn.Module):
    """Runs on every scaled and mirrored copy of an image: boxes are merged by NMS per class, the
    probabilities of pixels averaged.

    This is the teacher of "Data Distillation: Towards Omni-Supervised Learning" (Radosavovic et
    al., CVPR 2018, section 3) for boxes.

    Args:
        model: predicts "instances", with boxes in pixels of the original image, or "sem_seg",
            logits at its size.
        scales: factors of the input size.
        flip: whether the mirrored image is used at each scale, too.
        nms_thresh: the IoU above which a box loses to a better one of the same class.
        topk: the number of boxes per image that are kept, best first; 0 = all.

    Raises:
        UserError: There is no scale, or one is not positive.
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
            raise UserError(f"scales are {list(scales)}; give at least one, all positive.")
        self.model, self.scales, self.flip = model, tuple(scales), flip
        self.nms_thresh, self.topk = nms_thresh, topk

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """The "instances" and "sem_seg" of each input ("image" (3, H, W)), as of the model."""
        # The scales are factors of what the network sees, and not of the whole image.
        prepare = getattr(self.model, "network_input", list)
        batched_inputs = prepare(batched_inputs)
        found: list[list[Instances]] = [[] for _ in batched_inputs]
        pixels: list[torch.Tensor | None] = [None] * len(batched_inputs)
        for inputs, mirrored in self._views(batched_inputs):
            for number, output in enumerate(self.model(inputs)):
                if BOXES.input_key in output:
                    instances = output[BOXES.input_key]
                    found[number].append(_mirror_boxes(instances) if mirrored else instances)
                if MASKS.input_key in output:
                    own = output[MASKS.input_key].float().softmax(0)
                    own, total = own.flip(-1) if mirrored else own, pixels[number]
                    pixels[number] = own if total is None else total + own
        results: list[dict] = [{} for _ in batched_inputs]
        for result, views, total in zip(results, found, pixels, strict=True):
            if views:
                result[BOXES.input_key] = self._merge(views)
            if total is not None:
                result[MASKS.input_key] = total.log()  # the softmax of which is the mean
        return results

    def _views(self, batched_inputs: list[dict]) -> Iterator[tuple[list[dict], bool]]:
        for scale in self.scales:
            scaled = [_scaled(x, scale) for x in batched_inputs]
            yield scaled, False
            if self.flip:
                yield [x | {"image": x["image"].flip(-1)} for x in scaled], True

    def _merge(self, views: list[Instances]) -> Instances:
        instances = Instances.cat(views)
        keep = batched_nms(
            instances.pred_boxes.tensor, instances.scores, instances.pred_classes, self.nms_thresh
        )
        return instances[keep[: self.topk] if self.topk > 0 else keep]


def _scaled(sample: dict, scale: float) -> dict:
    """The sample with its image scaled; "height" and "width" keep the size that boxes refer to."""
    image = sample["image"]
    height, width = image.shape[-2:]
    if scale != 1:
        size = [max(round(side * scale), 1) for side in (height, width)]
        resized = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
        image = resized if image.is_floating_point() else resized.round().to(image.dtype)
    return {"height": height, "width": width} | sample | {"image": image}


def _mirror_boxes(instances: Instances) -> Instances:
    width = instances.image_size[1]
    x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(-1)
    instances.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=-1))
    return instances
