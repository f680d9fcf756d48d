"""From whole test images to the pixels that a network sees, the same wherever a model is used."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from torch import Tensor

from multas.data.mapper import PREPARED
from multas.data.transforms.augmentation import ResizeToSquare
from multas.data.transforms.crops import CenterCrop
from multas.util.errors import UserError

logger = logging.getLogger(__name__)

_FORMATS = frozenset(
    getattr(torch, name)
    for name in ("uint8", "int16", "int32", "int64", "float16", "bfloat16", "float32")
)


@dataclass(frozen=True)
class NetworkInput:
    """Crops and stretches test images as INPUT.CENTER_CROP_TEST and SQUARE_SIZE say.

    A model that does this itself sees the same pixels from Detectron2's DefaultPredictor, which
    hands over whole images, as in evaluation, where the mapper has prepared them. Training images
    never pass through it.

    Attributes:
        square_size: side in pixels of the square that images are stretched to; 0 = their own size.
        center_crop: side in pixels of the square that is cut out of the middle first; 0 = no crop.
        channels: number of channels that the network takes.
    """

    square_size: int = 0
    center_crop: int = 0
    channels: int = 3

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "NetworkInput":
        channels = len(cfg.MODEL.PIXEL_MEAN)
        if "SQUARE_SIZE" not in cfg.INPUT:  # it has the keys of models alone
            return cls(channels=channels)
        if cfg.INPUT.SQUARE_SIZE and cfg.INPUT.MIN_SIZE_TEST:
            logger.warning(
                f"INPUT.SQUARE_SIZE is {cfg.INPUT.SQUARE_SIZE} and MIN_SIZE_TEST "
                f"{cfg.INPUT.MIN_SIZE_TEST}: Detectron2's DefaultPredictor would resize images "
                "before the model stretches them. Set INPUT.MIN_SIZE_TEST 0, as load_config does."
            )
        return cls(cfg.INPUT.SQUARE_SIZE, cfg.INPUT.CENTER_CROP_TEST, channels)

    def __call__(self, batched_inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Model inputs in which "image" is what the network sees.

        Args:
            batched_inputs: dicts with "image", (C, H, W), values from 0 to 255.

        Returns:
            The same, with "height" and "width" of the whole image unless they have another wanted
            size of the output. Inputs that are prepared already are left as they are.

        Raises:
            UserError: An image has another type or shape, no pixels, or values of another range.
        """
        if not isinstance(batched_inputs, list | tuple) or not batched_inputs:
            raise UserError(
                f"A model takes a list of dicts, one for each image, but got {batched_inputs!r:.80}"
                ". Give [{'image': a tensor (C, H, W), 'height': …, 'width': …}]."
            )
        return [self._prepare(x, i) for i, x in enumerate(batched_inputs)]

    def _prepare(self, sample: dict[str, Any], number: int) -> dict[str, Any]:
        if isinstance(sample, dict) and sample.get(PREPARED):
            return sample
        image = self._checked(sample, number)
        height, width = image.shape[-2:]
        return {"height": height, "width": width, **sample, "image": self._resized(image),
                PREPARED: True}  # fmt: skip

    def _checked(self, sample: Any, number: int) -> Tensor:
        entries = sample if isinstance(sample, dict) else {"image": sample}
        image = entries.get("image")
        fault = _fault_of(image, self.channels)
        if fault or not isinstance(sample, dict):
            raise UserError(
                f"Image {entries.get('file_name', f'{number} of the batch')} is no input of the "
                f"model: {fault or 'it is in no dict'}. Give a tensor ({self.channels}, H, W) with "
                "values from 0 to 255, uint8 or float32, in the entry 'image' of a dict "
                "(DefaultPredictor takes an array (H, W, 3) of uint8)."
            )
        return cast(Tensor, image)

    def _resized(self, image: Tensor) -> Tensor:
        crop = [CenterCrop(self.center_crop)] if self.center_crop else []
        stretch = [ResizeToSquare(self.square_size)] if self.square_size else []
        if not crop and not stretch:
            return image
        pixels = np.ascontiguousarray(_as_bytes(image).permute(1, 2, 0).cpu().numpy())
        seen = T.AugInput(pixels)
        T.AugmentationList([*crop, *stretch])(seen)
        return torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))


def _as_bytes(image: Tensor) -> Tensor:
    """Whole numbers as uint8, the type in which an image file is resized; others as float32."""
    pixels = image.to(torch.uint8)
    return pixels if torch.equal(pixels.to(image.dtype), image) else image.float()


def _fault_of(image: Any, channels: int) -> str:
    """What is wrong with an image; "" if nothing is."""
    if not isinstance(image, Tensor):
        return f"it is {type(image).__name__}, not a tensor"
    if image.dim() != 3 or image.shape[0] != channels:
        return f"its shape is {tuple(image.shape)}, not ({channels}, H, W)"
    if image.numel() == 0:
        return f"its shape is {tuple(image.shape)}, so that it has no pixels"
    if image.dtype not in _FORMATS:
        return f"its values are {str(image.dtype).removeprefix('torch.')}"
    if image.is_cuda or image.dtype == torch.uint8:
        return ""  # to look at values on a GPU would be to wait for it
    low, high = (float(x) for x in image.float().aminmax())
    if not (low >= 0 and high <= 255):
        return f"its values reach from {low:g} to {high:g}"
    if high <= 1 and image.is_floating_point() and not torch.equal(image, image.round()):
        return f"its values reach from {low:g} to {high:g}, as if white were 1 and not 255"
    return ""
