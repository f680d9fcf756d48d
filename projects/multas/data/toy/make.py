"""Makes the embedded data sets from a seed, and repairs them where they are damaged.

:func:`make_toy` makes a VOC devkit of drawn scenes. The lists below its ImageSets:

- Main/train: to learn from; Main/trainval is the same, since in VOC the fractions divide trainval
- Main/val: to choose on; Main/test: to report on; both without any image of the others
- Half … 7Eighth/trainval: fractions of Main/trainval by ``make_splits``
- det/train, seg/train: two halves of Main/train, for learning from partly annotated images;
  det2/train, seg2/train: a half of each; det/val and seg/val: Main/val
- Segmentation: as Main, since every image has a mask

:func:`make_toy_classes` cuts the objects out of the same scenes, for classification, and
:func:`make_toy_source` makes a larger devkit of other scenes and colours, to start from.
"""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

from multas.data.formats.mask_files import voc_palette
from multas.data.splits.make import make_splits
from multas.data.toy.scene import Scene, SceneObject, draw_scene
from multas.util.files import written_whole
from multas.util.paths import inside

DEVKIT_VERSION, CLASSES_VERSION = 3, 1
MANIFEST = "manifest.json"
SIDE = 32  # pixels of a cut-out object, as in CIFAR

_SOURCE_HUE_SHIFT = 1 / 8  # the typical hues are a quarter of a turn apart
_HALF_SEED = 1  # det/seg must not coincide with Half/Half2
_MARGIN = 1.25  # side of the crop over the longer side of the box


def make_toy(
    root: str | Path,
    seed: int = 0,
    *,
    train: int = 480,
    val: int = 100,
    test: int = 200,
    hue_shift: float = 0.0,
) -> Path:
    """Make the devkit below ``root``, or complete and repair what is there.

    Args:
        root: folder of the devkit (the one that holds JPEGImages).
        seed: seed of all scenes and lists.
        train, val, test: numbers of images; train must be at least 16.
        hue_shift: turns the typical colours of the classes, see :func:`draw_scene`.

    Returns:
        ``root``.
    """
    recipe: dict[str, int | float]
    recipe = {"version": DEVKIT_VERSION, "seed": seed, "train": train, "val": val, "test": test}
    if hue_shift:
        recipe["hue_shift"] = hue_shift
    return _make_files(Path(root), recipe, _devkit(seed, (train, val, test), hue_shift))


def make_toy_source(
    root: str | Path, seed: int = 1, *, train: int = 1920, val: int = 100, test: int = 200
) -> Path:
    """Make the devkit of the source set, from which networks start that learn the embedded set.

    It has four times as many images to learn from, no scene in common with the embedded set (whose
    seed is 0), and other colours: each typical hue lies halfway between two of the embedded set.

    The arguments are those of :func:`make_toy`.
    """
    return make_toy(root, seed, train=train, val=val, test=test, hue_shift=_SOURCE_HUE_SHIFT)


def make_toy_classes(
    root: str | Path, seed: int = 0, *, train: int = 480, val: int = 100, test: int = 200
) -> Path:
    """Make one folder per class in ``train``, ``val`` and ``test``, or repair what is there.

    The scenes of each part are those of the devkit's list of the same name, so that no object of
    a test scene is learned from. Objects that are hardly visible ("difficult") are left out.

    The arguments are those of :func:`make_toy`; each scene has one to five objects.
    """
    recipe = {"version": CLASSES_VERSION, "seed": seed, "train": train, "val": val, "test": test}
    parts = ["train"] * train + ["val"] * val + ["test"] * test
    return _make_files(Path(root), recipe, _class_folders(seed, parts))


def check_toy(root: str | Path) -> list[str]:
    """The missing and damaged files of an embedded set, by their paths below ``root``.

    Where there is no manifest, this is the one that is missing.

    Raises:
        UserError: The manifest names a file outside of ``root``.
    """
    _, files = _read_manifest(Path(root))
    damaged = [path for path, entry in files.items() if not _is_intact(Path(root, path), entry)]
    return damaged if files else [MANIFEST]


def _make_files(root: Path, recipe: dict, files: Iterable[tuple[str, bytes]]) -> Path:
    """Write the files, by path below ``root``, unless they are there already.

    If one is lost or damaged, or made by another recipe or another version of an image library,
    all are drawn again, and those that differ are written. The manifest, with their sizes and
    hashes, comes last; files of an earlier manifest that it does not have are removed.
    """
    old_recipe, old_files = _read_manifest(root)
    if recipe == old_recipe and not check_toy(root):
        return root
    made = {path: _write(root / path, content) for path, content in files}
    for path in old_files.keys() - made.keys():
        if (root / path).is_file():  # of a link, the link alone is removed
            (root / path).unlink()
    manifest = {"recipe": recipe, "files": dict(sorted(made.items()))}
    _write(root / MANIFEST, json.dumps(manifest, indent=0).encode())
    return root


def _read_manifest(root: Path) -> tuple[dict, dict[str, list]]:
    """The recipe, and the entry of each file by its path; both are empty without a manifest.

    Raises:
        UserError: It names a file outside of ``root``, which would be read or removed.
    """
    try:
        content = json.loads((root / MANIFEST).read_text())
        recipe, files = dict(content["recipe"]), dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}, {}
    for name in files:
        inside(root, name, str(root / MANIFEST))
    return recipe, files


def _write(file: Path, content: bytes) -> list:
    """Write a file that is not there already; returns its entry."""
    entry = _entry(content)
    if not _is_intact(file, entry):
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file, f".{os.getpid()}.partial") as partial:
            Path(partial).write_bytes(content)
    return entry


def _is_intact(file: Path, entry: list) -> bool:
    try:
        # Pipes and devices have no end.
        return file.is_file() and _entry(file.read_bytes()) == entry
    except OSError:
        return False


def _entry(content: bytes) -> list:
    """Size in bytes and SHA-256."""
    return [len(content), hashlib.sha256(content).hexdigest()]


def _devkit(
    seed: int, sizes: tuple[int, int, int], hue_shift: float
) -> Iterator[tuple[str, bytes]]:
    train, val, _ = sizes
    names = [f"{index:06d}" for index in range(sum(sizes))]
    counts: dict[str, Counter[str]] = {}
    for index, name in enumerate(names):
        scene = draw_scene(seed, index, hue_shift)
        counts[name] = Counter(entry.name for entry in scene.objects)
        yield f"JPEGImages/{name}.jpg", _encode(Image.fromarray(scene.image), "JPEG", quality=92)
        yield f"Annotations/{name}.xml", _xml(name, scene)
        mask = Image.fromarray(scene.mask)
        mask.putpalette(voc_palette())
        yield f"SegmentationClass/{name}.png", _encode(mask, "PNG")
    parts = {
        "train": names[:train],
        "val": names[train : train + val],
        "test": names[train + val :],
    }
    learned = {name: counts[name] for name in parts["train"]}
    for name, members in _lists(parts, learned, seed).items():
        yield f"ImageSets/{name}.txt", "".join(f"{member}\n" for member in members).encode()


def _lists(
    parts: dict[str, list[str]], counts: dict[str, Counter[str]], seed: int
) -> dict[str, list[str]]:
    """The ids of each list; ``counts`` are the objects per class of the images to learn from."""
    lists = {f"{name}/{part}": parts[part] for name in ("Segmentation", "Main") for part in parts}
    lists |= {"Main/trainval": parts["train"], "det/val": parts["val"], "seg/val": parts["val"]}
    lists |= {f"{name}/trainval": ids for name, ids in make_splits(counts, seed=seed).items()}
    halves = make_splits(counts, [1 / 2], seed + _HALF_SEED)
    for task, members in (("det", halves["Half"]), ("seg", halves["Half2"])):
        own = {name: counts[name] for name in members}
        lists[f"{task}/train"] = members
        lists[f"{task}2/train"] = make_splits(own, [1 / 2], seed)["Half"]
    return lists


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
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


def _class_folders(seed: int, parts: list[str]) -> Iterator[tuple[str, bytes]]:
    for index, part in enumerate(parts):
        scene = draw_scene(seed, index)
        seen = [entry for entry in scene.objects if not entry.difficult]
        for number, entry in enumerate(seen):
            crop = _cut_out(Image.fromarray(scene.image), entry)
            yield f"{part}/{entry.name}/{index:06d}_{number}.png", _encode(crop, "PNG")


def _cut_out(image: Image.Image, entry: SceneObject) -> Image.Image:
    """An object on ``SIDE`` x ``SIDE`` pixels; at a border the crop is moved inside."""
    xmin, ymin, xmax, ymax = entry.box  # 1-based, inclusive
    side = min(_MARGIN * max(xmax - xmin + 1, ymax - ymin + 1), image.width, image.height)
    x0 = min(max((xmin - 1 + xmax - side) / 2, 0), image.width - side)
    y0 = min(max((ymin - 1 + ymax - side) / 2, 0), image.height - side)
    crop = (x0, y0, x0 + side, y0 + side)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=crop)
