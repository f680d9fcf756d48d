"""PASCAL VOC average precision of boxes at any IoU thresholds, with both VOC metrics."""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from multas.evaluation.average_precision import (
    average_precision_11point,
    average_precision_area,
    precision_recall,
)
from multas.evaluation.voc_ground_truth import GroundTruth, ground_truth_of
from multas.evaluation.voc_matching import best_overlaps, classify_detections, round_as_printed
from multas.util.errors import UserError
from multas.util.messages import Message
from multas.util.names import check_choice

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
METRICS = {"11pt": average_precision_11point, "area": average_precision_area}
Detections = tuple[np.ndarray, np.ndarray, np.ndarray]  # classes, scores, boxes of one image

_logger = logging.getLogger(__name__)


class VOCDetectionEvaluator(PascalVOCDetectionEvaluator):
    """Faster version of Detectron2's VOC evaluator, with more results.

    ``AP``, ``AP50`` and ``AP75`` equal Detectron2's: as in VOC result files, scores are rounded to
    3 decimals and 1-based coordinates to 1. The AP of a class without objects is 0 (Detectron2
    gives NaN with the area metric). Detections are ranked by ``np.argsort(-score)``, as in
    Detectron2; this sort is not stable.

    Results, in percent, below ``bbox``:

    * ``AP``: mean over ``iou_thresholds`` and classes; ``AP50``, ``AP75``, ... at
      ``report_thresholds``.
    * ``AP_11pt``, ``AP50_11pt``, ..., ``AP_area``, ``AP50_area``, ...: with each metric.
    * ``AP-<class>``, ``AP50-<class>``, ...: per class.

    Args:
        dataset_name: registered name. Its metadata needs ``thing_classes``. The ground truth is
            read from the VOC devkit that ``dirname`` and ``split`` name, if there is one, otherwise
            from the dataset dicts.
        iou_thresholds: thresholds in [0, 1); ``AP`` is the mean over them.
        report_thresholds: thresholds in [0, 1) with their own results, e.g. 0.1 for ``AP10``; they
            need not be in ``iou_thresholds``.
        metric: "11pt", "area", or "" for the metric of the metadata's ``year``: 11pt before 2010,
            otherwise area.
        skip_absent_classes: leave classes without (non-difficult) objects out of the means instead
            of counting them as 0.
        distributed: gather the predictions of all processes.

    Raises:
        UserError: an argument has another value, or ``thing_classes`` is missing.
    """

    def __init__(
        self,
        dataset_name: str,
        iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
        report_thresholds: Sequence[float] = (0.5, 0.75),
        *,
        metric: str = "",
        skip_absent_classes: bool = False,
        distributed: bool = True,
    ):
        # Detectron2's constructor is not called: it needs an XML devkit of 2007 or 2012.
        meta = MetadataCatalog.get(dataset_name)
        for name, values in (("iou", iou_thresholds), ("report", report_thresholds)):
            if not len(values) or not all(0 <= value < 1 for value in values):
                raise UserError(f"{name}_thresholds must lie in [0, 1), got {tuple(values)}.")
        if metric:
            check_choice("metric", metric, METRICS)
        if not meta.get("thing_classes"):
            raise UserError(
                f"Data set '{dataset_name}' has no thing_classes: set them in its metadata (or its "
                "data card) before evaluating boxes."
            )
        self._dataset_name = dataset_name
        self._class_names = list(meta.thing_classes)
        # A data set without a year is judged as the newer ones.
        self._metric = metric or ("11pt" if (meta.get("year") or 2010) < 2010 else "area")
        self._skip_absent_classes = skip_absent_classes
        self._distributed = distributed
        mean_over = np.asarray(iou_thresholds, dtype=np.float64)
        report_at = np.unique(np.asarray(report_thresholds, dtype=np.float64))
        self._thresholds = np.union1d(mean_over, report_at)
        # For each figure the thresholds that it is the mean over.
        self._figures = {"AP": np.isin(self._thresholds, mean_over)}
        self._figures |= {f"AP{100 * value:g}": self._thresholds == value for value in report_at}
        self.reset()

    def reset(self) -> None:
        """Forget all predictions, but not the ground truth."""
        self._image_ids: list[str] = []
        self._detections: list[Detections] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Add the predictions of a batch.

        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances`` (``pred_boxes`` 0-based XYXY in pixels of the
                original image, ``scores``, ``pred_classes``); others are skipped.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" not in output:
                continue
            instances = output["instances"]
            boxes = instances.pred_boxes.tensor.detach().cpu()
            # In the precision of the boxes, as in Detectron2, because it affects the rounding.
            boxes = boxes + torch.tensor([1, 1, 0, 0], dtype=boxes.dtype)
            classes = instances.pred_classes.cpu().numpy().astype(np.int64)
            scores = instances.scores.detach().cpu().double().numpy().copy()
            self._image_ids.append(str(record["image_id"]))
            self._detections.append((classes, scores, boxes.double().numpy()))

    def evaluate(self) -> OrderedDict | None:
        """Compute the metrics.

        Returns:
            ``{"bbox": {...}}``; empty if no output had ``instances``; None on other ranks than 0.

        Raises:
            UserError: a predicted image is not in the data set.
            FileNotFoundError, ValueError: annotation files are missing or broken.
        """
        own = (self._image_ids, self._detections)
        gathered = comm.gather(own, dst=0) if self._distributed else [own]
        if not gathered:
            return None
        image_ids = [image_id for ids, _ in gathered for image_id in ids]
        if not image_ids:
            _logger.warning(
                f"No model output had 'instances': nothing to evaluate on '{self._dataset_name}'."
            )
            return OrderedDict()
        detections = [item for _, items in gathered for item in items]
        aps, num_objects = self._per_class(self._image_numbers(image_ids), detections)
        results = self._summarize(aps, num_objects)
        self._log_table(results, num_objects)
        return OrderedDict(bbox=results)

    @cached_property
    def _ground_truth(self) -> GroundTruth:
        return ground_truth_of(self._dataset_name, self._class_names)

    def _image_numbers(self, image_ids: list[str]) -> np.ndarray:
        """Image numbers in the ground truth, int64; -1 for images without annotation."""
        truth = self._ground_truth
        for image_id in image_ids:
            if image_id not in truth.image_index and image_id not in truth.unannotated:
                raise UserError(
                    f"Image '{image_id}' has predictions but is not in '{self._dataset_name}': was "
                    "the model run on another data set?"
                )
        numbers = [truth.image_index.get(image_id, -1) for image_id in image_ids]
        return np.asarray(numbers, dtype=np.int64)

    def _per_class(
        self, images: np.ndarray, detections: list[Detections]
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """AP (thresholds, classes) in [0, 1] of each metric, and the objects of each class."""
        category, score, boxes = (np.concatenate(parts) for parts in zip(*detections, strict=True))
        image = np.repeat(images, [len(item[0]) for item in detections])
        score, boxes = round_as_printed(score, 3), round_as_printed(boxes, 1)
        truth = self._ground_truth
        shape = (len(self._thresholds), len(self._class_names))
        aps = {name: np.zeros(shape) for name in METRICS}
        num_objects = np.zeros(len(self._class_names), dtype=np.int64)
        for number in range(len(self._class_names)):
            rows = np.flatnonzero((category == number) & (image >= 0))
            rows = rows[np.argsort(-score[rows])]
            objects = np.flatnonzero(truth.category == number)
            difficult = truth.difficult[objects]
            num_objects[number] = np.count_nonzero(~difficult)
            overlap, index = best_overlaps(
                image[rows], boxes[rows], truth.image[objects], truth.boxes[objects]
            )
            hit, duplicate, unmatched = classify_detections(
                overlap, index, difficult, self._thresholds
            )
            recall, precision = precision_recall(hit, duplicate | unmatched, num_objects[number])
            for name, average_precision in METRICS.items():
                aps[name][:, number] = average_precision(recall, precision)
        return aps, num_objects

    def _summarize(self, aps: dict[str, np.ndarray], num_objects: np.ndarray) -> dict[str, float]:
        classes = np.arange(len(self._class_names))
        absent = [self._class_names[number] for number in classes[num_objects == 0]]
        if absent:
            effect = "are left out" if self._skip_absent_classes else "count as AP 0"
            _logger.warning(
                f"Classes without an object in '{self._dataset_name}' {effect}: {absent}"
            )
        if self._skip_absent_classes:
            classes = classes[num_objects > 0]

        def mean(metric: str, selected: np.ndarray, columns: np.ndarray) -> float:
            values = 100 * aps[metric][np.ix_(np.flatnonzero(selected), columns)]
            return float(values.mean()) if values.size else 0.0

        rows = self._figures.items()
        results = {key: mean(self._metric, selected, classes) for key, selected in rows}
        for metric in METRICS:
            for key, selected in rows:
                results[f"{key}_{metric}"] = mean(metric, selected, classes)
        for key, selected in rows:
            for number in classes:
                name = self._class_names[number]
                results[f"{key}-{name}"] = mean(self._metric, selected, classes[classes == number])
        return results

    def _log_table(self, results: dict[str, float], num_objects: np.ndarray) -> None:
        keys = list(self._figures)
        lines = [
            [name, int(count), *(results.get(f"{key}-{name}", float("nan")) for key in keys)]
            for name, count in zip(self._class_names, num_objects, strict=True)
        ]
        lines.append(["mean", int(num_objects.sum()), *(results[key] for key in keys)])
        table = tabulate(lines, ["class", "objects", *keys], tablefmt="pipe", floatfmt=".2f")
        title = f"VOC evaluation of '{self._dataset_name}', {self._metric} metric:"
        _logger.info(Message(f"{title}\n{table}"))
