"""Images per second from JPEG files to model inputs, and the memory of loading processes."""

import copy
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from memory import peak_gigabytes, shared_memory
from multas.data import MultasMapper
from multas.data.loader import BatchSampler, TrainLoader
from multas.data.mixing import build_mixing
from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.data.toy.scene import CLASSES, Scene, draw_scene
from multas.data.training import build_training_loader
from multas.engine import load_config
from tables import rate_table, ratio_table
from timing import take_turns

# The scenes of the embedded data set, enlarged to a usual size of VOC images.
IMAGES, WIDTH, HEIGHT = 64, 500, 375
MIN_SIZES, MAX_SIZE = (320, 352, 384), 640
NAME = "multas_benchmark_loading"
# COCO train2017 has 118,287 images with 860,001 objects and 19 million corners of polygons.
MANY, OBJECTS, CORNERS = 118_287, 7.27, 22
# name -> number of loading processes, whether they get the dicts as a plain list with polygons.
MEMORY = {
    "1 process": (1, False),
    "4 processes": (4, False),
    "1 process, plain list": (1, True),
    "4 processes, plain list": (4, True),
}
BARS = {"4 processes": "1.20"}


def write_image(folder: Path, number: int) -> dict:
    """Write one image to disk and return its dataset dict."""
    scene = draw_scene(0, number)
    file = folder / f"{number:06d}.jpg"
    Image.fromarray(scene.image).resize((WIDTH, HEIGHT)).save(file, quality=92)
    return {
        "file_name": str(file), "image_id": file.stem, "width": WIDTH, "height": HEIGHT,
        "annotations": _annotations(scene),
    }  # fmt: skip


def _annotations(scene: Scene) -> list[dict]:
    height, width = scene.mask.shape
    scale = WIDTH / width, HEIGHT / height
    found = []
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        corner = (x1 - 1) * scale[0], (y1 - 1) * scale[1]
        box = [*corner, x2 * scale[0] - corner[0], y2 * scale[1] - corner[1]]
        label = CLASSES.index(item.name)
        found.append({"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": label})
    return found


def write_pseudo_labels(file: str, dicts: list[dict]) -> None:
    """Write the ground truth as pseudo-labels."""
    header = Header(NAME, list(CLASSES), [x["image_id"] for x in dicts], 0.5, 0)
    boxes = [
        {"image_id": x["image_id"], "category_id": a["category_id"], "bbox": a["bbox"],
         "score": 0.9}
        for x in dicts
        for a in x["annotations"]
    ]  # fmt: skip
    save_pseudo_labels(file, header, boxes)


@contextmanager
def image_folder() -> Iterator[tuple[list[dict], str]]:
    """Give dataset dicts with ground truth, and a file of pseudo-labels with the same boxes."""
    with tempfile.TemporaryDirectory() as folder:
        dicts = [write_image(Path(folder), number) for number in range(IMAGES)]
        labels = str(Path(folder) / "pseudo_labels.json")
        write_pseudo_labels(labels, dicts)
        MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES))
        try:
            yield dicts, labels
        finally:
            MetadataCatalog.remove(NAME)


def many_dicts(file: str, count: int) -> list[dict]:
    """Dataset dicts as those of COCO train2017, all of one small image."""
    rng = np.random.default_rng(0)

    def annotation() -> dict:
        return {
            "category_id": int(rng.integers(80)),
            "bbox": [1.0, 1.0, *(1 + 10 * rng.random(2)).tolist()],
            "bbox_mode": BoxMode.XYWH_ABS,
            "iscrowd": 0,
            "segmentation": [(16 * rng.random(2 * CORNERS)).tolist()],
        }

    return [
        {"file_name": file, "image_id": number, "width": 16, "height": 16,
         "annotations": [annotation() for _ in range(1 + rng.poisson(OBJECTS - 1))]}
        for number in range(count)
    ]  # fmt: skip


def read_alone(dataset_dict: dict) -> dict:
    """Stands for a mapper, which copies the dict that it gets, but opens no image."""
    return {"objects": len(copy.deepcopy(dataset_dict)["annotations"])}


def main(workers: str, plain: str) -> None:
    """Print the memory (bytes) of a process and its loading processes after an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "image.png")
        Image.new("RGB", (16, 16)).save(file)
        DatasetCatalog.register(NAME, lambda: many_dicts(file, MANY))
        MetadataCatalog.get(NAME).set(thing_classes=[str(i) for i in range(80)])
        options = ["DATASETS.TRAIN", (NAME,), "DATALOADER.NUM_WORKERS", int(workers)]
        options += ["INPUT.MIN_SIZE_TRAIN", (16,), "SOLVER.IMS_PER_BATCH", 16]
        loader = build_training_loader(load_config("", options))
        assert isinstance(loader, TrainLoader)
        if plain == "True":
            loader.dataset.dicts = DatasetCatalog.get(NAME)
        loader.dataset.mapper = read_alone
        # Batches go to the processes in turn: so each of them reads all images, as in many epochs.
        epoch = list(itertools.islice(loader.sampler, max(MANY // 16, 1)))
        repeated = [batch for batch in [*epoch, epoch[0]] for _ in range(int(workers))]
        loader.sampler = cast(BatchSampler, repeated)
        batches = iter(loader)
        for _ in range(len(epoch) * int(workers)):
            next(batches)
        print(shared_memory())


def _memory() -> str:
    gigabytes, missing = peak_gigabytes(__file__, MEMORY, 1)
    return ratio_table(gigabytes, "loading", bars=BARS, missing=missing, unit="GB", digits=2)


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    options = ["INPUT.MIN_SIZE_TRAIN", MIN_SIZES, "INPUT.MAX_SIZE_TRAIN", MAX_SIZE]
    options += ["DATASETS.TRAIN", (NAME,)]

    def reading(mapper: Callable[[dict], dict], dicts: list[dict]) -> Callable[[], None]:
        def read() -> None:
            for sample in dicts:
                mapper(sample)

        return read

    def mixing(name: str, dicts: list[dict]) -> Callable[[], None]:
        cfg = load_config("", [*options, f"INPUT.MIX.{name}", 1.0])
        mix = build_mixing(cfg, dicts, MultasMapper(cfg, is_train=True), NAME)
        assert mix is not None

        def read() -> None:
            for number in range(len(dicts)):
                mix(dicts, number)

        return read

    with image_folder() as (dicts, labels):
        bare = [{k: v for k, v in x.items() if k != "annotations"} for x in dicts]
        with_file = load_config("", [*options, "DATASETS.PSEUDO_LABELS.FILES", [labels]])
        cfg = load_config("", options)
        theirs, ours = DatasetMapper(cfg, is_train=True), MultasMapper(cfg, is_train=True)
        pseudo = MultasMapper(with_file, is_train=True)
        assert len(pseudo(bare[0])["instances"]) == len(theirs(dicts[0])["instances"])
        seconds = take_turns(
            {
                "Detectron2's DatasetMapper": reading(theirs, dicts),
                "MultasMapper, ground truth": reading(ours, dicts),
                "MultasMapper, pseudo-labels": reading(pseudo, bare),
                "MultasMapper, no annotation": reading(ours, bare),
                "MOSAIC, of four images": mixing("MOSAIC", dicts),
                "COPY_PASTE, of two": mixing("COPY_PASTE", dicts),
                "MIXUP, of two": mixing("MIXUP", dicts),
            },
            rounds,
        )
    return (
        f"## Loading: {IMAGES} JPEG files of {WIDTH} × {HEIGHT}, {rounds} rounds\n\n"
        "Decoding, resizing, flipping and boxes, in one process.\n\n"
        f"{rate_table(seconds, 'mapper', IMAGES)}\n\n"
        f"Memory of a training process and its loading processes after an epoch of {MANY} images "
        "with boxes and polygons as in COCO, libraries included and shared pages counted once:\n\n"
        f"{_memory()}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
