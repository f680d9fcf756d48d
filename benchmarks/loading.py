"""Images per second from JPEG files to model inputs in one process."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from multas.data import MultasMapper
from multas.data.pseudo_label_files import Header, save_pseudo_labels
from multas.data.toy.scene import CLASSES, Scene, draw_scene
from multas.engine import load_config
from tables import rate_table
from timing import take_turns

# The scenes of the embedded data set, enlarged to a usual size of VOC images.
IMAGES, WIDTH, HEIGHT = 64, 500, 375
MIN_SIZES, MAX_SIZE = (320, 352, 384), 640
NAME = "multas_benchmark_loading"


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


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    options = ["INPUT.MIN_SIZE_TRAIN", MIN_SIZES, "INPUT.MAX_SIZE_TRAIN", MAX_SIZE]
    options += ["DATASETS.TRAIN", (NAME,)]

    def reading(mapper: Callable[[dict], dict], dicts: list[dict]) -> Callable[[], None]:
        def read() -> None:
            for sample in dicts:
                mapper(sample)

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
            },
            rounds,
        )
    return (
        f"## Loading: {IMAGES} JPEG files of {WIDTH} × {HEIGHT}, {rounds} rounds\n\n"
        "Decoding, resizing, flipping and boxes, in one process.\n\n"
        f"{rate_table(seconds, 'mapper', IMAGES)}"
    )
