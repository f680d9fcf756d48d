"""Pictures for the miniatures: scenes of the embedded set, of any size and number of classes."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from multas.data.toy.scene import CLASSES, Scene, draw_scene

VOID = 255  # mask value of soft borders
_SCENES = 40  # different ones
_LEAST_PIXELS = 16


@dataclass(frozen=True)
class Thing:
    """An object: its class, its pixels (H, W) bool, and whether it is cut off or hard to see."""

    label: int
    pixels: np.ndarray
    truncated: bool
    difficult: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(xmin, ymin, xmax, ymax) of its pixels, 0-based; the last two are exclusive."""
        ys, xs = np.nonzero(self.pixels)
        return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1

    @property
    def polygons(self) -> list[np.ndarray]:
        """The outlines of its parts, (N, 2) integers each, N at least 3."""
        parts, _ = cv2.findContours(
            self.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        return [part[:, 0] for part in parts if len(part) >= 3 and cv2.contourArea(part) > 0]


@dataclass(frozen=True)
class Picture:
    """``image`` is (H, W, 3) uint8 RGB, ``mask`` (H, W) uint8: 0, 1 + class, or VOID."""

    image: np.ndarray
    mask: np.ndarray
    things: tuple[Thing, ...]


def draw(number: int, size: tuple[int, int], classes: int) -> Picture:
    """Draw picture ``number`` at (width, height) pixels.

    A few pictures have objects of eight classes; the next ones of the next eight.
    """
    scene = _scene(number % _SCENES)
    image = cv2.resize(scene.image, size, interpolation=cv2.INTER_LINEAR)
    labels = [(kind + len(CLASSES) * number) % classes for kind in range(len(CLASSES))]
    table = np.zeros(256, np.uint8)
    table[1 : 1 + len(labels)] = np.array(labels) + 1
    table[VOID] = VOID
    things = []
    for entry in scene.objects:
        xmin, ymin, xmax, ymax = entry.box  # 1-based, inclusive
        kind, box = CLASSES.index(entry.name), np.zeros_like(scene.mask)
        box[ymin - 1 : ymax, xmin - 1 : xmax] = 1
        pixels = _stretched((scene.mask == kind + 1) & (box > 0), size)
        if np.count_nonzero(pixels) > _LEAST_PIXELS:
            things.append(Thing(labels[kind], pixels, entry.truncated, entry.difficult))
    return Picture(image, _stretched(table[scene.mask], size), tuple(things))


def _stretched(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return values.astype(mask.dtype)


@cache
def _scene(number: int) -> Scene:
    return draw_scene(7, number)


def bands(number: int, size: tuple[int, int], values: int) -> np.ndarray:
    """(H, W) uint8: upright bands of twelve values each, so that a few pictures show all."""
    width, height = size
    band = np.arange(width) * 12 // width
    row = (band + 12 * number) % values
    return np.broadcast_to(row.astype(np.uint8), (height, width)).copy()


def save(file: Path, pixels: np.ndarray | Image.Image, kind: str = "", **options: object) -> None:
    """Write an image, in the format of its suffix or another one, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    kind = kind or {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}[file.suffix.lower()]
    image.save(stream, kind, **options)
    file.write_bytes(stream.getvalue())


def write(file: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding=encoding)


def write_lines(file: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write a list, a line each; ``end`` stands behind the last one."""
    write(file, "\n".join(lines) + end)
