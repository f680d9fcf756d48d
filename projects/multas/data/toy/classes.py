"""The embedded set for classification: the objects of the embedded scenes, cut out.

There is one sub-folder per class in ``train``, ``val`` and ``test``. Their scenes are those of the
devkit's lists of the same names (devkit.py), so that no object of a test scene is learned from.
"""

import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from multas.data.toy.devkit import image_id
from multas.data.toy.manifest import check_toy, read_manifest, write_file, write_manifest
from multas.data.toy.scene import Scene, draw_scene

VERSION = 1
SIDE = 32  # pixels, as CIFAR

_MARGIN = 1.25  # side of the crop over the longer side of the box


def make_toy_classes(
    root: str | Path, seed: int = 0, *, train: int = 480, val: int = 100, test: int = 200
) -> Path:
    """Make the data set below ``root``; if a file is lost or damaged, make all of it again.

    It does not need the devkit: the scenes are drawn anew, the same to the last pixel. Objects that
    are hardly visible ("difficult") are left out.

    Args:
        root: folder of ``train``, ``val`` and ``test``.
        seed: seed of all scenes.
        train, val, test: numbers of scenes, each of which has one to five objects.

    Returns:
        ``root``.
    """
    root = Path(root)
    recipe = {"version": VERSION, "seed": seed, "train": train, "val": val, "test": test}
    if not check_toy(root, read_manifest(root, recipe)):
        return root
    parts = ["train"] * train + ["val"] * val + ["test"] * test
    made = {}
    for index, part in enumerate(parts):
        for number, (name, content) in enumerate(_cut_out(draw_scene(seed, index))):
            path = f"{part}/{name}/{image_id(index)}_{number}.png"
            made[path] = write_file(root / path, content)
    write_manifest(root, recipe, made)
    return root


def _cut_out(scene: Scene) -> Iterator[tuple[str, bytes]]:
    """Class and PNG, 32 x 32 pixels, of each object; at a border the crop is moved inside."""
    image = Image.fromarray(scene.image)
    for entry in scene.objects:
        if entry.difficult:
            continue
        xmin, ymin, xmax, ymax = entry.box  # 1-based, inclusive
        side = min(_MARGIN * max(xmax - xmin + 1, ymax - ymin + 1), image.width, image.height)
        x0 = min(max((xmin - 1 + xmax - side) / 2, 0), image.width - side)
        y0 = min(max((ymin - 1 + ymax - side) / 2, 0), image.height - side)
        crop = (x0, y0, x0 + side, y0 + side)
        stream = io.BytesIO()
        image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=crop).save(stream, "PNG")
        yield entry.name, stream.getvalue()
