"""Draws one scene of the embedded data set: textured shapes on a cluttered background.

The classes come in pairs of similar outlines (disc/hexagon, ring/crescent, star/cross,
square/triangle) that are easily confused when small, turned or partly hidden. In most objects the
colour narrows the class down to a pair; only the outline tells which of the two it is. Textures,
and the colours of distractors, tell nothing.

Everything about scene ``index`` of data set ``seed`` is drawn from one generator seeded with both,
so that any single image can be made again without the others. With another palette the typical
colours are turned by the same angle of hue, and nothing else changes: what was learned of outlines
holds, what was learned of colours does not.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross", "crescent", "hexagon")

# (height, width) in pixels: a quarter is not square, so that the handling of sizes is exercised.
SIZES = ((128, 128),) * 6 + ((112, 128), (128, 112))

TRUNCATED_BELOW = 0.95  # visible share under which a box does not show the whole object
DIFFICULT_BELOW = 0.4  # visible share under which an object is mostly hidden
DIFFICULT_PIXELS = 80  # visible area (pixels) under which it is tiny
# Visible share and area (pixels) below which a person cannot recognise an object: it is not placed.
HIDDEN_BELOW, HIDDEN_PIXELS = 0.2, 36

# The hue that most objects of a class have, the same for the two of a pair, and the share of them.
_HUES = dict.fromkeys(("disc", "hexagon"), 0.0) | dict.fromkeys(("ring", "crescent"), 0.25)
_HUES |= dict.fromkeys(("star", "cross"), 0.5) | dict.fromkeys(("square", "triangle"), 0.75)
_TYPICAL = 0.75

_PAD = 48  # pixels drawn beyond the image, to know how much of an object lies outside
_SHIFT = 4  # fractional bits of polygon coordinates


@dataclass(frozen=True)
class SceneObject:
    """One object; ``box`` is (xmin, ymin, xmax, ymax) of its visible pixels, 1-based, inclusive."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    occluded: bool
    difficult: bool


@dataclass(frozen=True)
class Scene:
    """A drawn image and its annotations.

    ``image`` is (H, W, 3) uint8 RGB. ``mask`` is (H, W) uint8: 0 for the background, 1 + the index
    of the class, and 255 for soft borders.
    """

    image: np.ndarray
    mask: np.ndarray
    objects: tuple[SceneObject, ...]


def draw_scene(seed: int, index: int, hue_shift: float = 0.0) -> Scene:
    """Draw scene number ``index`` of the data set made from ``seed``.

    Args:
        seed, index: what the scene is drawn from.
        hue_shift: added to the typical hue of every class; 1 is a full turn.
    """
    rng = np.random.default_rng([seed, index])
    height, width = SIZES[rng.integers(len(SIZES))]
    image = _background(rng, height, width)
    layers = _place_layers(rng, index, (height, width), hue_shift)
    owner = np.full((height, width), -1, np.int16)
    soft = np.zeros((height, width), bool)
    for number, layer in enumerate(layers):
        weight = layer.alpha[..., None]
        image = image * (1 - weight) + layer.texture * weight
        owner[layer.solid] = number
        soft = (soft & ~layer.solid) | ((layer.alpha > 0.05) & ~layer.solid)
    mask = np.zeros((height, width), np.uint8)
    objects = []
    for number, layer in enumerate(layers):
        if layer.class_index is not None:
            visible = owner == number
            mask[visible] = layer.class_index + 1
            objects.append(_annotate(layer, CLASSES[layer.class_index], visible))
    # Half-covered pixels outside every object count for no class, like the borders of VOC's masks.
    mask[soft & (owner < 0)] = 255
    return Scene(_light(rng, image), mask, tuple(objects))


@dataclass(frozen=True)
class _Layer:
    class_index: int | None  # None: a distractor
    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    solid: np.ndarray  # (H, W) bool, alpha >= 0.5
    area: int  # pixels of the whole outline, also outside the image
    texture: np.ndarray  # (H, W, 3) float32


def _place_layers(
    rng: np.random.Generator, index: int, size: tuple[int, int], hue_shift: float
) -> list[_Layer]:
    """Objects and distractors from back to front; every object can be recognised."""
    count = int(rng.choice([1, 2, 3, 4, 5], p=[0.2, 0.3, 0.25, 0.15, 0.1]))
    wanted: list[int | None] = [int(rng.integers(len(CLASSES))) for _ in range(count)]
    wanted[0] = index % len(CLASSES)
    wanted += [None] * int(rng.integers(0, 3))
    layers: list[_Layer] = []
    for position in rng.permutation(len(wanted)):
        for _ in range(12):
            candidate = _draw_layer(rng, wanted[position], size, hue_shift)
            if _all_recognisable([*layers, candidate]):
                layers.append(candidate)
                break
    return layers


def _all_recognisable(layers: list[_Layer]) -> bool:
    covered = np.zeros_like(layers[-1].solid)
    for layer in reversed(layers):
        if layer.class_index is not None:
            visible = int(np.count_nonzero(layer.solid & ~covered))
            if visible < max(HIDDEN_PIXELS, HIDDEN_BELOW * layer.area):
                return False
        covered |= layer.solid
    return True


def _draw_layer(
    rng: np.random.Generator, class_index: int | None, size: tuple[int, int], hue_shift: float
) -> _Layer:
    height, width = size
    contours = _distractor(rng) if class_index is None else _SHAPES[CLASSES[class_index]]
    radius = float(np.exp(rng.uniform(np.log(10), np.log(34))))
    stretch = np.exp(rng.uniform(-0.12, 0.12))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = turn @ np.diag([radius * stretch, radius / stretch])
    margin = 0.35 * radius  # a centre near the border cuts the object, one outside would hide it
    centre = np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])
    canvas = np.zeros((height + 2 * _PAD, width + 2 * _PAD), np.uint8)
    places = [np.round((c @ scale.T + centre + _PAD) * 2**_SHIFT) for c in contours]
    cv2.fillPoly(canvas, [p.astype(np.int32) for p in places], 255, cv2.LINE_AA, _SHIFT)
    inside = canvas[_PAD : _PAD + height, _PAD : _PAD + width]
    return _Layer(
        class_index=class_index,
        alpha=inside.astype(np.float32) / 255,
        solid=inside >= 128,
        area=int(np.count_nonzero(canvas >= 128)),
        texture=_texture(rng, height, width, _vivid_colour(rng, class_index, hue_shift)),
    )


def _annotate(layer: _Layer, name: str, visible: np.ndarray) -> SceneObject:
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    pixels = int(np.count_nonzero(visible))
    share = pixels / layer.area
    return SceneObject(
        name=name,
        box=(int(columns[0]) + 1, int(rows[0]) + 1, int(columns[-1]) + 1, int(rows[-1]) + 1),
        truncated=share < TRUNCATED_BELOW,
        occluded=pixels < TRUNCATED_BELOW * int(np.count_nonzero(layer.solid)),
        difficult=share < DIFFICULT_BELOW or pixels < DIFFICULT_PIXELS,
    )


# Outlines are lists of contours (N, 2) in units of the radius; by OpenCV's even-odd rule an inner
# contour is a hole.


def _arc(start: float, stop: float, count: int, radius: float = 1.0) -> np.ndarray:
    angles = np.linspace(start, stop, count, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _regular(corners: int) -> np.ndarray:
    return _arc(0, 2 * np.pi, corners)


def _cross() -> np.ndarray:
    quarter = np.array([[1, -0.34], [1, 0.34], [0.34, 0.34]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _crescent() -> np.ndarray:
    # Two circles through the same two points: the unit circle and one shifted to the right.
    shift, inner = 0.5, 0.8
    x = (1 - inner**2 + shift**2) / (2 * shift)
    outer_angle, inner_angle = np.arccos(x), np.arccos((x - shift) / inner)
    outer = _arc(outer_angle, 2 * np.pi - outer_angle, 28)
    back = _arc(2 * np.pi - inner_angle, inner_angle, 28, inner) + np.array([shift, 0])
    return np.concatenate([outer, back])


_SHAPES = {
    "disc": [_regular(40)],
    "square": [_regular(4)],
    "triangle": [_regular(3)],
    "star": [_regular(10) * np.where(np.arange(10) % 2, 0.45, 1)[:, None]],
    "ring": [_regular(40), 0.55 * _regular(40)],
    "cross": [_cross()],
    "crescent": [_crescent()],
    "hexagon": [_regular(6)],
}


def _distractor(rng: np.random.Generator) -> list[np.ndarray]:
    """An outline of no class: bar, half disc, corner, or a wobbly blob."""
    kind = rng.integers(4)
    if kind == 0:
        return [_regular(4) @ np.array([[0.71, -0.71], [0.71, 0.71]]) * (1.3, 0.22)]
    if kind == 1:
        return [_arc(0, np.pi, 24)]
    if kind == 2:
        return [np.array([[-8, -8], [8, -8], [8, -3], [-3, -3], [-3, 8], [-8, 8]]) / 10]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radii = np.full(48, 0.75)
    for waves in (2, 3):
        radii += rng.uniform(0.12, 0.25) * np.sin(waves * angles + rng.uniform(0, 2 * np.pi))
    return [_regular(48) * radii[:, None]]


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """(H, W) float32 in about [0, 1], varying over ``cells`` cells per side."""
    grid = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _vivid_colour(
    rng: np.random.Generator, class_index: int | None, hue_shift: float
) -> np.ndarray:
    """(3,) RGB of an object of a class, or of a distractor (None)."""
    hue = rng.uniform(0, 1)
    if class_index is not None and rng.random() < _TYPICAL:
        hue = _HUES[CLASSES[class_index]] + hue_shift + rng.normal(0, 0.05)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.6, 1), rng.uniform(0.6, 1)))


def _dull_colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) RGB of the background: any brightness, little colour."""
    return rng.uniform(40, 190) + rng.uniform(-25, 25, 3)


def _texture(rng: np.random.Generator, height: int, width: int, first: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: the colour ``first`` (3,) and another one mixed by one of six patterns."""
    second = first + rng.uniform(0.2, 0.5) * (_dull_colour(rng) - first)
    kind = rng.integers(6)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    u = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period)
    v = (y * np.cos(angle) - x * np.sin(angle)) * (2 * np.pi / period)
    if kind == 0:
        mix = np.zeros((height, width), np.float32)
    elif kind == 1:
        mix = (np.sin(u) > 0).astype(np.float32)
    elif kind == 2:
        mix = (np.sin(u) * np.sin(v) > 0).astype(np.float32)
    elif kind == 3:
        mix = (np.sin(u) + np.sin(v) > 0.9).astype(np.float32)
    elif kind == 4:
        mix = _smooth_noise(rng, height, width, int(rng.integers(8, 24)))
    else:
        mix = 0.5 + 0.5 * np.sin(u * period / 60)
    return (first + mix[..., None] * (second - first)).astype(np.float32)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32: two textures mixed by smooth noise, crossed by lines and specks."""
    mix = np.clip(3 * _smooth_noise(rng, height, width, int(rng.integers(3, 7))) - 1, 0, 1)
    first, second = (_texture(rng, height, width, _dull_colour(rng)) for _ in range(2))
    image = first * (1 - mix[..., None]) + second * mix[..., None]
    image = np.ascontiguousarray(image, np.float32)
    for _ in range(int(rng.integers(3, 8))):
        ends = rng.uniform(-10, max(height, width) + 10, 4).astype(int)
        colour = rng.uniform(20, 235, 3).tolist()
        if rng.random() < 0.6:
            cv2.line(image, ends[:2].tolist(), ends[2:].tolist(), colour, int(rng.integers(1, 4)))
        else:
            axes = rng.integers(4, 30, 2).tolist()
            start, span = int(rng.integers(360)), int(rng.integers(40, 150))
            cv2.ellipse(image, ends[:2].tolist(), axes, 0, start, start + span, colour, 2)
    return image


def _light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Uneven light, gamma, blur and sensor noise; returns (H, W, 3) uint8."""
    y, x = np.mgrid[-1 : 1 : image.shape[0] * 1j, -1 : 1 : image.shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, 0.45) * (x * np.cos(angle) + y * np.sin(angle))
    lit = image * (rng.uniform(0.7, 1.15) + slope)[..., None] * rng.uniform(0.85, 1.1, 3)
    lit = 255 * np.clip(lit / 255, 0, 1) ** np.exp(rng.uniform(-0.25, 0.25))
    if rng.random() < 0.5:
        lit = cv2.GaussianBlur(lit, (0, 0), rng.uniform(0.4, 1.0))
    lit = lit + rng.normal(0, rng.uniform(2, 10), lit.shape)
    return np.clip(np.round(lit), 0, 255).astype(np.uint8)
