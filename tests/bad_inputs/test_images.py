"""Images and masks that are no such: one message that names the file, and a cure."""

import io
import struct

import numpy as np
from PIL import Image

from bad_inputs.entry import cases, check_refusal
from bad_inputs.world import SKIP, picture

IMAGES = {
    "text": (b"no image", "not a readable image (unknown format)"),
    "empty": (b"", "not a readable image ("),
    "32-bit float": (picture("F", kind="TIFF"), "32-bit values (mode F)", "8 or 16 bits"),
    "32-bit": (picture("I", kind="TIFF"), "32-bit values (mode I)", "8 or 16 bits"),
    "LAB": (picture("LAB", kind="TIFF"), "mode LAB", "save it as RGB"),
    "bomb": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II5B", 10**6, 10**6, 8, 2, 0, 0, 0)
             + b"\0\0\0\0", "not a readable image"),
    "cut header": (picture(kind="JPEG")[:30], "not a readable image"),
    "strip": (picture(size=(5000, 1)), "is 5000x1, of which nothing is left", "crop it"),
    "program": (picture(kind="EPS"), "is a PostScript program; save it as PNG"),
    "other size": (picture(size=(3, 4)), "listed as", "but the image is 3x4"),
}  # fmt: skip


@cases("content", IMAGES)
def test_images(world, content, parts):
    name = world.read("coco/train.json")["images"][0]["file_name"]
    world.write(f"coco/images/{name}", content)
    check_refusal(world.make_splits("coco.yaml"), name, *parts, SKIP)


def test_an_image_that_is_a_broken_link(world):
    name = world.read("coco/train.json")["images"][0]["file_name"]
    (world / "coco/images" / name).unlink()
    (world / "coco/images" / name).symlink_to("nowhere")
    check_refusal(world.make_splits("coco.yaml"), name, "No such file", SKIP)


def mask_of(values) -> bytes:
    if isinstance(values, bytes):
        return values
    stream = io.BytesIO()
    Image.fromarray(np.asarray(values)).save(stream, "PNG")
    return stream.getvalue()


MASKS = {
    "all void": (lambda shape: np.full(shape, 255, np.uint8), "every pixel has the ignore label"),
    "beyond": (lambda shape: np.full(shape, 77, np.uint8), "values [77] are beyond the 9 classes"),
    "16 bits": (lambda shape: np.full(shape, 300, np.uint16), "has values 300 … 300", "0 … 255"),
    "colours": (lambda shape: np.zeros((*shape, 3), np.uint8), "has mode RGB", "class indices"),
    "JPEG": (lambda shape: picture("L", shape[::-1], "JPEG"), "is a JPEG file", "save it as PNG"),
    "size": (lambda shape: np.zeros((3, 4), np.uint8), "is 4x3, but the image is"),
}


@cases("values", MASKS)
def test_masks(world, values, parts):
    file = sorted((world / "masks/masks").iterdir())[0]
    width, height = Image.open(file).size
    world.write(f"masks/masks/{file.name}", mask_of(values((height, width))))
    check_refusal(world.make_splits("masks.yaml"), file.name, *parts, SKIP)
