"""The VOC evaluator of multas, against Detectron2's VOC and COCO evaluators."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_voc_instances
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    pascal_voc_evaluation,
)
from detectron2.structures import Boxes, Instances

from multas.evaluation import VOCDetectionEvaluator
from multas.evaluation.coco import compiled
from tables import ratio_table
from timing import attempt, take_turns

IMAGES, CLASSES, OBJECTS, DETECTIONS = 5000, 20, 3, 40
SIDE, BATCH, MAX_ROUNDS = 500, 16, 3
# The compiled COCO library needs numbers as image ids; VOC has strings.
VOC, COCO = "multas_benchmark_voc", "multas_benchmark_coco"

Batches = list[tuple[list[dict], list[dict]]]
Library = Callable[[], AbstractContextManager]


def random_objects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes (n,) and boxes (n, 4), 1-based integer pixels, of one image; 0 < n < 2 OBJECTS."""
    count = int(rng.integers(1, 2 * OBJECTS))
    corner = rng.integers(1, SIDE * 3 // 4, (count, 2))
    size = rng.integers(10, SIDE // 4, (count, 2))
    return rng.integers(0, CLASSES, count), np.concatenate([corner, corner + size], axis=1)


def random_detections(
    rng: np.random.Generator, classes: np.ndarray, boxes: np.ndarray
) -> Instances:
    """Up to 2 DETECTIONS, half of them near an object."""
    count = int(rng.integers(0, 2 * DETECTIONS))
    source = rng.integers(0, len(classes), count)
    found = boxes[source] - [1, 1, 0, 0] + rng.normal(0, 6, (count, 4))
    labels = classes[source].copy()
    stray = rng.random(count) < 0.5
    corner = rng.uniform(0, SIDE * 3 / 4, (count, 2))
    anywhere = np.concatenate([corner, corner + rng.uniform(10, SIDE / 4, (count, 2))], axis=1)
    found[stray], labels[stray] = anywhere[stray], rng.integers(0, CLASSES, stray.sum())
    return Instances(
        (SIDE, SIDE),
        pred_boxes=Boxes(torch.from_numpy(found.astype(np.float32))),
        scores=torch.from_numpy(rng.random(count).astype(np.float32)),
        pred_classes=torch.from_numpy(labels),
    )


def write_devkit(root: Path, names: Sequence[str]) -> Batches:
    """Write annotations to disk; return batches of inputs and predictions."""
    rng = np.random.default_rng(0)
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    ids = [f"{number:06d}" for number in range(IMAGES)]
    (root / "ImageSets" / "Main" / "test.txt").write_text("".join(f"{x}\n" for x in ids))
    pairs = []
    for image_id in ids:
        classes, boxes = random_objects(rng)
        (root / "Annotations" / f"{image_id}.xml").write_text(_xml(classes, boxes, names))
        detections = random_detections(rng, classes, boxes)
        pairs.append(({"image_id": image_id}, {"instances": detections}))
    parts = [pairs[start : start + BATCH] for start in range(0, IMAGES, BATCH)]
    return [([x for x, _ in part], [y for _, y in part]) for part in parts]


def _xml(classes: np.ndarray, boxes: np.ndarray, names: Sequence[str]) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{names[label]}</name><pose>Left</pose><truncated>0</truncated>"
        "<difficult>0</difficult><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for label, box in zip(classes, boxes, strict=True)
    )
    size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


@contextmanager
def devkit() -> Iterator[tuple[Batches, str]]:
    """Register the data set as VOC and as COCO; give predictions and a folder for results."""
    names = [f"class{number}" for number in range(CLASSES)]
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder) / "devkit")
        batches = write_devkit(Path(root), names)
        DatasetCatalog.register(VOC, lambda: load_voc_instances(root, "test", names))
        DatasetCatalog.register(COCO, lambda: numbered(DatasetCatalog.get(VOC)))
        MetadataCatalog.get(VOC).set(thing_classes=names, dirname=root, split="test", year=2007)
        MetadataCatalog.get(COCO).set(thing_classes=names)
        try:
            yield batches, folder
        finally:
            for name in (VOC, COCO):
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)


def numbered(dicts: list[dict]) -> list[dict]:
    """Replace image ids by numbers."""
    return [{**x, "image_id": int(x["image_id"])} for x in dicts]


def evaluate(make: Callable[[], DatasetEvaluator], batches: Batches) -> dict[str, float]:
    """Read the annotations and compute the results."""
    # Detectron2 caches the annotations.
    pascal_voc_evaluation.parse_rec.cache_clear()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = make()
        evaluator.reset()
        for inputs, outputs in batches:
            evaluator.process(inputs, outputs)
        results = evaluator.evaluate()
    assert results is not None
    return results["bbox"]


@contextmanager
def faster_coco() -> Iterator[None]:
    """As multas evaluates with the library faster-coco-eval.

    Raises:
        ImportError: It is not installed.
    """
    import_module("faster_coco_eval")
    with compiled():
        yield


def run(rounds: int) -> str:
    """The Markdown section of this benchmark."""
    rounds = min(rounds, MAX_ROUNDS)
    figures: dict[str, dict[str, float]] = {}

    def call(
        name: str, make: Callable[[], DatasetEvaluator], batches: Batches, library: Library
    ) -> Callable[[], None]:
        def evaluation() -> None:
            with library():
                figures[name] = evaluate(make, batches)

        return evaluation

    ours, theirs = "multas, VOC", "Detectron2, VOC"
    official, faster = "Detectron2, COCO (pycocotools)", "Detectron2, COCO (faster-coco-eval)"
    with devkit() as (batches, folder):
        by_number = [(numbered(inputs), outputs) for inputs, outputs in batches]

        def coco() -> DatasetEvaluator:
            # Otherwise it would find the annotations converted in the first round.
            vars(MetadataCatalog.get(COCO)).pop("json_file", None)
            Path(folder, f"{COCO}_coco_format.json").unlink(missing_ok=True)
            return COCOEvaluator(COCO, ("bbox",), output_dir=folder, use_fast_impl=False)

        calls = {
            ours: call(ours, lambda: VOCDetectionEvaluator(VOC), batches, nullcontext),
            theirs: call(theirs, lambda: PascalVOCDetectionEvaluator(VOC), batches, nullcontext),
            official: call(official, coco, by_number, nullcontext),
        }
        more, missing = attempt({faster: lambda: call(faster, coco, by_number, faster_coco)})
        seconds = take_turns(calls | more, rounds)
    difference = max(abs(figures[ours][k] - v) for k, v in figures[theirs].items())
    equal = "equal" if difference <= 1e-9 else "NOT EQUAL"
    aps = "; ".join(f"{name}: {figures[name]['AP']:.2f}" for name in seconds)
    return (
        f"## Evaluation: {IMAGES:,} images, {CLASSES} classes, {rounds} rounds\n\n"
        "From reading the annotations to the results, 10 IoU thresholds.\n\n"
        f"{ratio_table(seconds, 'evaluator', missing=missing, digits=2)}\n\n"
        f"AP (VOC's 11 points, COCO's 101): {aps}. Those of the VOC evaluators are {equal}: "
        f"AP, AP50 and AP75 differ by {difference:.0e} at most."
    )
