"""Crops of an image: crop or expand in one step for detection, and those of classification."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import transforms as T
from torchvision.transforms import RandomResizedCrop


@dataclass(eq=False, repr=False)
class CropOrPadTransform(T.Transform):
    """Cuts out a crop, which is filled where it lies outside of the image.

    Boxes whose centre lies strictly inside are clipped to the crop; the others become empty, and
    the mapper removes them.

    Args:
        x0, y0: left upper corner in pixels of the image, which may be negative.
        width, height: size of the crop in pixels.
        image_value, mask_value: fill values.
    """

    x0: int
    y0: int
    width: int
    height: int
    image_value: int = 114
    mask_value: int = 255

    def _cut(self, array: np.ndarray, value: int) -> np.ndarray:
        out = np.full((self.height, self.width, *array.shape[2:]), value, dtype=array.dtype)
        rows, columns = array.shape[:2]
        y0, y1 = max(self.y0, 0), min(self.y0 + self.height, rows)
        x0, x1 = max(self.x0, 0), min(self.x0 + self.width, columns)
        if y0 < y1 and x0 < x1:
            place = np.s_[y0 - self.y0 : y1 - self.y0, x0 - self.x0 : x1 - self.x0]
            out[place] = array[y0:y1, x0:x1]
        return out

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._cut(img, self.image_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._cut(segmentation, self.mask_value)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords - np.array([self.x0, self.y0], dtype=coords.dtype)

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        box = np.asarray(box, dtype=np.float64).reshape(-1, 2, 2) - [self.x0, self.y0]
        size = np.array([self.width, self.height])
        centre = box.mean(axis=1)
        inside = ((centre > 0) & (centre < size)).all(axis=1)
        return box.clip(0, size).reshape(-1, 4) * inside[:, None]


@dataclass(eq=False, repr=False)
class CropOrExpand(T.Augmentation):
    """The crop-and-expand augmentation of single-shot detectors, in relative units.

    A crop is refused if it cuts a box (a share of the box's area strictly between the two of
    ``forbidden`` is inside), if no box has its centre inside, or if the labelled region of the
    mask inside is at most ``min_labelled`` pixels wide or high. When all ``shapes`` x
    ``positions`` crops are refused, the image stays as it is. An image without boxes, whether it
    is not annotated or annotated as empty, takes the first crop. Boxes may be pseudo-labels: then
    the teacher, and not the ground truth, says what must not be cut.

    Args:
        prob: probability of the step.
        scale: range of the height of the crop, as a share of the height of the image.
        aspect: range of a factor u: with probability 1/2 each, the relative width is the relative
            height times u or divided by u.
        centre: range of the centre of the crop, as a share of the size of the image.
        shapes, positions: number of shapes that are tried, and of positions of each.
        image_value: fill value of images.
        mask_value: fill value of masks, and the value of their unlabelled pixels.
    """

    prob: float = 0.75
    scale: tuple[float, float] = (0.25, 1.75)
    aspect: tuple[float, float] = (0.5, 1.0)
    centre: tuple[float, float] = (0.4, 0.6)
    forbidden: tuple[float, float] = (0.25, 0.75)
    min_labelled: int = 9
    shapes: int = 10
    positions: int = 10
    image_value: int = 114
    mask_value: int = 255

    def get_transform(
        self, image: np.ndarray, boxes: np.ndarray | None, sem_seg: np.ndarray | None
    ) -> T.Transform:
        if np.random.uniform() >= self.prob:
            return T.NoOpTransform()
        crops = self.draw(*image.shape[:2])
        allowed = np.ones(len(crops), dtype=bool)
        if boxes is not None and len(boxes):
            allowed = self.allowed(crops, np.asarray(boxes, dtype=np.float64))
        for x0, y0, x1, y1 in crops[allowed]:
            crop = CropOrPadTransform(x0, y0, x1 - x0, y1 - y0, self.image_value, self.mask_value)
            if sem_seg is None or self._labelled(crop.apply_segmentation(sem_seg)):
                return crop
        return T.NoOpTransform()

    def draw(self, height: int, width: int) -> np.ndarray:
        """All crops to try, in order: (shapes * positions, 4) int64, XYXY in pixels."""
        relative_height = np.random.uniform(*self.scale, size=self.shapes)
        u = np.random.uniform(*self.aspect, size=self.shapes)
        narrow = np.random.uniform(size=self.shapes) < 0.5
        relative_width = np.where(narrow, relative_height * u, relative_height / u)
        centres = np.random.uniform(*self.centre, size=(self.shapes, self.positions, 2))
        image = np.array([width, height])
        size = np.stack([relative_width, relative_height], axis=-1) * image
        size = np.maximum(np.rint(size), 1)[:, None, :]
        corner = np.rint(centres * image - size / 2)
        return np.concatenate([corner, corner + size], axis=-1).reshape(-1, 4).astype(np.int64)

    def allowed(self, crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Which crops the boxes allow.

        Args:
            crops: (W, 4) XYXY.
            boxes: (N, 4) XYXY, N > 0.

        Returns:
            (W,) bool.
        """
        low = np.maximum(crops[:, None, :2], boxes[None, :, :2])
        high = np.minimum(crops[:, None, 2:], boxes[None, :, 2:])
        inside = (high - low).clip(0).prod(axis=-1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
        share = inside / np.maximum(area, 1e-12)
        cut = ((share > self.forbidden[0]) & (share < self.forbidden[1])).any(axis=1)
        centre = (boxes[None, :, :2] + boxes[None, :, 2:]) / 2
        holds = (centre > crops[:, None, :2]) & (centre < crops[:, None, 2:])
        return ~cut & holds.all(axis=-1).any(axis=1)

    def _labelled(self, sem_seg: np.ndarray) -> bool:
        known = sem_seg != self.mask_value
        extents = [np.flatnonzero(known.any(axis=axis)) for axis in (0, 1)]
        return all(len(e) and e[-1] - e[0] + 1 > self.min_labelled for e in extents)


@dataclass(eq=False, repr=False)
class BalancedCrop(T.Augmentation):
    """Detectron2's ``RandomCrop``, in which no class of the mask has too large a share.

    As in Detectron2's DeepLab, the last of ten crops is taken if all have such a class. Images
    without a mask take the first crop.

    Args:
        kind, size: type and size of the crop, see INPUT.CROP.
        largest_share: of the pixels that are not ``mask_value``.
        mask_value: the value of pixels without annotation.
    """

    kind: str
    size: Sequence[float]
    largest_share: float
    mask_value: int = 255

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None) -> T.Transform:
        if sem_seg is None:
            return T.RandomCrop(self.kind, self.size).get_transform(image)
        crop = T.RandomCrop_CategoryAreaConstraint(
            self.kind, self.size, self.largest_share, self.mask_value
        )
        return crop.get_transform(image, sem_seg)


@dataclass(eq=False, repr=False)
class ShiftedCrop(T.Augmentation):
    """A crop of the image's own size, moved by up to ``border`` pixels to each side.

    Outside of the image it is black, in masks ``mask_value``.
    """

    border: int
    mask_value: int = 255

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        x, y = np.random.randint(-self.border, self.border + 1, size=2).tolist()
        return CropOrPadTransform(x, y, width, height, image_value=0, mask_value=self.mask_value)


class RandomAreaCrop(T.Augmentation):
    """A crop of 8 to 100 % of the area, 3/4 to 4/3 as wide as high (Szegedy et al., CVPR 2015)."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        size = torch.empty(1, *image.shape[:2])
        y, x, height, width = RandomResizedCrop.get_params(size, [0.08, 1.0], [3 / 4, 4 / 3])
        return T.CropTransform(x, y, width, height)


@dataclass(eq=False, repr=False)
class CenterCrop(T.Augmentation):
    """The square of ``size`` pixels in the middle, or as much of it as the image has."""

    size: int

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = (min(self.size, side) for side in image.shape[:2])
        y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return T.CropTransform(x, y, width, height)
