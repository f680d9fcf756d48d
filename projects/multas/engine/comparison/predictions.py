"""What a run predicts on a data set, computed once and kept in the folder of the run.

The file, ``inference/predictions/<weights>-<images>.npz``, is named by the SHA-256 of the weights
and by that of all else that predictions depend on: the config of the model and its input, and the
images. The annotations are no part of it, so that they may be corrected.
"""

import hashlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from tqdm import tqdm

from multas.data.loader import build_test_loader
from multas.data.pseudo_label_files import file_sha256
from multas.engine.checks.classes import check_classes
from multas.engine.comparison.runs import Run
from multas.engine.ensemble import FlipScaleEnsemble
from multas.engine.inference import load_model
from multas.util.allocator import freed_memory_kept
from multas.util.files import write_text, written_whole

logger = logging.getLogger(__name__)

_VERSION = 1
_BEST = 5  # classes of an image that are kept


@dataclass(frozen=True)
class Predictions:
    """What a model finds in N images; of tasks that it does not have, the arrays are empty.

    Attributes:
        tasks: outputs that it has: "instances", "sem_seg", "scores".
        parameters: the number of its parameters.
        image: (D,) int64, the number of the image of each detection.
        category, score, boxes: (D,) int64, (D,) and (D, 4) float32 x0, y0, x1, y1 in pixels of
            the image.
        masks: (N,) PNG files of the class of each pixel.
        classes, probabilities: (N, 5) int64 and float32, the best classes of each image.
        file: where they are kept; None if they are not.
    """

    tasks: tuple[str, ...]
    parameters: int
    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes: np.ndarray
    masks: tuple[bytes, ...]
    classes: np.ndarray
    probabilities: np.ndarray
    file: Path | None = None

    def mask(self, number: int) -> np.ndarray:
        """The class of each pixel of an image, (H, W)."""
        return np.asarray(Image.open(io.BytesIO(self.masks[number])))

    def instances(self, number: int, size: tuple[int, int]) -> Instances:
        """The detections in an image of ``size`` (height, width), in the order of the model."""
        first, last = np.searchsorted(self.image, [number, number + 1])
        found = Instances(size)
        found.pred_boxes = Boxes(torch.from_numpy(self.boxes[first:last]))
        found.scores = torch.from_numpy(self.score[first:last])
        found.pred_classes = torch.from_numpy(self.category[first:last])
        return found


def predictions_of(
    run: Run, dataset: str, records: Sequence[dict[str, Any]], *, flip: bool = False
) -> Predictions:
    """The predictions of a finished run on images of a registered data set.

    Args:
        run: whose model predicts.
        dataset: the name of the data set.
        records: dataset dicts.
        flip: whether boxes and masks are those of the image and of its mirror image together.

    Raises:
        UserError: The model does not have the classes of the data set, or its weights or the
            images cannot be used.
    """
    weights = str(run.weights)
    stem = file_sha256(weights)[:16]
    file = (
        run.folder / "inference" / "predictions" / f"{stem}-{_digest(run, records, flip)[:16]}.npz"
    )
    if (kept := _read(file)) is not None:
        return replace(kept, file=file)
    model = load_model(run.cfg, weights)
    check_classes(model, [dataset])
    parameters = sum(p.numel() for p in model.parameters())
    if flip:
        model = FlipScaleEnsemble(model, topk=run.cfg.TEST.DETECTIONS_PER_IMAGE)
    outputs = []
    with torch.no_grad(), freed_memory_kept():
        loader = build_test_loader(run.cfg, records)
        for batch in tqdm(loader, desc=f"{run.name} on {dataset}", unit="batch", disable=None):
            outputs += [_on_cpu(output) for output in model(batch)]
    found = _collect(outputs, parameters)
    try:
        _write(file, found)
        for other in file.parent.iterdir():
            if not other.name.startswith(stem):  # of former weights
                other.unlink()
    except OSError as error:
        logger.warning(f"{file} cannot be kept ({error.strerror}): the next report predicts anew.")
        return found
    return replace(found, file=file)


def figures_of(
    found: Predictions, facts: Sequence[bytes | str], judge: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """The figures of predictions, kept beside them, since COCO's evaluation takes long.

    Args:
        found: the predictions.
        facts: all else that figures depend on.
        judge: computes them.
    """
    if found.file is None:
        return judge()
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact if isinstance(fact, bytes) else fact.encode())
    key, file = digest.hexdigest(), found.file.with_suffix(".json")
    known: dict[str, dict[str, float]] = {}
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if key not in known:
        figures = judge()
        with suppress(OSError):
            write_text(file, json.dumps({key: figures}))
        return figures
    return known[key]


def _digest(run: Run, records: Sequence[Mapping[str, Any]], flip: bool) -> str:
    """SHA-256 of all but the weights that predictions depend on."""
    files = [str(record["file_name"]) for record in records]
    images = [(name, os.path.getsize(name) if os.path.isfile(name) else 0) for name in files]
    cfg = run.cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = ""
    parts = [str(cfg.MODEL), str(cfg.INPUT), cfg.TEST.DETECTIONS_PER_IMAGE]
    parts += ["flip"] if flip else []
    return hashlib.sha256(json.dumps([_VERSION, parts, images]).encode()).hexdigest()


def as_png(labels: np.ndarray) -> bytes:
    """A PNG file of class numbers (H, W)."""
    file = io.BytesIO()
    Image.fromarray(labels.astype(np.uint8 if labels.max() < 256 else np.uint16)).save(file, "png")
    return file.getvalue()


def _on_cpu(output: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the outputs for an image."""
    kept: dict[str, Any] = {}
    if "instances" in output:
        found = output["instances"].to("cpu")
        kept["instances"] = (
            found.pred_classes.numpy().astype(np.int64),
            found.scores.float().numpy(),
            found.pred_boxes.tensor.float().numpy(),
        )
    if "sem_seg" in output:
        kept["sem_seg"] = as_png(output["sem_seg"].max(dim=0).indices.cpu().numpy())
    if "scores" in output:
        scores = output["scores"].float().cpu()
        # Of equal scores the lower class is first, as for the evaluator.
        order = torch.argsort(scores, descending=True, stable=True)[:_BEST]
        kept["scores"] = order.numpy(), scores[order].numpy()
    return kept


def _collect(outputs: Sequence[Mapping[str, Any]], parameters: int) -> Predictions:
    tasks = tuple(
        name for name in ("instances", "sem_seg", "scores") if any(name in o for o in outputs)
    )
    empty = (np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros((0, 4), np.float32))
    found = [output.get("instances", empty) for output in outputs]
    category, score, boxes = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    best = [output["scores"] for output in outputs if "scores" in output]
    return Predictions(
        tasks=tasks,
        parameters=parameters,
        image=np.repeat(np.arange(len(outputs)), [len(item[0]) for item in found]),
        category=category,
        score=score,
        boxes=boxes,
        masks=tuple(output["sem_seg"] for output in outputs if "sem_seg" in output),
        classes=np.array([classes for classes, _ in best], np.int64),
        probabilities=np.array([scores for _, scores in best], np.float32),
    )


def _write(file: Path, found: Predictions) -> None:
    arrays: Any = {k: value for k, value in vars(found).items() if isinstance(value, np.ndarray)}
    ends = np.cumsum([len(mask) for mask in found.masks], dtype=np.int64)
    arrays |= {"masks": np.frombuffer(b"".join(found.masks), np.uint8), "ends": ends}
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as partial, open(partial, "wb") as stream:
        np.savez(stream, tasks=np.array(found.tasks, "U"), parameters=found.parameters, **arrays)


def _read(file: Path) -> Predictions | None:
    """The content of a file; None if there is none, or if it is damaged."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        logger.warning(f"{file} is damaged ({error}) and made anew.")
        return None
    masks, ends = arrays.pop("masks").tobytes(), arrays.pop("ends").tolist()
    return Predictions(
        tasks=tuple(arrays.pop("tasks").tolist()),
        parameters=int(arrays.pop("parameters")),
        masks=tuple(masks[a:b] for a, b in zip([0, *ends], ends, strict=False)),
        **arrays,
    )
