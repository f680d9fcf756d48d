"""The embedded data set: a VOC devkit of drawn scenes, made from a seed and repaired if damaged.

The lists below ImageSets:

- Main/train: to learn from; Main/trainval is the same, since in VOC the fractions divide trainval
- Main/val: to choose on; Main/test: to report on; both without any image of the others
- Half … 7Eighth/trainval: fractions of Main/trainval by ``make_splits``
- det/train, seg/train: two halves of Main/train, for learning from partly annotated images;
  det2/train, seg2/train: a half of each; det/val and seg/val: Main/val
- Segmentation: as Main, since every image has a mask
"""

import io
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

from multas.data.formats.masks import voc_palette
from multas.data.splits.make import make_splits
from multas.data.toy.manifest import (
    MANIFEST,
    check_toy,
    is_intact,
    read_manifest,
    write_file,
    write_manifest,
)
from multas.data.toy.scene import Scene, draw_scene
from multas.util.voc_xml import read_voc_xml

VERSION = 3

_HALF_SEED = 1  # det/seg must not coincide with Half/Half2


def make_toy(
    root: str | Path, seed: int = 0, *, train: int = 480, val: int = 100, test: int = 200
) -> Path:
    """Make the data set below ``root``, or complete and repair what is there.

    Each image depends on the seed and its number alone, so that only lost and damaged files are
    made again, byte by byte as before. A folder made with other arguments is overwritten.

    Args:
        root: folder of the devkit (the one that holds JPEGImages).
        seed: seed of all scenes and lists.
        train, val, test: numbers of images; train must be at least 16.

    Returns:
        ``root``.
    """
    root = Path(root)
    recipe = {"version": VERSION, "seed": seed, "train": train, "val": val, "test": test}
    known = read_manifest(root, recipe)
    if not check_toy(root, known):
        return root
    made = _make_images(root, seed, train + val + test, known)
    made |= _make_lists(root, recipe)
    if any(made[path] != entry for path, entry in known.items()):
        # Another version of an image library writes other bytes: then it must write all files.
        return _remake(root, seed, train=train, val=val, test=test)
    write_manifest(root, recipe, made)
    return root


def _remake(root: Path, seed: int, **sizes: int) -> Path:
    (root / MANIFEST).unlink()
    return make_toy(root, seed, **sizes)


def image_id(index: int) -> str:
    """The id of scene number ``index``."""
    return f"{index:06d}"


def _make_images(root: Path, seed: int, count: int, known: dict[str, list]) -> dict[str, list]:
    entries: dict[str, list] = {}
    encoders: dict[str, Callable[[str, Scene], bytes]] = {
        "JPEGImages/{}.jpg": lambda _, scene: _jpeg(scene),
        "Annotations/{}.xml": _xml,
        "SegmentationClass/{}.png": lambda _, scene: _mask_png(scene),
    }
    for index in range(count):
        name = image_id(index)
        paths = {template.format(name): encode for template, encode in encoders.items()}
        if all(path in known and is_intact(root / path, known[path]) for path in paths):
            entries.update({path: known[path] for path in paths})
            continue
        scene = draw_scene(seed, index)
        for path, encode in paths.items():
            entries[path] = write_file(root / path, encode(name, scene))
    return entries


def _jpeg(scene: Scene) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene.image).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _mask_png(scene: Scene) -> bytes:
    image = Image.fromarray(scene.mask)
    image.putpalette(voc_palette())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _xml(name: str, scene: Scene) -> bytes:
    height, width = scene.mask.shape
    lines = [
        "<annotation>",
        "\t<folder>toy</folder>",
        f"\t<filename>{name}.jpg</filename>",
        "\t<source><database>multas toy shapes</database></source>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>1</segmented>",
    ]
    for entry in scene.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), entry.box, strict=True)
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(entry.name)}</name>",
            "\t\t<pose>Unspecified</pose>",
            f"\t\t<truncated>{int(entry.truncated)}</truncated>",
            f"\t\t<occluded>{int(entry.occluded)}</occluded>",
            f"\t\t<difficult>{int(entry.difficult)}</difficult>",
            "\t\t<bndbox>" + "".join(f"<{k}>{v}</{k}>" for k, v in corners) + "</bndbox>",
            "\t</object>",
        ]
    return ("\n".join([*lines, "</annotation>"]) + "\n").encode()


def _make_lists(root: Path, recipe: dict) -> dict[str, list]:
    train, val, test = recipe["train"], recipe["val"], recipe["test"]
    ids = [image_id(index) for index in range(train + val + test)]
    parts = {"train": ids[:train], "val": ids[train : train + val], "test": ids[train + val :]}
    counts = {name: _count(root / "Annotations" / f"{name}.xml") for name in parts["train"]}
    lists = {f"Segmentation/{part}": names for part, names in parts.items()}
    lists |= {f"Main/{part}": names for part, names in parts.items()}
    lists["Main/trainval"] = parts["train"]
    for name, members in make_splits(counts, seed=recipe["seed"]).items():
        lists[f"{name}/trainval"] = members
    halves = make_splits(counts, [1 / 2], seed=recipe["seed"] + _HALF_SEED)
    for task, members in (("det", halves["Half"]), ("seg", halves["Half2"])):
        lists[f"{task}/train"] = members
        own = {name: counts[name] for name in members}
        lists[f"{task}2/train"] = make_splits(own, [1 / 2], seed=recipe["seed"])["Half"]
    lists |= {"det/val": parts["val"], "seg/val": parts["val"]}
    return {
        (path := f"ImageSets/{name}.txt"): write_file(
            root / path, "".join(f"{member}\n" for member in members).encode()
        )
        for name, members in lists.items()
    }


def _count(file: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in read_voc_xml(file).objects:
        counts[entry.name] = counts.get(entry.name, 0) + 1
    return counts
