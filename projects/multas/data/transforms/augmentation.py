"""Augmentations of single-shot detectors, and the choice of augmentations by config."""

from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from fvcore.common.registry import Registry

from multas.data.transforms.crops import CenterCrop, CropOrExpand, RandomAreaCrop, ShiftedCrop

AUGMENTATION_REGISTRY = Registry("AUGMENTATION")
AUGMENTATION_REGISTRY.__doc__ = """
Functions ``cfg -> list of Detectron2 augmentations`` for INPUT.AUGMENTATION. The augmentations are
applied in training, before images are resized to INPUT.SQUARE_SIZE or INPUT.MIN_SIZE_TRAIN.
"""


@dataclass(eq=False, repr=False)
class StretchTransform(T.Transform):
    """Bilinear resize to a square without antialiasing (OpenCV); masks by nearest neighbour.

    Args:
        height, width: size of the image in pixels.
        size: side of the square in pixels.
    """

    height: int
    width: int
    size: int

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        resized = cv2.resize(img, (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return resized.reshape(self.size, self.size, *img.shape[2:])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * np.array([self.size / self.width, self.size / self.height])

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return cv2.resize(segmentation, (self.size, self.size), interpolation=cv2.INTER_NEAREST)

    def inverse(self) -> T.Transform:
        return T.ResizeTransform(self.size, self.size, self.height, self.width)


@dataclass(eq=False, repr=False)
class ResizeToSquare(T.Augmentation):
    """Resize to ``size`` x ``size`` pixels, without keeping the aspect ratio."""

    size: int

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return StretchTransform(image.shape[0], image.shape[1], self.size)


@dataclass(eq=False, repr=False)
class PhotometricTransform(T.Transform):
    """Changes colours in the order of the arguments; boxes and masks stay.

    Args:
        brightness: is added to all channels.
        contrast: factor of all channels.
        hue: is added to OpenCV's hue (0 … 179, half degrees), modulo 180.
        saturation: factor of OpenCV's saturation.
        image_format: "BGR" or "RGB".
    """

    brightness: float
    contrast: float
    hue: int
    saturation: float
    image_format: str

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        levels = np.arange(256.0)
        table = _to_uint8(_to_uint8(levels + self.brightness) * self.contrast)
        img = table[img]
        if self.hue == 0 and self.saturation == 1:
            return img
        rgb = self.image_format == "RGB"
        hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV if rgb else cv2.COLOR_BGR2HSV)
        hue = ((levels + self.hue) % 180).astype(np.uint8)
        tables = np.stack([hue, _to_uint8(levels * self.saturation), levels], axis=-1)
        hsv = cv2.LUT(hsv, tables[None].astype(np.uint8))
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB if rgb else cv2.COLOR_HSV2BGR)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(eq=False, repr=False)
class PhotometricDistortion(T.Augmentation):
    """Brightness, contrast, hue and saturation, each with probability ``prob``, in that order.

    Args:
        image_format: INPUT.FORMAT, "BGR" or "RGB"; images are uint8.
        prob: probability of each of the four.
        brightness: what is added is drawn from [-brightness, brightness].
        contrast, saturation: ranges of the factors.
        hue: what is added is an integer from [-hue, hue] in OpenCV's half degrees.

    Raises:
        ValueError: if the format is another one.
    """

    image_format: str
    prob: float = 0.5
    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    hue: int = 18
    saturation: tuple[float, float] = (0.5, 1.5)

    def __post_init__(self) -> None:
        if self.image_format not in ("BGR", "RGB"):
            raise ValueError(
                f"INPUT.FORMAT is '{self.image_format}'; colour distortion needs 'BGR' or 'RGB'."
            )

    def get_transform(self, image: np.ndarray) -> T.Transform:
        # All are drawn, even those that are not used, so that later draws do not depend on it.
        use = np.random.uniform(size=4) < self.prob
        brightness = np.random.uniform(-self.brightness, self.brightness)
        contrast = np.random.uniform(*self.contrast)
        hue = np.random.randint(-self.hue, self.hue + 1)
        saturation = np.random.uniform(*self.saturation)
        return PhotometricTransform(
            brightness if use[0] else 0.0,
            contrast if use[1] else 1.0,
            hue if use[2] else 0,
            saturation if use[3] else 1.0,
            self.image_format,
        )


@AUGMENTATION_REGISTRY.register()
def single_shot(cfg: CfgNode) -> list[T.Augmentation]:
    """The recipe of paper A's code: resize, colours, crop or expand, INPUT.RANDOM_FLIP."""
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "bitmask":
        # Outside of the image a label map is unlabelled but an instance mask is empty; a transform
        # cannot tell which of the two Detectron2 gives it.
        raise ValueError(
            "INPUT.AUGMENTATION 'single_shot' cannot expand instance masks of INPUT.MASK_FORMAT "
            "'bitmask'; set it to 'polygon'."
        )
    first = [ResizeToSquare(cfg.INPUT.SQUARE_SIZE)] if cfg.INPUT.SQUARE_SIZE else []
    _, *flip = utils.build_augmentation(cfg, is_train=True)
    crop = CropOrExpand(mask_value=cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE)
    return [*first, PhotometricDistortion(cfg.INPUT.FORMAT), crop, *flip]


@AUGMENTATION_REGISTRY.register()
def padded_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """CIFAR's recipe: shift by up to 4 pixels, INPUT.RANDOM_FLIP."""
    _, *flip = utils.build_augmentation(cfg, is_train=True)
    return [ShiftedCrop(4, cfg.MODEL.SEMANTIC_FPN_HEAD.IGNORE_VALUE), *flip]


@AUGMENTATION_REGISTRY.register()
def resized_crop(cfg: CfgNode) -> list[T.Augmentation]:
    """ImageNet's recipe: a crop resized to INPUT.MIN_SIZE_TRAIN squared, INPUT.RANDOM_FLIP."""
    _, *flip = utils.build_augmentation(cfg, is_train=True)
    return [RandomAreaCrop(), ResizeToSquare(cfg.INPUT.MIN_SIZE_TRAIN[0]), *flip]


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations before the final :class:`ResizeToSquare`; all with INPUT.SQUARE_SIZE 0.

    Raises:
        ValueError: if INPUT.AUGMENTATION is not registered.
    """
    resize, *flip = utils.build_augmentation(cfg, is_train)
    last = [] if cfg.INPUT.SQUARE_SIZE else [resize]
    name = cfg.INPUT.AUGMENTATION
    if not is_train:
        crop_size = cfg.INPUT.CENTER_CROP_TEST
        return [*last, CenterCrop(crop_size)] if crop_size else last
    if name:
        if name not in AUGMENTATION_REGISTRY:
            choices = ", ".join(repr(n) for n, _ in AUGMENTATION_REGISTRY)
            raise ValueError(
                f"INPUT.AUGMENTATION is '{name}'; choose from '' (Detectron2's), {choices}, or "
                "register your own in AUGMENTATION_REGISTRY."
            )
        return [*AUGMENTATION_REGISTRY.get(name)(cfg), *last]
    crop = cfg.INPUT.CROP
    first = [T.RandomCrop(crop.TYPE, crop.SIZE)] if crop.ENABLED else []
    return [*first, *last, *flip]
