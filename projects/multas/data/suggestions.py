"""Settings of a detector that follow from its data: sizes, anchors, mean and deviation.

Functions of dataset dicts. The same dicts give the same settings, whatever their order is.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from PIL import Image

from multas.data.anchor_shapes import STRIDES, default_anchors, suggest_anchors
from multas.data.image_files import as_array, read_image
from multas.data.measures import PERCENTILES, Measures, measure, spread

_MAX_OPENED = 500  # images for means and deviations
_MAX_PIXELS = 100_000  # of one of them
_LEAST_SIDE = 256  # pixels of the shorter side of large photographs, which are decoded in part
_STEP = 32  # of sizes of the input, the stride of the coarsest map
# px that an object should have at the least, as the square root of its area. More come further in
# the same time: with a tenth of the labels of blood cells, 675 iterations at 160 px (12 px) gave AP
# 43.0, 300 at 240 px (18 px) 45.5 (validation list, one seed).
_SIDE = 18.0
_SHARE = 0.9  # of the objects that should have them
_SIZES = 128, 640  # the least and the largest short side of the input
_WITHOUT_BOXES = 320  # the short side where there is no box to go by
_MAX_ASPECT = 2.0  # of the input; longer images become narrower


def pixel_statistics(
    dicts: Sequence[Mapping], image_format: str = "BGR"
) -> tuple[list[float], list[float]]:
    """The mean and the deviation of each channel, from at most 500 images, evenly spread.

    All images count alike, whatever their size.

    Args:
        dicts: of the images, at least one.
        image_format: the order of the channels, INPUT.FORMAT.

    Returns:
        Means and deviations on the scale 0 … 255, rounded to 0.1; deviations are at least 1.

    Raises:
        DatasetError: an image cannot be read; the message names it.
    """
    ordered = sorted(dicts, key=lambda record: str(record["file_name"]))
    moments = []
    for record in spread(ordered, _MAX_OPENED):
        if "pixels" in record:
            image = as_array(Image.fromarray(record["pixels"]), image_format)
        else:
            image = read_image(record["file_name"], image_format, least_side=_LEAST_SIDE)
        step = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / _MAX_PIXELS))
        values = image[::step, ::step].reshape(-1, image.shape[2]).astype(np.float64)
        moments.append((values.mean(0), np.square(values).mean(0)))
    mean, square = np.mean(moments, axis=0)
    deviation = np.sqrt(np.maximum(square - mean**2, 1.0))
    return mean.round(1).tolist(), deviation.round(1).tolist()


def input_size(found: Measures, most: int = 0) -> tuple[int, int]:
    """The size of the input: (shortest edge, longest edge) in pixels, multiples of 32.

    The shortest edge (INPUT.MIN_SIZE_TEST) is the smallest at which 90 % of the objects measure at
    least 18 px, as the square root of their area, but at least 128, at most 640, and not more than
    half of the images have, nor than ``most`` (0: no bound). All classes count alike, as in the
    mean AP: a rare class of small objects is not lost. Without boxes it is 320, again if the images
    have as much. The longest edge (MAX_SIZE_TEST) is what 95 % of the images need to keep that, up
    to twice the shortest.
    """
    aspect = found.images.max(1) / found.images.min(1)
    longest = min(float(np.percentile(aspect, 95)), _MAX_ASPECT)
    size = _WITHOUT_BOXES
    if len(found.objects):
        image = found.objects[:, 2:]
        # The shortest edge at which an object has its pixels; long images are scaled by the other.
        needed = _SIDE * np.maximum(image.min(1), image.max(1) / longest) / found.sides
        low, high = _SIZES
        # A little off, because 384.0000001 pixels are not worth 416.
        wanted = math.ceil(_quantile(needed, found.class_weights, _SHARE) / _STEP - 1e-6) * _STEP
        size = min(max(wanted, low), high)
    there = math.floor(float(np.median(found.images.min(1))) / _STEP) * _STEP
    size = max(min(size, there, most or size), _STEP)
    return size, math.ceil(size * longest / _STEP - 1e-6) * _STEP


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The smallest value that a share of the weights, which add up to 1, does not exceed."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= share - 1e-9
    return float(values[order][reached.argmax()])


def resized(found: Measures, size: tuple[int, int]) -> np.ndarray:
    """Width and height of each object, (M, 2) in pixels of an input of (shortest, longest) edge."""
    image = found.objects[:, 2:]
    scale = np.minimum(size[0] / image.min(1), size[1] / image.max(1))
    return found.objects[:, :2] * scale[:, None]


def detections_per_image(found: Measures) -> int:
    """Twice the 99th percentile of the objects of an image, rounded up to tens; at least 100."""
    often = float(np.percentile(found.counts, 99)) if len(found.counts) else 0.0
    return max(math.ceil(2 * often / 10) * 10, 100)


@dataclass(frozen=True)
class Suggestion:
    """A value for a config key, and what it follows from."""

    value: Any
    reason: str


def suggest(
    dicts: Sequence[Mapping],
    *,
    num_classes: int = 0,
    image_format: str = "BGR",
    strides: Sequence[int] = STRIDES,
    found: Measures | None = None,
    most: int = 0,
    one_anchor: bool = False,
) -> dict[str, Suggestion]:
    """What a config should have for data to learn from, by key; see the functions above.

    Args:
        dicts: dataset dicts of the images, at least one.
        num_classes: of the boxes; 0 if there are none.
        image_format: INPUT.FORMAT.
        strides: of the levels that a detector predicts on, in pixels, finest first.
        found: the measures of the dicts, if they are known.
        most: pixels that the shortest edge of the input may have, a multiple of 32; 0 = no bound.
        one_anchor: at each place, as ATSS needs no more; otherwise two sizes in one or three
            ratios.

    Raises:
        DatasetError: an image cannot be read; the message names it.
    """
    found = measure(dicts) if found is None else found
    mean, deviation = pixel_statistics(dicts, image_format)
    size = shortest, longest = input_size(found, most)
    boxes = resized(found, size)
    at_size = "no boxes to go by"
    if len(boxes):
        at_size = f"√area of objects {_in_words(np.sqrt(boxes.prod(1)))} px"
    if shortest == most:
        at_size = f"at most {most}; {at_size}"
    images = f"{image_format}, {min(len(dicts), _MAX_OPENED)} of {len(dicts)} images"
    train = [shortest * 7 // 8, shortest, shortest * 9 // 8]
    settings = {
        "MODEL.PIXEL_MEAN": Suggestion(mean, images),
        "MODEL.PIXEL_STD": Suggestion(deviation, images),
        "INPUT.FORMAT": Suggestion(image_format, "the order of PIXEL_MEAN and PIXEL_STD"),
        "INPUT.MIN_SIZE_TEST": Suggestion(shortest, at_size),
        "INPUT.MAX_SIZE_TEST": Suggestion(longest, "of 95 % of the images nothing is lost"),
        "INPUT.MIN_SIZE_TRAIN": Suggestion(train, "an eighth less, that of the test, and more"),
        "INPUT.MAX_SIZE_TRAIN": Suggestion(longest * 9 // 8, "an eighth more than in the test"),
    }
    if len(boxes):
        number, ratios = (1, (1,)) if one_anchor else (2, (1, 3))
        anchors = suggest_anchors(boxes, strides, number, ratios)
        usual = default_anchors(boxes, strides, number, len(anchors.aspect_ratios[0]))
        fit = f"mean IoU {anchors.mean_iou:.2f}; RetinaNet's anchors: {usual.mean_iou:.2f}"
        shape = f"height by width {_in_words(boxes[:, 1] / boxes[:, 0])}"
        often = _in_words(found.counts, (50, 99))
        settings |= {
            "MODEL.ANCHOR_GENERATOR.SIZES": Suggestion(anchors.sizes, fit),
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Suggestion(anchors.aspect_ratios, shape),
            "TEST.DETECTIONS_PER_IMAGE": Suggestion(
                detections_per_image(found), f"objects of an image {often}"
            ),
        }
    if num_classes:
        settings["MODEL.DENSE_HEAD.NUM_CLASSES"] = Suggestion(num_classes, "of the boxes")
    return settings


def _in_words(values: np.ndarray, percentiles: Sequence[int] = PERCENTILES) -> str:
    """Percentiles as text: "3 5 8 (25 50 75 %)"."""
    numbers = " ".join(f"{value:.3g}" for value in np.percentile(values, percentiles))
    return f"{numbers} ({' '.join(map(str, percentiles))} %)"


def as_yaml(suggestions: Mapping[str, Suggestion]) -> str:
    """The lines of a config with these values, and what they follow from as comments."""
    lines: list[str] = []
    opened: list[str] = []  # the groups that the line before belongs to
    for key in sorted(suggestions):
        *groups, name = key.split(".")
        same = takewhile(lambda pair: pair[0] == pair[1], zip(groups, opened, strict=False))
        shared = len(list(same))
        lines += [f"{'  ' * i}{groups[i]}:" for i in range(shared, len(groups))]
        value = json.dumps(suggestions[key].value)
        lines.append(f"{'  ' * len(groups)}{name}: {value}  # {suggestions[key].reason}")
        opened = groups
    return "\n".join(lines) + "\n"
