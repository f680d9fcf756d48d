"""An image scaled and put on a canvas, the geometry of what joins several images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from detectron2.data import transforms as T

from multas.data.transforms.crops import CropOrPadTransform

# The shortest side, in pixels, of a box that is kept, as in YOLOv5 and MMDetection.
MIN_SIDE = 2.0


@dataclass(eq=False, repr=False)
class PlaceTransform(T.Transform):
    """Scales an image, puts it on a canvas, and shows it inside of a window of the canvas alone.

    Boxes are clipped to what is shown. One of which less than ``min_visible`` is shown, or that is
    narrower than MIN_SIDE then, becomes empty, and the mapper removes it.

    Args:
        image_size: (height, width) of the image.
        canvas: (height, width) of the result.
        window: x0, y0, x1, y1 on the canvas, whole numbers inside of it.
        scale: factor of both sides.
        offset: x, y of the upper left corner of the image on the canvas, whole numbers, which may
            lie outside of it.
        min_visible: share of the area.
        image_value, mask_value: fill values.
    """

    image_size: tuple[int, int]
    canvas: tuple[int, int]
    window: tuple[int, int, int, int]
    scale: float
    offset: tuple[int, int]
    min_visible: float = 0.0
    image_value: int = 114
    mask_value: int = 255

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._placed(img, self.image_value, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._placed(segmentation, self.mask_value, cv2.INTER_NEAREST)

    def _placed(self, pixels: np.ndarray, value: int, interpolation: int) -> np.ndarray:
        out = np.full((*self.canvas, *pixels.shape[2:]), value, dtype=pixels.dtype)
        x0, y0, x1, y1 = self.window
        shown = out[y0:y1, x0:x1]
        x, y = np.subtract(self.offset, (x0, y0)).tolist()
        if self.scale == 1:
            cut = CropOrPadTransform(-x, -y, x1 - x0, y1 - y0, image_value=value)
            shown[:] = cut.apply_image(pixels)
        elif shown.size:
            # OpenCV counts from the centres of pixels, boxes from their corners.
            middle = (self.scale - 1) / 2
            placed = cv2.warpAffine(
                with_own_rows(pixels),
                np.array([[self.scale, 0, x + middle], [0, self.scale, y + middle]]),
                (x1 - x0, y1 - y0),
                flags=interpolation,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(value,) * 4,
            )
            shown[:] = placed.reshape(shown.shape)
        return out

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords * self.scale + np.array(self.offset)

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        corners = np.asarray(box, dtype=np.float64).reshape(-1, 2, 2)
        # What an earlier crop has cut off is no part of the object that could be shown.
        corners = self.apply_coords(corners.clip(0, self.image_size[::-1]))
        x0, y0, x1, y1 = self.window
        shown = corners.clip((x0, y0), (x1, y1))
        sides, whole = (np.diff(c, axis=1)[:, 0] for c in (shown, corners))
        enough = sides.prod(axis=1) >= self.min_visible * whole.prod(axis=1)
        kept = enough & (sides >= MIN_SIDE).all(axis=1)
        return shown.reshape(-1, 4) * kept[:, None]

    def apply_polygons(self, polygons: list) -> list:
        height, width = self.image_size
        corners = self.apply_coords(np.array([[0.0, 0.0], [width, height]]))
        low, high = corners.clip(self.window[:2], self.window[2:])
        shown = [clip_polygon(self.apply_coords(p), low, high) for p in polygons]
        # Detectron2 wants a polygon of every object: one that shows nothing is a point.
        return [p for p in shown if len(p) >= 3] or [np.tile(low, (3, 1))]


@dataclass(eq=False, repr=False)
class Place(T.Augmentation):
    """Draws the scale and the position of an image on a canvas.

    Args:
        canvas: (height, width); None for those of the image.
        window: x0, y0, x1, y1 of the window, as shares of the canvas.
        scale: range of the scale.
        corner: the corner of the window (x, y: 0 or 1) at which an image stays that is smaller
            than it. None to put it anywhere inside. A larger image is moved so that the window
            shows any part of it.
        min_visible, mask_value: see :class:`PlaceTransform`.
    """

    canvas: tuple[int, int] | None = None
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    scale: tuple[float, float] = (1.0, 1.0)
    corner: tuple[int, int] | None = None
    min_visible: float = 0.0
    mask_value: int = 255

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = self.canvas or image.shape[:2]
        scale, position = np.random.uniform(*self.scale), np.random.uniform(size=2)
        x0, y0, x1, y1 = pixels_of(self.window, (height, width))
        room = np.array([x1 - x0, y1 - y0]) - scale * np.array(image.shape[1::-1])
        if self.corner is not None:
            position = np.where(room > 0, self.corner, position)
        x, y = np.rint((x0, y0) + position * room).astype(int).tolist()
        return PlaceTransform(
            image_size=image.shape[:2],
            canvas=(height, width),
            window=(x0, y0, x1, y1),
            scale=scale,
            offset=(x, y),
            min_visible=self.min_visible,
            mask_value=self.mask_value,
        )


def pixels_of(window: Sequence[float], canvas: Sequence[int]) -> tuple[int, int, int, int]:
    """A window x0, y0, x1, y1 in shares of a canvas (height, width), in pixels."""
    x0, y0, x1, y1 = np.rint(np.multiply(window, [*canvas[::-1]] * 2)).astype(int).tolist()
    return x0, y0, x1, y1


def clip_polygon(polygon: np.ndarray, low: Sequence[float], high: Sequence[float]) -> np.ndarray:
    """The part of a polygon inside of a rectangle (Sutherland and Hodgman, 1974).

    Args:
        polygon: (N, 2) corners x, y in order.
        low, high: x, y of the upper left and the lower right corner of the rectangle.

    Returns:
        (M, 2); M is 0 if nothing is inside.
    """
    for axis, bound, sign in ((0, low, 1), (1, low, 1), (0, high, -1), (1, high, -1)):
        inside = sign * (polygon[:, axis] - bound[axis])
        is_in, next_inside = inside >= 0, np.roll(inside, -1)
        crosses = is_in != (next_inside >= 0)
        share = inside / np.where(crosses, inside - next_inside, 1)
        crossing = polygon + share[:, None] * (np.roll(polygon, -1, axis=0) - polygon)
        # Every corner that is inside, and the point behind it where its edge leaves or enters.
        kept = np.stack([is_in, crosses], axis=1).reshape(-1)
        polygon = np.stack([polygon, crossing], axis=1).reshape(-1, 2)[kept]
    return polygon


def for_objects(transforms: T.TransformList) -> T.TransformList:
    """The same transforms for masks of single objects.

    Outside of the image these are empty, where masks of classes are not annotated; a transform
    cannot tell which of the two it gets.
    """
    own = [
        replace(t, mask_value=0) if isinstance(t, PlaceTransform | CropOrPadTransform) else t
        for t in transforms.transforms
    ]
    return T.TransformList(own)


def with_own_rows(pixels: np.ndarray) -> np.ndarray:
    """The pixels in an order that OpenCV takes without a slow copy by NumPy."""
    if pixels.strides[1] < 0:  # a mirrored view, which NumPy copies 30 times as slowly
        return cv2.flip(pixels[:, ::-1], 1).reshape(pixels.shape)
    return np.ascontiguousarray(pixels)
