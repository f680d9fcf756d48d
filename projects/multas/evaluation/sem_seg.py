"""Semantic segmentation metrics: mean IoU and mean accuracy over the classes that occur.

Shapes: K classes (including background if the data set has it), H x W pixels.
"""

import json
import logging
import os
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from PIL import Image

from multas.util.errors import UserError
from multas.util.files import written_whole
from multas.util.messages import Message
from multas.util.names import check_choice

_logger = logging.getLogger(__name__)


def confusion_matrix(
    prediction: np.ndarray, truth: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Count pixels by predicted and true class, integers of one shape in [0, K).

    Returns:
        (K+1, K+1) int64: rows are predicted classes, columns true ones, the last column the pixels
        that ``truth`` gives the ``ignore_label``.

    Raises:
        UserError: a label is not one of the classes.
    """
    prediction = prediction.astype(np.int64)
    truth = np.where(truth == ignore_label, num_classes, truth.astype(np.int64))
    size = num_classes + 1
    for name, labels, limit in (("predicted", prediction, num_classes), ("true", truth, size)):
        wrong = labels[(labels < 0) | (labels >= limit)]
        if wrong.size:
            raise UserError(
                f"{name} labels {np.unique(wrong)[:10].tolist()} are not among the {num_classes} "
                f"classes and not the ignore label {ignore_label}."
            )
    counts = np.bincount((size * prediction + truth).reshape(-1), minlength=size * size)
    return counts.reshape(size, size)


def segmentation_metrics(confusion: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics of a confusion matrix, over the classes with at least one true pixel.

    IoU_k = TP_k / (true_k + predicted_k - TP_k) and accuracy_k = TP_k / true_k over the pixels that
    are not ignored. Both means exclude classes without a true pixel, even if they were predicted.
    (Detectron2 0.6 divides its mIoU by the number of true *or predicted* classes.)

    Args:
        confusion: (K+1, K+1) from :func:`confusion_matrix`, with at least one true pixel.

    Returns:
        ``mIoU``, ``fwIoU``, ``mACC``, ``pACC`` in percent, and per class ``IoU``, ``ACC``, (K,)
        float64 in percent, NaN for classes without a true pixel.
    """
    counted = confusion[:-1, :-1].astype(np.float64)
    hits = np.diagonal(counted)
    true = counted.sum(axis=0)
    union = true + counted.sum(axis=1) - hits
    present = true > 0
    iou, accuracy = np.full((2, len(true)), np.nan)
    iou[present] = 100 * hits[present] / union[present]
    accuracy[present] = 100 * hits[present] / true[present]
    figures = {
        "mIoU": float(iou[present].mean()),
        "fwIoU": float((iou[present] * true[present]).sum() / true.sum()),
        "mACC": float(accuracy[present].mean()),
        "pACC": float(100 * hits.sum() / true.sum()),
    }
    return figures, {"IoU": iou, "ACC": accuracy}


def read_labels(file: str) -> np.ndarray:
    """Read a label image as (H, W) integers; for palette images these are the indices.

    Raises:
        UserError: it has colours instead of indices.
    """
    with PathManager.open(file, "rb") as stream:
        labels = np.asarray(Image.open(stream))
    if labels.ndim != 2:
        raise UserError(f"{file} has {labels.shape[-1]} channels, need one of class indices.")
    return labels


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize of a label map (H, W) to ``size`` (rows, columns)."""
    (height, width), (rows, columns) = labels.shape, size
    return labels[np.ix_(np.arange(rows) * height // rows, np.arange(columns) * width // columns)]


class SemanticSegmentationEvaluator(SemSegEvaluator):
    """Detectron2's evaluator with the metrics of :func:`segmentation_metrics`.

    Results below ``sem_seg``: ``mIoU``, ``fwIoU``, ``mACC``, ``pACC``, and ``IoU-<class>``,
    ``ACC-<class>`` for classes with a true pixel. Images without ``sem_seg_file_name`` are not
    annotated and are skipped.

    Args:
        dataset_name: registered name. Its metadata needs ``stuff_classes`` (all K, including
            background) and may have ``ignore_label`` (default 255) and ``read_sem_seg``, a
            function from a label file to (H, W) integers (default: :func:`read_labels`).
        distributed: gather the results of all processes.
        output_dir: folder for the predictions (COCO stuff JSON) and the metrics, or None.
        resolution: "image" compares at the size of the label file, "network" at the size of the
            network's input, to which labels are resized (nearest neighbour).

    Raises:
        UserError: unknown resolution, or no ``stuff_classes``.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        resolution: str = "image",
    ):
        # Detectron2's constructor is not called: it fails if one image has no label file.
        meta = MetadataCatalog.get(dataset_name)
        check_choice("resolution", resolution, ("image", "network"))
        if not meta.get("stuff_classes"):
            raise UserError(
                f"Data set '{dataset_name}' has no stuff_classes: set them in its metadata (or its "
                "data card) before evaluating segmentation."
            )
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self._resolution = resolution
        self._class_names = list(meta.stuff_classes)
        self._num_classes = len(self._class_names)
        self._ignore_label = meta.get("ignore_label", 255)
        to_contiguous = meta.get("stuff_dataset_id_to_contiguous_id") or {}
        # Detectron2's ``encode_json_sem_seg`` reads it.
        self._contiguous_id_to_dataset_id = {v: k for k, v in to_contiguous.items()} or None
        self.input_file_to_gt_file = {
            record["file_name"]: record["sem_seg_file_name"]
            for record in DatasetCatalog.get(dataset_name)
            if "sem_seg_file_name" in record
        }
        self._read_labels = meta.get("read_sem_seg", read_labels)  # known once the data are loaded
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._conf_matrix = np.zeros((self._num_classes + 1,) * 2, dtype=np.int64)
        self._predictions: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch.

        Args:
            inputs: dicts with ``file_name``, and ``image`` (3, H, W) for resolution "network".
            outputs: dicts with scores ``sem_seg`` (K, H, W); others are skipped.

        Raises:
            UserError: the sizes differ (resolution "image"), or a label is not one of the classes.
        """
        for record, output in zip(inputs, outputs, strict=True):
            label_file = self.input_file_to_gt_file.get(record["file_name"])
            if "sem_seg" not in output or label_file is None:
                continue
            scores, truth = output["sem_seg"].detach(), self._read_labels(label_file)
            if self._resolution == "network":
                size = tuple(record["image"].shape[-2:])
                truth = resize_labels(truth, size)
                if tuple(scores.shape[-2:]) != size:
                    scores = F.interpolate(scores[None].float(), size, mode="bilinear")[0]
            prediction = scores.max(dim=0).indices.cpu().numpy()  # sooner than argmax
            if truth.shape != prediction.shape:
                raise UserError(
                    f"{label_file} is {truth.shape} but the prediction {prediction.shape}: give "
                    "the model the image's height and width, or set "
                    "TEST.SEM_SEG_RESOLUTION: network."
                )
            try:
                self._conf_matrix += confusion_matrix(
                    prediction, truth, self._num_classes, self._ignore_label
                )
            except ValueError as error:
                raise UserError(f"{label_file}: {error}") from error
            if self._output_dir:
                self._predictions += self.encode_json_sem_seg(prediction, record["file_name"])

    def evaluate(self) -> OrderedDict | None:
        """Compute the metrics.

        Returns:
            ``{"sem_seg": {...}}``; empty if there was no annotated pixel; None on other ranks
            than 0.
        """
        own = (self._conf_matrix, self._predictions)
        gathered = comm.gather(own, dst=0) if self._distributed else [own]
        if not gathered:
            return None
        confusion = np.sum([part for part, _ in gathered], axis=0)
        if not confusion[:, :-1].any():
            _logger.warning(
                f"No annotated pixel of '{self._dataset_name}' was predicted: nothing to evaluate."
            )
            return OrderedDict()
        results, per_class = segmentation_metrics(confusion)
        for key, values in per_class.items():
            for name, value in zip(self._class_names, values, strict=True):
                if np.isfinite(value):
                    results[f"{key}-{name}"] = float(value)
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            predictions_file = os.path.join(self._output_dir, "sem_seg_predictions.json")
            with written_whole(predictions_file) as partial, open(partial, "w") as file:
                json.dump([item for _, part in gathered for item in part], file)
            results_file = os.path.join(self._output_dir, "sem_seg_evaluation.pth")
            with written_whole(results_file) as partial:
                torch.save(results, partial)
        _logger.info(Message(str(results)))
        return OrderedDict(sem_seg=results)
