"""All kinds of files that a user has, small and right, of which tests spoil one at a time."""

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

from bad_inputs.entry import REPOSITORY, failed, refused, run_script
from multas.data import make_toy
from multas.distillation import Teacher

SKIP = "strictness: skip"  # what a message about data offers
NETWORK = {
    "META_ARCHITECTURE": "MultiTaskNetwork",
    "DEVICE": "cpu",
    "WEIGHTS": "",
    "BACKBONE": {"NAME": "build_multas_fpn_backbone", "FREEZE_AT": 0},
    "RESNETS": {
        "DEPTH": 18,
        "NORM": "BN",
        "STEM_MAX_POOL": True,
        "STEM_OUT_CHANNELS": 4,
        "RES2_OUT_CHANNELS": 4,
        "OUT_FEATURES": ["res2", "res3", "res4"],
    },
    "FPN": {"IN_FEATURES": ["res2", "res3", "res4"], "OUT_CHANNELS": 8},
    "DENSE_HEAD": {"NUM_CLASSES": 8, "SHARED": True},
    "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64]], "ASPECT_RATIOS": [[1.0]]},
}


@dataclass(frozen=True)
class World:
    """A folder with data, cards, configs and weights; relative names start there.

    - devkit/, devkit.yaml: a VOC devkit and its card (splits half, half2, test …)
    - coco/, coco.yaml: images, train.json and its card, with the split train
    - masks/, masks.yaml: images, masks and their card, with the split train
    - student.yaml, distilled.yaml, teacher.yaml, teacher.pth: configs and weights
    - pseudo.json: pseudo-labels of the images of tiny_half2_unlabeled
    """

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str):
        """The content of a JSON or YAML file."""
        return yaml.safe_load((self / name).read_text())

    def write(self, name: str, content) -> None:
        """Write bytes, a text, or what a JSON or YAML file shall hold."""
        path = self / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def train(self, *opts: object, config: str = "student.yaml") -> str:
        """The message with which train_net.py refuses a config with KEY VALUE pairs."""
        return self.refused("train_net.py", "--config-file", config, *opts)

    def label(
        self,
        *argv: object,
        config: str = "student.yaml",
        weights: str = "teacher.pth",
        dataset: str = "tiny_half2_unlabeled",
        output: str = "out.json",
    ) -> str:
        """The message with which tools/pseudo_label.py refuses something."""
        options = ["--config-file", config, "--weights", weights, "--dataset", dataset]
        return self.refused("tools/pseudo_label.py", *options, "--output", output, *argv)

    def draw(
        self, *argv: object, config: str = "student.yaml", weights: str = "teacher.pth"
    ) -> str:
        """The message with which tools/visualize.py refuses something."""
        options = ["--config-file", config, "--weights", weights, "--output", "out"]
        return self.refused("tools/visualize.py", *options, *(argv or ["coco/images"]))

    def make_splits(self, card: str, split: str = "train") -> str:
        """The message with which tools/split.py, which reads the data, refuses a card."""
        options = ["--card", card, "--split", split, "--out", "lists"]
        return self.refused("tools/split.py", "make", *options)

    def refused(self, script: str, *argv: object) -> str:
        """The message with which a script refuses its arguments, see :func:`entry.refused`."""
        return refused(script, *map(str, argv), folder=self.folder)

    def failed(self, script: str, *argv: object) -> str:
        """The message with which a script ends that may have written something before."""
        return failed(script, *map(str, argv), folder=self.folder)

    def run(self, script: str, *argv: object) -> None:
        """Run a script that has nothing to refuse."""
        status, errors = run_script(script, *map(str, argv), folder=self.folder)
        assert status == 0, errors


def build(folder: Path) -> World:
    """Make the files."""
    world = World(folder)
    make_toy(folder / "devkit", train=16, val=2, test=2)
    card = yaml.safe_load((REPOSITORY / "datasets" / "cards" / "toy.yaml").read_text())
    world.write("devkit.yaml", {**card, "name": "tiny", "root": "devkit"})
    images = sorted((folder / "devkit" / "JPEGImages").iterdir())[:3]
    for name in ("coco", "masks"):
        (folder / name / "images").mkdir(parents=True)
        for image in images:
            shutil.copy(image, folder / name / "images")
    world.write("coco/train.json", _coco(images))
    world.write("coco.yaml", {"name": "tinycoco", "format": "coco", "root": "coco",
                              "images": "images", "splits": {"train": "train.json"}})  # fmt: skip
    (folder / "masks" / "masks").mkdir()
    for image in images:
        shutil.copy(folder / "devkit" / "SegmentationClass" / f"{image.stem}.png",
                    folder / "masks" / "masks")  # fmt: skip
    classes = ["background", *card["classes"]]
    world.write("masks.yaml", {"name": "tinymasks", "format": "masks", "root": "masks",
                               "images": "images", "masks": "masks", "classes": classes,
                               "splits": {"train": {}}})  # fmt: skip
    _write_configs(world)
    torch.manual_seed(5)
    model = build_model(Teacher.load_config(str(world / "teacher.yaml"), []))
    torch.save({"model": model.state_dict()}, world / "teacher.pth")
    _write_pseudo_labels(world, card["classes"])
    return world


def _write_configs(world: World) -> None:
    config = {
        "VERSION": 2,
        "MODEL": NETWORK,
        "DATASETS": {"CARDS": ["devkit.yaml"], "TRAIN": ["tiny_half"], "TEST": ["tiny_test"]},
        "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
        "TEST": {"VIS_IMAGES": 0},
        "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 2, "WARMUP_ITERS": 1, "BASE_LR": 0.001},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SEED": 1,
    }
    world.write("student.yaml", {**config, "OUTPUT_DIR": "run"})
    world.write("teacher.yaml", {"VERSION": 2, "MODEL": NETWORK})
    distillation = {
        "TEACHER": {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": "teacher.pth"},
        "PATHS": [{"TYPE": "FeatureMSE", "STUDENT": "backbone"}],
    }
    model = {"META_ARCHITECTURE": "Distiller", "DISTILLATION": distillation}
    world.write("distilled.yaml", {"_BASE_": "student.yaml", "MODEL": model})


def _coco(files: list[Path]) -> dict:
    sizes = [Image.open(file).size for file in files]
    images = [
        {"id": n, "file_name": file.name, "width": width, "height": height}
        for n, (file, (width, height)) in enumerate(zip(files, sizes, strict=True), start=1)
    ]
    annotations = [
        {"id": 10 * n + k, "image_id": n, "category_id": 1 + k, "bbox": [10 + k, 20, 30, 40],
         "area": 1200, "iscrowd": 0}
        for n in range(1, len(files) + 1) for k in range(2)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_pseudo_labels(world: World, classes: list[str]) -> None:
    ids = (world / "devkit" / "ImageSets" / "Half2" / "trainval.txt").read_text().split()
    header = {"dataset": "tiny_half2_unlabeled", "classes": classes, "image_ids": ids,
              "score_thresh": 0.5, "topk": 0, "version": 1}  # fmt: skip
    annotations = [{"image_id": i, "category_id": 0, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.9}
                   for i in ids]  # fmt: skip
    world.write("pseudo.json", {"header": header, "annotations": annotations})


def picture(mode="RGB", size=(32, 32), kind="PNG", value=7, **options) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, value if mode in "LIFPI;16" else None).save(stream, kind, **options)
    return stream.getvalue()
