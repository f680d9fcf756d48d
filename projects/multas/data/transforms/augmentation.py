"""Augmentations of single-shot detectors, and the choice of augmentations by config."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.common.registry import Registry

from multas.data.transforms.crops import (
    BalancedCrop,
    CenterCrop,
    CropOrExpand,
    RandomAreaCrop,
    ShiftedCrop,
)
from multas.data.transforms.place import with_own_rows
from multas.util.errors import UserError
from multas.util.names import check_choice

AUGMENTATION_REGISTRY = Registry("AUGMENTATION")
AUGMENTATION_REGISTRY.__doc__ = """
Functions ``cfg -> list of Detectron2 augmentations`` for INPUT.AUGMENTATION. The augmentations are
applied in training, before images are resized to INPUT.SQUARE_SIZE or INPUT.MIN_SIZE_TRAIN.
"""


@dataclass(eq=False, repr=False)
class StretchTransform(T.Transform):
    """Bilinear resize, without antialiasing (OpenCV), of an image of ``height`` x ``width`` pixels
    to a square of ``size`` x ``size``; masks are resized by nearest neighbour.
    """

    height: int
    width: int
    size: int

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * np.array([self.size / self.width, self.size / self.height])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def _resize(self, pixels: np.ndarray, interpolation: int) -> np.ndarray:
        size = self.size, self.size
        resized = cv2.resize(with_own_rows(pixels), size, interpolation=interpolation)
        return resized.reshape(self.size, self.size, *pixels.shape[2:])

    def inverse(self) -> T.Transform:
        return T.ResizeTransform(self.size, self.size, self.height, self.width)


@dataclass(eq=False, repr=False)
class ResizeToSquare(T.Augmentation):
    """Resize to ``size`` x ``size`` pixels, without keeping the aspect ratio."""

    size: int

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return StretchTransform(image.shape[0], image.shape[1], self.size)


def distort_colours(
    img: np.ndarray,
    *,
    rgb: bool,
    brightness: float = 0.0,
    contrast: float = 1.0,
    hue: int = 0,
    saturation: float = 1.0,
) -> np.ndarray:
    """Change the colours of an image, in the order of the arguments.

    Args:
        img: (H, W, 3) uint8.
        rgb: whether the channels are RGB, not BGR.
        brightness: is added to all channels.
        contrast: factor of all channels.
        hue: is added to OpenCV's hue (0 … 179, half degrees), modulo 180.
        saturation: factor of OpenCV's saturation.
    """
    levels = np.arange(256.0)
    img = cv2.LUT(img, _to_uint8(_to_uint8(levels + brightness) * contrast))
    if hue == 0 and saturation == 1:
        return img
    hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV if rgb else cv2.COLOR_BGR2HSV)
    hues = ((levels + hue) % 180).astype(np.uint8)
    tables = np.stack([hues, _to_uint8(levels * saturation), levels], axis=-1)
    hsv = cv2.LUT(hsv, tables[None].astype(np.uint8))
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB if rgb else cv2.COLOR_HSV2BGR)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(eq=False, repr=False)
class PhotometricDistortion(T.Augmentation):
    """Makes each of the four changes of :func:`distort_colours` with probability 1/2.

    The images, uint8, have the channels of ``image_format``, "BGR" or "RGB" (INPUT.FORMAT).
    """

    image_format: str

    def __post_init__(self) -> None:
        check_choice("colour distortion: INPUT.FORMAT", self.image_format, ("BGR", "RGB"))

    def get_transform(self, image: np.ndarray) -> T.Transform:
        # All are drawn, even those that are not used, so that later draws do not depend on it.
        uses = np.random.uniform(size=4) < 0.5
        drawn = {
            "brightness": np.random.uniform(-32, 32),
            "contrast": np.random.uniform(0.5, 1.5),
            "hue": np.random.randint(-18, 19),
            "saturation": np.random.uniform(0.5, 1.5),
        }
        used: dict[str, Any] = {
            name: drawn[name] for name, use in zip(drawn, uses, strict=True) if use
        }
        return T.ColorTransform(partial(distort_colours, rgb=self.image_format == "RGB", **used))


@AUGMENTATION_REGISTRY.register()
def single_shot(cfg: CfgNode) -> list[T.Augmentation]:
    """The recipe of (Lê and Pham, ICCVW 2023): resize, colours, crop or expand, flip."""
    first = [ResizeToSquare(cfg.INPUT.SQUARE_SIZE)] if cfg.INPUT.SQUARE_SIZE else []
    crop = CropOrExpand(mask_value=cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE)
    return [*first, PhotometricDistortion(cfg.INPUT.FORMAT), crop, *_flip(cfg)]


@AUGMENTATION_REGISTRY.register()
def padded_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """CIFAR's recipe: shift by up to 4 pixels, flip."""
    return [ShiftedCrop(4, cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE), *_flip(cfg)]


@AUGMENTATION_REGISTRY.register()
def resized_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """ImageNet's recipe: a crop resized to INPUT.MIN_SIZE_TRAIN squared, flip."""
    return [RandomAreaCrop(), ResizeToSquare(cfg.INPUT.MIN_SIZE_TRAIN[0]), *_flip(cfg)]


def _flip(cfg: CfgNode) -> list[T.Augmentation]:
    """What INPUT.RANDOM_FLIP says."""
    return utils.build_augmentation(cfg, is_train=True)[1:]


def _crop(cfg: CfgNode) -> list[T.Augmentation]:
    """What INPUT.CROP says."""
    crop = cfg.INPUT.CROP
    if crop.AFTER_RESIZE and cfg.INPUT.SQUARE_SIZE:
        raise UserError(
            "INPUT.CROP.AFTER_RESIZE crops what MIN_SIZE_TRAIN and MAX_SIZE_TRAIN give, but with "
            f"INPUT.SQUARE_SIZE {cfg.INPUT.SQUARE_SIZE} images are stretched last. Set one of both."
        )
    if crop.SINGLE_CATEGORY_MAX_AREA >= 1:
        return [T.RandomCrop(crop.TYPE, crop.SIZE)]
    ignored = cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE
    return [BalancedCrop(crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, ignored)]


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of a config, without the final resize to INPUT.SQUARE_SIZE.

    Raises:
        UserError: if INPUT.AUGMENTATION is not registered.
    """
    last = [] if cfg.INPUT.SQUARE_SIZE else utils.build_augmentation(cfg, is_train)[:1]
    name, crop, size = cfg.INPUT.AUGMENTATION, cfg.INPUT.CROP, cfg.INPUT.CENTER_CROP_TEST
    if not is_train:
        return [*last, CenterCrop(size)] if size else last
    if not name:
        crops = _crop(cfg) if crop.ENABLED else []
        scaled = [*last, *crops] if crop.AFTER_RESIZE else [*crops, *last]
        return [*scaled, *_flip(cfg)]
    if name not in AUGMENTATION_REGISTRY:
        choices = ", ".join(repr(n) for n, _ in AUGMENTATION_REGISTRY)
        raise UserError(
            f"INPUT.AUGMENTATION is '{name}'; choose from '' (Detectron2's), {choices}, or "
            "register your own in AUGMENTATION_REGISTRY."
        )
    return [*AUGMENTATION_REGISTRY.get(name)(cfg), *last]
