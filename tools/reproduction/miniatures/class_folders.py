"""Miniatures of ImageNet (ILSVRC 2012) and of Tiny ImageNet.

ImageNet:

- readme.txt of the ILSVRC2012 development kit: "There is a tar file for each synset, named by its
  WNID. The image files are named as x_y.JPEG, where x is WNID of the synset and y is an integer
  (not fixed width and not necessarily consecutive). All images are in JPEG format." Validation
  images "are named as ILSVRC2012_val_00000001.JPEG" and so on; the usual script, valprep.sh of
  soumith/imagenetloader.torch, moves them into folders by class.
- research/inception/inception/data/build_imagenet_data.py of tensorflow/models lists those that are
  not what their names say: "1 image is a PNG" (n02105855_2933.JPEG) and "22 JPEG images are in CMYK
  colorspace". A later version of the list has an image of the validation set, too.

Tiny ImageNet: no document that describes its files was found. A copy of val/val_annotations.txt
has lines like "val_0.JPEG n03444034 0 32 44 62", by tabs: the file, its class and a box; a copy of
wnids.txt has 200 classes, not sorted. Readers describe words.txt (all ids of ImageNet, with names),
train/<wnid>/images/<wnid>_<number>.JPEG beside <wnid>_boxes.txt, and
test/images/test_<number>.JPEG, all of 64 x 64 pixels.

Not checked against a document: that some images of both sets are grey, and the columns of
<wnid>_boxes.txt, which nothing here reads.
"""

from pathlib import Path

import cv2
from PIL import Image

from reproduction.miniatures.pictures import draw, save, write_lines

# Stand-ins: as many as ImageNet's, of the same form.
WNIDS = [f"n{1440764 + 7919 * number:08d}" for number in range(1000)]
_DRAWN = 40  # different pictures


def make_imagenet(root: Path) -> None:
    """Make imagenet in ``root``, with an image of each class to learn from and one to test on."""
    folder, pictures = root / "imagenet", _pictures(((80, 64), (64, 75), (90, 60)))
    for number, wnid in enumerate(WNIDS):
        image = pictures[number % _DRAWN]
        kind = "JPEG"
        if number % 10 == 1:
            image = image.convert("L")
        elif number % 100 == 2:
            image = image.convert("CMYK")
        elif number == 3:
            kind = "PNG"
        save(folder / "train" / wnid / f"{wnid}_{number % 97 + 1}.JPEG", image, kind)
        name = f"ILSVRC2012_val_{(number * 37) % 1000 + 1:08d}.JPEG"
        save(folder / "val" / wnid / name, pictures[(number + 1) % _DRAWN])


def make_tiny_imagenet(root: Path) -> None:
    """Make tiny-imagenet-200 in the folder ``root``."""
    folder, pictures = root / "tiny-imagenet-200", _pictures(((64, 64),))
    wnids = WNIDS[:200]
    write_lines(folder / "wnids.txt", wnids[::-1])  # in no order
    write_lines(folder / "words.txt", [f"{wnid}\tname, other name" for wnid in WNIDS])
    lines = []
    for number, wnid in enumerate(wnids):
        image = pictures[number % _DRAWN]
        if number % 20 == 1:
            image = image.convert("L")
        own, name = folder / "train" / wnid, f"{wnid}_{number}.JPEG"
        save(own / "images" / name, image)
        write_lines(own / f"{wnid}_boxes.txt", [f"{name}\t0\t10\t63\t58"])
        if number % 4 == 0:
            file = f"val_{number // 4}.JPEG"
            save(folder / "val" / "images" / file, pictures[(number + 1) % _DRAWN])
            lines.append(f"{file}\t{wnid}\t0\t32\t44\t62")
        if number < 2:
            save(folder / "test" / "images" / f"test_{number}.JPEG", image)
    write_lines(folder / "val" / "val_annotations.txt", lines)


def _pictures(sizes: tuple[tuple[int, int], ...]) -> list[Image.Image]:
    drawn = [draw(number, (128, 128), 8).image for number in range(_DRAWN)]
    return [
        Image.fromarray(cv2.resize(pixels, sizes[i % len(sizes)], interpolation=cv2.INTER_AREA))
        for i, pixels in enumerate(drawn)
    ]
